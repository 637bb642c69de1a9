"""What the heads, neurons and layers of a model cost for one batch: milliseconds on this machine, or FLOPs."""

import copy
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.utils.benchmark import Timer

from hf_compalign.compress.calibration import Batch, run_model
from hf_compalign.compress.shrink.architectures import layers_of
from hf_compalign.compress.shrink.cutting import cut_
from hf_compalign.compress.shrink.plan import ShrinkPlan
from hf_compalign.models import count_flops, device_of, evaluating, known_inputs, on_device

# Widths that are timed of the heads and of the neurons. Between them the time is interpolated.
POINTS = 5
# Rounds in which a cut model and the dense one are timed in turn.
ROUNDS = 7
# Matrix kernels work in steps of this many columns.
MULTIPLE = 8
_SMALL = 64

Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class CostTable:
    """What a forward pass costs: fixed + sum over the layers of layer + heads(n_heads) + neurons(n_neurons).

    >>> table = CostTable(fixed=1.0, layer=0.5, heads=((1, 0.0), (3, 4.0)), neurons=((8, 0.0), (16, 2.0)))
    >>> table.total([(3, 8), (2, 12)])
    9.0
    """

    fixed: float  # embeddings and head of the model, and what else is outside its layers
    layer: float  # one layer at the smallest widths below
    heads: Points  # (heads of a layer, what they cost more than the fewest), rising, with straight lines between
    neurons: Points  # likewise

    def total(self, widths: Iterable[tuple[int, int]]) -> float:
        """The cost of a model whose layers have these (heads, neurons)."""
        return self.fixed + sum(self.of_layer(*one) for one in widths)

    def of_layer(self, n_heads: int, n_neurons: int) -> float:
        """The cost of one layer."""
        return self.layer + self.of_units("heads", n_heads) + self.of_units("neurons", n_neurons)

    def of_units(self, kind: str, width: int) -> float:
        """The cost of that many "heads" or "neurons" in a layer, beyond the fewest."""
        widths, costs = zip(*(self.heads if kind == "heads" else self.neurons), strict=True)
        return float(np.interp(width, widths, costs))


def multiple_of(n_neurons: int) -> int:
    """The step and the least of the widths of a feed-forward layer: 8, or 1 for a tiny layer.

    >>> multiple_of(3072), multiple_of(32)
    (8, 1)
    """
    return MULTIPLE if n_neurons >= _SMALL else 1


def latency_table(model: nn.Module, inputs: Batch) -> CostTable:
    """The milliseconds of the model's parts for these inputs, on its device and torch's present number of threads.

    Whole models with cut layers are timed, each in turn with the dense one, either first in every other round. So a
    busy moment meets both, and the weights come from where they do in use. Takes about 400 forward passes.
    """
    with evaluating(model), torch.inference_mode():
        timer = _timer(model, inputs)
        whole_ms = statistics.median(1000 * timer.timeit(1).median for _ in range(ROUNDS))
    return _table(model, lambda cut: whole_ms * _time_share(model, cut, inputs), whole=whole_ms, points=POINTS)


def latency_share(model: nn.Module, plan: ShrinkPlan, inputs: Batch) -> float:
    """The time of the model cut by the plan, as a share of its time as it is."""
    return _time_share(model, _cut_copy(model, plan), inputs)


def flops_table(model: nn.Module, inputs: Batch) -> CostTable:
    """The floating point operations of the model's parts for these inputs, counted by torch.

    They rise in straight lines with the units, so two widths tell all.
    """
    return _table(model, lambda cut: _flops(cut, inputs), whole=_flops(model, inputs), points=2)


def _flops(model: nn.Module, inputs: Batch) -> float:
    return count_flops(model, known_inputs(model, inputs))


def _time_share(dense: nn.Module, cut: nn.Module, inputs: Batch) -> float:
    # The median of quotients, not the quotient of medians: a slow moment slows both runs of its round.
    with evaluating(dense, cut), torch.inference_mode():
        timers = [_timer(model, inputs) for model in (cut, dense)]
        quotients = []
        for turn in range(ROUNDS):
            times = {timer: timer.timeit(1).median for timer in (timers[::-1] if turn % 2 else timers)}
            quotients.append(times[timers[0]] / times[timers[1]])
        return statistics.median(quotients)


def _timer(model: nn.Module, inputs: Batch) -> Timer:
    names = {"run": run_model, "model": model, "inputs": on_device(inputs, device_of(model))}
    return Timer("run(model, inputs)", globals=names, num_threads=torch.get_num_threads())


# ---- from measured models to the parts of the sum ----


def _table(model: nn.Module, measure: Callable[[nn.Module], float], *, whole: float, points: int) -> CostTable:
    layers = layers_of(model)
    present = [(layer.n_heads, layer.n_neurons) for layer in layers]

    def cost_of(most_heads: int, most_neurons: int) -> float:
        """The cost when no layer has more heads and neurons than these."""
        widths = [(min(most_heads, n_heads), min(most_neurons, n_neurons)) for n_heads, n_neurons in present]
        return measure(_cut_copy(model, ShrinkPlan.first_units(enumerate(widths))))

    # A single head or neuron is too small to be timed. So all layers are cut at once, heads or neurons alone, and the
    # other kind stays as it is, so that it drops out of the differences.
    n_heads, n_neurons = ([one[kind] for one in present] for kind in (0, 1))
    heads_costs = {width: cost_of(width, max(n_neurons)) for width in _grid(n_heads, 1, points)[:-1]}
    neurons_costs = {
        width: cost_of(max(n_heads), width) for width in _grid(n_neurons, multiple_of(max(n_neurons)), points)[:-1]
    }
    table = CostTable(
        fixed=whole,
        layer=0.0,
        heads=_points(heads_costs | {max(n_heads): whole}, n_heads),
        neurons=_points(neurons_costs | {max(n_neurons): whole}, n_neurons),
    )
    units = [table.of_layer(*one) for one in present]
    # What a layer costs besides its units shows where all but the first are dropped. With one layer it cannot be told
    # from what is outside the layers, and counts as fixed.
    layer = 0.0
    if len(layers) > 1:
        others = whole - measure(_cut_copy(model, ShrinkPlan.first_units([(0, present[0])])))
        layer = max(0.0, (others - sum(units[1:])) / (len(layers) - 1))
    # Fixed is the rest, so that the sum for the model as it is is exactly what was measured.
    return replace(table, fixed=whole - sum(units) - layer * len(layers), layer=layer)


def _grid(present: Sequence[int], least: int, points: int) -> list[int]:
    """That many widths from the least to the most that a layer has, rising."""
    most = max(present)
    inner = (round(most * share / (points - 1)) for share in range(1, points - 1))
    return sorted({min(least, most), most, *(width for width in inner if width > least)})


def _points(costs: Mapping[int, float], present: Sequence[int]) -> Points:
    """From the cost of models whose layers are cut to a width, to the cost of one layer's units of that width."""
    widths = sorted(costs)
    points = [(widths[0], 0.0)]
    for narrow, wide in pairwise(widths):
        # Only layers wider than the narrow width lose units by it, and no more than they have.
        n_units = sum(min(width, wide) - min(width, narrow) for width in present)
        # A narrower layer is not slower: where it seems so, the clock was disturbed.
        of_one = max(0.0, costs[wide] - costs[narrow]) / n_units
        points.append((wide, points[-1][1] + of_one * (wide - narrow)))
    return tuple(points)


def _cut_copy(model: nn.Module, plan: ShrinkPlan) -> nn.Module:
    cut = copy.deepcopy(model)
    cut_(cut, plan)
    return cut
