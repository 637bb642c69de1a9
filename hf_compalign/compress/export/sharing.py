"""Weights that a graph uses several times: stored once, and as the matrices that its layers multiply by."""

import hashlib
from typing import Any

import numpy as np


def store_once_(graph: Any) -> None:
    """Turn the weights of an onnx_ir.Graph that are only read transposed, and keep one of those that are equal.

    Of a small weight with several uses the exporter makes a transposed copy for each. A large one it transposes while
    the model runs, and ONNX Runtime then quantizes none of its layers.
    """
    for weight in [*graph.initializers.values()]:
        orders = {_order(node) for node in weight.consumers()}
        order = orders.pop() if len(orders) == 1 else None
        if order is not None:
            _turn_(weight, order)
    first: dict[Any, Any] = {}
    for weight in [*graph.initializers.values()]:
        tensor = weight.const_value
        content = tensor.dtype, tuple(tensor.shape), hashlib.sha256(tensor.tobytes()).digest()
        kept = first.setdefault(content, weight)
        if kept is not weight and not weight.is_graph_output():
            weight.replace_all_uses_with(kept)
            del graph.initializers[weight.name]


def _order(node: Any) -> tuple[int, ...] | None:
    """The order into which a node puts the axes of its input; None if it does something else."""
    return tuple(node.attributes["perm"].as_ints()) if node.op_type == "Transpose" else None


def _turn_(weight: Any, order: tuple[int, ...]) -> None:
    """Store a weight with its axes in another order, instead of the nodes that put them into it."""
    import onnx_ir

    readers = weight.consumers()
    weight.name += ".T"
    weight.const_value = onnx_ir.tensor(np.ascontiguousarray(weight.const_value.numpy().transpose(order)))
    weight.shape = None
    for node in readers:
        node.outputs[0].replace_all_uses_with(weight)
        node.graph.remove(node, safe=True)
