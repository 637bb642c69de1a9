"""The top of the report page: the verdict in words, the numbers that matter most, and what is not known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_compalign.measure.audit import FLIPS, left_unjudged
from hf_compalign.measure.audit import verdict as verdict_text
from hf_compalign.report.page.text import ends, interval, is_known, number, percent, plural, points, short_name

RATES = {
    "agreement": "same answer",
    "mismatch_rate": "other answer (mismatch rate)",
    **FLIPS,
    "flip_rate": "flips between right and wrong",
    "accuracy_reference": "accuracy of the reference",
    "accuracy_candidate": "accuracy of the candidate",
    "group_mismatch_gap": "gap between the groups' mismatch rates",
    "worst_group_accuracy_drop": "drop of the worst group's accuracy",
}
_RISK = 0.05
# What is missing, by the key of the audit that would hold it, and the options of the command that bring it.
_MISSING = {
    "n_labelled": ("Right and wrong, classes and calibration", "--label-column COLUMN"),
    "limits": ("A verdict", "--limit mismatch_rate=0.02"),
    "groups": ("Groups and fairness", "--groups COLUMN or --bins COLUMN"),
    "floor": ("Whether a re-run would differ as much", "--floor MODEL"),
    "attribution": ("What both models look at", "--attribution default"),
    "latency_ms": ("Latency", "--latency"),
}


@dataclass(frozen=True)
class Verdict:
    """Whether the limits are kept: ``state`` is "passed", "failed" or "none"."""

    state: str
    title: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """One number that matters, and a note to read it by."""

    what: str
    value: str
    note: str


def verdict(found: Mapping[str, Any]) -> Verdict:
    """The verdict of an audit, and what happened, in words."""
    happened = verdict_text(found).splitlines()[0]
    limits = found["limits"]
    failed = [row for row in limits if not row["passed"]]
    if not limits:
        words = "No limit was set, so this page reports and does not judge."
        return Verdict("none", "No limit set", (happened, words))
    unjudged = left_unjudged(limits)
    if not failed:
        words = "Every limit is kept: the one-sided 95 % upper bound of each is within it, not just what was observed"
        return Verdict("passed", "Passed", (happened, f"{words}{unjudged}."))
    words = f"Not shown to be within the limit: {'; '.join(map(_failure, failed))}{unjudged}."
    if all(is_known(row["value"]) and row["value"] <= row["limit"] for row in failed):
        words += " What was observed is within it, but so few items cannot show that it would stay there."
    return Verdict("failed", "Not passed", (happened, words))


def _failure(row: Mapping[str, Any]) -> str:
    name = RATES.get(row["name"], row["name"])
    return f"{name} {percent(row['value'])}, upper bound {percent(row['upper_bound'])}, limit {percent(row['limit'])}"


def figures(found: Mapping[str, Any]) -> list[Figure]:
    """The numbers that matter most, of those that are known."""
    shown = [Figure("Same answer", percent(found["agreement"]), f"95 %: {interval(found['agreement_interval'])}")]
    if found["cells"]:
        lost = found["cells"]["lost"]
        share = f"{percent(found['nfr'])} of {plural(found['n_labelled'], 'item')}"
        shown.append(Figure("Right, now wrong", f"{lost:,}", f"{share}; 95 %: {interval(found['nfr_interval'])}"))
        before, after = percent(found["accuracy_reference"]), percent(found["accuracy_candidate"])
        change = points(found["accuracy_change"], signed=True)
        shown.append(Figure("Accuracy", after, f"before: {before}; change {change}"))
    floor = found.get("floor")
    if floor:
        difference = points(floor["difference"]["value"], signed=True)
        note = f"{floor_words(floor)}, which changes {percent(floor['mismatch_rate'])}"
        shown.append(Figure("Changes against a re-run", difference, note))
    return [*shown, *_costs(found)]


def floor_words(floor: Mapping[str, Any]) -> str:
    """Whether the candidate differs from the reference less than another fine-tune does, as `SeedFloor` judges it."""
    low, high = ends(floor["difference"])
    shown = is_known(floor["p_value"]) and floor["p_value"] < _RISK
    if shown and is_known(high) and high < 0:
        return "fewer than the re-run"
    if shown and is_known(low) and low > 0:
        return "more than the re-run"
    return "not to be told apart from the re-run"


def _costs(found: Mapping[str, Any]) -> list[Figure]:
    shown = []
    if found.get("size_bytes"):
        before, after = found["size_bytes"]
        shown.append(
            Figure("Size", f"{number(after / 1e6)} MB", f"before: {number(before / 1e6)} MB{_ratio(before, after)}")
        )
    if found.get("latency_ms"):
        before, after = found["latency_ms"]
        shown.append(Figure("Latency", f"{number(after)} ms", f"before: {number(before)} ms{_ratio(before, after)}"))
    return shown


def _ratio(before: float, after: float) -> str:
    return f"; ratio {after / before:.2f}" if before else ""


def title_of(found: Mapping[str, Any]) -> str:
    """Both models by name."""
    return f"{short_name(found['candidate']['model'])} against {short_name(found['reference']['model'])}"


def missing(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the audit does not hold, and the options of ``hf-compalign audit`` that bring it."""
    return [words for key, words in _MISSING.items() if not found.get(key)]
