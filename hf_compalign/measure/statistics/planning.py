"""Before an audit: how many items a limit on a rate needs, and what a number of items can show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from hf_compalign._checks import check_share, check_whole
from hf_compalign._formats import UNKNOWN, count, percent, plural
from hf_compalign._tables import Column, Table, as_text
from hf_compalign.measure.statistics.intervals import items_needed, most_within, upper_bound

# The rates of items that a limit can be on; each has an exact bound.
RATE_LIMITS = ("mismatch_rate", "nfr", "flip_rate", "pfr")
LIKELY = 0.8  # how often a plan should pass, as is usual for the power of a test
_SHARES = (0.0, 0.25, 0.5, 0.75)  # of the limit: the rates of a plan


@dataclass(frozen=True)
class PlanRow:
    """What it takes to show a limit at one rate.

    Attributes:
        rate: the share of items that count, such as mismatches.
        n_needed: items that show it if just this share of them counts; None if no number does.
        most: how many of them may count.
        n_likely: items that show it in 4 of 5 samples if this is the true rate, which samples scatter around.
        chance: how often ``n_items`` of the plan show it, if this is the true rate; nan without them.
    """

    rate: float
    n_needed: int | None
    most: int | None
    n_likely: int | None
    chance: float


@dataclass(frozen=True)
class Plan:
    """The result of `plan_items`; ``print`` shows it.

    Attributes:
        limit: on the one-sided 95 % upper bound of the rate.
        rows: one for each rate.
        n_items: how many items there are; None when not said.
        most: of these may count; -1 if not even 0 show the limit.
        bound: what they show if none counts: the smallest limit that they can keep.
    """

    limit: float
    rows: tuple[PlanRow, ...]
    n_items: int | None = None
    most: int | None = None
    bound: float = math.nan

    def __str__(self) -> str:
        columns: list[Column] = [
            ("rate", "rate", percent),
            ("items needed", "n_needed", _whole),
            ("of them may count", "most", _whole),
            ("items to pass 4 times in 5", "n_likely", _whole),
        ]
        columns += [] if self.n_items is None else [(f"{count(self.n_items)} items pass", "chance", percent)]
        table = Table.of("", [vars(row) for row in self.rows], columns)
        lead = f"To show that the rate is within {percent(self.limit)}, by its one-sided 95 % upper bound:"
        return "\n".join([lead, as_text(table), *self._at_best()])

    def _at_best(self) -> list[str]:
        return [] if self.n_items is None else [at_best(self.limit, self.n_items)]


def plan_items(limit: float, *, rates: Sequence[float] | None = None, n: int | None = None) -> Plan:
    """How many items show that a rate is within a limit, and what ``n`` items can show.

    >>> print(plan_items(0.01, rates=[0, 0.005], n=1000))
    To show that the rate is within 1.00 %, by its one-sided 95 % upper bound:
    rate    items needed  of them may count  items to pass 4 times in 5  1,000 items pass
    0.00 %           299                  0                         299          100.00 %
    0.50 %         1,441                  8                       2,185           44.01 %
    Of 1,000 items at most 4 may count; if none does, the bound is 0.30 %.

    Args:
        limit: the largest acceptable rate.
        rates: those to plan for; by default shares of the limit.
        n: how many items there are.

    Raises:
        ValueError: the limit is not in (0, 1), a rate not in [0, 1], or n below 1.
    """
    if limit in (0, 1):
        shown = "no number of items shows" if limit == 0 else "any number of items shows"
        raise ValueError(f"A limit to plan for must be in (0, 1). Got {limit}, which {shown}.")
    check_share("limit", limit, ends=False)
    for rate in rates or ():
        check_share("rate", rate, ends=True)
    if n is not None:
        check_whole("n", n, least=1)
    rows = tuple(_row(limit, rate, n) for rate in (rates or [share * limit for share in _SHARES]))
    if n is None:
        return Plan(limit, rows)
    return Plan(limit, rows, n, most_within(limit, n), upper_bound(0, n))


def at_best(limit: float, n: int) -> str:
    """What ``n`` items can show of a limit at best, in a sentence.

    >>> at_best(0.01, 200)
    '200 items cannot show it: if none counts, the bound is 1.49 %. It takes at least 299 items.'
    """
    most, bound = most_within(limit, n), percent(upper_bound(0, n))
    if most >= 0:
        return f"Of {plural(n, 'item')} at most {count(most)} may count; if none does, the bound is {bound}."
    needed = items_needed(limit)
    takes = f"It takes at least {plural(int(needed), 'item')}." if needed < math.inf else "No number of items can."
    return f"{plural(n, 'item')} cannot show it: if none counts, the bound is {bound}. {takes}"


def chance_to_pass(limit: float, rate: float, n: int) -> float:
    """How often ``n`` items keep a limit on the one-sided 95 % upper bound, if ``rate`` is true.

    P(K <= k) for the binomial K of n items and the largest k that keeps the limit, see `most_within`.

    >>> round(chance_to_pass(0.01, 0.005, 1441), 2), chance_to_pass(0.01, 0.005, 200)
    (0.7, 0.0)
    """
    most = most_within(limit, n)
    return float(special.bdtr(most, n, rate)) if most >= 0 else 0.0


def _row(limit: float, rate: float, n: int | None) -> PlanRow:
    chance = math.nan if n is None else chance_to_pass(limit, rate, n)
    if not rate < limit:
        return PlanRow(rate, None, None, None, chance)
    needed = int(items_needed(limit, rate))
    return PlanRow(rate, needed, most_within(limit, needed), _likely(limit, rate, needed), chance)


def _likely(limit: float, rate: float, needed: int) -> int:
    """About how many items pass with the probability `LIKELY`, at least so many as are needed."""
    below, n = needed - 1, needed
    while chance_to_pass(limit, rate, n) < LIKELY:
        below, n = n, 2 * n
    while n - below > 1:
        middle = (below + n) // 2
        passes = chance_to_pass(limit, rate, middle) >= LIKELY
        below, n = (below, middle) if passes else (middle, n)
    return n


def _whole(value: int | None) -> str:
    return UNKNOWN if value is None else count(value)
