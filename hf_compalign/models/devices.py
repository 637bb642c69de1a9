"""Where a model is, where it runs best, and its inputs there."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """Where a model is; the CPU if it has no parameters and does not say."""
    parameter = next(model.parameters(), None)
    found: torch.device = getattr(model, "device", torch.device("cpu")) if parameter is None else parameter.device
    return found


def default_device(model: nn.Module) -> str | None:
    """A GPU for a loaded model if there is one; None for a file, whose runtime may not know GPUs."""
    on_gpu = torch.cuda.is_available() and next(model.parameters(), None) is not None
    return "cuda" if on_gpu else None


def checked_device(device: str | torch.device) -> torch.device:
    """The device.

    Raises:
        ValueError: there is none.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ValueError(f"There is no device {device!r} here. Use one of {', '.join(there)}. ({error})") from error


def on_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The inputs with their tensors moved."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
