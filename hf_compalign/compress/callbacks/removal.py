"""What of a model is removed while its matrices keep their sizes, and the way there: a little more at every update."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign.compress.calibration import Batch
from hf_compalign.compress.callbacks.resuming import packed, unpacked
from hf_compalign.compress.record import SHRINK, take_own_config, was_cut, write_entry
from hf_compalign.compress.sharding import laid_out_like
from hf_compalign.compress.shrink import (
    Budget,
    Layer,
    LayerImportance,
    LayerPlan,
    ShrinkPlan,
    architecture_of,
    cut_,
    layers_of,
    part,
    plan_for,
    removal_masks,
)


@dataclass(frozen=True)
class Goal:
    """Where the removal ends: how many units of which layer stay, not yet which.

    Attributes:
        widths: (index, heads, neurons) of each layer that stays.
        dropped: the layers that go, in this order.
    """

    widths: tuple[tuple[int, int, int], ...]
    dropped: tuple[int, ...]

    @classmethod
    def of(
        cls, model: nn.Module, importances: Sequence[LayerImportance], budget: Budget, *, inputs: Batch | None
    ) -> "Goal":
        """What a budget comes to for a dense model; a target is about the FLOPs or latency of a batch.

        Raises:
            ValueError: as `plan_for`.
        """
        plan = plan_for(model, importances, budget, inputs=inputs)
        gone = set(range(len(importances))) - {one.index for one in plan.layers}
        return cls(
            tuple((one.index, len(one.heads), len(one.neurons)) for one in plan.layers),
            tuple(sorted(gone, key=lambda index: importances[index].layer)),
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
    plan: ShrinkPlan, goal: Goal, importances: Sequence[LayerImportance], *, whole: ShrinkPlan, share: float
) -> ShrinkPlan:
    """The plan after a share of the way to the goal: what was removed stays so, and what matters least now follows.

    Args:
        plan: what is there so far.
        goal: where it ends.
        importances: of the model as it is now.
        whole: the plan of the dense model.
        share: of the way, in [0, 1], rising from call to call.
    """
    gone = goal.dropped[: round(share * len(goal.dropped))]
    ends = {index: (n_heads, n_neurons) for index, n_heads, n_neurons in goal.widths}
    layers = []
    for kept in plan.layers:
        if kept.index in gone:
            continue
        dense, scores = whole.layers[kept.index], importances[kept.index]
        n_heads, n_neurons = ends.get(kept.index, (len(dense.heads), len(dense.neurons)))
        heads = _best(kept.heads, scores.heads, _on_the_way(len(dense.heads), n_heads, share))
        neurons = _best(kept.neurons, scores.neurons, _on_the_way(len(dense.neurons), n_neurons, share))
        layers.append(LayerPlan(kept.index, heads, neurons))
    return ShrinkPlan(tuple(layers))


def _on_the_way(begin: int, end: int, share: float) -> int:
    return begin - round(share * (begin - end))


def _best(units: Sequence[int], scores: Tensor, width: int) -> tuple[int, ...]:
    """Of some units those of the highest scores; of equal ones, the first."""
    values = scores.tolist()
    return tuple(sorted(units, key=lambda unit: -values[unit])[:width])


class Removal:
    """The units and layers that a model does without, while it trains: kept outside of it but for the hooks.

    A unit is removed by zeros in what reads it, written again after every optimizer step; a layer, by a hook that hands
    on what comes into it. The model so answers like the one that `cut` makes of it.

    Args:
        model: the dense model, not wrapped; hooks that a training left which broke off are taken away.
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
        return sorted({one.index for one in self.whole.layers} - {one.index for one in self.plan.layers})

    def take(self, plan: ShrinkPlan) -> None:
        """Remove what the plan does not keep, and only that."""
        if not self.started:
            # The teacher may have been built from the same config.
            take_own_config(self.model)
        self.plan = plan
        self._restore_layers()
        layers = layers_of(self.model)
        for index in self.dropped:
            module: Any = layers[index].module
            # Kept on the module itself: the next training finds it there, and so does a copy of the model.
            module.removal_hook = module.register_forward_hook(_hand_on)
        masks = self.masks()
        weights = {name: self.model.get_parameter(name) for name in masks}
        self._masks = [(weight, laid_out_like(masks[name], weight)) for name, weight in weights.items()]
        self._note()

    def masks(self) -> dict[str, Tensor]:
        """Of the weights that read removed units, by name: whole masks of bool, True where a weight stays."""
        units = {one.index: one for one in self.whole.layers} | {one.index: one for one in self.plan.layers}
        return removal_masks(self.model, ShrinkPlan(tuple(units.values())))

    def apply(self) -> None:
        """Write the zeros."""
        with torch.no_grad():
            for weight, mask in self._masks:
                weight.mul_(mask)

    def silence(self) -> None:
        """Write zeros also into what computes the removed units: their values then are 0, as if they were gone.

        Of weights alone that would change nothing, but values that are quantized together share one range.
        """
        architecture, layers = architecture_of(self.model), layers_of(self.model)
        head_rows = (*architecture.head_rows, *architecture.optional_head_rows)
        for kept in self.plan.layers:
            layer = layers[kept.index]
            _silence(layer, head_rows, kept.heads, layer.n_heads, stacked=architecture.stacked_heads)
            _silence(
                layer, architecture.neuron_rows, kept.neurons, layer.n_neurons, stacked=architecture.stacked_neurons
            )

    def fill_gradients(self) -> None:
        """Gradients of 0 for the layers that take no part any more."""
        layers = layers_of(self.model)
        for index in self.dropped:
            for parameter in layers[index].module.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def cut(self) -> None:
        """Make the model as small as it stands for."""
        self._restore_layers()
        cut_(self.model, self.plan)
        self._masks = []

    def _restore_layers(self) -> None:
        for layer in layers_of(self.model):
            hook = vars(layer.module).pop("removal_hook", None)
            if hook is not None:
                hook.remove()

    def _note(self) -> None:
        """Have every checkpoint say how load_compressed makes it small."""
        if was_cut(self.model):
            return  # it is opened with the widths that it has, and with these zeros
        write_entry(self.model.config, SHRINK, {"cut": False, "dropped_layers": self.dropped} if self.started else None)

    # ---- as text ----

    def to_list(self) -> list[dict[str, Any]]:
        """The plan as plain JSON values, and short."""
        return [
            {
                "index": kept.index,
                "heads": _packed(kept.heads, len(dense.heads)),
                "neurons": _packed(kept.neurons, len(dense.neurons)),
            }
            for kept, dense in ((kept, self.whole.layers[kept.index]) for kept in self.plan.layers)
        ]

    def plan_of(self, saved: Sequence[Mapping[str, Any]]) -> ShrinkPlan:
        """The plan that `to_list` wrote."""
        dense = self.whole.layers
        return ShrinkPlan(
            tuple(
                LayerPlan(
                    one["index"],
                    _unpacked(one["heads"], len(dense[one["index"]].heads)),
                    _unpacked(one["neurons"], len(dense[one["index"]].neurons)),
                )
                for one in saved
            )
        )


def _hand_on(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]


def _silence(layer: Layer, paths: Sequence[str], kept: Sequence[int], n_units: int, *, stacked: int) -> None:
    """Zeros in the rows of the units that are not kept; each has its share in each of the stacked parts."""
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
