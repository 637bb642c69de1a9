"""The verdict of an audit in words: what changed, and whether the limits are kept."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hf_compalign._formats import count, is_known, percent, plural
from hf_compalign._tables import Beyond, Column, Kept, Section, Table
from hf_compalign._visible import one_line

Row = Mapping[str, Any]


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
    if not limits:
        return Outcome("none", "No limit set", happened, "no limit was set, so this is no verdict.")
    failed = ", ".join(row["name"] for row in limits if not row["passed"])
    if failed:
        words = f"not shown to be within the limit on {failed}{_unjudged(limits)}."
        return Outcome("failed", "Not passed", happened, words)
    return Outcome("passed", "Passed", happened, f"shown to be within every limit{_unjudged(limits)}.")


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


def judged(limit: Row, found: Row) -> str:
    """What came of one limit of an audit, in words.

    It is exceeded when the rate's whole two-sided interval lies above it. Otherwise the rate may well be within it,
    whatever was observed. A gap between groups has no such interval.

    >>> limit = {"name": "nfr", "limit": 0.02, "value": 0.03, "passed": False, "not_judged": []}
    >>> judged(limit, {"nfr_interval": [0.01, 0.05]}), judged(limit, {"nfr_interval": [0.021, 0.05]})
    ('not shown to be kept', 'exceeded')
    """
    if limit["passed"]:
        return Kept(f"kept{_unjudged([limit])}")
    low = found.get(f"{limit['name']}_interval", (None,))[0]
    exceeded = is_known(low) and low > limit["limit"]
    return Beyond(f"{'exceeded' if exceeded else 'not shown to be kept'}{_unjudged([limit])}")


def limits(found: Row) -> Section:
    """Each limit, and whether it is kept."""
    columns: tuple[Column, ...] = (
        ("limit on", "name", str),
        ("at most", "limit", percent),
        ("observed", "value", percent),
        ("95 % upper bound", "upper_bound", percent),
        ("verdict", None, partial(judged, found=found)),
    )
    table = Table.of("Limits", found["limits"], columns, words=(4,))
    lead = (
        "A limit is kept when the one-sided 95 % upper bound is within it: too few items never pass. It is exceeded "
        "when the whole interval of the rate lies above it. Between the two nothing is shown."
    )
    return Section("limits", "Limits", (table,), lead=(lead,))
