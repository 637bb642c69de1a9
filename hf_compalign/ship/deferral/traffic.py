"""What became of the items that a deferring model was asked."""

import math
from dataclasses import dataclass
from typing import Protocol

from hf_compalign._formats import count, interval, percent, plural
from hf_compalign.measure.statistics import rate, wilson_interval


class _Counts(Protocol):
    @property
    def answered(self) -> int: ...

    @property
    def n(self) -> int: ...


class Answered:
    """For what counts how many of n items a candidate answered itself."""

    @property
    def answered_rate(self: _Counts) -> float:
        """The share of the items that the candidate answers itself; nan without items."""
        return rate(self.answered, self.n)

    @property
    def answered_rate_interval(self: _Counts) -> tuple[float, float]:
        """Its two-sided 95 % Wilson interval."""
        return wilson_interval(self.answered, self.n)


@dataclass(frozen=True)
class Traffic(Answered):
    """Counts of items; `DeferringModel.traffic` has those since it was made.

    Attributes:
        answered: the candidate answered them.
        deferred: the reference answered them.
        checked: answered ones that the reference was asked too.
        changed: checked ones that it answers otherwise.
    """

    answered: int = 0
    deferred: int = 0
    checked: int = 0
    changed: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.answered + other.answered,
            self.deferred + other.deferred,
            self.checked + other.checked,
            self.changed + other.changed,
        )

    @property
    def n(self) -> int:
        """All items."""
        return self.answered + self.deferred

    @property
    def changed_rate(self) -> float:
        """About the share of all items that the candidate answers otherwise, the share of the budget.

        answered_rate * changed / checked; nan without checks.
        """
        return self.answered_rate * rate(self.changed, self.checked)

    @property
    def changed_rate_interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of changed / checked, times ``answered_rate``."""
        low, high = wilson_interval(self.changed, self.checked)
        return self.answered_rate * low, self.answered_rate * high

    def __str__(self) -> str:
        answered = (
            f"The candidate answered {count(self.answered)} of {plural(self.n, 'item')} itself: "
            f"{percent(self.answered_rate)}, 95 % interval {interval(self.answered_rate_interval)}."
        )
        if math.isnan(self.changed_rate):
            return f"{answered}\nNone of these answers were checked."
        ends = interval(self.changed_rate_interval)
        return (
            f"{answered}\nOf {count(self.checked)} that were checked, the reference answers {count(self.changed)} "
            f"otherwise: {percent(self.changed_rate)} of all items, 95 % interval {ends}."
        )
