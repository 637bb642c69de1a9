"""Export a model to OpenVINO, in float or in INT8, by way of its ONNX graph."""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from hf_compalign._extras import needs_extra
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
from hf_compalign.compress.export.graph import export_graph, float_layers, graph_layers, quiet
from hf_compalign.compress.quantize import quantization_of, quantized_layers
from hf_compalign.compress.seen import seen_in
from hf_compalign.models import PRECISION_PLACE, OpenVinoModel, check_precision, openvino_core

OPENVINO_NAME = "openvino_model.xml"
_WHAT = "The export to OpenVINO"
# Operators with weights, and which of their inputs is the weight.
_WEIGHT_INPUT = {"MatMul": 1, "Gather": 0, "Convolution": 1, "GroupConvolution": 1}


def export_openvino(  # noqa: PLR0913 - what to export and where, and how it computes
    model: nn.Module | str | Path,
    folder: str | Path,
    *,
    quantize: str | None = None,
    precision: str = "bf16",
    calibration: Iterable[Any] | None = None,
    exclude: Sequence[str] | None = None,
    processing_class: Any = None,
    overwrite: bool = False,
) -> Export:
    """Write the model as ``openvino_model.xml`` and ``.bin``, with its config and processor beside them.

    This is the layout of Optimum Intel. Everything else is as for `export_onnx`: what the file takes, its check before
    anything appears in the folder, and the arguments and errors that are not listed here.

    In INT8 the weights of linear layers, embeddings and convolutions take one byte each. NNCF's post-training
    quantization for transformers fixes the ranges of the activations (smoothed, with biases corrected). The last layer,
    which makes the logits, stays in float, and so does a product of queries and keys that a layer in float makes. NNCF
    reports its use to its makers; ``opt_in_out --opt_out`` stops that for good.

    What is not in INT8 is computed in the file's precision; `OpenVinoModel` and the audit take it from the file. By
    default that is bfloat16, which needs no calibration: processors that compute in it (AVX-512 BF16, AMX) are two to
    four times as fast, and few answers or none change. Other processors compute the file in float32.

    Args:
        quantize: None, or "static" for INT8.
        precision: "bf16" or "f16", with weights of two bytes, or "f32". Few processors are faster in float16, and none
            in INT8 with float16, which is refused.
        calibration: for "static", as for `export_onnx`.

    Raises:
        ImportError: the extra "openvino" is not installed.
    """
    _check_options(quantize, precision, calibration, exclude)
    _check_installed(quantize)
    model, processing_class = opened_model(model, processing_class, folder=folder, name=OPENVINO_NAME)
    _check_float(model)
    batches = None if calibration is None else calibration_batches(calibration, model)
    staged = staged_folder(folder, overwrite=overwrite, dropped=repair_records(folder, OPENVINO_NAME))
    with staged as stage, tempfile.TemporaryDirectory() as scratch:
        source, path = Path(scratch) / FLOAT_NAME, stage / OPENVINO_NAME
        export_graph(model, source)
        convert_graph(source, path)
        layers, kept = graph_layers(source, "static"), float_layers(source)
        config = save_beside(stage, model, processing_class)
        file = OpenVinoModel(path, config=config)
        difference = checked_difference(model, file, exact=True)
        if batches is not None:
            excluded = kept_layers(layers, seen_in(model).head, exclude)
            check_something_left(source, layers, excluded, "static")
            in_int8 = quantize_openvino(path, calibration_feeds(file, batches), keep_float=excluded)
            kept = tuple(layer for layer in kept if layer not in in_int8)
        if batches is not None or precision != "f32":
            set_precision(path, precision)
            file = OpenVinoModel(path, config=config)
            difference = checked_difference(model, file, exact=False)
        found = summary(file, folder, quantize=quantize, layers=layers, kept=kept, difference=difference)
        return replace(found, precision=precision)


def _check_options(quantize: str | None, precision: str, calibration: Any, exclude: Sequence[str] | None) -> None:
    check_precision(precision)
    if quantize is not None and precision == "f16":
        raise ValueError(
            "precision='f16' has no fast kernels beside INT8: OpenVINO would compute a thousand times slower. Use "
            "'bf16' or 'f32' with quantize=."
        )
    if quantize == "dynamic":
        raise ValueError(
            "quantize='dynamic' is for ONNX: OpenVINO would compute such layers in float, and slower than without. Use "
            "quantize='static' with calibration=, or export_onnx."
        )
    check_options(quantize, calibration, exclude=exclude, modes=("static",))


def _check_installed(quantize: str | None) -> None:
    with quiet(), needs_extra("openvino", what=_WHAT):
        import openvino  # noqa: F401 - before a model is loaded and traced for nothing

        if quantize is not None:
            import nncf  # noqa: F401


