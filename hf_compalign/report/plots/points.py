"""What figures of measured files have in common."""

from collections.abc import Sequence
from typing import Protocol

from hf_compalign.measure.audit import Verdict


class Compared(Protocol):
    """What a figure needs of any file that was held against the reference."""

    @property
    def n(self) -> int:
        """How many items there were."""

    @property
    def mismatch_rate(self) -> float:
        """The share of the items that it answers differently from the reference."""

    @property
    def mismatch_rate_interval(self) -> tuple[float, float]:
        """The two-sided 95 % interval of its mismatch rate."""

    @property
    def passed(self) -> bool:
        """Whether every limit is kept."""

    @property
    def limits(self) -> Sequence[Verdict]:
        """The verdict on each limit."""
