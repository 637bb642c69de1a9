"""What the trainer and the callbacks share: how runs differ, and what the first process says to all."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two recipes, as part of an error message; empty when nothing does.

    >>> changes({"sparsity": 0.5, "seed": 0}, {"sparsity": 0.6, "seed": 0})
    'sparsity: 0.5 -> 0.6'
    """
    keys = dict.fromkeys([*now, *was])
    return "; ".join(f"{key}: {was.get(key)!r} -> {now.get(key)!r}" for key in keys if was.get(key) != now.get(key))


def of_first_process(value: T) -> T:
    """The value that the first process has."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]
