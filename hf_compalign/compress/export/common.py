"""The steps of every export: open the model, write what belongs beside the file, compare the file with the model."""

import contextlib
import copy
import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign.compress.export.checks import check_model, check_neighbors, check_not_exported
from hf_compalign.compress.export.graph import NO_FILE, float_copy
from hf_compalign.compress.loading import load_compressed
from hf_compalign.models import FileModel, load_processor, random_state_kept, sample_inputs
from hf_compalign.tasks import task_of

FLOAT_NAME = "model.onnx"
# ONNX Runtime adds in another order than PyTorch: about 1e-6 of the largest logit. More than this is another model.
_TOLERANCE = 1e-3
_TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
# (items, tokens) to try the file with: those it was traced with, and others. The longest, cut to the model's length,
# comes first: some models attend sparsely to long texts and forget how after a short one.
_TRIALS = ((1, 1024), (2, 7), (1, 12), (3, 4))


@dataclass(frozen=True)
class Export:
    """An ONNX or OpenVINO file that was written.

    >>> print(Export(Path("out/model_int8.onnx"), 20, "dynamic", 22_900_000, ("a", "b"), ("classifier",), 0.25))
    out/model_int8.onnx: INT8 (dynamic), opset 20, 22.9 MB
    layers in INT8: 2; in float: 1 (classifier)
    largest difference of a logit from the PyTorch model: 0.25

    Attributes:
        path: the file.
        opset: the version of ONNX's operators that a runtime must know; None for an OpenVINO file.
        quantize: None, "dynamic" or "static".
        size_bytes: of the file, and of one beside it that holds weights.
        quantized_layers: the layers in INT8, by the names of the modules.
        float_layers: the other modules whose matrices are in the file, in float: convolutions too, which "dynamic"
            leaves alone, and parameters that belong to no layer.
        max_logit_difference: the largest absolute difference from the logits of the PyTorch model, on made-up inputs.
            Audit the file on data to know what it means for the answers.
        precision: in which the runtime computes what is not in INT8: "f32", "bf16" or "f16".
        portable: whether the weights in INT8 have 7 bits, for CPUs without VNNI.
    """

    path: Path
    opset: int | None
    quantize: str | None
    size_bytes: int
    quantized_layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    max_logit_difference: float
    precision: str = "f32"
    portable: bool = False

    def __str__(self) -> str:
        kind = _TYPES[self.precision]
        if self.quantize is not None:
            bits = ", 7-bit weights" if self.portable else ""
            kind = f"INT8 ({self.quantize}{bits})" + ("" if self.precision == "f32" else f", the rest in {kind}")
        opset = "" if self.opset is None else f", opset {self.opset}"
        shown = f" ({', '.join(self.float_layers)})" if 0 < len(self.float_layers) <= 4 else ""
        return (
            f"{self.path}: {kind}{opset}, {self.size_bytes / 1e6:.1f} MB\n"
            f"layers in INT8: {len(self.quantized_layers)}; in float: {len(self.float_layers)}{shown}\n"
            f"largest difference of a logit from the PyTorch model: {self.max_logit_difference:.3g}"
        )


def summary(
    file: FileModel,
    folder: str | Path,
    *,
    quantize: str | None,
    layers: Sequence[str],
    kept: tuple[str, ...],
    difference: float,
) -> Export:
    """What to say of a staged file that will stand in the folder; ``kept`` is in float, and the other layers not."""
    return Export(
        path=Path(folder) / file.path.name,
        opset=None,
        quantize=quantize,
        size_bytes=file.size_bytes,
        quantized_layers=tuple(layer for layer in layers if layer not in kept),
        float_layers=kept,
        max_logit_difference=difference,
    )


def kept_layers(layers: tuple[str, ...], fixed: Collection[str], exclude: Sequence[str] | None) -> tuple[str, ...]:
    """The layers that stay in float, in the order of the graph: those that do in any case, and the excluded."""
    kept = {*fixed}
    for pattern in exclude or ():
        matched = [layer for layer in layers if fnmatch.fnmatchcase(layer, pattern)]
        if not matched:
            raise ValueError(
                f"The pattern {pattern!r} in exclude= matches no layer that is quantized. They are named like: "
                f"{', '.join(layers[:: max(1, len(layers) // 6)])}."
            )
        kept.update(matched)
    return tuple(layer for layer in layers if layer in kept)


def opened_model(
    model: nn.Module | str | Path, processing_class: Any, *, folder: str | Path, name: str
) -> tuple[nn.Module, Any]:
    """The model to export as a file in the folder, and the processor: as given, or else as it stands beside the model.

    Raises:
        ValueError: the model cannot be exported, or not into that folder.
    """
    if isinstance(model, nn.Module):
        opened = model
    else:
        check_not_exported(model)
        opened = load_compressed(model)
        if processing_class is None:
            with contextlib.suppress(ValueError):
                processing_class = load_processor(str(model), task_of(opened))
    check_model(opened)
    check_neighbors(folder, name, opened)
    return opened, processing_class


def save_beside(folder: Path, model: Any, processing_class: Any) -> Any:
    """Save the model's config, which is returned, and its processor."""
    config = file_config(model)
    config.save_pretrained(folder)
    if processing_class is not None:
        processing_class.save_pretrained(folder)
    return config


def file_config(model: Any) -> Any:
    """A copy of the model's config that names the model's class."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    return config


def checked_difference(model: Any, file: FileModel, *, exact: bool) -> float:
    """The largest difference of a logit between the file and the model.

    Raises:
        ValueError: the file cannot be run on other inputs than it was traced with; or, with ``exact``, the difference
            is more than rounding makes.
    """
    differences, logits = [0.0], [0.0]
    model, answer = float_copy(model), task_of(model).answer
    for n_items, length in _TRIALS:
        inputs = sample_inputs(model, n_items=n_items, length=length)
        with random_state_kept(), torch.no_grad():
            expected: Tensor = answer(model(**inputs)).float().cpu()
        try:
            got = answer(file(**inputs)).float()
        except ValueError as error:
            raise ValueError(_unlike(model, file, f"it fails on other inputs. ({error})")) from error
        # NaN differs by more than any number.
        differences.append(float((got - expected).abs().max().nan_to_num(torch.inf)))
        logits.append(float(expected.abs().max()))
    difference, largest = max(differences), max(logits)
    if exact and not difference <= _TOLERANCE * largest:
        how = f"the logits differ by up to {difference:.3g}, and the largest is {largest:.3g}."
        raise ValueError(_unlike(model, file, how))
    return difference


def _unlike(model: nn.Module, file: FileModel, how: str) -> str:
    return (
        f"{file.path.name} of {type(model).__name__} does not answer like the model: {how} The model's forward pass "
        f"depends on the values or the length of the inputs in a way that cannot be exported. {NO_FILE}"
    )
