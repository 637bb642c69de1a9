"""Export a model to ONNX, in float or in INT8, and check the file against the model."""

import contextlib
import copy
import fnmatch
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign._files import staged_folder
from hf_compalign.compress.calibration import calibration_batches
from hf_compalign.compress.export.checks import (
    check_model,
    check_neighbours,
    check_not_exported,
    check_options,
    check_something_left,
)
from hf_compalign.compress.export.graph import (
    calibrate_graph,
    export_graph,
    float_copy,
    graph_layers,
    opset_of,
    output_layers,
    quantize_graph,
    same_randomness,
    sample_inputs,
)
from hf_compalign.compress.loading import load_compressed
from hf_compalign.compress.quantize import quantization_of, quantized_layers, scheme_of, unprepare_
from hf_compalign.models import FileModel, OnnxModel, load_processor
from hf_compalign.tasks import logits_of, task_of

FLOAT_NAME = "model.onnx"
INT8_NAME = "model_int8.onnx"
# ONNX Runtime adds in another order than PyTorch: about 1e-6 of the largest logit. More than this is another model.
_TOLERANCE = 1e-3
# (items, tokens) that the file is tried with: those it was traced with, and others. The longest comes first, since
# there are models that attend sparsely to long texts and forget how after a short one; it is cut to the model's length.
_TRIALS = ((1, 1024), (2, 7), (1, 12), (3, 4))
# What a repair writes beside its INT8 file, the first of them nothing else does.
_OF_A_REPAIR = ("frontier.json", "frontier.png", "audit.json")


@dataclass(frozen=True)
class Export:
    """An ONNX or OpenVINO file that was written.

    >>> print(Export(Path("out/model_int8.onnx"), 20, "dynamic", 22_900_000, ("a", "b"), ("classifier",), 0.25))
    out/model_int8.onnx: INT8 (dynamic), opset 20, 22.9 MB
    layers in INT8: 2; in float: 1 (classifier)
    largest difference of a logit from the PyTorch model: 0.25

    Attributes:
        path: the file.
        opset: the version of ONNX's operators that a runtime must know; None of an OpenVINO file.
        quantize: None, "dynamic" or "static".
        size_bytes: of the file, and of one beside it that holds weights.
        quantized_layers: the layers in INT8, by the names of the modules.
        float_layers: the other layers that have weights.
        max_logit_difference: the largest absolute difference from the logits of the PyTorch model, on made-up inputs.
            To know what it means for the answers, audit the file on data.
    """

    path: Path
    opset: int | None
    quantize: str | None
    size_bytes: int
    quantized_layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    max_logit_difference: float

    def __str__(self) -> str:
        kind = "float32" if self.quantize is None else f"INT8 ({self.quantize})"
        opset = "" if self.opset is None else f", opset {self.opset}"
        shown = f" ({', '.join(self.float_layers)})" if 0 < len(self.float_layers) <= 4 else ""
        return "\n".join(
            [
                f"{self.path}: {kind}{opset}, {self.size_bytes / 1e6:.1f} MB",
                f"layers in INT8: {len(self.quantized_layers)}; in float: {len(self.float_layers)}{shown}",
                f"largest difference of a logit from the PyTorch model: {self.max_logit_difference:.3g}",
            ]
        )


