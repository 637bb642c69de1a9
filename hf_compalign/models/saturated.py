"""A graph of ONNX Runtime's integer products, rewritten so that sums of two products end at 16 bits."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# The inputs of ONNX Runtime's integer products. ConvInteger is not among them: there the weights are the left factor,
# for which ONNX Runtime has kernels that do not saturate.
_INPUTS = {
    "MatMulInteger": ("a", "b", "a_zero", "b_zero"),
    "MatMulIntegerToFloat": ("a", "b", "a_scale", "b_scale", "a_zero", "b_zero", "bias"),
    "DynamicQuantizeMatMul": ("values", "b", "b_scale", "b_zero", "bias"),
    "QGemm": ("a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "bias", "y_scale", "y_zero"),
    "QLinearMatMul": ("a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"),
    "QLinearConv": ("a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero", "bias"),
}
# Operators that have such products inside.
_CLOSED = ("QAttention", "DynamicQuantizeLSTM")
# The first that has all operators used here.
_OPSET = 11
_LOW, _HIGH = -32768, 32767
# Pairs to compute at a time: each takes a number per token.
_PAIRS = 2048


def saturate_(model: Any) -> None:
    """Let products of uint8 activations and int8 weights saturate, in a graph that ONNX Runtime has optimized.

    The instruction vpmaddubsw multiplies two neighbors along the inner axis and keeps 16 bits of the sum. What it cuts
    off, ``clip(a0 * b0 + a1 * b1) - (a0 * b0 + a1 * b1)``, is computed for the pairs of weights that can get so far,
    and added to the exact product. A product without such a pair stays as it is.

    Args:
        model: a message of ONNX, with its weights inside; it is changed.

    Raises:
        ValueError: it has products that cannot be simulated.
    """
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    graph = _Graph(model.graph)
    for node in [*model.graph.node]:
        hidden = [inner.op_type for inner in _inner_nodes(node) if inner.op_type in (*_INPUTS, *_CLOSED)]
        if hidden or node.op_type in _CLOSED:
            raise _unknown(node, f"{(hidden or [node.op_type])[0]} hides its products.")
        if node.op_type in _INPUTS and graph.type_of(_inputs_of(node)["b"]) == "INT8":
            _check(graph, node, opset)
            _rewrite(graph, node)
        else:
            graph.nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(graph.nodes)


class _Graph:
    """A graph that is written anew: nodes so far, and constants that come to those that it has."""

    def __init__(self, graph: Any) -> None:
        import onnx

        self._onnx, self._message = onnx, graph
        self._tensors = {one.name: one for one in graph.initializer}
        self._types = {one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.input)}
        self._types |= {name: one.data_type for name, one in self._tensors.items()}
        self._numbers = itertools.count()
        self.nodes: list[Any] = []

    def type_of(self, name: str) -> str:
        """The type of a tensor's numbers, such as INT8."""
        return str(self._onnx.TensorProto.DataType.Name(self._types.get(name, 0)))

    def array(self, name: str) -> Any:
        """The numbers of a constant; None for another tensor."""
        return self._onnx.numpy_helper.to_array(self._tensors[name]) if name in self._tensors else None

    def constant(self, values: Any) -> str:
        """A new constant."""
        name = self._name()
        self._message.initializer.append(self._onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A new node: the name of its output."""
        name = output or self._name()
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, [name], name=self._name(), **attributes))
        return name

    def quantize(self, name: str) -> tuple[str, str, str]:
        """A tensor in uint8 by its own range, its scale and its zero point."""
        names = self._name(), self._name(), self._name()
        self.nodes.append(self._onnx.helper.make_node("DynamicQuantizeLinear", [name], names, name=self._name()))
        return names

    def cast(self, name: str, kind: str, *, output: str = "") -> str:
        """A tensor in another type."""
        return self.add("Cast", name, output=output, to=self._onnx.TensorProto.DataType.Value(kind))

    def keep(self, node: Any) -> tuple[str, str]:
        """Take a node over with another name for its output: that name, and the one that is free now."""
        free, node.output[0] = node.output[0], self._name()
        self.nodes.append(node)
        return node.output[0], free

    def _name(self) -> str:
        return f"saturation/{next(self._numbers)}"


def _check(graph: _Graph, node: Any, opset: int) -> None:
    """Refuse what cannot be simulated."""
    inputs, options = _inputs_of(node), _options_of(node)
    weights, zeros = graph.array(inputs["b"]), graph.array(inputs.get("b_zero", ""))
    is_conv = node.op_type == "QLinearConv"
    if opset < _OPSET:
        raise _unknown(node, f"The file is of opset {opset}, and {_OPSET} is needed.")
    if weights is None or (weights.ndim != 2 and not is_conv):
        raise _unknown(node, "Its right factor is no matrix of constants.")
    for name in ("a", "y_zero"):
        if graph.type_of(inputs.get(name, "")) == "INT8":
            raise _unknown(node, "Its activations are in int8 instead of uint8.")
    if options.get("transA", 0) or options.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise _unknown(node, "It turns its left factor, or chooses its padding itself.")
    if is_conv and zeros is not None and zeros.any():
        raise _unknown(node, "The zero point of its weights is not 0.")


def _rewrite(graph: _Graph, node: Any) -> None:
    """Write a product with what saturation takes from it, or as it is if that is nothing."""
    inputs, options = _inputs_of(node), _options_of(node)
    weights = graph.array(inputs["b"])
    if node.op_type == "QLinearConv":
        matrices = _filters(weights, options.get("group", 1))
    else:
        matrices = [weights.T if options.get("transB", 0) else weights]
    if not any(_risky(matrix).any() for matrix in matrices):
        graph.nodes.append(node)
    elif node.op_type == "QLinearConv":
        _rewrite_convolution(graph, node, matrices)
    else:
        _rewrite_matmul(graph, node, matrices[0])


def _rewrite_matmul(graph: _Graph, node: Any, weights: Any) -> None:
    inputs, options = dict(_inputs_of(node)), _options_of(node)
    if "values" in inputs:
        inputs["a"], inputs["a_scale"], inputs["a_zero"] = graph.quantize(inputs["values"])
    rows = graph.add("Reshape", graph.cast(inputs["a"], "FLOAT"), graph.constant(np.array([-1, len(weights)])))
    lost = graph.add("Transpose", _lost(graph, graph.add("Transpose", rows), weights, rank=2))
    if "y_scale" in inputs:
        factors = inputs["a"], graph.constant(weights), inputs["a_zero"], inputs["b_zero"]
        exact, output = graph.add("MatMulInteger", *factors), node.output[0]
        if "bias" in inputs:
            exact = graph.add("Add", exact, inputs["bias"])
    else:
        exact, output = graph.keep(node)
    lost = graph.add("Reshape", lost, graph.add("Shape", exact))
    if "b_scale" not in inputs:  # MatMulInteger gives the sums themselves
        graph.add("Add", exact, lost, output=output)
        return
    scale = graph.add("Mul", inputs["a_scale"], inputs["b_scale"])
    scale = graph.add("Mul", scale, graph.constant(np.float32(options.get("alpha", 1))))
    if "y_scale" in inputs:
        _requantize(graph, graph.add("Add", exact, lost), scale, inputs, output=output)
    else:
        graph.add("Add", exact, graph.add("Mul", graph.cast(lost, "FLOAT"), scale), output=output)


def _rewrite_convolution(graph: _Graph, node: Any, matrices: Sequence[Any]) -> None:
    inputs, options = _inputs_of(node), _options_of(node)
    last, weights = options.get("channels_last", 0), graph.array(inputs["b"])
    rank = weights.ndim
    image = inputs["a"]
    if last:
        image = graph.add("Transpose", image, perm=[0, rank - 1, *range(1, rank - 1)])
    names = ("pads", "strides", "dilations", "group")
    how = {name: options[name] for name in names if name in options} | {"kernel_shape": weights.shape[2:]}
    # Older versions of ONNX Runtime take weights in uint8 only.
    shifted = graph.constant((weights.astype(np.int16) + 128).astype(np.uint8))
    exact = graph.add("ConvInteger", image, shifted, inputs["a_zero"], graph.constant(np.uint8(128)), **how)
    channels_first = graph.add("Transpose", graph.cast(image, "FLOAT"), perm=[1, 0, *range(2, rank)])
    pads = np.array(how.get("pads", [0] * 2 * (rank - 2))).reshape(2, -1)
    amounts = graph.constant(np.pad(pads, ((0, 0), (2, 0))).reshape(-1))
    padded = graph.add("Pad", channels_first, amounts, graph.cast(inputs["a_zero"], "FLOAT"))
    parts = [
        _lost(graph, _patches(graph, padded, index * weights.shape[1], weights.shape[1:], how), matrix, rank=rank)
        for index, matrix in enumerate(matrices)
    ]
    lost = graph.add("Transpose", graph.add("Concat", *parts, axis=0), perm=[1, 0, *range(2, rank)])
    per_channel = graph.constant(np.array([-1, *(rank - 2) * [1]]))
    total = graph.add("Add", exact, lost)
    if "bias" in inputs:
        total = graph.add("Add", total, graph.add("Reshape", inputs["bias"], per_channel))
    scale = graph.add("Mul", inputs["a_scale"], graph.add("Reshape", inputs["b_scale"], per_channel))
    made = _requantize(graph, total, scale, inputs, output="" if last else node.output[0])
    if last:
        graph.add("Transpose", made, output=node.output[0], perm=[0, *range(2, rank), 1])


def _requantize(graph: _Graph, sums: str, scale: str, inputs: Mapping[str, str], *, output: str) -> str:
    """Sums in int32 as uint8 of the output's scale and zero point."""
    scaled = graph.add("Mul", graph.cast(sums, "FLOAT"), graph.add("Div", scale, inputs["y_scale"]))
    shifted = graph.add("Add", graph.add("Round", scaled), graph.cast(inputs["y_zero"], "FLOAT"))
    ends = graph.constant(np.float32(0)), graph.constant(np.float32(255))
    return graph.cast(graph.add("Clip", shifted, *ends), "UINT8", output=output)


def _patches(graph: _Graph, padded: str, channel: int, shape: Sequence[int], how: Mapping[str, Any]) -> str:
    """What a convolution multiplies with its weights, [places of the kernel * channels, items, ...].

    Args:
        graph: where to write it.
        padded: the image, [channels, items, ...].
        channel: the first of the group.
        shape: how many channels the group has, and the shape of the kernel.
        how: the options of the convolution.
    """
    n_channels, *kernel = shape
    steps = how.get("strides", [1] * len(kernel))
    gaps = how.get("dilations", [1] * len(kernel))
    axes = graph.constant(np.array([0, *range(2, len(kernel) + 2)]))
    places = []
    for place in itertools.product(*map(range, kernel)):
        starts = [channel, *(at * gap for at, gap in zip(place, gaps, strict=True))]
        # From the end, since the image may have any size; the last place goes up to it.
        rest = [(at - size + 1) * gap for at, size, gap in zip(place, kernel, gaps, strict=True)]
        stops = [channel + n_channels, *(one or np.iinfo(np.int64).max for one in rest)]
        bounds = (graph.constant(np.array(values, dtype=np.int64)) for values in (starts, stops))
        places.append(graph.add("Slice", padded, *bounds, axes, graph.constant(np.array([1, *steps]))))
    return graph.add("Concat", *places, axis=0)


def _lost(graph: _Graph, columns: str, weights: Any, *, rank: int) -> str:
    """What saturation takes from each output, in int32: [outputs, ...].

    Args:
        graph: where to write it.
        columns: the activations as floats, [inner, ...].
        weights: [inner, outputs].
        rank: how many axes the columns have.
    """
    outputs, pairs = np.nonzero(_risky(weights).T)
    ends = np.searchsorted(outputs, np.arange(weights.shape[1]), side="right")
    parts = []
    for block in _blocks(ends):
        before = ends[block.start - 1] if block.start else 0
        here = slice(before, ends[block.stop - 1])
        # Sums up to each pair: those of an output are a difference. A pair of zeros begins them.
        cut = _cut(graph, columns, _pairs_of(weights, pairs[here], outputs[here]), rank)
        sums = graph.add("CumSum", cut, graph.constant(np.array(0)))
        bounds = np.array([before, *ends[block]]) - before
        upper, lower = (graph.add("Gather", sums, graph.constant(one)) for one in (bounds[1:], bounds[:-1]))
        parts.append(graph.add("Sub", upper, lower))
    return graph.add("Concat", *parts, axis=0)


def _cut(graph: _Graph, columns: str, pairs: Sequence[tuple[Any, Any]], rank: int) -> str:
    """What is cut off the sum of each pair of products; floats hold it exactly."""
    products = [
        graph.add(
            "Mul",
            graph.add("Gather", columns, graph.constant(np.append(0, places))),
            graph.constant(np.append(0, weights).astype(np.float32).reshape(-1, *[1] * (rank - 1))),
        )
        for places, weights in pairs
    ]
    total = graph.add("Add", *products)
    clipped = graph.add("Clip", total, *(graph.constant(np.float32(end)) for end in (_LOW, _HIGH)))
    return graph.cast(graph.add("Sub", clipped, total), "INT32")


def _pairs_of(weights: Any, pairs: Any, outputs: Any) -> list[tuple[Any, Any]]:
    """Where the two weights of each pair are along the inner axis, and what they are."""
    last = len(weights) - 1
    left, right = 2 * pairs, 2 * pairs + 1
    there = right <= last
    right = np.minimum(right, last)
    return [(left, weights[left, outputs]), (right, np.where(there, weights[right, outputs], 0))]


def _risky(weights: Any) -> Any:
    """Whether some activations let a pair of weights saturate: [pairs, outputs] of weights [inner, outputs]."""
    padded = np.pad(weights.astype(np.int32), ((0, len(weights) % 2), (0, 0)))
    largest, smallest = (255 * one[0::2] + 255 * one[1::2] for one in (padded.clip(min=0), padded.clip(max=0)))
    return (largest > _HIGH) | (smallest < _LOW)


def _filters(weights: Any, n_groups: int) -> list[Any]:
    """The weights of a convolution as a matrix for each group: [places of the kernel * channels, outputs].

    For groups of one channel ONNX Runtime has a kernel that does not saturate: none then.
    """
    n_outputs, n_channels, *kernel = weights.shape
    if n_groups > 1 and n_channels == 1 and n_outputs == n_groups:
        return []
    groups = weights.reshape(n_groups, -1, n_channels, math.prod(kernel)).transpose(0, 3, 2, 1)
    return [*groups.reshape(n_groups, math.prod(kernel) * n_channels, -1)]


def _blocks(ends: Any) -> Iterator[slice]:
    """Outputs in blocks of at most `_PAIRS` pairs, or of one output; ``ends`` counts the pairs up to each."""
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS, side="right")))
        yield slice(start, stop)
        start = stop


def _inputs_of(node: Any) -> dict[str, str]:
    return {name: value for name, value in zip(_INPUTS[node.op_type], node.input, strict=False) if value}


def _options_of(node: Any) -> dict[str, Any]:
    import onnx

    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _inner_nodes(node: Any) -> Iterator[Any]:
    """The nodes of the graphs in a node, such as the branches of an If."""
    for one in node.attribute:
        for graph in (one.g, *one.graphs):
            for inner in graph.node:
                yield inner
                yield from _inner_nodes(inner)


def _unknown(node: Any, why: str) -> ValueError:
    return ValueError(
        f"What {node.name or node.op_type} ({node.op_type}) gives on a CPU without VNNI cannot be simulated. {why} "
        "Simulate a file of export_onnx(model, folder, quantize=...), or audit this one on such a CPU."
    )
