"""Which of several files are worth a look: those that no other beats in size and mismatches."""

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Sized(Protocol):
    """A file that was audited."""

    @property
    def size_bytes(self) -> int:
        """Its bytes."""

    @property
    def mismatch_rate(self) -> float:
        """The share of the items that it answers otherwise than the reference."""


_File = TypeVar("_File", bound=Sized)


def undominated(files: Iterable[_File]) -> list[_File]:
    """The files that no other beats: none has as few mismatches in fewer bytes; the smallest file first."""
    best: list[_File] = []
    for file in sorted(files, key=lambda one: (one.size_bytes, one.mismatch_rate)):
        if not best or file.mismatch_rate < best[-1].mismatch_rate:
            best.append(file)
    return best