def export_onnx(
    model: nn.Module | str | Path,
    folder: str | Path,
    *,
    quantize: str | None = None,
    calibration: Iterable[Any] | None = None,
    exclude: Sequence[str] | None = None,
    processing_class: Any = None,
    overwrite: bool = False,
) -> Export:
    """Write the model as ``model.onnx``, or in INT8 as ``model_int8.onnx``, with its config and processor beside it.

    The file takes any batch size and, for texts, any length; `predict` and `audit` take it like any model. It is run
    in ONNX Runtime on made-up inputs before anything appears in the folder.

    In INT8 the weights of the linear layers and embeddings (and convolutions, for "static") take one byte each; the
    last layer, which makes the logits, stays in float. A model of the scheme "onnxruntime-w8a8" simulates the file
    that "dynamic" writes, and exactly its layers are quantised. Audit an INT8 file on a processor like the one that
    will run it: x86 processors without VNNI instructions cut off large sums of products.

    Args:
        model: a classifier of texts or images, shrunk or pruned or not, which is left as it is; or the folder or Hub
            id of one, whose processor is then saved too.
        folder: a folder that is empty or not there yet.
        quantize: None for float32; "dynamic": activations are quantised by the range that they have in each batch; or
            "static": by fixed ranges, those of the calibration data.
        calibration: for "static": batches as the model takes them, a DataLoader, or a `datasets.Dataset` of rows that
            can be stacked. A few hundred rows do.
        exclude: patterns of module names (as in `fnmatch`) that stay in float too.
        processing_class: the tokenizer or image processor to save.
        overwrite: replace files of the same names in a folder that holds something.

    Raises:
        ImportError: the extra "onnx" is not installed.
        ValueError: an argument out of range, with what is allowed; a model that cannot be exported, and what of it;
            a file that answers otherwise than the model. The folder is then as it was.
    """
    check_options(quantize, calibration, exclude=exclude)
    model, processing_class = opened_model(model, processing_class)
    check_model(model)
    name = FLOAT_NAME if quantize is None else INT8_NAME
    check_neighbours(folder, name, model)
    simulated = _simulated_layers(model, quantize, exclude)
    batches = None if calibration is None else calibration_batches(calibration, model)
    with staged_folder(folder, overwrite=overwrite) as stage, tempfile.TemporaryDirectory() as scratch:
        path = stage / name
        source = path if quantize is None else Path(scratch) / FLOAT_NAME
        plain = plain_model(model)
        export_graph(plain, source)
        config = save_beside(stage, model, processing_class)
        file = OnnxModel(source, config=config)
        difference = checked_difference(plain, file, exact=True)
        layers = graph_layers(source, quantize or "static")
        kept: tuple[str, ...] = layers
        if quantize is not None:
            kept = kept_layers(source, layers, exclude) if simulated is None else _others(model, layers, simulated)
            check_something_left(source, layers, kept, quantize)
            ranges = None if batches is None else calibrate_graph(source, batches)
            quantize_graph(source, path, mode=quantize, keep_float=kept, ranges=ranges)
            file = OnnxModel(path, config=config)
            difference = checked_difference(model, file, exact=False)
        size_bytes = file.size_bytes
        opset = opset_of(path)
    if quantize is not None and (Path(folder) / _OF_A_REPAIR[0]).is_file():
        for stale in _OF_A_REPAIR:  # about the file that was replaced
            (Path(folder) / stale).unlink(missing_ok=True)
    return Export(
        path=Path(folder) / path.name,
        opset=opset,
        quantize=quantize,
        size_bytes=size_bytes,
        quantized_layers=tuple(layer for layer in layers if layer not in kept),
        float_layers=kept,
        max_logit_difference=difference,
    )


def _simulated_layers(model: nn.Module, quantize: str | None, exclude: Sequence[str] | None) -> tuple[str, ...] | None:
    """The layers of a model that simulates the INT8 file; None of a float model."""
    record = quantization_of(model)
    if record is None:
        if quantized_layers(model):
            raise ValueError(
                f"{type(model).__name__} is quantised by another tool, and ONNX Runtime has its own way. Export the "
                "float model with quantize='dynamic'."
            )
        return None
    if scheme_of(record.scheme).backend != "onnxruntime":
        raise ValueError(
            f"The model is quantised by the scheme {record.scheme}, which ONNX Runtime cannot run. Export the float "
            "model with quantize='dynamic'; to train for that, use the scheme 'onnxruntime-w8a8'."
        )
    if not quantized_layers(model):
        raise ValueError(
            "The model's config says that it simulates INT8, but its layers are plain: from_pretrained does not apply "
            "the rounding that the config records. Open it with hf_compalign.load_compressed(folder)."
        )
    if quantize != "dynamic" or exclude:
        what = f"quantize={quantize!r}" if quantize != "dynamic" else "exclude="
        raise ValueError(
            f"The model simulates the file that quantize='dynamic' writes, with the layers that its config names, and "
            f"does not go with {what}. Say quantize='dynamic' alone; or call unprepare_(model) of "
            "hf_compalign.compress.quantize.one_shot first, which makes it a float model."
        )
    return record.layers


