"""How much each attention head, FFN neuron and whole layer matters, >= 0, the least important lowest."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_compalign.compress.calibration import Batch, Loss, loss_of, own_loss
from hf_compalign.compress.sharding import whole
from hf_compalign.compress.shrink.architectures import Layer, layers_of
from hf_compalign.models import evaluating

UNIT_SCORES = ("taylor", "magnitude")


@dataclass(frozen=True)
class LayerScores:
    """How much one layer's units matter."""

    heads: Tensor  # [n_heads], float32, on the CPU
    neurons: Tensor  # [n_neurons], likewise
    layer: float  # of the layer as a whole


def unit_scores(
    model: nn.Module, batches: Iterable[Batch] = (), *, score: str = "taylor", loss: Loss | None = None
) -> list[LayerScores]:
    """How much the units of each layer matter; the model, its gradients and its modes stay as they are.

    "taylor" is the first-order change of the loss without the unit, sum over the items of |sum of a * dL/da|, with
    the sum inside over the tokens and features of the unit's activation a; for a layer, whose output is replaced by
    its input, a is their difference. https://huggingface.co/papers/1905.10650 Being in the unit of the loss, it
    compares units of different layers.

    "magnitude" is the L2 norm of the weights that read the unit, as a share of the layer's: how large a layer's
    weights are says little of its units. For a layer, it is the mean norm of its heads plus that of its neurons.

    Args:
        model: a transformer of a supported architecture.
        batches: the calibration data; "magnitude" needs none.
        score: "taylor" or "magnitude".
        loss: (model, batch) -> the mean over the batch of what must not change, so that an item counts alike in batches
            of any size; None takes the model's own.

    Raises:
        ValueError: there is no score of that name, the architecture is not supported, the data are missing, or
            the loss is no scalar that can be differentiated or gives NaN or infinite values.
    """
    if score not in UNIT_SCORES:
        raise ValueError(f"score must be one of {', '.join(UNIT_SCORES)}. Got {score!r}.")
    layers = layers_of(model)
    if score == "magnitude":
        return [_magnitude(layer) for layer in layers]
    sums = [(torch.zeros(layer.n_heads), torch.zeros(layer.n_neurons), torch.zeros(1)) for layer in layers]
    n_batches = 0
    for batch in batches:
        n_batches += 1
        for total, effects in zip(sums, _first_order_effects(model, layers, batch, loss or own_loss), strict=True):
            for part, effect in zip(total, effects, strict=True):
                part.add_(effect.cpu())
    if not n_batches:
        raise ValueError("score='taylor' needs calibration data. Give some, or use score='magnitude'.")
    if not all(part.isfinite().all() for total in sums for part in total):
        raise ValueError(
            "The loss or its gradients on the calibration data are NaN or infinite. Check the data, and that the "
            "model's weights are finite; a model in float16 may need bfloat16 or float32."
        )
    return [LayerScores(heads, neurons, float(layer)) for heads, neurons, layer in sums]


def best_units(scores: Tensor, width: int, *, among: Sequence[int] | None = None) -> tuple[int, ...]:
    """The units with the highest scores, of all or of those named; of equal ones, the first."""
    values = scores.tolist()
    units = range(len(values)) if among is None else among
    return tuple(sorted(units, key=lambda unit: -values[unit])[:width])


def _magnitude(layer: Layer) -> LayerScores:
    heads = whole(layer.attention_out.weight).float().unflatten(1, (layer.n_heads, -1)).norm(dim=(0, 2)).cpu()
    neurons = whole(layer.ffn_out.weight).float().norm(dim=0).cpu()
    return LayerScores(F.normalize(heads, dim=0), F.normalize(neurons, dim=0), float(heads.mean() + neurons.mean()))


# ---- the first-order effects ----

# A tensor of the graph, and what its gradient is multiplied by.
_Pairs = list[tuple[Tensor, Tensor]]


@dataclass
class _Trace:
    """What passed through one layer: a list has several entries where a part runs in chunks or more than once."""

    heads: _Pairs = field(default_factory=list)
    neurons: _Pairs = field(default_factory=list)
    layer: _Pairs = field(default_factory=list)


def _first_order_effects(
    model: nn.Module, layers: Sequence[Layer], batch: Batch, loss: Loss
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each layer the effects of its heads, of its neurons and [1] of its own, summed over the batch's items."""
    with evaluating(model), torch.enable_grad(), _traced(layers) as traces:
        value = loss_of(model, batch, loss)
        nodes = [node for trace in traces for node, _ in (*trace.heads, *trace.neurons, *trace.layer)]
        # Gradients of the activations alone: those of the parameters are neither computed nor touched.
        gradients = iter(torch.autograd.grad(value, nodes, materialize_grads=True))
    # The loss is a mean over the batch: a small last batch would otherwise count as much as a large one.
    n_items = len(batch[str(model.main_input_name)])

    def effect(pairs: _Pairs, n_units: int) -> Tensor:
        products = [_per_item(factor * next(gradients), n_units) for _, factor in pairs]
        return n_items * torch.stack(products).sum(0).abs().sum(0)

    for layer, trace in zip(layers, traces, strict=True):
        yield effect(trace.heads, layer.n_heads), effect(trace.neurons, layer.n_neurons), effect(trace.layer, 1)


def _per_item(products: Tensor, n_units: int) -> Tensor:
    """[items, ..., n_units * size] -> [items, n_units]: signs cancel within an item, not between items."""
    size = products.shape[-1] // n_units
    return products.float().reshape(len(products), -1, n_units, size).sum((1, 3))


@contextmanager
def _traced(layers: Sequence[Layer]) -> Iterator[list[_Trace]]:
    """Keep what passes through the layers while the model runs."""
    traces = [_Trace() for _ in layers]
    hooks = []
    try:
        for layer, trace in zip(layers, traces, strict=True):
            hooks.append(layer.attention_out.register_forward_pre_hook(partial(_keep_input, trace.heads)))
            hooks.append(layer.ffn_out.register_forward_pre_hook(partial(_keep_input, trace.neurons)))
            hooks.append(layer.module.register_forward_hook(partial(_keep_change, trace.layer)))
        yield traces
    finally:
        for hook in hooks:
            hook.remove()


def _keep_input(pairs: _Pairs, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    activation = args[0]
    if not activation.requires_grad:  # all before it is frozen: the graph begins here
        activation = activation.detach().requires_grad_()
    pairs.append((activation, activation.detach()))
    return (activation, *args[1:])


def _keep_change(pairs: _Pairs, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    after = output[0] if isinstance(output, tuple) else output
    pairs.append((after, after.detach() - args[0].detach()))
