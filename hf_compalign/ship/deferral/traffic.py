"""What became of the rows that a deferring model was asked."""

import math
from dataclasses import dataclass
from typing import Protocol

from hf_compalign._formats import count, interval, percent, plural
from hf_compalign.measure.statistics import rate, wilson_interval


class _Counts(Protocol):
    @property
    def decided(self) -> tuple[int, int]: ...


class Answered:
    """For what counts how many examples a candidate answered itself, of all that were ``decided`` on."""

    @property
    def answered_rate(self: _Counts) -> float:
        """The share of the examples that the candidate answers itself; nan without examples."""
        return rate(*self.decided)

    @property
    def answered_rate_interval(self: _Counts) -> tuple[float, float]:
        """Its two-sided 95 % Wilson interval."""
        return wilson_interval(*self.decided)


@dataclass(frozen=True)
class Traffic(Answered):
    """Counts of rows; `DeferringModel.traffic` has those since it was made.

    A row with several labels is answered, deferred or checked as a whole, and each of its labels may be changed.

    Attributes:
        answered: the candidate answered them.
        deferred: the reference answered them.
        checked: answered ones that the reference was asked too.
        changed: checked ones that it answers otherwise; where rows have several labels, those labels of checked rows.
        checked_labels: all labels of the checked rows, where these have several; else 0.
    """

    answered: int = 0
    deferred: int = 0
    checked: int = 0
    changed: int = 0
    checked_labels: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.answered + other.answered,
            self.deferred + other.deferred,
            self.checked + other.checked,
            self.changed + other.changed,
            self.checked_labels + other.checked_labels,
        )

    @property
    def n(self) -> int:
        """All rows."""
        return self.answered + self.deferred

    @property
    def decided(self) -> tuple[int, int]:
        """How many rows the candidate answers itself, of all."""
        return self.answered, self.n

    @property
    def changed_rate(self) -> float:
        """About the share of all items that the candidate answers otherwise, the share of the budget.

        answered_rate * changed / checked, of rows or of their labels; nan without checks.
        """
        return self.answered_rate * rate(self.changed, self.checked_labels or self.checked)

    @property
    def changed_rate_interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of changed / checked, times ``answered_rate``.

        Labels count as if all those of a row changed together, which makes the widest interval.
        """
        rows = self.changed * rate(self.checked, self.checked_labels) if self.checked_labels else self.changed
        low, high = wilson_interval(rows, self.checked)
        return self.answered_rate * low, self.answered_rate * high

    def __str__(self) -> str:
        answered = (
            f"The candidate answered {count(self.answered)} of {plural(self.n, 'row')} itself: "
            f"{percent(self.answered_rate)}, 95 % interval {interval(self.answered_rate_interval)}."
        )
        if math.isnan(self.changed_rate):
            return f"{answered}\nNone of these answers were checked."
        ends = interval(self.changed_rate_interval)
        changed, of = count(self.changed), "rows"
        if self.checked_labels:
            changed, of = f"{changed} of {count(self.checked_labels)} labels", "labels"
        return (
            f"{answered}\nOf {count(self.checked)} that were checked, the reference answers {changed} otherwise: "
            f"{percent(self.changed_rate)} of all {of}, 95 % interval {ends}."
        )
