"""Units and layers that are removed while the matrices keep their sizes: a few more at every update."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_compalign.compress.calibration import Batch
from hf_compalign.compress.callbacks.packing import packed, unpacked
from hf_compalign.compress.record import SHRINK, take_own_config, was_cut, write_entry
from hf_compalign.compress.sharding import laid_out_like
from hf_compalign.compress.shrink import (
    Budget,
    Layer,
    LayerPlan,
    LayerScores,
    ShrinkPlan,
    architecture_of,
    best_units,
    cut_,
    layers_of,
    part,
    plan_for,
    removal_masks,
)

# Kept by layer: a training that broke off leaves its hooks behind, and the next one takes them away.
_HOOKS: WeakKeyDictionary[nn.Module, RemovableHandle] = WeakKeyDictionary()


@dataclass(frozen=True)
class PackedLayer:
    """What is left of a layer, with its units as text."""

    index: int
    heads: str
    neurons: str


@dataclass(frozen=True)
class Goal:
    """Where the removal ends: how many units of each layer stay, but not yet which ones."""

    widths: tuple[tuple[int, int, int], ...]  # (index, heads, neurons) of each layer that stays
    dropped: tuple[int, ...]  # the layers that go, in this order

    @classmethod
    def of(cls, model: nn.Module, scores: Sequence[LayerScores], budget: Budget, *, inputs: Batch | None) -> "Goal":
        """The goal that a budget sets for a dense model; a target is about the FLOPs or latency of the inputs."""
        plan = plan_for(model, scores, budget, inputs=inputs)
        return cls(
            tuple((one.index, len(one.heads), len(one.neurons)) for one in plan.layers),
            tuple(sorted(plan.dropped(len(scores)), key=lambda index: scores[index].layer)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The goal as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Goal":
        """The goal that `to_dict` wrote, also after JSON made lists of its tuples.

        >>> goal = Goal(((0, 2, 16),), dropped=(1,))
        >>> Goal.from_dict({"widths": [[0, 2, 16]], "dropped": [1]}) == goal
        True
        """
        return cls(tuple((index, heads, neurons) for index, heads, neurons in values["widths"]), (*values["dropped"],))


def narrowed(
    plan: ShrinkPlan, goal: Goal, scores: Sequence[LayerScores], *, whole: ShrinkPlan, share: float
) -> ShrinkPlan:
    """The plan after a share of the way, in [0, 1]: what was removed stays removed, and what matters least goes next.

    The scores are of the model as it is now; `whole` is the plan of the dense one.
    """
    gone = goal.dropped[: round(share * len(goal.dropped))]
    ends = {index: (n_heads, n_neurons) for index, n_heads, n_neurons in goal.widths}
    layers = []
    for kept in plan.layers:
        if kept.index in gone:
            continue
        dense, own = whole.layers[kept.index], scores[kept.index]
        n_heads, n_neurons = ends.get(kept.index, (len(dense.heads), len(dense.neurons)))
        heads = best_units(own.heads, _on_the_way(len(dense.heads), n_heads, share), among=kept.heads)
        neurons = best_units(own.neurons, _on_the_way(len(dense.neurons), n_neurons, share), among=kept.neurons)
        layers.append(LayerPlan(kept.index, heads, neurons))
    return ShrinkPlan(tuple(layers))


def _on_the_way(begin: int, end: int, share: float) -> int:
    return begin - round(share * (begin - end))


class Removal:
    """The units and layers that are removed from a model while it trains; only the hooks are in the model itself.

    A unit is removed by zeros in the weights that read it, written again after every optimizer step; a layer, by a hook
    that passes its input on. So the model answers like the one that `cut` makes of it. Hooks left by a training that
    broke off are taken away first.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.whole = ShrinkPlan.whole(model)
        self.plan = self.whole
        self._masks: list[tuple[nn.Parameter, Tensor]] = []
        self._restore_layers()

    @property
    def started(self) -> bool:
        """Whether anything is removed."""
        return self.plan != self.whole

    @property
    def dropped(self) -> list[int]:
        """The layers that are removed."""
        return self.plan.dropped(len(self.whole.layers))

    def shares(self) -> dict[str, float]:
        """The shares of heads and neurons that are gone from the layers left, and the number of layers gone."""
        dense = [self.whole.layers[kept.index] for kept in self.plan.layers]
        heads = sum(len(one.heads) for one in self.plan.layers) / sum(len(one.heads) for one in dense)
        neurons = sum(len(one.neurons) for one in self.plan.layers) / sum(len(one.neurons) for one in dense)
        return {"heads_removed": 1 - heads, "ffn_removed": 1 - neurons, "layers_removed": len(self.dropped)}

    def take(self, plan: ShrinkPlan) -> None:
        """Remove what the plan does not keep, and only that."""
        if not self.started:
            # The teacher may have been built from the same config.
            take_own_config(self.model)
        self.plan = plan
        self._restore_layers()
        layers = layers_of(self.model)
        for index in self.dropped:
            module = layers[index].module
            # Before the hooks that record hidden states, whichever were there first.
            _HOOKS[module] = module.register_forward_hook(_hand_on, prepend=True)
        masks = self.masks()
        weights = {name: self.model.get_parameter(name) for name in masks}
        self._masks = [(weight, laid_out_like(masks[name], weight)) for name, weight in weights.items()]
        self._note()

    def masks(self) -> dict[str, Tensor]:
        """By name, for the weights that read removed units: whole masks of bool, True where a weight stays."""
        units = {one.index: one for one in self.whole.layers} | {one.index: one for one in self.plan.layers}
        return removal_masks(self.model, ShrinkPlan(tuple(units.values())))

    def apply(self) -> None:
        """Write the zeros."""
        with torch.no_grad():
            for weight, mask in self._masks:
                weight.mul_(mask)

    def silence(self) -> None:
        """Write zeros also into the weights that compute the removed units, so that their values are 0.

        The answers stay the same. But values that are quantized together share one range, and must not share it with
        units that will be gone.
        """
        table, layers = architecture_of(self.model), layers_of(self.model)
        head_rows = (*table.head_rows, *table.optional_head_rows)
        for kept in self.plan.layers:
            layer = layers[kept.index]
            _silence(layer, head_rows, kept.heads, layer.n_heads, stacked=table.stacked_heads)
            _silence(layer, table.neuron_rows, kept.neurons, layer.n_neurons, stacked=table.stacked_neurons)

    def fill_gradients(self) -> None:
        """Gradients of 0 for the layers that no longer take part."""
        layers = layers_of(self.model)
        for index in self.dropped:
            for parameter in layers[index].module.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def cut(self) -> None:
        """Cut the model to what is left of it."""
        self._restore_layers()
        cut_(self.model, self.plan)
        self._masks = []

    def _restore_layers(self) -> None:
        for layer in layers_of(self.model):
            hook = _HOOKS.pop(layer.module, None)
            if hook is not None:
                hook.remove()

    def _note(self) -> None:
        """Write into the config how load_compressed makes a checkpoint small."""
        if was_cut(self.model):
            return  # it is opened with the widths that it has, and with these zeros
        write_entry(self.model.config, SHRINK, {"cut": False, "dropped_layers": self.dropped} if self.started else None)

    # ---- as text ----

    def to_list(self) -> list[dict[str, Any]]:
        """The plan as plain JSON values, and short."""
        dense = self.whole.layers
        packed_layers = (
            PackedLayer(
                kept.index,
                _packed(kept.heads, len(dense[kept.index].heads)),
                _packed(kept.neurons, len(dense[kept.index].neurons)),
            )
            for kept in self.plan.layers
        )
        return [asdict(one) for one in packed_layers]

    def plan_of(self, saved: Sequence[PackedLayer]) -> ShrinkPlan:
        """The plan that `to_list` wrote.

        Raises:
            ValueError: it is damaged, or of another model.
        """
        dense = dict(enumerate(self.whole.layers))
        if unknown := [one.index for one in saved if one.index not in dense]:
            raise ValueError(f"There are no layers {unknown}.")
        plan = ShrinkPlan(
            tuple(
                LayerPlan(
                    one.index,
                    _unpacked(one.heads, len(dense[one.index].heads)),
                    _unpacked(one.neurons, len(dense[one.index].neurons)),
                )
                for one in saved
            )
        )
        plan.check(self.model)
        return plan

    def checked_goal(self, goal: Goal) -> Goal:
        """The goal, if it can be one of this model's.

        Raises:
            ValueError: it is damaged, or of another model.
        """
        most = {one.index: (len(one.heads), len(one.neurons)) for one in self.whole.layers}
        wide = {index: (n_heads, n_neurons) for index, n_heads, n_neurons in goal.widths}
        fits = bool(wide) and sorted([*(index for index, *_ in goal.widths), *goal.dropped]) == sorted(most)
        if not fits or any(
            not 0 < n <= limit for index in wide for n, limit in zip(wide[index], most[index], strict=True)
        ):
            raise ValueError(
                f"No goal of this model has the widths {goal.widths!r:.200} without {goal.dropped!r:.200}."
            )
        return goal


def _hand_on(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]


def _silence(layer: Layer, paths: Sequence[str], kept: Sequence[int], n_units: int, *, stacked: int) -> None:
    """Write zeros into the rows of the units that are not kept; each unit has rows in each of the stacked parts."""
    gone = sorted({*range(n_units)} - {*kept})
    for path in paths:
        found = part(layer.module, path)
        for rows in found.parameters() if isinstance(found, nn.Module) else [found]:
            if gone and rows is not None:
                rows.detach().unflatten(0, (stacked, n_units, -1))[:, gone] = 0


def _packed(units: Sequence[int], n_units: int) -> str:
    mask = torch.zeros(n_units, dtype=torch.bool)
    mask[list(units)] = True
    return packed(mask)


def _unpacked(text: str, n_units: int) -> tuple[int, ...]:
    return tuple(unpacked(text, torch.empty(n_units)).nonzero().flatten().tolist())
