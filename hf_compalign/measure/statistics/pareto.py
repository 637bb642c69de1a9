"""The smallest and most faithful of several files."""

from collections.abc import Iterable
from typing import Any, TypeVar

_File = TypeVar("_File", bound=Any)


def undominated(files: Iterable[_File]) -> list[_File]:
    """The files that no other beats in both ``size_bytes`` and ``mismatch_rate``, the smallest first."""
    best: list[_File] = []
    for file in sorted(files, key=lambda one: (one.size_bytes, one.mismatch_rate)):
        if not best or file.mismatch_rate < best[-1].mismatch_rate:
            best.append(file)
    return best
