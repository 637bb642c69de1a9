"""A model as an ONNX graph: exported, its nodes named after the model's layers, quantized by ONNX Runtime."""

import contextlib
import copy
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign._compat import exported_graph
from hf_compalign._extras import needs_extra
from hf_compalign.compress.export.names import tidy_
from hf_compalign.compress.export.sharing import store_once_
from hf_compalign.models import image_size, random_state_kept, sample_inputs

MODES = ("dynamic", "static")
# Operators to quantize, and which of their inputs is the weight. Dynamically quantized convolutions are slower than
# float ones.
_WEIGHT_INPUT = {"MatMul": 1, "Gemm": 1, "Gather": 0, "Conv": 1}
_OPERATORS = {"dynamic": ("MatMul", "Gemm", "Gather"), "static": ("MatMul", "Gemm", "Gather", "Conv")}
# Smaller ones are biases, masks and single tokens.
_WORTH_NAMING = 512
# A protobuf message holds at most 2 GiB; everything but the weights takes a few MB.
_MOST_BYTES = 2_000_000_000
WHAT = "The export to ONNX"
NO_FILE = (
    "Deploy the PyTorch model: quantize_ makes it smaller by a scheme that PyTorch runs, such as 'torchao-w8'. Or "
    "train a student of another architecture (AlignedDistillationTrainer) and export that."
)


def export_graph(model: nn.Module, target: Path) -> None:
    """Write the model as one ONNX file in float32, for any batch size and, for texts, any length.

    Nodes are named after the module they compute, like ``bert.pooler.dense/Gemm``. The inputs are those of a
    tokenizer, an image processor or a feature extractor, and the output is ``logits``, or ``start_logits`` and
    ``end_logits``. Weights of more than 2 GB stand beside the file in
    ``<name>.onnx_data``. The model stays as it is: a copy is traced, in float32, since ONNX Runtime has no kernels for
    half precision on CPUs. Images have the size that the config names; otherwise any size that the model's operations
    allow.

    Args:
        model: a transformer of a task that can be asked, with its weights on one device.
        target: the file.

    Raises:
        ImportError: the extra "onnx" is not installed.
        ValueError: the model cannot be run or traced, or has an operation that ONNX lacks.
    """
    with quiet(), needs_extra("onnx", what=WHAT):
        import onnx  # noqa: F401 - transformers.exporters would say less clearly that these are missing
        import onnx_ir
        import onnxscript  # noqa: F401
        from transformers.exporters import OnnxConfig, OnnxExporter
    inputs = sample_inputs(model)
    dim = torch.export.Dim
    shapes = {name: dict.fromkeys(range(_n_free(value)), dim.DYNAMIC) for name, value in inputs.items()}
    if "pixel_values" in shapes and image_size(model) is None:
        shapes["pixel_values"] |= {2: dim.AUTO, 3: dim.AUTO}
    with quiet(), random_state_kept(), torch.no_grad():
        model = float_copy(model)
        plain: Any = model
        plain.set_attn_implementation("eager")  # whose graph is the simplest and fastest
        try:
            model(**inputs)  # a model that cannot be run says more clearly why than one that is traced
            exported = OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic=True, dynamic_shapes=shapes))
        except Exception as error:
            raise ValueError(_failure(model, inputs, error)) from error
    program = exported_graph(exported)
    store_once_(program.graph)
    tidy_(program)
    large = sum(tensor.const_value.nbytes for tensor in program.graph.initializers.values()) > _MOST_BYTES
    onnx_ir.save(program, str(target), external_data=f"{target.name}_data" if large else None)


def _n_free(value: Tensor) -> int:
    """How many of the first axes may have any length: all of texts and of waves, one of what has a fixed size."""
    return value.ndim if value.dtype == torch.long or value.ndim == 2 else 1


