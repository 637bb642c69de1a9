"""Shrinking, pruning and quantizing in one training: the order in which they can be combined."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn
from transformers import TrainerState

from hf_compalign.compress.callbacks.timing import Timing
from hf_compalign.compress.quantize import Scheme
from hf_compalign.compress.sharding import in_shards
from hf_compalign.compress.shrink import ShrinkPlan


class Compresses(Protocol):
    """A callback that changes the model of a training."""

    timing: Timing


class Shrinks(Compresses, Protocol):
    """One that removes units, and cuts them out when the training ends."""

    @property
    def plan(self) -> ShrinkPlan | None:
        """What is left of the model; None as long as it is whole."""
        ...

    def silence(self) -> None:
        """Make the removed units compute zeros."""
        ...


class Quantizes(Compresses, Protocol):
    """One that quantizes the model, and converts it when the training ends, after it is cut."""

    scheme: Scheme

    def prepare_if_due(self, model: nn.Module, state: TrainerState) -> None:
        """Called before units are cut out, when the layers still have the names that they were found by."""
        ...

    def after_cut(self) -> None:
        """Called when the model has its final sizes."""
        ...


def _nobody() -> None:
    """A reference to no callback."""


@dataclass
class _Run:
    """References to the callbacks of one training, in the order in which they act; none is kept alive."""

    state: weakref.ref[TrainerState]
    shrinking: Callable[[], Shrinks | None] = _nobody
    pruning: list[weakref.ref[Compresses]] = field(default_factory=list)
    quantizing: Callable[[], Quantizes | None] = _nobody


# Callbacks of one Trainer do not know each other: they meet at the model that they change.
_RUNS: weakref.WeakKeyDictionary[nn.Module, _Run] = weakref.WeakKeyDictionary()


def join_shrinking(model: nn.Module, state: TrainerState, callback: Shrinks) -> None:
    """Enter a callback that removes units into the training that begins."""
    run = _run_of(model, state)
    if run.shrinking() is not None:
        raise ValueError(
            "Two ShrinkCallbacks in one training would each remove units of the other. Give one the whole budget: "
            "ShrinkCallback(heads=..., ffn=..., n_layers=...)."
        )
    for pruning in filter(None, (reference() for reference in run.pruning)):
        _check_order(model, callback, pruning, shrinks_first=False)
    run.shrinking = weakref.ref(callback)
    _check_scheme(run)


def join_pruning(model: nn.Module, state: TrainerState, callback: Compresses) -> None:
    """Enter a callback that prunes weights into the training that begins."""
    run = _run_of(model, state)
    shrinking = run.shrinking()
    if shrinking is not None:
        _check_order(model, shrinking, callback, shrinks_first=True)
    run.pruning.append(weakref.ref(callback))
    _check_scheme(run)


def join_quantizing(model: nn.Module, state: TrainerState, callback: Quantizes) -> None:
    """Enter a callback that quantizes into the training that begins."""
    run = _run_of(model, state)
    if run.quantizing() is not None:
        raise ValueError(
            "Two QuantizationCallbacks in one training would quantize the model twice. Give one, with "
            "the layers of both: QuantizationCallback(scheme, include=[...])."
        )
    run.quantizing = weakref.ref(callback)
    _check_scheme(run)


def before_cut(model: nn.Module, state: TrainerState) -> None:
    """Let a callback that quantizes do what must come first."""
    run = _RUNS.get(model)
    quantizing = None if run is None else run.quantizing()
    if quantizing is not None:
        quantizing.prepare_if_due(model, state)


def leave(model: nn.Module, callback: Compresses) -> None:
    """Take a callback out of the training that ends; one that removes units, when it has cut the model."""
    run = _RUNS.get(model)
    if run is None:
        return
    if run.shrinking() is callback:
        run.shrinking, quantizing = _nobody, run.quantizing()
        if quantizing is not None:
            quantizing.after_cut()
    if run.quantizing() is callback:
        run.quantizing = _nobody
    run.pruning = [pruning for pruning in run.pruning if pruning() is not callback]
    if run.shrinking() is None and run.quantizing() is None and not run.pruning:
        _RUNS.pop(model, None)


def shrinking_of(model: nn.Module) -> Shrinks | None:
    """The callback that removes units of the model in training and has not cut it yet, if there is one."""
    run = _RUNS.get(model)
    return None if run is None else run.shrinking()


def _run_of(model: nn.Module, state: TrainerState) -> _Run:
    run = _RUNS.get(model)
    # A training that broke off took nobody out, but each training has a state of its own.
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
    first, then = shrinking.timing, pruning.timing
    begin, middle = (first.begin, first.end) if first.end < 1 else (0.0, 0.5)
    end = then.end if then.end > middle else middle + 0.6 * (1 - middle)
    raise ValueError(
        "Units must all be removed before weights are pruned, or the sparsity would count weights that go anyway. The "
        f"ShrinkCallback ends at {first.end:g} of the training (step {shrunk}), and the PruningCallback begins at "
        f"{then.begin:g} (step {begins}). Name the ShrinkCallback first, and let the other begin where it ends: "
        f"callbacks=[ShrinkCallback(..., begin={begin:g}, end={middle:g}), PruningCallback(..., begin={middle:g}, "
        f"end={end:g})]."
    )


def _check_scheme(run: _Run) -> None:
    """Refuse a scheme that does not keep what the others remove."""
    quantizing = run.quantizing()
    if quantizing is None or quantizing.scheme.weights != "int4":
        return
    name = quantizing.scheme.name
    if run.shrinking() is not None:
        raise ValueError(
            f"The scheme {name} rounds neighboring weights together, and when units are cut the neighbors are "
            "others. Use a scheme with int8 weights, or two trainings: train with the ShrinkCallback, open the folder "
            "with load_compressed, and train that with the QuantizationCallback."
        )
    if quantizing.scheme.backend == "quanto" and run.pruning:
        raise ValueError(
            f"The scheme {name} has no level for 0, so pruned weights would come back. Use torchao-w4 or "
            "torchao-w4a8, or a scheme with int8 weights."
        )
