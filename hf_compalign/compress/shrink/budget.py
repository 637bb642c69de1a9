"""From a budget to the plan of what stays: the least important goes first."""

import heapq
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from hf_compalign.compress.calibration import Batch
from hf_compalign.compress.shrink.architectures import Layer, layers_of
from hf_compalign.compress.shrink.costs import CostTable, flops_table, latency_share, latency_table, multiple_of
from hf_compalign.compress.shrink.plan import LayerPlan, ShrinkPlan
from hf_compalign.compress.shrink.scores import LayerScores, best_units

# Plans that are timed, until one meets a target of latency.
AIMS = 3
_TARGETS = ("target_flops", "target_latency")

# "heads" and "neurons" -> layer -> the scores of its units, and how many of them stay
ByKind = Mapping[str, Mapping[int, Tensor]]
Widths = dict[str, dict[int, int]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """How much goes: shares of the units, or a target for the whole model; and whole layers, with either.

    The fields are arguments of `shrink_`.

    Raises:
        ValueError: a value out of range, options that exclude each other, or nothing would go.
    """

    heads: float = 0.0
    ffn: float = 0.0
    n_layers: int = 0
    target_flops: float | None = None
    target_latency: float | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        for name in ("heads", "ffn"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be a share in [0, 1). Got {share}.{_perhaps(share)}")
        if not isinstance(self.n_layers, int) or self.n_layers < 0:
            raise ValueError(f"n_layers must be a number of layers to drop, 0 or more. Got {self.n_layers}.")
        for name in _TARGETS:
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"{name} must be a share of the dense model in (0, 1]. Got {share}.{_perhaps(share)}")
        if self.target_flops is not None and self.target_latency is not None:
            raise ValueError("Give target_flops or target_latency, not both.")
        if self.target is not None and (self.heads or self.ffn):
            raise ValueError(
                f"{self.target[0]} decides how many heads and neurons go, so heads and ffn must be left out. Got "
                f"heads = {self.heads} and ffn = {self.ffn}."
            )
        if not (self.heads or self.ffn or self.n_layers) and (self.target is None or self.target[1] == 1):
            options = ", ".join(option.name for option in fields(self)[:-1])
            raise ValueError(f"The budget removes nothing. Set at least one of {options}.")

    @property
    def target(self) -> tuple[str, float] | None:
        """The name of the target that is set, and its value."""
        return next(((name, getattr(self, name)) for name in _TARGETS if getattr(self, name) is not None), None)


def plan_for(
    model: nn.Module,
    scores: Sequence[LayerScores],
    budget: Budget,
    *,
    inputs: Batch | None = None,
    costs: CostTable | None = None,
) -> ShrinkPlan:
    """What stays of the model under the budget.

    Whole layers go first. Each layer that stays keeps at least one head and eight neurons (one, if it has less than
    64). The widths of the feed-forward parts become multiples of eight, so that a share is met within that rounding.
    A target is reached by removing again and again what matters least for what it costs; for one of latency the result
    is timed, and where it is too slow the plan is made again.

    The scores are those of `unit_scores`. A target is about the FLOPs or the latency of the inputs, and `costs` are
    measured for them if left out.
    """
    layers = layers_of(model)
    _check_scores(layers, scores)
    stay = _layers_that_stay(model, scores, budget.n_layers)
    if budget.uniform:
        _check_equal([layers[index] for index in stay])
    by_kind = {kind: {index: getattr(scores[index], kind) for index in stay} for kind in ("heads", "neurons")}
    if budget.target is None:
        widths = {
            kind: _widths_for_share(name, share, kind, by_kind[kind], uniform=budget.uniform)
            for name, kind, share in (("heads", "heads", budget.heads), ("ffn", "neurons", budget.ffn))
        }
        plan = _plan(by_kind, widths)
    else:
        plan = _plan_for_target(model, by_kind, budget, inputs=inputs, costs=costs)
    plan.check(model)
    return plan


def _plan(by_kind: ByKind, widths: Widths) -> ShrinkPlan:
    """Of each layer, as many of the most important units as its width says."""
    return ShrinkPlan(
        tuple(
            LayerPlan(index, *(best_units(by_kind[kind][index], widths[kind][index]) for kind in ("heads", "neurons")))
            for index in by_kind["heads"]
        )
    )


# ---- layers ----


def _layers_that_stay(model: nn.Module, scores: Sequence[LayerScores], n_dropped: int) -> list[int]:
    whole = ShrinkPlan.whole(model).layers
    if n_dropped >= len(whole):
        raise ValueError(
            f"n_layers must be less than the {len(whole)} layers that {type(model).__name__} has. Got {n_dropped}."
        )
    stay = list(range(len(whole)))
    refused = None
    for index in sorted(stay, key=lambda index: scores[index].layer):
        if len(whole) - len(stay) == n_dropped:
            break
        rest = [other for other in stay if other != index]
        try:
            ShrinkPlan(tuple(whole[other] for other in rest)).check(model)
        except ValueError as error:  # some models cannot do without a certain layer
            refused = error
        else:
            stay = rest
    if len(whole) - len(stay) < n_dropped:
        raise ValueError(f"Of {len(whole)} layers, {n_dropped} cannot be dropped. {refused}") from refused
    return stay


# ---- heads and neurons ----


@dataclass(frozen=True)
class _Part:
    """The heads or the neurons of one layer, or of several that stay equally wide, and the steps that narrow them."""

    kind: str  # "heads" or "neurons"
    layers: tuple[int, ...]  # indices
    widths: tuple[int, ...]  # from the present one down to the least
    losses: tuple[float, ...]  # the squared importance that each step from width to width loses
    savings: tuple[float, ...]  # what that step saves


def _parts(kind: str, scores: Mapping[int, Tensor], cost: Callable[[int], float], *, uniform: bool) -> list[_Part]:
    """The parts of one kind; `cost` is that of a width in one layer."""
    parts = []
    for group in [tuple(scores)] if uniform else [(index,) for index in scores]:
        present = len(scores[group[0]])
        step = _step(kind, present)
        # Down to the next multiple first, from there in whole steps, and not to 0: each layer keeps something.
        widths = (present, *range((present - 1) // step * step, 0, -step))
        steps = list(pairwise(widths))
        # First-order effects have signs that are lost here, and those of many small units largely cancel: their squares
        # add up. With plain sums, heads would look cheap beside the 100 neurons that cost as much.
        # Each layer of a group loses its own least important units: they are sorted before the layers are added.
        lost = sum(scores[index].double().square().sort().values.cumsum(0) for index in group)
        # lost_at[n] is lost with the n least important units.
        lost_at = [0.0, *torch.as_tensor(lost).tolist()]
        parts.append(
            _Part(
                kind=kind,
                layers=group,
                widths=widths,
                losses=tuple(lost_at[present - after] - lost_at[present - before] for before, after in steps),
                savings=tuple(len(group) * (cost(before) - cost(after)) for before, after in steps),
            )
        )
    return parts


def _narrowed(parts: Sequence[_Part], goal: float) -> tuple[Widths, float]:
    """Take the step that loses least for what it saves, until the goal is saved or no step is left; also the sum.

    Where the last step saved too much, what was taken before it and is not needed is given back, the dearest first.
    """
    taken = [0] * len(parts)
    history = []
    saved = 0.0
    # The steps of a part can only be taken in order, so the queue holds the next one of each part.
    queue = [(_price(part, 0), number) for number, part in enumerate(parts) if part.losses]
    heapq.heapify(queue)
    while saved < goal and queue:
        _, number = heapq.heappop(queue)
        part = parts[number]
        saved += part.savings[taken[number]]
        taken[number] += 1
        history.append(number)
        if taken[number] < len(part.losses):
            heapq.heappush(queue, (_price(part, taken[number]), number))
    # The prices mostly rise, so the last steps are the dearest. A part's own steps are undone in reverse order.
    for number in reversed(history):
        saving = parts[number].savings[taken[number] - 1]
        if saved - saving >= goal:
            taken[number] -= 1
            saved -= saving
    widths: Widths = {"heads": {}, "neurons": {}}
    for part, n_steps in zip(parts, taken, strict=True):
        widths[part.kind] |= dict.fromkeys(part.layers, part.widths[n_steps])
    return widths, saved


def _price(part: _Part, step: int) -> float:
    # A step that saves nothing comes last, but it is taken where needed: behind it may be one that saves.
    return part.losses[step] / part.savings[step] if part.savings[step] > 0 else math.inf


def _step(kind: str, width: int) -> int:
    return multiple_of(width) if kind == "neurons" else 1


def _widths_for_share(
    name: str, share: float, kind: str, scores: Mapping[int, Tensor], *, uniform: bool
) -> dict[int, int]:
    """The widths of one kind by which the number that goes is as near to its share as the steps allow."""
    present = [len(one) for one in scores.values()]
    if not share:
        return dict(zip(scores, present, strict=True))
    parts = _parts(kind, scores, float, uniform=uniform)
    total = sum(present)
    # Steps are taken until they reach the goal. Half a step less makes that the nearest width rather than the next.
    half_step = _step(kind, max(present)) * len(parts[0].layers) / 2
    goal = share * total - half_step
    widths, saved = _narrowed(parts, goal)
    if not saved:
        raise ValueError(
            f"{name}={share:g} of {total} {kind}{' in equally wide layers' if uniform else ''} rounds to none, so "
            f"nothing would be removed. Use more than {half_step / total:.3g}."
        )
    if saved < goal:
        raise ValueError(
            f"{name}={share:g} would empty a layer: of {total} {kind} in {len(present)} layers at most {saved:g} can "
            f"go, a share of {saved / total:.3g}. To remove more, drop whole layers (n_layers=)."
        )
    return widths[kind]


def _plan_for_target(
    model: nn.Module, by_kind: ByKind, budget: Budget, *, inputs: Batch | None, costs: CostTable | None
) -> ShrinkPlan:
    """The plan by which the target is reached, losing as little importance as can be for what each step saves."""
    name = "target_flops" if budget.target_latency is None else "target_latency"
    is_timed = name == "target_latency" and costs is None
    if costs is None:
        if inputs is None:
            raise ValueError(f"{name} needs inputs: a batch to measure the model on.")
        costs = latency_table(model, inputs) if is_timed else flops_table(model, inputs)
    before = costs.total((layer.n_heads, layer.n_neurons) for layer in layers_of(model))
    target = aim = getattr(budget, name)
    for _ in range(AIMS):
        widths, reached = _widths_for_target(by_kind, costs, aim * before, uniform=budget.uniform)
        if reached > aim * before * (1 + 1e-9):  # more than the rounding of a sum
            # By how much the aim was lowered is how much longer the model takes than its parts add up to.
            raise ValueError(
                f"{name}={target:g} cannot be reached: with the fewest heads and neurons in {len(by_kind['heads'])} "
                f"layers, {reached / before * target / aim:.3g} remains. Drop layers as well (n_layers=), or raise the "
                "target."
            )
        plan = _plan(by_kind, widths)
        # Times do not quite add up: the whole is timed, and where it takes longer, the aim is taken lower.
        share = latency_share(model, plan, inputs) if is_timed and inputs is not None else target
        if share <= target:
            break
        aim *= target / share
    else:
        logger.warning("The shrunk model takes %.3g of the dense one's time, not %.3g.", share, target)
    return plan


def _widths_for_target(by_kind: ByKind, costs: CostTable, most: float, *, uniform: bool) -> tuple[Widths, float]:
    """The widths by which the model costs at most that, where it can, and what it then costs."""
    parts = [
        part
        for kind, of_kind in by_kind.items()
        for part in _parts(kind, of_kind, partial(costs.of_units, kind), uniform=uniform)
    ]
    present = costs.total((len(by_kind["heads"][index]), len(by_kind["neurons"][index])) for index in by_kind["heads"])
    widths, saved = _narrowed(parts, present - most)
    return widths, present - saved


# ---- checks ----


def _perhaps(share: float) -> str:
    return f" Did you mean {share / 100:g}?" if 1 < share < 100 else ""


def _check_scores(layers: Sequence[Layer], scores: Sequence[LayerScores]) -> None:
    present = [(layer.n_heads, layer.n_neurons) for layer in layers]
    given = [(len(one.heads), len(one.neurons)) for one in scores]
    if present != given:
        raise ValueError(
            f"The scores are not of this model: its layers have (heads, neurons) {present}, the scores "
            f"{given}. Compute them from the model as it is now (unit_scores)."
        )


def _check_equal(layers: Sequence[Layer]) -> None:
    for kind in ("heads", "neurons"):
        present = [getattr(layer, f"n_{kind}") for layer in layers]
        if len(set(present)) > 1:
            raise ValueError(
                f"uniform=True needs layers that are equally wide now. Got {present} {kind}. Use uniform=False."
            )
