"""How large and how fast a model is, measured and not derived from how it was compressed."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

# What from_pretrained looks for, in its order of preference.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Latency:
    """Median and quartiles of one forward pass, in milliseconds."""

    median_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Footprint:
    """What a model costs to keep and to run.

    Attributes:
        parameters: how many numbers it holds; tied ones count once.
        nonzero_parameters: how many of them are not 0. Weights pruned to 0 but stored dense still take
            the same bytes and the same time as before: a sparse model is not a smaller one.
        size_bytes: bytes of the weight files, or of the weights in memory when no folder was given.
        latency_ms: median time of one forward pass; None when no inputs were given.
        latency_ms_low: lower quartile.
        latency_ms_high: upper quartile.
        batch_size: items in the timed batch; None when no inputs were given.
        threads: CPU threads that torch used.
        device: where the model was.
    """

    parameters: int
    nonzero_parameters: int
    size_bytes: int
    latency_ms: float | None
    latency_ms_low: float | None
    latency_ms_high: float | None
    batch_size: int | None
    threads: int
    device: str


def footprint(
    model: nn.Module,
    *,
    folder: str | Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    n_warmup: int = 3,
    n_runs: int = 20,
) -> Footprint:
    """Count, weigh and time a model where it is.

    >>> footprint(nn.Linear(3, 2)).parameters
    8

    Args:
        model: stays on its device and in the training mode it came with.
        folder: where `save_pretrained` wrote it; its weight files give ``size_bytes``.
        inputs: keyword arguments of one forward pass; moved to the model's device. Without them nothing is
            timed. To set two models side by side, time them with `interleaved_latency_ms`.
        n_warmup: untimed passes first.
        n_runs: timed passes.

    Raises:
        FileNotFoundError: the folder holds no weight files.
        ValueError: n_runs < 1 or n_warmup < 0, or no input is a tensor.
    """
    latency = batch_size = None
    if inputs is not None:
        batch_size = _batch_size(inputs)
        timed = interleaved_latency_ms({"model": (model, inputs)}, n_warmup=n_warmup, n_runs=n_runs)
        latency = timed["model"]
    # parameters() yields a tied parameter once.
    parameters = list(model.parameters())
    return Footprint(
        parameters=sum(parameter.numel() for parameter in parameters),
        nonzero_parameters=sum(int(parameter.count_nonzero()) for parameter in parameters),
        size_bytes=_bytes_in_memory(model) if folder is None else _bytes_on_disk(Path(folder)),
        latency_ms=latency.median_ms if latency else None,
        latency_ms_low=latency.low_ms if latency else None,
        latency_ms_high=latency.high_ms if latency else None,
        batch_size=batch_size,
        threads=torch.get_num_threads(),
        device=str(_device(model)),
    )


def interleaved_latency_ms(
    candidates: Mapping[str, tuple[nn.Module, Mapping[str, Any]]],
    *,
    n_warmup: int = 3,
    n_runs: int = 20,
) -> dict[str, Latency]:
    """Time several models side by side: one pass of each in turn, so that a busy moment meets them all.

    Args:
        candidates: name -> (model, keyword arguments of its forward pass).
        n_warmup: untimed rounds first.
        n_runs: timed rounds.

    Raises:
        ValueError: n_runs < 1 or n_warmup < 0.
    """
    if n_runs < 1 or n_warmup < 0:
        raise ValueError(
            f"Timing needs n_runs >= 1 and n_warmup >= 0. Got n_runs = {n_runs} and n_warmup = {n_warmup}."
        )
    placed = {name: (model, _on_device(inputs, _device(model))) for name, (model, inputs) in candidates.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in placed}
    with _evaluating(*(model for model, _ in placed.values())), torch.inference_mode():
        for turn in range(n_warmup + n_runs):
            for name, (model, inputs) in placed.items():
                elapsed_ms = _time_ms(model, inputs)
                if turn >= n_warmup:
                    times_ms[name].append(elapsed_ms)
    return {name: _latency(times) for name, times in times_ms.items()}


def _latency(times_ms: list[float]) -> Latency:
    low, median, high = np.percentile(times_ms, [25, 50, 75]).tolist()
    return Latency(median_ms=median, low_ms=low, high_ms=high)


def _time_ms(model: nn.Module, inputs: Mapping[str, Any]) -> float:
    device = _device(model)
    _synchronise(device)
    start = time.perf_counter()
    model(**inputs)
    _synchronise(device)
    return 1000 * (time.perf_counter() - start)


def _synchronise(device: torch.device) -> None:
    """Wait for the kernels: a GPU's forward pass returns before it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each submodule gets its own mode back, as parts may be frozen."""
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _device(model: nn.Module) -> torch.device:
    tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _on_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def _batch_size(inputs: Mapping[str, Any]) -> int:
    sizes = [len(value) for value in inputs.values() if isinstance(value, torch.Tensor) and value.ndim]
    if not sizes:
        raise ValueError(
            f"inputs must hold at least one tensor with a batch axis. Got {', '.join(inputs) or 'nothing'}."
        )
    return sizes[0]


def _bytes_in_memory(model: nn.Module) -> int:
    """Bytes of what the state dict holds, tied tensors once."""
    saved = model.state_dict().keys()
    buffers = [buffer for name, buffer in model.named_buffers() if name in saved]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *buffers])


def _bytes_on_disk(folder: Path) -> int:
    """Bytes of the files that from_pretrained would read; optimizer states and the like do not count."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return (folder / name).stat().st_size
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return sum((folder / shard).stat().st_size for shard in shards)
    raise FileNotFoundError(
        f"{folder} holds no weight files. Looked for {', '.join(_WEIGHTS)} and their shards. "
        "Give the folder that save_pretrained wrote."
    )
