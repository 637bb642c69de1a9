"""Shrinking, pruning and quantizing in one training: in which order, and which weights are in the model that is cut."""

import copy
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import TrainerState

from hf_compalign.compress.callbacks.timing import Timing
from hf_compalign.compress.prune import Evidence, Method, check_weights, prune_weights_
from hf_compalign.compress.quantize import Scheme
from hf_compalign.compress.sharding import in_shards
from hf_compalign.compress.shrink import ShrinkPlan, cut_


class Compresses(Protocol):
    """A callback that changes the model of a training."""

    timing: Timing


class Shrinks(Compresses, Protocol):
    """One that removes units; they go in the end."""

    @property
    def plan(self) -> ShrinkPlan | None:
        """What is left of the model; None as long as it is whole."""
        ...

    def silence(self) -> None:
        """Let what is removed compute zeros."""
        ...


class Quantizes(Compresses, Protocol):
    """One that quantizes the model, in the end for good: after it is cut."""

    scheme: Scheme

    def after_cut(self) -> None:
        """The model has the sizes that it keeps."""
        ...


@dataclass
class _Run:
    """The callbacks of one training, in the order in which they act. What it names does not live on for it."""

    state: weakref.ref[TrainerState]
    shrinking: weakref.ref[Shrinks] | None = None
    pruning: list[weakref.ref[Compresses]] = field(default_factory=list)
    quantizing: weakref.ref[Quantizes] | None = None

    def shrinks(self) -> Shrinks | None:
        """The callback that removes units, if there is one."""
        return None if self.shrinking is None else self.shrinking()

    def quantizes(self) -> Quantizes | None:
        """The callback that quantizes, if there is one."""
        return None if self.quantizing is None else self.quantizing()


# Callbacks of one Trainer do not know each other: they meet at the model that they change.
_RUNS: weakref.WeakKeyDictionary[nn.Module, _Run] = weakref.WeakKeyDictionary()


def join_shrinking(model: nn.Module, state: TrainerState, callback: Shrinks) -> None:
    """Enter a callback that removes units into the training that begins.

    Raises:
        ValueError: there is another already, one that prunes before this is done, or one that rounds in groups.
    """
    run = _run_of(model, state)
    if run.shrinking is not None:
        raise ValueError(
            "Two ShrinkCallbacks in one training would remove units of each other's. Give one the whole budget: "
            "ShrinkCallback(heads=..., ffn=..., layers=...)."
        )
    for pruning in filter(None, (reference() for reference in run.pruning)):
        _check_order(model, callback, pruning, shrinks_first=False)
    run.shrinking = weakref.ref(callback)
    _check_scheme(run)


def join_pruning(model: nn.Module, state: TrainerState, callback: Compresses) -> None:
    """Enter a callback that prunes weights into the training that begins.

    Raises:
        ValueError: it would begin before another has removed all its units, or another rounds zeros to something else.
    """
    run = _run_of(model, state)
    shrinking = run.shrinks()
    if shrinking is not None:
        _check_order(model, shrinking, callback, shrinks_first=True)
    run.pruning.append(weakref.ref(callback))
    _check_scheme(run)


def join_quantizing(model: nn.Module, state: TrainerState, callback: Quantizes) -> None:
    """Enter a callback that quantizes into the training that begins.

    Raises:
        ValueError: there is another already, or one that removes what this scheme does not keep removed.
    """
    run = _run_of(model, state)
    if run.quantizing is not None:
        raise ValueError(
            "Two QuantizationCallbacks in one training would quantize what the other has quantized. Give one, with "
            "the layers of both: QuantizationCallback(scheme, include=[...])."
        )
    run.quantizing = weakref.ref(callback)
    _check_scheme(run)


def leave(model: nn.Module, callback: Compresses) -> None:
    """Take a callback out of the training that ends; one that removes units, when it has cut the model."""
    run = _RUNS.get(model)
    if run is None:
        return
    if run.shrinks() is callback:
        run.shrinking, quantizing = None, run.quantizes()
        if quantizing is not None:
            quantizing.after_cut()
    if run.quantizes() is callback:
        run.quantizing = None
    run.pruning = [pruning for pruning in run.pruning if pruning() is not callback]
    if run.shrinking is None and run.quantizing is None and not run.pruning:
        _RUNS.pop(model, None)


def shrinking_of(model: nn.Module) -> Shrinks | None:
    """The callback that removes units of the model in training and has not cut it yet, if there is one."""
    run = _RUNS.get(model)
    return None if run is None else run.shrinks()


