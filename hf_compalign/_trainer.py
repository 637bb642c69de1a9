"""What the trainer and the callbacks share: flags, how runs differ, and what the first process says to all."""

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def flag(default: Any, text: str) -> Any:
    """A field of a dataclass that HfArgumentParser makes a flag of, with a text for --help."""
    return field(default=default, metadata={"help": text})


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The differences between two recipes, as part of an error message; empty without any.

    >>> changes({"sparsity": 0.5, "seed": 0}, {"sparsity": 0.6, "seed": 0})
    'sparsity: 0.5 -> 0.6'
    """
    keys = dict.fromkeys([*now, *was])
    return "; ".join(f"{key}: {was.get(key)!r} -> {now.get(key)!r}" for key in keys if was.get(key) != now.get(key))


def of_first_process(work: Callable[[], T]) -> T:
    """Work on the first process only, and return the result on all of them.

    Raises:
        RuntimeError: on the others, if the work failed on the first; they would wait forever otherwise.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return work()
    told: list[Any] = [None, None]  # the result, the error
    failed: Exception | None = None
    if dist.get_rank() == 0:
        try:
            told[0] = work()
        except Exception as error:
            failed = error
            told[1] = f"{type(error).__name__}: {error}"
    dist.broadcast_object_list(told, src=0)
    if failed is not None:
        raise failed
    if told[1] is not None:
        raise RuntimeError(f"The first process failed. {told[1]}")
    return told[0]
