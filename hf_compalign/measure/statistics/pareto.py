"""The cheapest and most faithful of several files."""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, TypeVar

_File = TypeVar("_File", bound=Any)


def undominated(files: Iterable[_File], *, cost: Callable[[_File], float] = attrgetter("size_bytes")) -> list[_File]:
    """The files that no other beats in both their cost and ``mismatch_rate``, the cheapest first."""
    best: list[_File] = []
    for file in sorted(files, key=lambda one: (cost(one), one.mismatch_rate)):
        if not best or file.mismatch_rate < best[-1].mismatch_rate:
            best.append(file)
    return best