def _run_of(model: nn.Module, state: TrainerState) -> _Run:
    run = _RUNS.get(model)
    # A training that broke off has left nobody, but each has a state of its own.
    if run is None or run.state() is not state:
        run = _RUNS[model] = _Run(weakref.ref(state))
    return run


def _check_order(model: nn.Module, shrinking: Shrinks, pruning: Compresses, *, shrinks_first: bool) -> None:
    if in_shards(model):
        raise ValueError(
            "Shrinking and pruning cannot be in one training under FSDP, where the model is not cut. Use two: train "
            "with the ShrinkCallback, open the folder with load_compressed, and train that with the PruningCallback."
        )
    shrunk, begins = shrinking.timing.final_step, pruning.timing.span[0]
    if shrunk < begins or (shrunk == begins and shrinks_first):
        return
    window, later = shrinking.timing.window, pruning.timing.window
    begin, middle = window if window[1] < 1 else (0.0, 0.5)
    end = later[1] if later[1] > middle else middle + 0.6 * (1 - middle)
    raise ValueError(
        "Units must all be removed before weights are pruned, or the sparsity would count weights that go anyway. The "
        f"ShrinkCallback's window is {window}, until step {shrunk}, and the PruningCallback's is {later}, from step "
        f"{begins}. Name the ShrinkCallback first, and let the other begin where it ends: callbacks=[ShrinkCallback("
        f"..., window=({begin:g}, {middle:g})), PruningCallback(..., window=({middle:g}, {end:g}))]."
    )


def _check_scheme(run: _Run) -> None:
    """Refuse a scheme that does not keep what the others remove."""
    quantizing = run.quantizes()
    if quantizing is None or quantizing.scheme.weights != "int4":
        return
    name = quantizing.scheme.name
    if run.shrinks() is not None:
        raise ValueError(
            f"The scheme {name} rounds neighbouring weights together, and when units are cut the neighbours are "
            "others. Use a scheme with int8 weights; or two trainings: train with the ShrinkCallback, open the folder "
            "with load_compressed, and train that with the QuantizationCallback."
        )
    if quantizing.scheme.backend == "quanto" and run.pruning:
        raise ValueError(
            f"The scheme {name} has no level for 0, so that pruned weights would come back. Use torchao-w4 or "
            "torchao-w4a8, or a scheme with int8 weights."
        )


# ---- the weights of the model that will be cut ----


@dataclass(frozen=True)
class Survivors:
    """Which of some weights are in the model that will be cut.

    Attributes:
        plan: what is left of the model.
        names: of the weights that have a part in it, and what they are called there.
        masks: of all of them, of bool, True where a weight is in it; in the same order as there.
    """

    plan: ShrinkPlan
    names: dict[str, str]
    masks: dict[str, Tensor]

    def sparsity_of(self, weights: Mapping[str, Tensor]) -> float:
        """The share of those in the cut model that are 0."""
        zeros = sum(int((self.masks[name] & (weight == 0)).sum()) for name, weight in weights.items())
        return zeros / sum(int(mask.sum()) for mask in self.masks.values())


def survivors_of(
    model: nn.Module, weights: Mapping[str, nn.Parameter], *, known: Survivors | None = None
) -> Survivors | None:
    """Which of the weights will be left; None where no units are removed in this training.

    Args:
        model: in training.
        weights: by name, as from `prunable_weights`.
        known: the answer of before, returned if nothing changed.
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
    left = {name: places for name, places in _linear_weights(cut) if not places.is_floating_point()}
    return _located(plan, weights, left)


def _linear_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            yield f"{name}.weight", module.weight.detach()


def _located(plan: ShrinkPlan, weights: Mapping[str, Tensor], left: Mapping[str, Tensor]) -> Survivors:
    """From the places that are left in each weight of the cut model, to those of the dense model that they are of."""
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
    """Prune a model in place to a sparsity that it has when it is cut: what is chosen there is written back.

    Args:
        model: with masked units.
        weights: by name, as from `prunable_weights`.
        sparsity: of the weights that survive, in [0, 1).
        method: how they are chosen.
        evidence: what the method needs.
        survivors: as from `survivors_of`.

    Returns:
        The masks of bool, False as well for weights that do not survive.

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
    """The bias belongs to the rows."""
    before: Any = model.get_submodule(name.removesuffix(".weight")).bias
    after: Any = cut.get_submodule(cut_name.removesuffix(".weight")).bias
    if after is not None:
        before[places.flatten(1).any(1)] = after
