"""The verdict of an audit in words: what changed, and whether the limits are kept."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_compalign._formats import count, percent, plural
from hf_compalign._records import built
from hf_compalign._tables import Beyond, Column, Kept, Section, Table
from hf_compalign._visible import one_line
from hf_compalign.measure.statistics import RATE_LIMITS, at_best, examples_needed, items_needed

WITHIN, UNSHOWN, EXCEEDED = "within", "not shown to be within", "exceeded"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """One limit: it is kept when the one-sided 95 % upper bound, not just the observed value, is within it.

    Attributes:
        limit: the largest acceptable value of the rate or gap of this ``name``.
        value: what was observed.
        not_judged: attributes whose groups are too small or too few for this limit.
        lower_bound: one-sided, 95 %: the limit is exceeded when this is beyond it.
        attribute: whose groups decide it, where there are several: the one with the largest upper bound.
        left_out: the groups of the judged attributes that are too small for it, as "attribute: group".
        n_examples: that the items belong to, where they share examples; None where each item is one.
    """

    name: str
    limit: float
    value: float
    upper_bound: float
    passed: bool
    not_judged: tuple[str, ...] = ()
    lower_bound: float = 0.0
    attribute: str = ""
    left_out: tuple[str, ...] = ()
    n_examples: int | None = None

    @property
    def needed(self) -> float:
        """About how many items, or examples where items share them, show a limited rate at what was observed.

        inf where none do.
        """
        if self.n_examples is None:
            return items_needed(self.limit, self.value)
        return examples_needed(self.n_examples, self.upper_bound, self.limit, observed=self.value)

    @property
    def of_what(self) -> str:
        """What is drawn: an "item", or an "example"."""
        return "item" if self.n_examples is None else "example"

    @property
    def exceeded(self) -> bool:
        """Whether the true value is shown to be beyond the limit."""
        return self.lower_bound > self.limit

    @property
    def words(self) -> str:
        """One of three: the items show that it is kept, or that it is not, or neither.

        >>> Verdict("nfr", 0.02, 0.03, 0.05, passed=False, lower_bound=0.01).words
        'not shown to be within'
        >>> Verdict("nfr", 0.02, 0.03, 0.05, passed=False, lower_bound=0.021).words
        'exceeded'
        """
        return WITHIN if self.passed else EXCEEDED if self.exceeded else UNSHOWN


@dataclass(frozen=True)
class Outcome:
    """Whether the limits are kept: ``state`` is "passed", "failed" or "none"."""

    state: str
    title: str
    happened: str
    words: str


def outcome(found: Row) -> Outcome:
    """What changed, and what it means for the limits."""
    n, cie, limits = found["n"], found["cie"], found["limits"]
    alike = f"{count(n - cie)} of {plural(n, 'item')}"
    happened = f"The candidate answers {alike} like the reference and {count(cie)} differently."
    if found["n_labeled"]:
        lost, gained = found["cells"]["lost"], found["cells"]["gained"]
        happened += f" {_turned(lost, 'right', 'wrong')}, {_turned(gained, 'wrong', 'right')}."
    slices = checked_slices(found)
    if not limits and not slices:
        return Outcome("none", "No limit set", happened, "no limit was set, so this is no verdict.")
    failed = [(built(Verdict, row).words, named(row)) for row in limits if not row["passed"]]
    words = [
        f"{of} the limit on {', '.join(name for word, name in failed if word == of)}"
        for of in (EXCEEDED, UNSHOWN)
        if of in dict(failed)
    ]
    if worse := sum(row["worse"] for row in slices):
        words.append(f"worse than elsewhere in {plural(worse, 'slice')}")
    if words:
        return Outcome("failed", "Not passed", happened, f"{'; '.join(words)}{_unjudged(limits)}.")
    words = ["shown to be within every limit"] if limits else []
    words += [f"not shown to be worse in any of {plural(len(slices), 'slice')}"] if slices else []
    return Outcome("passed", "Passed", happened, f"{'; '.join(words)}{_unjudged(limits)}.")


def checked_slices(found: Row) -> Sequence[Row]:
    """The slices that an audit was to check; those that it looked for are no verdict."""
    slices = found["slices"]
    return slices["rows"] if slices and slices["checked"] else ()


def _turned(n: int, before: str, after: str) -> str:
    was, now = ("was", "is") if n == 1 else ("were", "are")
    return f"{count(n)} that {was} {before} {now} now {after}"


def _unjudged(limits: Iterable[Row]) -> str:
    """The attributes that these limits leave unjudged, as the end of a sentence.

    >>> _unjudged([{"not_judged": ["age"]}, {"not_judged": ["age", "dialect"]}]), _unjudged([])
    ('; not judged: age, dialect', '')
    """
    names = dict.fromkeys(one_line(name) for row in limits for name in row["not_judged"])
    return f"; not judged: {', '.join(names)}" if names else ""


def judged(limit: Row) -> str:
    """What came of one limit, and of whom it does not speak."""
    verdict = built(Verdict, limit)
    words = f"{verdict.words}{_left_out(verdict.left_out)}{_unjudged([limit])}"
    return Kept(words) if verdict.passed else Beyond(words)


def judged_together(limits: Sequence[Verdict]) -> str:
    """What came of several limits in a word or two: the worst of them."""
    worst = min(limits, key=lambda verdict: (not verdict.exceeded, verdict.passed))
    return Kept(worst.words) if worst.passed else Beyond(worst.words)


def named(limit: Row) -> str:
    """A limit by its name, and the attribute whose groups decide it.

    >>> named({"name": "group_mismatch_gap", "attribute": "age"}), named({"name": "nfr", "attribute": ""})
    ('group_mismatch_gap of age', 'nfr')
    """
    attribute = one_line(limit["attribute"])
    return f"{limit['name']} of {attribute}" if attribute else str(limit["name"])


def missed(limit: Row) -> str:
    """By how much a limit is missed, as a part of a sentence.

    >>> missed({"name": "nfr", "attribute": "", "value": 0.01, "upper_bound": 0.03, "limit": 0.02})
    'nfr is 1.00 %, its upper bound 3.00 %, the limit 2.00 %'
    """
    value, bound, most = (percent(limit[key]) for key in ("value", "upper_bound", "limit"))
    return f"{named(limit)} is {value}, its upper bound {bound}, the limit {most}"


def _left_out(groups: Sequence[str], most: int = 3) -> str:
    if not groups:
        return ""
    names = ", ".join(map(one_line, groups[:most]))
    more = f" and {count(len(groups) - most)} more" if len(groups) > most else ""
    return f"; left out as too small: {names}{more}"


def limits(found: Row) -> Section:
    """Each limit, and whether it is kept."""
    columns: tuple[Column, ...] = (
        ("limit on", None, named),
        ("at most", "limit", percent),
        ("observed", "value", percent),
        ("95 % upper bound", "upper_bound", percent),
        ("verdict", None, judged),
    )
    table = Table.of("Limits", found["limits"], columns, words=(4,))
    lead = (
        "A limit is kept when the one-sided 95 % upper bound is within it: too few items never pass. It is exceeded "
        "when the one-sided 95 % lower bound is beyond it. Between the two nothing is shown."
    )
    return Section("limits", "Limits", (table,), tuple(_too_few(found)), (lead,))


def _too_few(found: Row) -> Iterator[str]:
    """What so many items can show at best of each limit on a rate that they neither keep nor exceed."""
    for one in (built(Verdict, row) for row in found["limits"]):
        if one.name in RATE_LIMITS and one.words == UNSHOWN:
            n = found["n" if one.name == "mismatch_rate" else "n_labeled"]
            few = f"{plural(n, 'item')} of {plural(one.n_examples or 0, 'example')} do not show it."
            shown, more = at_best(one.limit, n) if one.n_examples is None else few, ""
            if one.needed < math.inf:
                more = f" At the observed {percent(one.value)} it takes some {plural(int(one.needed), one.of_what)}."
            yield f"{one.name}: {shown}{more}"
