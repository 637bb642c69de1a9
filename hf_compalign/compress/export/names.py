"""Give an exported ONNX graph familiar names: those of the model's modules and axes."""

import ast
import re
from collections.abc import Mapping
from typing import Any

_SCOPES = "pkg.torch.onnx.name_scopes"


def tidy_(program: Any) -> None:
    """Name nodes, transposed weights and axes of the exporter's onnx_ir.Model; drop its stack traces and the like."""
    _name_axes(program.graph)
    _name_nodes(program.graph)
    _strip(program)


def _name_axes(graph: Any) -> None:
    """The exporter's symbols are s53 and the like."""
    import onnx_ir

    known = {}
    for value in graph.inputs:
        for dim, name in zip(value.shape, ("batch_size", "sequence_length"), strict=False):
            if isinstance(dim, onnx_ir.SymbolicDim):
                known[str(dim.value)] = name
    values = [*graph.inputs, *(output for node in graph.all_nodes() for output in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = onnx_ir.Shape(_renamed(dim, known) for dim in value.shape)


def _renamed(dim: Any, known: Mapping[str, str]) -> Any:
    if isinstance(dim, int):
        return dim
    if dim.value is None:
        return None
    return re.sub(r"[a-z]\w*", lambda found: known.get(found[0], found[0]), str(dim.value))


def _name_nodes(graph: Any) -> None:
    """Name the nodes and their transposed weights after the module that they compute."""
    taken: set[str] = set()
    for node in graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        # The first scope is the model, or a placeholder for everything outside of it.
        module = scopes[-2] if len(scopes) > 2 else ""
        if node.op_type == "Conv" and node.inputs[1].name.endswith(".weight"):
            # The exporter lets a convolution take over the normalization behind it, and gives it that one's scope.
            module = node.inputs[1].name.removesuffix(".weight")
        node.name = _unused(f"{module}/{node.op_type}" if module else node.op_type, taken)
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if module and weight is not None and weight.name.startswith("val_") and weight.is_initializer():
            weight.name = _unused(f"{module}.weight.T", taken)


def _unused(name: str, taken: set[str]) -> str:
    count, wanted = 1, name
    while name in taken:
        name = f"{wanted}_{count}"
        count += 1
    taken.add(name)
    return name


def _strip(program: Any) -> None:
    """Drop the metadata, which can be as large as a small model."""
    for graph in (program, program.graph):
        graph.metadata_props.clear()
    for node in program.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*program.graph.inputs, *program.graph.initializers.values()):
        value.metadata_props.clear()
    for value in program.graph.initializers.values():
        # The tensor says it itself; said twice, it stops ONNX Runtime's quantizer.
        value.type = value.shape = None