def graph_layers(path: Path, mode: str) -> tuple[str, ...]:
    """The layers of a file of `export_graph` that can be quantized, in its order; "static" takes convolutions too."""
    return tuple(_layer_nodes(load_graph(path, weights=False), mode))


def float_layers(path: Path) -> tuple[str, ...]:
    """The modules whose matrices stand in a file in float, in its order: what is not in INT8, whatever was asked for.

    Besides layers these are modules with other parameters, such as positions that are added, and with tensors that
    the exporter has computed beforehand, of `_WORTH_NAMING` numbers or more.
    """
    graph = load_graph(path, weights=False).graph
    sizes = _float_matrices(graph)
    found: dict[str, None] = {}
    for node in graph.node:
        module = _module_of(node)
        for index, name in enumerate(node.input):
            if name not in sizes:
                continue
            if _WEIGHT_INPUT.get(node.op_type) == index:
                found[module] = None
            elif sizes[name] >= _WORTH_NAMING:
                # A parameter has the name of its module, which need not be the one that reads it.
                owner = name.removesuffix(".T").rpartition(".")[0]
                found[module if node.op_type == "Transpose" else owner or module] = None
    return tuple(found)


def opset_of(path: Path) -> int:
    """The version of ONNX's own operators in the file."""
    return int(next(one.version for one in load_graph(path, weights=False).opset_import if not one.domain))


def quantize_graph(
    source: Path,
    target: Path,
    *,
    mode: str,
    keep_float: Collection[str] = (),
    ranges: Any = None,
    portable: bool = False,
) -> None:
    """Write an INT8 version of a graph, quantized by ONNX Runtime: weights in one byte, per output channel.

    Args:
        source: a file of `export_graph`.
        target: the new file.
        mode: "dynamic" quantizes activations by the range of the whole batch; "static" by the given ranges, written as
            QuantizeLinear and DequantizeLinear. Both hold embeddings in uint8.
        keep_float: the names of `graph_layers` that stay in float.
        ranges: from `calibrate_graph`; for "static".
        portable: 7 bits for weights that are multiplied, so that sums of two products stay within 16.

    Raises:
        ValueError: the mode is unknown, the ranges are missing, or there is no such layer to keep.
    """
    if mode == "static" and ranges is None:
        raise ValueError("Static quantization needs the ranges of the activations. Give ranges=calibrate_graph(...).")
    model = load_graph(source)
    layers = _layer_nodes(model, mode)
    if unknown := set(keep_float) - set(_layer_nodes(model, "static")):
        raise ValueError(f"keep_float names no layers of {source}: {', '.join(sorted(unknown))}. See graph_layers.")
    names = [name for layer, nodes in layers.items() if layer not in keep_float for name in nodes]
    if names:
        model = _dynamic(model, names, portable) if mode == "dynamic" else _static(model, names, ranges, portable)
        del model.metadata_props[:]
    save_graph(model, target)


def _dynamic(model: Any, names: list[str], portable: bool) -> Any:
    """The model with these nodes in INT8, by the ranges of each batch."""
    with quiet(), needs_extra("onnx", what=WHAT):
        from onnxruntime.quantization import QuantType, quantize_dynamic
    # ONNX Runtime first turns each Gemm into a MatMul of this name.
    names = names + [f"{name}_MatMul" for name in names]
    with tempfile.TemporaryDirectory() as folder, quiet():
        made = Path(folder) / "model.onnx"
        quantize_dynamic(
            model,
            made,
            op_types_to_quantize=list(_OPERATORS["dynamic"]),
            per_channel=True,
            reduce_range=portable,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=names,
            use_external_data_format=_n_bytes(model) > _MOST_BYTES,
        )
        return load_graph(made)