def _check_float(model: nn.Module) -> None:
    if quantization_of(model) is not None or quantized_layers(model):
        raise ValueError(
            f"{type(model).__name__} is quantized already, and OpenVINO quantizes a float model in its own way. Export "
            "the float model; hf_compalign.compress.quantize.unprepare_(model) gives a prepared model its float layers "
            "back."
        )


def convert_graph(source: Path, target: Path) -> None:
    """Write an ONNX graph as OpenVINO's, weights in float32; nodes and axes keep their names."""
    import openvino

    try:
        graph = openvino_core().read_model(str(source))
    except Exception as error:
        message = " ".join(str(error).split())
        raise ValueError(
            f"OpenVINO cannot read the model's ONNX graph: {message:.500}. Deploy the ONNX file of export_onnx."
        ) from error
    openvino.save_model(graph, str(target), compress_to_fp16=False)


def calibration_feeds(file: OpenVinoModel, batches: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The batches as the file takes them, without what it does not take."""
    return [file.feeds({name: batch[name] for name in file.input_names if name in batch}) for batch in batches]


def quantize_openvino(path: Path, feeds: Sequence[Mapping[str, Any]], *, keep_float: Collection[str]) -> set[str]:
    """Replace a float file by its INT8 version; return the layers with INT8 weights.

    NNCF would also round both factors of a product of activations, such as queries and keys. It stays in float where a
    layer in float makes one of them.

    Args:
        path: the file.
        feeds: from `calibration_feeds`.
        keep_float: the layers that stay in float.

    Raises:
        ValueError: the model cannot be run on the feeds.
    """
    with quiet():
        import nncf

        graph = openvino_core().read_model(str(path))
        in_float = {*keep_float}
        names = [node.get_friendly_name() for node in graph.get_ordered_ops() if in_float & _layers_of(node)]
        try:
            graph = nncf.quantize(
                graph,
                nncf.Dataset(feeds),
                subset_size=len(feeds),
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=nncf.IgnoredScope(names=names),
            )
        except RuntimeError as error:
            raise ValueError(
                f"The model cannot be run on the calibration data. Give batches of the shape that it takes. ({error})"
            ) from error
        _replace(path, graph, two_bytes=False)
    return {str(_layer_of(node)) for node in graph.get_ordered_ops() if _in_int8(node)}


def set_precision(path: Path, precision: str) -> None:
    """Write into a file in which precision it is computed, with weights that have no more bytes than that."""

    graph = openvino_core().read_model(str(path))
    graph.set_rt_info(precision, [*PRECISION_PLACE])
    # Of the types with two bytes OpenVINO writes float16 alone, which has more digits than bfloat16.
    _replace(path, graph, two_bytes=precision != "f32")


def _replace(path: Path, graph: Any, *, two_bytes: bool) -> None:
    import openvino

    # Written beside the file and moved, because an open graph still maps the file into memory.
    written = path.with_name(f"new_{path.name}")
    openvino.save_model(graph, str(written), compress_to_fp16=two_bytes)
    for suffix in (".xml", ".bin"):
        written.with_suffix(suffix).replace(path.with_suffix(suffix))


def _layer_of(node: Any) -> str | None:
    """The name of the layer whose weights an operator takes; None for an operator without weights."""
    is_layer = node.get_type_name() in _WEIGHT_INPUT
    return node.get_friendly_name().partition("/")[0] if is_layer else None


def _layers_of(node: Any) -> set[str | None]:
    """The layer whose weights an operator takes; of a product of activations, the layers that make them."""
    if node.get_type_name() != "MatMul" or _weight_of(node) is not None:
        return {_layer_of(node)}
    found: set[str | None] = set()
    seen, waiting = set(), [node]
    while waiting:
        for value in waiting.pop().input_values():
            before = value.get_node()
            # The shape of an activation is no part of it.
            if before.get_friendly_name() in seen or before.get_type_name() == "ShapeOf":
                continue
            seen.add(before.get_friendly_name())
            if _weight_of(before) is None:
                waiting.append(before)
            else:
                found.add(_layer_of(before))
    return found


def _weight_of(node: Any) -> Any:
    """The constant that holds an operator's weights, in INT8 or in float; None without one."""
    if _layer_of(node) is None:
        return None
    node = node.input_value(_WEIGHT_INPUT[node.get_type_name()]).get_node()
    while node.get_type_name() in ("Convert", "Multiply", "Subtract", "Reshape", "Transpose"):
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


def _in_int8(node: Any) -> bool:
    """Whether an operator's weights are integers; operators on the way make floats of them."""
    weight = _weight_of(node)
    return weight is not None and weight.get_output_element_type(0).get_type_name() in ("i8", "u8")
