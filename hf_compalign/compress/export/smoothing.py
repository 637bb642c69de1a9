"""Move factors from activations to weights, so that both lose less in INT8; what the graph computes stays the same."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_compalign.compress.export.calibrating import calibrate_graph, feeds_of, running
from hf_compalign.compress.export.graph import load_graph, quiet, save_graph

# Exponents of SmoothQuant: 0 would move nothing, 1 all differences between the channels of the activations.
_ALPHAS = (0.3, 0.5, 0.7)
_LEAST = 1e-5
# Positions on which the error is worked out.
_SAMPLE = 1024
_SUFFIX = "_smoothed"

Values = NDArray[np.float32]


@dataclass(frozen=True)
class _Site:
    """A layer normalization, the matrix products that read it, whether others do too, and whether it shares its
    parameters with others, as equal ones are stored once."""

    norm: Any
    products: tuple[Any, ...]
    has_others: bool
    shares: bool


def smooth_graph_(path: Path, batches: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Rewrite a float file of `export_graph` in place; the names of the layer normalizations that were changed.

    Before matrix products, channel j of a normalization is divided by s_j = max |x_j|^a / max |w_j|^(1 - a), by way of
    its scale and bias, and row j of the weights is multiplied by s_j (https://huggingface.co/papers/2211.10438). Other
    readers, such as a residual, get the product with s. Of some exponents a, and of no change at all, each
    normalization takes what leaves the least squared error of its products in INT8, by the ranges of the batches.

    Raises:
        ValueError: the model cannot be run on the batches.
    """
    model = load_graph(path)
    weights = _weights(model)
    sites = _sites(model.graph, weights)
    values = _values(model, [site.norm.output[0] for site in sites], batches)
    changed = []
    for site in sites:
        factors = _best(values[site.norm.output[0]], [weights[one.input[1]] for one in site.products])
        if factors is not None:
            _apply(model.graph, site, factors, weights)
            changed.append(site.norm.name.rpartition("/")[0])
    if changed:
        path.with_name(f"{path.name}_data").unlink(missing_ok=True)  # it would grow
        save_graph(model, path)
    return tuple(changed)


def smoothed_ranges(path: Path, batches: Sequence[Mapping[str, Any]]) -> Any:
    """Smooth a float file in place, and return the ranges of its activations then: see `calibrate_graph`."""
    smooth_graph_(path, batches)
    return calibrate_graph(path, batches)


def _weights(model: Any) -> dict[str, Values]:
    from onnx import numpy_helper

    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def _sites(graph: Any, weights: Mapping[str, Values]) -> list[_Site]:
    """Those with parameters, and with products whose weights nothing else reads."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for norm in graph.node:
        if norm.op_type != "LayerNormalization" or len(norm.input) < 3:
            continue
        reading = readers.get(norm.output[0], [])
        matrices = (one for one in reading if one.op_type == "MatMul" and one.input[0] == norm.output[0])
        products = tuple(one for one in matrices if one.input[1] in weights)
        read_once = all(len(readers[one.input[1]]) == 1 for one in products)
        if products and read_once and all(name in weights for name in norm.input[1:3]):
            is_output = norm.output[0] in [one.name for one in graph.output]
            has_others = len(products) < len(reading) or is_output
            shares = any(len(readers[name]) > 1 for name in norm.input[1:3])
            found.append(_Site(norm, products, has_others, shares))
    return found


def _values(model: Any, names: list[str], batches: Iterable[Mapping[str, Any]]) -> dict[str, Values]:
    """Positions of each activation, [positions, channels], those with its extremes among them."""
    import onnx
    import onnxruntime

    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    for name in names:
        augmented.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    with tempfile.TemporaryDirectory() as folder, quiet():
        save_graph(augmented, Path(folder) / "augmented.onnx")
        session = onnxruntime.InferenceSession(f"{folder}/augmented.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    kept: dict[str, list[Values]] = {name: [] for name in names}
    for feed in feeds_of(session, batches) if names else ():
        with running():
            found = session.run(names, feed)
        for name, value in zip(names, found, strict=True):
            flat = value.reshape(-1, value.shape[-1])
            some = rng.choice(len(flat), size=min(len(flat), _SAMPLE // 8), replace=False)
            extremes = [*flat.argmax(axis=0), *flat.argmin(axis=0)]
            kept[name].append(flat[np.unique([*some, *extremes])])
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def _best(values: Values, weights: list[Values]) -> Values | None:
    """The factors [channels] with the least error in INT8; None where none is better than without."""
    largest = np.maximum(np.abs(values).max(axis=0), _LEAST)
    rows = np.maximum(np.max([np.abs(one).max(axis=1) for one in weights], axis=0), _LEAST)
    some = values[:: max(1, len(values) // _SAMPLE)]
    errors: list[tuple[float, Values | None]] = [(_error(some, values, weights, np.ones_like(largest)), None)]
    for alpha in _ALPHAS:
        factors = largest**alpha / rows ** (1 - alpha)
        factors = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
        errors.append((_error(some, values, weights, factors), factors))
    return min(errors, key=lambda one: one[0])[1]


def _error(some: Values, values: Values, weights: list[Values], factors: Values) -> float:
    """The squared error of all products on some positions, by the ranges of all."""
    scaled, total = some / factors, 0.0
    least, most = min(0.0, (values / factors).min()), max(0.0, (values / factors).max())
    step = max((most - least) / 255, np.finfo(np.float32).tiny)
    rounded = np.clip(np.round(scaled / step), np.round(least / step), np.round(most / step)) * step
    for weight in weights:
        own = weight * factors[:, None]
        steps = np.maximum(np.abs(own).max(axis=0) / 127, np.finfo(np.float32).tiny)
        total += float(np.square(some @ weight - rounded @ (np.round(own / steps) * steps)).sum())
    return total


def _apply(graph: Any, site: _Site, factors: Values, weights: Mapping[str, Values]) -> None:
    from onnx import helper, numpy_helper

    stored = {one.name: one for one in graph.initializer}

    def change(name: str, array: Values) -> None:
        stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name))

    norm, (output,) = site.norm, site.norm.output[:1]
    for place, name in enumerate(norm.input[1:3], start=1):
        own = f"{output}{_SUFFIX}_{place}" if site.shares else name
        if site.shares:
            norm.input[place] = own
            stored[own] = graph.initializer.add()
        change(own, weights[name] / factors)
    norm.output[0] = output + _SUFFIX
    for product in site.products:
        change(product.input[1], weights[product.input[1]] * factors[:, None])
        product.input[0] = norm.output[0]
    if site.has_others:
        scale = f"{output}_scale"
        graph.initializer.append(numpy_helper.from_array(factors, scale))
        name = f"{norm.name.rpartition('/')[0]}/Mul"
        place = next(place for place, node in enumerate(graph.node) if node.name == norm.name)
        graph.node.insert(place + 1, helper.make_node("Mul", [norm.output[0], scale], [output], name=name))
