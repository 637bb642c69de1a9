"""Where a model is, where it runs best, its inputs there, and what computes it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hf_compalign._extras import installed_versions
from hf_compalign.models.processor import instruction_sets
from hf_compalign.models.runtime import Runtime


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


def widest_float(device: torch.device) -> torch.dtype:
    """What sums are kept in on a device: float64 where it has that, which Apple's GPUs do not.

    >>> widest_float(torch.device("cpu")), widest_float(torch.device("mps"))
    (torch.float64, torch.float32)
    """
    return torch.float32 if device.type == "mps" else torch.float64


def on_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The inputs with their tensors moved."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def runtime_of(model: nn.Module) -> Runtime:
    """What computes a model: a file's runtime, that of a model made of others, or PyTorch."""
    own: Runtime | None = getattr(model, "computed_by", None)
    return _torch(model) if own is None else own


def _torch(model: nn.Module) -> Runtime:
    types = {str(one.dtype).removeprefix("torch.") for one in model.parameters() if one.is_floating_point()}
    devices = {one.device.type for one in model.parameters()} - {"cpu"}
    version = installed_versions(["torch"])["torch"]
    where = f" on {', '.join(sorted(devices))}" if devices else ""
    return Runtime(
        engine=f"PyTorch {version}{where}",
        precision=" and ".join(sorted(types)) or "float32",
        threads=torch.get_num_threads(),
        instructions=() if devices else instruction_sets(),
    )
