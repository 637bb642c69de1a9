"""An ONNX file that answers like a model of transformers, through ONNX Runtime."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_compalign._extras import needs_extra
from hf_compalign.fingerprint import DIGITS

# What a classifier of texts or images takes; the first of each is its main input.
_KNOWN_INPUTS = ("input_ids", "pixel_values", "attention_mask", "token_type_ids")
_MAIN_INPUTS = _KNOWN_INPUTS[:2]
_DTYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_CHUNK_BYTES = 1 << 20
_WHAT = "Running an ONNX file"


class OnnxModel(nn.Module):
    """A classifier in an ONNX file, exported by whatever tool, called with the arguments that the model had.

    Its inputs must be among input_ids, attention_mask, token_type_ids and pixel_values. They are converted to the
    types that the file declares; without an attention_mask nothing is masked, and without token_type_ids these are 0.
    The logits are its output of that name, or else its first output. It has no parameters and cannot be trained.

    Args:
        path: the file.
        config: the model's config; by default the config.json beside the file, or in the folder above.

    Attributes:
        path: the file.
        config: the config.
        architectures: the classes that the config names: what the file was exported from.
        input_names: the inputs that the file declares.
        main_input_name: "input_ids" or "pixel_values".
        device: where it runs: the CPU, or after ``.to("cuda")`` a GPU, if ONNX Runtime was built for it.

    Raises:
        ImportError: the extra "onnx" is not installed.
        ValueError: there is no such file, it is no ONNX file or takes other inputs, there is no config, or the config
            has another number of labels than the file has logits.
    """

    def __init__(self, path: str | Path, *, config: Any = None) -> None:
        super().__init__()
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"There is no file {self.path}. Give the path of an .onnx file.")
        self.device = torch.device("cpu")
        self._open()
        self._inputs = {one.name: one for one in self._session.get_inputs()}
        self.input_names = tuple(self._inputs)
        self._check_inputs()
        self.main_input_name = next(name for name in _MAIN_INPUTS if name in self._inputs)
        outputs = {one.name: one for one in self._session.get_outputs()}
        self._output = outputs.get("logits", next(iter(outputs.values())))
        self.config = _config_of(self.path) if config is None else config
        self.architectures = tuple(self.config.architectures or ())
        if not self.architectures:
            raise ValueError(
                f"The config of {self.path} does not say which class of model it is (its 'architectures' is empty). "
                'Write it there, like ["BertForSequenceClassification"].'
            )
        n_logits = self._output.shape[-1]
        if isinstance(n_logits, int):
            self._check_labels(n_logits)
        self.eval()

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The logits, [items, labels], on the CPU; no gradients.

        Args:
            **inputs: tensors or arrays; what the file does not take is refused.

        Raises:
            ValueError: the main input is missing, an input is not known, or the file cannot take these shapes.
        """
        if self._threads != torch.get_num_threads():
            self._open()
        feeds = self._feeds(inputs)
        n_items = len(feeds[self.main_input_name])
        chunk = self._inputs[self.main_input_name].shape[0]
        size = chunk if isinstance(chunk, int) else n_items
        parts = [
            self._run({name: _rows(values, start, size) for name, values in feeds.items()})
            for start in range(0, n_items, max(size, 1))
        ]
        logits = torch.from_numpy(np.concatenate(parts)[:n_items])
        self._check_labels(logits.shape[-1])
        return {"logits": logits}

    def to(self, device: Any) -> "OnnxModel":  # type: ignore[override]  # of what a module takes, only a device
        """Run on that device from now on.

        Raises:
            ValueError: ONNX Runtime has no provider for the device.
        """
        before, self.device = self.device, torch.device(device)
        if self.device != before:
            try:
                self._open()
            except ValueError:
                self.device = before
                raise
        return self

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The file, and those beside it that hold weights of it."""
        folder = self.path.parent
        entries = [entry for one in self._graph().initializer for entry in one.external_data if entry.key == "location"]
        return (self.path, *(folder / name for name in sorted({entry.value for entry in entries})))

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

    def count_parameters(self) -> tuple[int, int]:
        """How many numbers the weights are, quantised or not, and how many of them are not 0.

        Scales and zero points do not count, nor constants of the computation: integers, and single numbers.
        """
        with needs_extra("onnx", what=_WHAT):
            from onnx import numpy_helper
        tensors = {one.name: one for one in self._graph().initializer}
        n_all = n_nonzero = 0
        for name, tensor in tensors.items():
            if name.endswith(("_scale", "_zero_point")) or not tensor.dims:
                continue
            values = numpy_helper.to_array(tensor, str(self.path.parent))
            if values.dtype.kind == "f" or name.endswith("_quantized"):
                zero = tensors.get(f"{name.removesuffix('_quantized')}_zero_point")
                zeros = 0 if zero is None else numpy_helper.to_array(zero).reshape(-1)[0]
                n_all += values.size
                n_nonzero += int(np.count_nonzero(values != zeros))
        return n_all, n_nonzero

    def _open(self) -> None:
        """A session with as many threads as torch has, so that the two can be compared."""
        with needs_extra("onnx", what=_WHAT):
            import onnxruntime
        provider = _PROVIDERS.get(self.device.type)
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise ValueError(
                f"This ONNX Runtime cannot run on {self.device}: it has {', '.join(available)}. Install "
                "onnxruntime-gpu, or use the CPU."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors: warnings on single nodes are no one's business here
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=[provider])
        except Exception as error:
            raise ValueError(f"{self.path} is not an ONNX file that ONNX Runtime can open. ({error})") from error

    def _check_inputs(self) -> None:
        unknown = [name for name in self.input_names if name not in _KNOWN_INPUTS]
        if unknown or not any(name in self._inputs for name in _MAIN_INPUTS):
            raise ValueError(
                f"{self.path} must take inputs among {', '.join(_KNOWN_INPUTS)}, and input_ids or pixel_values in any "
                f"case. It takes {', '.join(self.input_names) or 'none'}. Export a classifier of texts or images."
            )

    def _check_labels(self, n_logits: int) -> None:
        if n_logits != self.config.num_labels:
            raise ValueError(
                f"{self.path} answers with {n_logits} logits, but its config has {self.config.num_labels} labels. Put "
                "the config.json of the model that was exported beside it."
            )

    def _feeds(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs as the file declares them, those that may be left out filled in."""
        unknown = [name for name in inputs if name not in self._inputs]
        if unknown or self.main_input_name not in inputs:
            raise ValueError(
                f"{self.path.name} takes {', '.join(self.input_names)}, and needs {self.main_input_name}. Got "
                f"{', '.join(inputs) or 'nothing'}."
            )
        given = {name: _as_array(value) for name, value in inputs.items()}
        main = given[self.main_input_name]
        filled = {"attention_mask": np.ones(main.shape[:2]), "token_type_ids": np.zeros(main.shape[:2])} | given
        return {name: filled[name].astype(_DTYPES[one.type], copy=False) for name, one in self._inputs.items()}

    def _run(self, feeds: Mapping[str, Any]) -> Any:
        try:
            return self._session.run([self._output.name], feeds)[0]
        except Exception as error:
            shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in feeds.items())
            declared = ", ".join(f"{name} {one.shape}" for name, one in self._inputs.items())
            raise ValueError(
                f"ONNX Runtime cannot run {self.path.name} on {shapes}. The file declares {declared}. Pad or resize "
                f"what you give it to that. ({error})"
            ) from error

    def _graph(self) -> Any:
        with needs_extra("onnx", what=_WHAT):
            import onnx
        return onnx.load(str(self.path), load_external_data=False).graph


def _config_of(path: Path) -> Any:
    from transformers import AutoConfig

    for folder in (path.parent, path.parent.parent):
        if (folder / "config.json").is_file():
            try:
                return AutoConfig.from_pretrained(folder, trust_remote_code=False)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(f"The config.json in {folder} cannot be read. ({error})") from error
    raise ValueError(
        f"There is no config.json beside {path} or in the folder above, which says what its labels are. Copy that of "
        "the model that was exported there, or use OnnxModel(path, config=...)."
    )


def _rows(values: Any, start: int, size: int) -> Any:
    """``size`` rows, the last one repeated where there are no more."""
    rows = values[start : start + size]
    return rows if len(rows) == size else np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


def _as_array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
