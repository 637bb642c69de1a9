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
    candidates: Mapping[str, tuple[nn.Module, Sequence[Mapping[str, Any]]]], *, n_warmup: int = 3, n_runs: int = 20
) -> dict[str, list[float]]:
    """The times behind `interleaved_latency_ms`, round by round, of models that are given other inputs in each round.

    ``candidates`` is name -> (model, the inputs of the first round, of the second ...), from the beginning again when
    they are used up.
    """
    if n_runs < 1 or n_warmup < 0:
        raise ValueError(
            f"Timing needs n_runs >= 1 and n_warmup >= 0. Got n_runs = {n_runs} and n_warmup = {n_warmup}."
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
        for turn in range(n_warmup + n_runs):
            first = turn % max(1, len(placed))
            for name in (*names[first:], *names[:first]):
                model, batches = placed[name]
                # The first timed round gets the first inputs.
                elapsed_ms = _time_ms(model, batches[(turn - n_warmup) % len(batches)])
                if turn >= n_warmup:
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
