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
    """What differs between two recipes, as part of an error message; empty when nothing does.

    >>> changes({"sparsity": 0.5, "seed": 0}, {"sparsity": 0.6, "seed": 0})
    'sparsity: 0.5 -> 0.6'
    """
    keys = dict.fromkeys([*now, *was])
    return "; ".join(f"{key}: {was.get(key)!r} -> {now.get(key)!r}" for key in keys if was.get(key) != now.get(key))


def of_first_process(work: Callable[[], T]) -> T:
    """What the work comes to on the first process, which alone does it: the answer is told to all.

    Raises:
        RuntimeError: the work failed on the first process, so that the others need not wait for ever.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return work()
    told: list[Any] = [None, None]
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
    answer: T = told[0]
    return answer
