"""Files of any runtime as models of transformers."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hf_compalign._exported import FORMATS, format_of, record_name
from hf_compalign._extras import installed_versions
from hf_compalign._files import AUDIT_NAME
from hf_compalign.data import DIGITS
from hf_compalign.models.audited import check_audited
from hf_compalign.models.pooling import flat_windows, is_windows, pooled
from hf_compalign.models.processor import instruction_sets
from hf_compalign.models.runtime import Runtime, RuntimeSettings
from hf_compalign.tasks import AUDIO_INPUTS, QUESTIONS, SPAN_LOGITS, task_of

# What is read of texts, images and sounds.
_MAIN_INPUTS = ("input_ids", "pixel_values", *AUDIO_INPUTS)
# What is read besides, and what it is where it is not given: nothing is masked, and there is one text.
_DEFAULTS = {"attention_mask": np.ones, "token_type_ids": np.zeros}
_KNOWN_INPUTS = (*_MAIN_INPUTS, *_DEFAULTS)
_CHUNK_BYTES = 1 << 20

# Where a folder may hold files that answer like a model.
_FILES = tuple(place for one in FORMATS for place in (one.pattern, f"{one.folder}/{one.pattern}"))
_TORCH_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


def exported_files(path: Path, *, weights: bool = True) -> list[Path]:
    """The ONNX and OpenVINO files that a file's or folder's path means.

    With ``weights``, a folder with weights of PyTorch means its model of PyTorch, so there are none.
    """
    if format_of(path) is not None:
        return [path]
    if not path.is_dir() or (weights and any(next(path.glob(pattern), None) for pattern in _TORCH_WEIGHTS)):
        return []
    return [file for pattern in _FILES for file in sorted(path.glob(pattern))]


@dataclass(frozen=True)
class Declared:
    """What a file says of an input or output."""

    shape: tuple[Any, ...]  # an integer per axis, a text or None where any length goes
    dtype: Any  # of numpy


class FileModel(nn.Module, ABC):
    """A model in a file, run by its runtime and called with the arguments that the model had.

    The inputs must be among input_ids, pixel_values, input_values, input_features, attention_mask and token_type_ids.
    They are converted to the declared types; without an attention_mask nothing is masked, and without token_type_ids
    these are 0. The outputs "start_logits" and "end_logits" answer questions; else the output named "logits" holds the
    logits, or the first output. There are no parameters, and no training.

    Args:
        path: the file.
        config: the model's config; by default the config.json beside the file or in the folder above.
        settings: how the runtime computes; by default as the file says, with as many threads as torch.

    Attributes:
        path: the file.
        settings: as given.
        config: the config.
        architectures: the model classes that the config names.
        input_names: the inputs that the file declares.
        main_input_name: "input_ids", "pixel_values", "input_values" or "input_features".
        device: where it runs: the CPU, or after ``.to("cuda")`` a GPU, if the runtime can.

    Raises:
        ImportError: the extra of the runtime is not installed.
        ValueError: there is no such file, it keeps weights outside of its folder, the runtime cannot open it, it takes
            other inputs, there is no config, the numbers of labels and logits differ, or `save_artifact` put an audit
            of other weights beside it; or the runtime has no such setting.
    """

    suffix: ClassVar[str]
    runtime: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, path: str | Path, *, config: Any = None, settings: RuntimeSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or RuntimeSettings()
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"There is no file {self.path}. Give the path of an {self.suffix} file.")
        for weights in self.files:
            if not weights.is_file():
                raise ValueError(
                    f"There is no {weights.name} beside {self.path}, which holds its weights. Copy it there."
                )
        self.device = torch.device("cpu")
        self._reopen()
        self._inputs, outputs = self._declared()
        self.input_names = tuple(self._inputs)
        self._check_inputs()
        self.main_input_name = next(name for name in _MAIN_INPUTS if name in self._inputs)
        self.config = self._config_beside() if config is None else config
        named = self.config.architectures
        self.architectures = tuple(named) if isinstance(named, list | tuple) else ()
        if not self.architectures:
            raise ValueError(
                f"The config of {self.path} does not say which class of model it is (its 'architectures' is empty "
                'or no list). Write it there, like ["BertForSequenceClassification"].'
            )
        self._task = task_of(self)
        self._outputs = self._outputs_among(outputs)
        self._check_labels(outputs[self._outputs[0]].shape)
        names = tuple(f"{one.folder}/{self.path.name}" for one in FORMATS if one.suffix == self.suffix)
        check_audited(Path(record_name(self.path, AUDIT_NAME)), names, self.path, lambda: self.fingerprint)
        self.eval()

    @abstractmethod
    def _open(self, n_threads: int) -> str:
        """Open the file on ``self.device``, or raise a ValueError; the precision in which it computes."""

    @abstractmethod
    def _declared(self) -> tuple[dict[str, Declared], dict[str, Declared]]:
        """The inputs and outputs of the open file, by name."""

    @abstractmethod
    def _run(self, feeds: Mapping[str, Any]) -> Any:
        """What one call of the runtime gives for each of the outputs in use, as arrays."""

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """The file, and the files beside it that hold its weights."""

    @abstractmethod
    def count_parameters(self) -> tuple[int, int]:
        """How many numbers the weights are, quantized or not, and how many of them are not 0.

        Scales, zero points and constants of the computation (integers and single numbers) do not count.
        """

    @property
    @abstractmethod
    def batch_dependent(self) -> bool:
        """Whether the answer to an item depends on the others in its batch."""

    @property
    def computed_by(self) -> Runtime:
        """The runtime as it is set now, and the CPU that it runs on."""
        on_cpu = self.device.type == "cpu"
        version = installed_versions([self.package]).get(self.package, "")
        return Runtime(
            engine=f"{self.runtime} {version}".rstrip() + ("" if on_cpu else f" on {self.device.type}"),
            precision=self._precision,
            threads=self._threads,
            instructions=instruction_sets() if on_cpu else (),
            batch_dependent=self.batch_dependent,
            spinning=self.settings.spinning,
        )

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The logits, as the model has them: [items, labels] for a classifier; on the CPU, no gradients.

        Args:
            **inputs: tensors or arrays; of texts in windows [items, windows, tokens], whose logits are averaged.

        Raises:
            ValueError: the main input is missing, an input is unknown, there is no item, or the file cannot take it.
        """
        if is_windows(inputs) and len(self._inputs[self.main_input_name].shape) == 2:
            windows, places = flat_windows(inputs)
            return {"logits": pooled(self(**windows)["logits"], places)}
        if self._threads != self._wanted_threads():
            self._reopen()
        feeds = self.feeds(inputs)
        n_items = len(feeds[self.main_input_name])
        if n_items == 0:
            raise ValueError(f"{self.path.name} was given no items. Give it at least one.")
        chunk = self._inputs[self.main_input_name].shape[0]
        size = chunk if isinstance(chunk, int) else n_items
        parts = [
            self._answer({name: _rows(values, start, size) for name, values in feeds.items()})
            for start in range(0, n_items, max(size, 1))
        ]
        found = [torch.from_numpy(np.concatenate(one)[:n_items]) for one in zip(*parts, strict=True)]
        if found[0].ndim == 1 and self.config.num_labels == 1:
            found = [found[0].unsqueeze(-1)]
        self._check_labels(found[0].shape)
        return dict(zip(self._outputs if len(found) > 1 else ("logits",), found, strict=True))

    def to(self, device: Any) -> "FileModel":  # type: ignore[override]  # a module takes more
        """Run on that device from now on, or raise a ValueError if the runtime cannot."""
        before, self.device = self.device, torch.device(device)
        if self.device != before:
            try:
                self._reopen()
            except ValueError:
                self.device = before
                raise
        return self

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the bytes of all files."""
        digest = hashlib.blake2b(digest_size=DIGITS // 2)
        for file in self.files:
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
        return digest.hexdigest()

    def feeds(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs as arrays of the declared types, with defaults for optional ones.

        Raises:
            ValueError: the main input is missing, or an input is unknown.
        """
        unknown = [name for name in inputs if name not in self._inputs]
        if unknown or self.main_input_name not in inputs:
            raise ValueError(
                f"{self.path.name} takes {', '.join(self.input_names)}, and needs {self.main_input_name}. Got "
                f"{', '.join(inputs) or 'nothing'}."
            )
        given = {
            name: value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            for name, value in inputs.items()
        }
        main = given[self.main_input_name]
        # Of sounds a mask has fewer axes than the frames.
        left_out = {name: one for name, one in self._inputs.items() if name not in given}
        given |= {name: _DEFAULTS[name](main.shape[: len(one.shape)]) for name, one in left_out.items()}
        return {name: given[name].astype(one.dtype, copy=False) for name, one in self._inputs.items()}

    def _reopen(self) -> None:
        self._threads = self._wanted_threads()
        self._precision = self._open(self._threads)

    def _wanted_threads(self) -> int:
        """By default as many as torch, so that the two can be compared."""
        return self.settings.threads or torch.get_num_threads()

    def _check_inputs(self) -> None:
        unknown = [name for name in self.input_names if name not in _KNOWN_INPUTS]
        if unknown or not any(name in self._inputs for name in _MAIN_INPUTS):
            raise ValueError(
                f"{self.path} must take inputs among {', '.join(_KNOWN_INPUTS)}, with one of the first "
                f"{len(_MAIN_INPUTS)}. It takes {', '.join(self.input_names) or 'none'}. Export a model with "
                "export_onnx or export_openvino."
            )

    def _outputs_among(self, outputs: Collection[str]) -> tuple[str, ...]:
        """The outputs that answer the model's task."""
        if self._task not in QUESTIONS:
            return ("logits" if "logits" in outputs else next(iter(outputs)),)
        if missing := {*SPAN_LOGITS} - {*outputs}:
            raise ValueError(
                f"{self.path} answers with {', '.join(outputs)}, and a model for {self._task} with "
                f"{' and '.join(SPAN_LOGITS)}. There is no {', '.join(sorted(missing))}: put the config.json of the "
                "exported model beside it."
            )
        return SPAN_LOGITS

    def _check_labels(self, shape: Sequence[Any]) -> None:
        """Refuse a number of logits that is known and not that of the labels; those of positions and choices vary."""
        axis = self._task.class_axis
        # The numbers of a regression with one may stand without an axis of their own.
        n_logits = None if axis is None or len(shape) < 2 else shape[axis]
        if isinstance(n_logits, int) and n_logits != self.config.num_labels:
            raise ValueError(
                f"{self.path} answers with {n_logits} logits, but its config has {self.config.num_labels} labels. Put "
                "the config.json of the exported model beside it."
            )

    def _answer(self, feeds: Mapping[str, Any]) -> Any:
        try:
            return self._run(feeds)
        except Exception as error:
            shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in feeds.items())
            declared = ", ".join(f"{name} {list(one.shape)}" for name, one in self._inputs.items())
            advice = "Pad or resize the inputs to that."
            if all(_fits(values, self._inputs[name].shape) for name, values in feeds.items()):
                given = ", ".join(f"{name}: {one.dtype}, {one.min()} to {one.max()}" for name, one in feeds.items())
                advice = f"The shapes fit, but perhaps not the types and values: {given}."
            raise ValueError(
                f"{self.runtime} cannot run {self.path.name} on {shapes}. The file declares {declared}. {advice} "
                f"({error})"
            ) from error

    def _config_beside(self) -> Any:
        from transformers import AutoConfig

        for folder in self.path.absolute().parents[:2]:
            if (folder / "config.json").is_file():
                try:
                    return AutoConfig.from_pretrained(folder, trust_remote_code=False)
                except Exception as error:  # whatever a damaged config makes transformers raise
                    raise ValueError(f"The config.json in {folder} cannot be read. ({error})") from error
        raise ValueError(
            f"There is no config.json beside {self.path} or in the folder above, so its labels are unknown. Copy that "
            f"of the exported model there, or use {type(self).__name__}(path, config=...)."
        )


def file_models(model: nn.Module) -> list[FileModel]:
    """The exported files that a model runs: itself if it is one, or those that it is made of."""
    return [module for module in model.modules() if isinstance(module, FileModel)]


def _fits(values: Any, shape: tuple[Any, ...]) -> bool:
    """Whether an array has a declared shape; "any length" means at least 1."""
    return (
        values.size > 0
        and values.ndim == len(shape)
        and all(not isinstance(length, int) or length == n for n, length in zip(values.shape, shape, strict=True))
    )


def _rows(values: Any, start: int, size: int) -> Any:
    """``size`` rows from ``start``, with the last one repeated if there are fewer."""
    rows = values[start : start + size]
    return rows if len(rows) == size else np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
