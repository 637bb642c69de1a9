"""How long a forward pass takes, of one model or of several side by side."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_compalign.measure.footprint.record import Latency
from hf_compalign.models import device_of, evaluating, is_quantized, on_device


def interleaved_latency_ms(
    candidates: Mapping[str, tuple[nn.Module, Mapping[str, Any]]], *, n_warmup: int = 3, n_runs: int = 20
) -> dict[str, Latency]:
    """Time several models side by side: one pass of each in turn, so that a busy moment slows them all.

    The order moves on by one model from round to round, so that each comes first as often.

    ``candidates`` is name -> (model or `FileModel`, keyword arguments of its forward pass, on any device). The
    ``n_warmup`` rounds before the ``n_runs`` timed ones do not count.

    Raises:
        ValueError: n_runs < 1 or n_warmup < 0.
    """
    batches = {name: (model, [inputs]) for name, (model, inputs) in candidates.items()}
    found = interleaved_times_ms(batches, n_warmup=n_warmup, n_runs=n_runs)
    return {name: summarized(times) for name, times in found.items()}


def interleaved_times_ms(
    candidates: Mapping[str, tuple[nn.Module, Sequence[Mapping[str, Any]]]],
    *,
    n_warmup: int = 3,
    n_runs: int = 20,
    in_a_row: int = 1,
) -> dict[str, list[float]]:
    """The times behind `interleaved_latency_ms`, run by run, of models that are given other inputs in each run.

    ``candidates`` is name -> (model, the inputs of the first run, of the second ...), from the beginning again when
    they are used up. With ``in_a_row`` above 1 each model makes so many runs before the next has its turn, after one
    that does not count: as a model that has the machine for itself, with its weights in the caches, while a busy
    minute still slows all models.
    """
    if n_runs < 1 or n_warmup < 0 or in_a_row < 1:
        raise ValueError(
            f"Timing needs n_runs >= 1, n_warmup >= 0 and in_a_row >= 1. Got n_runs = {n_runs}, n_warmup = {n_warmup} "
            f"and in_a_row = {in_a_row}."
        )
    placed = {
        name: (model, [on_device(inputs, device_of(model)) for inputs in batches])
        for name, (model, batches) in candidates.items()
    }
    times_ms: dict[str, list[float]] = {name: [] for name in placed}
    names, models = [*placed], [model for model, _ in placed.values()]
    # optimum-quanto's int4 weights do not work in inference mode.
    plain = not any(is_quantized(parameter) for model in models for parameter in model.parameters())
    with evaluating(*models), torch.no_grad(), torch.inference_mode(plain):
        for turn, run in enumerate(range(-n_warmup * in_a_row, n_runs, in_a_row)):
            first = turn % max(1, len(placed))
            for name in (*names[first:], *names[:first]):
                model, batches = placed[name]
                if in_a_row > 1:
                    _time_ms(model, batches[run % len(batches)])
                for place in range(run, min(run + in_a_row, n_runs)):
                    # The first timed run gets the first inputs.
                    elapsed_ms = _time_ms(model, batches[place % len(batches)])
                    if place >= 0:
                        times_ms[name].append(elapsed_ms)
    return times_ms


def summarized(times_ms: Sequence[float]) -> Latency:
    """Median and quartiles."""
    return Latency(*np.percentile(times_ms, [50, 25, 75]).tolist())


def _time_ms(model: nn.Module, inputs: Mapping[str, Any]) -> float:
    device = device_of(model)
    _synchronize(device)
    start = time.perf_counter()
    model(**inputs)
    _synchronize(device)
    return 1000 * (time.perf_counter() - start)


def _synchronize(device: torch.device) -> None:
    """Wait for the kernels: a GPU's forward pass returns before it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
