"""Which weights are in the model that will be cut, and pruning those alone."""

import copy
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign.compress.callbacks.order import shrinking_of
from hf_compalign.compress.prune import Evidence, Method, check_weights, prune_weights_
from hf_compalign.compress.select import prunable_layers
from hf_compalign.compress.shrink import ShrinkPlan, cut_


@dataclass(frozen=True)
class Survivors:
    """Which of some weights are in the model that will be cut."""

    plan: ShrinkPlan  # what is left of the model
    names: dict[str, str]  # of the weights that have a part in it, and what they are called there
    masks: dict[str, Tensor]  # of all of them, of bool, True where a weight is in it; in the same order as there

    def sparsity_of(self, weights: Mapping[str, Tensor]) -> float:
        """The share of those in the cut model that are 0."""
        zeros = sum(int((self.masks[name] & (weight == 0)).sum()) for name, weight in weights.items())
        return zeros / sum(int(mask.sum()) for mask in self.masks.values())


def survivors_of(
    model: nn.Module, weights: Mapping[str, nn.Parameter], *, known: Survivors | None = None
) -> Survivors | None:
    """Which of the weights will be left; None where no units are removed in this training.

    `known`, the answer of before, is returned if nothing changed.
    """
    shrinking = shrinking_of(model)
    plan = None if shrinking is None else shrinking.plan
    if plan is None or (known is not None and known.plan == plan):
        return None if plan is None else known
    # A copy that shares its weights, but for these: each holds the places of its elements among all of them.
    begin, numbers = 0, {id(parameter): parameter for parameter in model.parameters()}
    for weight in weights.values():
        places = torch.arange(begin, begin + weight.numel(), device=weight.device).view(weight.shape)
        numbers[id(weight)] = nn.Parameter(places, requires_grad=False)
        begin += weight.numel()
    cut = copy.deepcopy(model, numbers)
    cut_(cut, plan)
    layers: dict[str, Any] = prunable_layers(cut)
    weights_of = {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}
    left = {name: places for name, places in weights_of.items() if not places.is_floating_point()}
    return _located(plan, weights, left)


def _located(plan: ShrinkPlan, weights: Mapping[str, Tensor], left: Mapping[str, Tensor]) -> Survivors:
    """Map the places that are left in each weight of the cut model back to the weights of the dense model."""
    ends = list(accumulate(weight.numel() for weight in weights.values()))
    masks = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    names: dict[str, str] = {}
    for cut_name, places in left.items():
        number = bisect_right(ends, int(places.flatten()[0]))
        name = list(weights)[number]
        # Of modules that share a weight, the first is the one that is pruned.
        names.setdefault(name, cut_name)
        masks[name].view(-1)[places.flatten() - (ends[number] - weights[name].numel())] = True
    return Survivors(plan, names, masks)


def prune_survivors_(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    sparsity: float,
    *,
    method: Method,
    evidence: Evidence,
    survivors: Survivors,
) -> dict[str, Tensor]:
    """Prune a model with masked units in place, so that the weights that survive have the sparsity.

    The weights are chosen in a cut copy and written back. The masks returned are False as well for weights that do not
    survive.

    Raises:
        ValueError: the method cannot prune the weights of the cut model. The model is as it was.
    """
    cut = copy.deepcopy(model)
    cut_(cut, survivors.plan)
    names = survivors.names
    cut_weights = {names[name]: cut.get_parameter(names[name]) for name in weights if name in names}
    learned = {
        names[name]: score[survivors.masks[name]].view_as(cut_weights[names[name]])
        for name, score in evidence.learned.items()
        if name in names
    }
    check_weights(cut, cut_weights, method)
    found = prune_weights_(cut, cut_weights, sparsity, method=method, evidence=replace(evidence, learned=learned))
    masks = {}
    with torch.no_grad():
        for name, weight in weights.items():
            places = survivors.masks[name]
            masks[name] = torch.zeros_like(places)
            if name in names:
                masks[name][places] = found[names[name]].flatten()
                weight[places] = cut_weights[names[name]].flatten()
                _write_bias_(model, cut, name, names[name], places)
            weight.mul_(masks[name])
    return masks


def _write_bias_(model: nn.Module, cut: nn.Module, name: str, cut_name: str, places: Tensor) -> None:
    """Write back the bias of the rows that are left."""
    before: Any = model.get_submodule(name.removesuffix(".weight")).bias
    after: Any = cut.get_submodule(cut_name.removesuffix(".weight")).bias
    if after is not None:
        before[places.flatten(1).any(1)] = after
