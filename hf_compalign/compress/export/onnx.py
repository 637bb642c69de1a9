"""Export a model to ONNX, in float or in INT8, and check the file against the model."""

import copy
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from hf_compalign._files import repair_records
from hf_compalign._folders import staged_folder
from hf_compalign.compress.calibration import calibration_batches
from hf_compalign.compress.export.checks import check_options, check_something_left
from hf_compalign.compress.export.common import (
    FLOAT_NAME,
    Export,
    checked_difference,
    kept_layers,
    opened_model,
    save_beside,
    summary,
)
from hf_compalign.compress.export.graph import (
    export_graph,
    float_layers,
    graph_layers,
    opset_of,
    quantize_graph,
)
from hf_compalign.compress.export.smoothing import smoothed_ranges
from hf_compalign.compress.quantize import quantization_of, quantized_layers, roundable_layers, scheme_of, unprepare_
from hf_compalign.compress.seen import LINEAR, seen_in
from hf_compalign.models import OnnxModel

INT8_NAME = "model_int8.onnx"
# The scheme that computes what a dynamic file will.
_SIMULATED = "onnxruntime-w8a8"


def export_onnx(  # noqa: PLR0913 - what to export and where, and all that a file can be
    model: nn.Module | str | Path,
    folder: str | Path,
    *,
    quantize: str | None = None,
    calibration: Iterable[Any] | None = None,
    exclude: Sequence[str] | None = None,
    processing_class: Any = None,
    portable: bool = False,
    overwrite: bool = False,
) -> Export:
    """Write the model as ``model.onnx``, or in INT8 as ``model_int8.onnx``, with its config and processor beside it.

    The file takes any batch size and, for texts, any length; `predict` and `audit` take it like any model. It is run
    in ONNX Runtime on made-up inputs before anything appears in the folder.

    In INT8 the weights of the linear layers and embeddings (and convolutions, for "static") take one byte each; the
    layers that make the logits stay in float. What is in float is read from the finished file. A model of the scheme
    "onnxruntime-w8a8" simulates the file that "dynamic" writes: exactly its layers are quantized. On x86
    processors without VNNI instructions, large sums of products are cut off: ``portable=True`` prevents it, and
    `SaturatingModel` says what it does to the answers.

    Args:
        model: of any task that can be asked, compressed or not, which stays as it is; or its folder or Hub id, whose
            processor is then saved too.
        folder: a folder that is empty or not there yet.
        quantize: None for float32; "dynamic" for activations quantized by their range in each batch; or "static" for
            fixed ranges from the calibration data, after factors were moved from activations to weights where that
            lessens the error (https://huggingface.co/papers/2211.10438).
        calibration: for "static": batches as the model takes them, a DataLoader, or a `datasets.Dataset` of rows that
            can be stacked. A few hundred rows do.
        exclude: patterns of module names (as in `fnmatch`) that stay in float too.
        processing_class: the tokenizer or image processor to save.
        portable: in INT8, 7 bits for weights instead of 8, so that the file is right on processors without VNNI too.
        overwrite: replace files of the same names in a folder that holds something.

    Raises:
        ImportError: the extra "onnx" is not installed.
        ValueError: an argument is out of range, the model cannot be exported, or the file does not answer like it. The
            folder is then as it was.
    """
    check_options(quantize, calibration, exclude=exclude, portable=portable)
    name = FLOAT_NAME if quantize is None else INT8_NAME
    model, processing_class = opened_model(model, processing_class, folder=folder, name=name)
    simulated = _simulated_layers(model, quantize, exclude, portable)
    batches = None if calibration is None else calibration_batches(calibration, model)
    stale = () if quantize is None else repair_records(folder, name)
    staged = staged_folder(folder, overwrite=overwrite, dropped=stale)
    with staged as stage, tempfile.TemporaryDirectory() as scratch:
        path = stage / name
        source = path if quantize is None else Path(scratch) / FLOAT_NAME
        plain = plain_model(model)
        export_graph(plain, source)
        config = save_beside(stage, model, processing_class)
        file = OnnxModel(source, config=config)
        difference = checked_difference(plain, file, exact=True)
        layers = graph_layers(source, quantize or "static")
        if quantize is not None:
            fixed = _fixed(model, layers, quantize) if simulated is None else _others(model, layers, simulated)
            kept = kept_layers(layers, fixed, exclude)
            check_something_left(source, layers, kept, quantize)
            ranges = None if batches is None else smoothed_ranges(source, batches)
            quantize_graph(source, path, mode=quantize, keep_float=kept, ranges=ranges, portable=portable)
            file = OnnxModel(path, config=config)
            difference = checked_difference(model, file, exact=False)
        kept = float_layers(path)
        made = summary(file, folder, quantize=quantize, layers=layers, kept=kept, difference=difference)
        return replace(made, opset=opset_of(path), portable=portable)


def _simulated_layers(
    model: nn.Module, quantize: str | None, exclude: Sequence[str] | None, portable: bool
) -> tuple[str, ...] | None:
    """The layers that a model simulates in INT8; None for a float model."""
    record = quantization_of(model)
    if record is None:
        if quantized_layers(model):
            raise ValueError(
                f"{type(model).__name__} is quantized by another tool, and ONNX Runtime has its own way. Export the "
                "float model with quantize='dynamic'."
            )
        return None
    if scheme_of(record.scheme).backend != "onnxruntime":
        raise ValueError(
            f"The model is quantized by the scheme {record.scheme}, which ONNX Runtime cannot run. Export the float "
            "model with quantize='dynamic'; to train for that, use the scheme 'onnxruntime-w8a8'."
        )
    if not quantized_layers(model):
        raise ValueError(
            "The model's config says that it simulates INT8, but its layers are plain: from_pretrained does not apply "
            "the rounding of the config. Open the model with hf_compalign.load_compressed(folder)."
        )
    if quantize != "dynamic" or exclude or portable:
        idle = "exclude=" if exclude else "portable=True, whose weights have 7 bits instead of 8"
        what = f"quantize={quantize!r}" if quantize != "dynamic" else idle
        raise ValueError(
            f"The model simulates the file that quantize='dynamic' writes, with the layers that its config names. It "
            f"cannot be exported with {what}. Say quantize='dynamic' alone; or make it a float model first, by "
            "hf_compalign.compress.quantize.unprepare_(model)."
        )
    return record.layers


def plain_model(model: nn.Module) -> nn.Module:
    """The model, or a float copy of one that simulates the file."""
    if quantization_of(model) is None:
        return model
    model = copy.deepcopy(model)
    unprepare_(model)
    return model


def _fixed(model: nn.Module, layers: tuple[str, ...], quantize: str) -> set[str]:
    """The layers that stay in float in any case: those that make the logits and, in a file that the scheme of
    `quantize_` simulates, those that it cannot round."""
    seen = seen_in(model)
    roundable = roundable_layers(model, scheme_of(_SIMULATED), seen) if quantize == "dynamic" else layers
    return {*seen.head} | ({*layers} - {*roundable})


def _others(model: nn.Module, layers: tuple[str, ...], simulated: tuple[str, ...]) -> tuple[str, ...]:
    """The layers that the model does not simulate in INT8."""
    # Where a model reads an embedding's weights without calling the module, the simulation does not round them either.
    linear = {name for name, module in model.named_modules() if isinstance(module, LINEAR)}
    missing = [name for name in simulated if name in linear - {*layers}]
    if missing:
        raise ValueError(
            f"The model quantizes the layers {', '.join(missing)}, but its ONNX file cannot. Prepare the model again "
            "with them in exclude=."
        )
    return tuple(layer for layer in layers if layer not in simulated)
