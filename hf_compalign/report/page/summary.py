"""The top of the report page: the verdict in words, the numbers that matter most, and what is not known."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from hf_compalign._formats import change, count, decimals, interval, is_known, megabytes, percent, plural, ratio
from hf_compalign._records import built
from hf_compalign.measure.audit import Outcome, missed, outcome
from hf_compalign.measure.footprint import Latency, quartiles
from hf_compalign.measure.statistics import SeedFloor

Figure = tuple[str, str, str]  # what it is, its value, and a note to read it by
# Key of an audit -> what is missing without it, and the options of the command that bring it.
_MISSING = {
    "n_labeled": ("Right and wrong, classes and calibration", "--label-column COLUMN"),
    "limits": ("A verdict", "--limit mismatch_rate=0.02"),
    "groups": ("Groups and fairness", "--groups COLUMN or --bins COLUMN"),
    "slices": ("Where answers change more than elsewhere", "--find-slices slices.json"),
    "floor": ("Whether a re-run would differ as much", "--floor MODEL"),
    "attribution": ("What both models look at", "--attribution default"),
    "latency": ("Latency", "--latency"),
}

_times = partial(decimals, digits=2)


def verdict(found: Mapping[str, Any]) -> tuple[Outcome, tuple[str, ...]]:
    """The verdict of an audit, and what happened, in sentences."""
    said = outcome(found)
    words = said.words[0].upper() + said.words[1:]
    if said.state == "passed" and found["limits"]:
        words += " The one-sided 95 % upper bound of each is within it, not just what was observed."
    failed = [row for row in found["limits"] if not row["passed"]]
    if failed:
        words += f" {'; '.join(map(missed, failed))}."
    if failed and all(is_known(row["value"]) and row["value"] <= row["limit"] for row in failed):
        words += " What was observed is within it, but so few items cannot show that it would stay there."
    return said, (said.happened, words)


def figures(found: Mapping[str, Any]) -> list[Figure]:
    """The numbers that matter most, of those that are known."""
    shown = [("Same answer", percent(found["agreement"]), f"95 %: {interval(found['agreement_interval'])}")]
    if found["cells"]:
        share = f"{percent(found['nfr'])} of {plural(found['n_labeled'], 'item')}"
        lost = f"{share}; 95 %: {interval(found['nfr_interval'])}"
        shown.append(("Right, now wrong", count(found["cells"]["lost"]), lost))
        moved = f"before: {percent(found['accuracy_reference'])}; change {change(found['accuracy_change'])}"
        shown.append(("Accuracy", percent(found["accuracy_candidate"]), moved))
    if floor := found["floor"]:
        note = f"{floor_words(floor)}, which changes {percent(floor['mismatch_rate'])}"
        shown.append(("Changes against a re-run", change(floor["difference"]["value"]), note))
    if found["size_bytes"]:
        before, after = found["size_bytes"]
        times = f"; ratio {ratio(before, after)}" if before else ""
        shown.append(("Size", f"{megabytes(after)} MB", f"before: {megabytes(before)} MB{times}"))
    if found["latency"]:
        first, second = (built(Latency, one) for one in found["latency"])
        middle = f"quartiles {interval((second.low_ms, second.high_ms), _times)} ms"
        times = f"ratio {ratio(first.median_ms, second.median_ms)}"
        shown.append(("Latency", f"{_times(second.median_ms)} ms", f"{middle}; before: {quartiles(first)} ms; {times}"))
    return shown


def floor_words(floor: Mapping[str, Any]) -> str:
    """Whether the candidate differs from the reference less than another fine-tuning does."""
    judged = built(SeedFloor, floor)
    told = "fewer than" if judged.below else "more than" if judged.above else "not to be told apart from"
    return f"{told} the re-run"


def missing(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the audit lacks, and the options of ``hf-compalign audit`` that bring it."""
    return [words for key, words in _MISSING.items() if not found[key]]
