"""Whether a stored audit is one that `audit` can have made: it may be damaged, or edited by hand."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hf_compalign._records import built
from hf_compalign.measure.audit.items import CHANGES
from hf_compalign.measure.audit.sections import RATES
from hf_compalign.measure.statistics import SCORES

_INTERVAL = "_interval"
_SCORED = {f"{name}_{end}" for name in SCORES for end in ("reference", "candidate", "change", f"change{_INTERVAL}")}
_NEEDED = {"cie", "mcnemar_p", *RATES, *(f"{name}{_INTERVAL}" for name in RATES), *_SCORED}


@dataclass(frozen=True)
class _Metrics:
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


def read_metrics(stored: Any) -> dict[str, Any]:
    """The metrics of an audit from JSON, with nan for null; whole numbers stay whole.

    Raises:
        ValueError: one is missing or no number, or an interval is no pair of numbers.
    """
    if not isinstance(stored, dict):
        raise ValueError(f"metrics must be an object. Got {stored!r:.80}.")
    if missing := sorted(_NEEDED - stored.keys()):
        raise ValueError(f"metrics lacks {', '.join(missing)}.")
    intervals = {name: stored[name] for name in stored if name.endswith(_INTERVAL)}
    numbers = {name: stored[name] for name in stored if name not in intervals}
    read = built(_Metrics, {"metrics": numbers, "intervals": intervals})
    whole = {name: value for name, value in numbers.items() if isinstance(value, int)}
    ends = {name: list(pair) for name, pair in read.intervals.items()}
    return {name: ({**read.metrics} | ends | whole)[name] for name in stored}


def check_consistent(found: Any) -> None:
    """Refuse an `Audit`, whose module imports this one, that contradicts itself; says what does.

    Raises:
        ValueError: something does.
    """
    for holds, what in _facts(found):
        if not holds:
            raise ValueError(f"{what}.")


def _facts(found: Any) -> Iterator[tuple[bool, str]]:
    """What must hold, and what to say if it does not."""
    cells = found.cells and (*vars(found.cells).values(),)
    yield 0 <= found.n_labeled <= found.n > 0, f"{found.n_labeled} of {found.n} items cannot be labeled"
    yield not math.isnan(found.metrics["cie"]), "the number of mismatches is missing"
    yield bool(cells) == bool(found.n_labeled), "cells and n_labeled contradict each other"
    yield not cells or (sum(cells) == found.n_labeled and min(cells) >= 0), "the cells do not add up to n_labeled"
    names = range(len(found.label_names))
    yield all(row.label in names for row in found.per_class), "a row of per_class is of no class"
    answers = (answer for item in found.items for answer in (item.label, item.reference, item.candidate))
    yield all(answer is None or answer in names for answer in answers), "an item has the answer of no class"
    yield all(item.cell in CHANGES for item in found.items), f"an item's cell is none of {', '.join(CHANGES)}"
    often = found.frequencies
    yield len(often.reference) == len(often.candidate), "the frequencies are of different numbers of classes"
    if shift := found.calibration:
        before, after = shift.reference.bins, shift.candidate.bins
        yield len(before) == len(after), "the two models' calibration is in different numbers of bins"
        shares = [(one.n, share) for one in (*before, *after) for share in (one.confidence, one.accuracy)]
        yield (
            all(n == 0 or (n > 0 and 0 <= share <= 1) for n, share in shares),
            "a bin of the calibration lacks shares",
        )