def _static(model: Any, names: list[str], ranges: Any, portable: bool) -> Any:
    """The model with these nodes in INT8, by fixed ranges.

    `quantize_static` would look for the ranges in each call, and a repair makes many files of one model. From ONNX
    Runtime 1.28 on it takes known ranges, but that version is not for Python 3.10.
    """
    with quiet(), needs_extra("onnx", what=WHAT):
        from onnxruntime.quantization import QDQQuantizer, QuantType
    # A quantized layer quantizes its own input; outputs, and so sums and residuals, stay float.
    options: dict[str, Any] = {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
    # Nothing is multiplied with embeddings, so they keep all bits, as they do in a dynamic file.
    used = {name for node in model.graph.node if node.op_type != "Gather" for name in node.input}
    looked_up = {*_float_matrices(model.graph)} - used
    options["TensorQuantOverrides"] = {name: [{"reduce_range": False}] for name in looked_up}
    with quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=portable,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=names,
            nodes_to_exclude=[],
            op_types_to_quantize=list(_OPERATORS["static"]),
            extra_options=options,
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    _let_others_read_float(quantizer.model.model, {*names})
    return quantizer.model.model


def _let_others_read_float(model: Any, quantized: set[str]) -> None:
    """Let the layers in float read the float tensor: the quantizer gives all readers the rounded one."""
    made_by = {name: node for node in model.graph.node for name in node.output}

    def before_rounding(name: str) -> str:
        dequantize = made_by.get(name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return name
        quantize = made_by.get(dequantize.input[0])
        if quantize is None:  # a weight
            return name
        maker = made_by.get(quantize.input[0])
        # The outputs of a quantized layer are rounded for all.
        return name if maker is not None and maker.name in quantized else quantize.input[0]

    for node in model.graph.node:
        if node.name not in quantized and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            for index, name in enumerate(node.input):
                node.input[index] = before_rounding(name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporter and the quantizer print and log; their errors say what went wrong."""
    root, nothing, level = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(nothing)  # without a handler, the root logger's first warning would set up logging
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        root.removeHandler(nothing)


def float_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode and float32: calls change some models."""
    return copy.deepcopy(model).float().eval()


def _failure(model: nn.Module, inputs: Mapping[str, Tensor], error: BaseException) -> str:
    """Why the export failed: the innermost error names the operation."""
    innermost = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    message = " ".join(str(innermost).split()).partition(" For more information")[0]
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
    return (
        f"{type(model).__name__} cannot be exported to ONNX: on made-up inputs ({shapes}) it raises "
        f"{type(innermost).__name__}: {message:.300}. {NO_FILE}"
    )


def _layer_nodes(model: Any, mode: str) -> dict[str, list[str]]:
    """Layer -> the names of its nodes that can be quantized, in the order of the graph."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}. Got {mode!r}.")
    weights = _float_matrices(model.graph)
    layers: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in _OPERATORS[mode] and node.input[_WEIGHT_INPUT[node.op_type]] in weights:
            layers.setdefault(_module_of(node), []).append(node.name)
    return layers


def _module_of(node: Any) -> str:
    """The name of the module that a node computes; its own name outside of all modules."""
    return node.name.rpartition("/")[0] or str(node.name)


def _float_matrices(graph: Any) -> dict[str, int]:
    """The float tensors of two axes or more, by name, and how many numbers each holds."""
    from onnx import TensorProto

    return {
        one.name: math.prod(one.dims)
        for one in graph.initializer
        if len(one.dims) > 1 and one.data_type == TensorProto.FLOAT
    }


def load_graph(path: Path, *, weights: bool = True) -> Any:
    """The graph of a file."""
    with needs_extra("onnx", what=WHAT):
        import onnx
    return onnx.load(str(path), load_external_data=weights)


def _n_bytes(model: Any) -> int:
    return sum(len(one.raw_data) for one in model.graph.initializer)


def save_graph(model: Any, target: Path) -> None:
    """Write a graph, with large weights beside the file."""
    import onnx

    if _n_bytes(model) > _MOST_BYTES:
        onnx.save(model, str(target), save_as_external_data=True, location=f"{target.name}_data", size_threshold=256)
    else:
        onnx.save(model, str(target))
