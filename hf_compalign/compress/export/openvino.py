"""Export a model to OpenVINO, in float or in INT8, by way of its ONNX graph."""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hf_compalign._extras import needs_extra
from hf_compalign._files import staged_folder
from hf_compalign.compress.calibration import calibration_batches
from hf_compalign.compress.export.checks import check_model, check_neighbours, check_options, check_something_left
from hf_compalign.compress.export.common import (
    FLOAT_NAME,
    Export,
    checked_difference,
    kept_layers,
    opened_model,
    save_beside,
)
from hf_compalign.compress.export.graph import export_graph, graph_layers, quiet
from hf_compalign.compress.quantize import quantization_of, quantized_layers
from hf_compalign.models import OpenVinoModel

OPENVINO_NAME = "openvino_model.xml"
_WHAT = "The export to OpenVINO"
# Operators with weights, and which of their inputs is the weight.
_WEIGHT_INPUT = {"MatMul": 1, "Gather": 0, "Convolution": 1, "GroupConvolution": 1}


def export_openvino(
    model: nn.Module | str | Path,
    folder: str | Path,
    *,
    quantize: str | None = None,
    calibration: Iterable[Any] | None = None,
    exclude: Sequence[str] | None = None,
    processing_class: Any = None,
    overwrite: bool = False,
) -> Export:
    """Write the model as ``openvino_model.xml`` and ``.bin``, with its config and processor beside them.

    This is the layout of Optimum Intel. The file takes any batch size and, for texts, any length; `predict` and
    `audit` take it like any model. It is run in OpenVINO, on made-up inputs, before anything appears in the folder.

    In INT8 the weights of linear layers, embeddings and convolutions take one byte each, and activations have fixed
    ranges, as NNCF's post-training quantization for transformers sets them (smoothed, with biases corrected); the
    last layer, which makes the logits, stays in float. NNCF reports to its makers that it was used, unless they were
    told not to: ``opt_in_out --opt_out`` says so once and for all.

    Args:
        model: a classifier of texts or images, shrunk or pruned or not, which is left as it is; or the folder or Hub
            id of one, whose processor is then saved too.
        folder: a folder that is empty or not there yet.
        quantize: None for float32, or "static" for INT8.
        calibration: for "static": batches as the model takes them, a DataLoader, or a `datasets.Dataset` of rows that
            can be stacked. A few hundred rows do.
        exclude: patterns of module names (as in `fnmatch`) that stay in float too.
        processing_class: the tokenizer or image processor to save.
        overwrite: replace files of the same names in a folder that holds something.

    Raises:
        ImportError: the extra "openvino" is not installed.
        ValueError: an argument out of range, with what is allowed; a model that cannot be exported, and what of it;
            a file that answers otherwise than the model. The folder is then as it was.
    """
    _check_options(quantize, calibration, exclude)
    _check_installed(quantize)
    model, processing_class = opened_model(model, processing_class)
    check_model(model)
    check_neighbours(folder, OPENVINO_NAME, model)
    _check_float(model)
    batches = None if calibration is None else calibration_batches(calibration, model)
    with staged_folder(folder, overwrite=overwrite) as stage, tempfile.TemporaryDirectory() as scratch:
        source, path = Path(scratch) / FLOAT_NAME, stage / OPENVINO_NAME
        export_graph(model, source)
        layers = kept = graph_layers(source, "static")
        config = save_beside(stage, model, processing_class)
        _convert(source, path)
        file = OpenVinoModel(path, config=config)
        difference = checked_difference(model, file, exact=True)
        if batches is not None:
            excluded = kept_layers(source, layers, exclude)
            check_something_left(source, layers, excluded, "static")
            known = [{name: batch[name] for name in file.input_names if name in batch} for batch in batches]
            in_int8 = _quantize(path, [file.feeds(batch) for batch in known], keep_float=excluded)
            kept = tuple(layer for layer in layers if layer not in in_int8)
            file = OpenVinoModel(path, config=config)
            difference = checked_difference(model, file, exact=False)
        size_bytes = file.size_bytes
    return Export(
        path=Path(folder) / path.name,
        opset=None,
        quantize=quantize,
        size_bytes=size_bytes,
        quantized_layers=tuple(layer for layer in layers if layer not in kept),
        float_layers=kept,
        max_logit_difference=difference,
    )


def _check_options(quantize: str | None, calibration: Any, exclude: Sequence[str] | None) -> None:
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
            "the float model; one that was prepared for training is made one again by unprepare_(model) of "
            "hf_compalign.compress.quantize.one_shot."
        )


def _convert(source: Path, target: Path) -> None:
    """Read an ONNX graph and write it as OpenVINO's, weights in float32; nodes and axes keep their names."""
    import openvino

    try:
        graph = openvino.Core().read_model(str(source))
    except Exception as error:
        message = " ".join(str(error).split())
        raise ValueError(
            f"OpenVINO cannot read the model's ONNX graph: {message:.500}. Deploy the ONNX file of export_onnx."
        ) from error
    openvino.save_model(graph, str(target), compress_to_fp16=False)


def _quantize(path: Path, feeds: Sequence[Mapping[str, Any]], *, keep_float: Collection[str]) -> set[str]:
    """Replace a file by its INT8 version; the layers that have their weights in INT8 then."""
    with quiet():
        import nncf
        import openvino

        graph = openvino.Core().read_model(str(path))
        names = [node.get_friendly_name() for node in graph.get_ordered_ops() if _layer_of(node) in keep_float]
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
        # The file was mapped into memory as it was read.
        quantized = path.with_name(f"int8_{path.name}")
        openvino.save_model(graph, str(quantized), compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        quantized.with_suffix(suffix).replace(path.with_suffix(suffix))
    return {str(_layer_of(node)) for node in graph.get_ordered_ops() if _in_int8(node)}


def _layer_of(node: Any) -> str | None:
    """The layer whose weights an operator takes, by the name of the module; None of another operator."""
    is_layer = node.get_type_name() in _WEIGHT_INPUT
    return node.get_friendly_name().partition("/")[0] if is_layer else None


def _in_int8(node: Any) -> bool:
    """Whether an operator's weights are integers, with what makes floats of them on the way."""
    if _layer_of(node) is None:
        return False
    node = node.input_value(_WEIGHT_INPUT[node.get_type_name()]).get_node()
    while node.get_type_name() in ("Convert", "Multiply", "Subtract", "Reshape", "Transpose"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and node.get_output_element_type(0).get_type_name() in ("i8", "u8")