def plain_model(model: nn.Module) -> nn.Module:
    """The model, or a float copy of one that simulates the file."""
    if quantization_of(model) is None:
        return model
    model = copy.deepcopy(model)
    unprepare_(model)
    return model


def kept_layers(source: Path, layers: tuple[str, ...], exclude: Sequence[str] | None) -> tuple[str, ...]:
    """The layers that stay in float, in the order of the graph."""
    for pattern in exclude or ():
        if not any(fnmatch.fnmatchcase(layer, pattern) for layer in layers):
            raise ValueError(
                f"The pattern {pattern!r} in exclude= matches no layer that is quantised. They are named like: "
                f"{', '.join(layers[:: max(1, len(layers) // 6)])}."
            )
    outputs = output_layers(source)
    return tuple(
        layer
        for layer in layers
        if layer in outputs or any(fnmatch.fnmatchcase(layer, pattern) for pattern in exclude or ())
    )


def _others(model: nn.Module, layers: tuple[str, ...], simulated: tuple[str, ...]) -> tuple[str, ...]:
    """The layers that the model does not simulate in INT8."""
    modules = dict(model.named_modules())
    # The weights of an embedding can be read without the module being called: then they are not quantised there either.
    missing = [name for name in simulated if name not in layers and isinstance(modules[name], nn.Linear)]
    if missing:
        raise ValueError(
            f"The layers {', '.join(missing)} are quantised in the model, but cannot be in its ONNX file. Prepare the "
            "model again with them in exclude=."
        )
    return tuple(layer for layer in layers if layer not in simulated)


def opened_model(model: nn.Module | str | Path, processing_class: Any) -> tuple[nn.Module, Any]:
    """The model, and what was given to be saved with it or else stands beside it, if anything."""
    if isinstance(model, nn.Module):
        return model, processing_class
    check_not_exported(model)
    opened = load_compressed(model)
    if processing_class is None:
        with contextlib.suppress(ValueError):
            processing_class = load_processor(str(model), task_of(opened))
    return opened, processing_class


def save_beside(folder: Path, model: Any, processing_class: Any) -> Any:
    """Save the model's config, which names its class and is returned, and what makes its inputs."""
    config = file_config(model)
    config.save_pretrained(folder)
    if processing_class is not None:
        processing_class.save_pretrained(folder)
    return config


def file_config(model: Any) -> Any:
    """The config of a file of the model, which names the model's class."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    return config


def checked_difference(model: Any, file: FileModel, *, exact: bool) -> float:
    """The largest difference of a logit between the file and the model.

    Raises:
        ValueError: with ``exact``, it is more than rounding makes.
    """
    differences, logits = [0.0], [0.0]
    model = float_copy(model)
    for n_items, length in _TRIALS:
        inputs = sample_inputs(model, n_items=n_items, length=length)
        with same_randomness(), torch.no_grad():
            expected: Tensor = logits_of(model(**inputs)).float().cpu()
        got = file(**inputs)["logits"].float()
        # What is not a number differs by more than any number.
        differences.append(float((got - expected).abs().max().nan_to_num(torch.inf)))
        logits.append(float(expected.abs().max()))
    difference, largest = max(differences), max(logits)
    if exact and not difference <= _TOLERANCE * largest:
        raise ValueError(
            f"{file.path.name} of {type(model).__name__} answers otherwise than the model: its logits differ by up to "
            f"{difference:.3g}, and the largest is {largest:.3g}. Its forward pass depends on the values or the length "
            "of the inputs in a way that cannot be exported. Deploy the PyTorch model."
        )
    return difference
