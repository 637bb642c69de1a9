"""Two regressions side by side: how far the candidate's numbers moved, and how many beyond a tolerance."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from hf_compalign._formats import count, interval, number, percent
from hf_compalign.measure.predictions import Values
from hf_compalign.measure.statistics import (
    Array,
    Estimate,
    estimate,
    rate_among,
    resampled_sums,
    value_metrics,
)


@dataclass(frozen=True)
class ValueComparison:
    """How two models' numbers for the same items relate; ``print`` shows it.

    Attributes:
        n: items compared.
        n_examples: that they belong to, where examples have several; None where each item is one.
        tolerance: in the unit of the labels.
        mismatches: items whose two values lie further apart than the tolerance.
        mismatch_rate_interval: 95 %, Wilson's, or over examples that have several items.
        mismatch_rate_upper_bound: one-sided, 95 %; see `hf_compalign.measure.statistics.rate_bounds`.
        mean_shift: the mean of candidate - reference, with its 95 % bootstrap interval.
        rms_shift: the root of the mean square of candidate - reference.
        r2: the share of the reference's variance that the candidate keeps; 1 at equality.
        rmse_reference: root of the mean squared error against the labels, as ``rmse_candidate``; nan without labels.
        r2_reference: the share of the labels' variance that it explains, as ``r2_candidate``; nan without labels.
    """

    n: int
    n_examples: int | None
    tolerance: float
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    mismatch_rate_upper_bound: float
    mean_shift: Estimate
    rms_shift: float
    r2: float
    rmse_reference: float
    rmse_candidate: float
    r2_reference: float
    r2_candidate: float

    def __str__(self) -> str:
        shift, ends = self.mean_shift, interval((self.mean_shift.low, self.mean_shift.high), number)
        lines = [
            f"{count(self.mismatches)} of {count(self.n)} values moved by more than {self.tolerance:g}: "
            f"{percent(self.mismatch_rate)} ({interval(self.mismatch_rate_interval)}; at most "
            f"{percent(self.mismatch_rate_upper_bound)}).",
            f"Mean shift {number(shift.value)} ({ends}), root mean square {number(self.rms_shift)}, R2 "
            f"{number(self.r2)}.",
        ]
        if not math.isnan(self.rmse_reference):
            lines.append(f"Error against the labels: {number(self.rmse_reference)}, now {number(self.rmse_candidate)}.")
        return "\n".join(lines)


def compare_values(reference: Values, candidate: Values, *, tolerance: Any = None) -> ValueComparison:
    """Compare two models' numbers for the same items.

    A number changes with every compression, if only in its last digit. So a mismatch is a change beyond a tolerance,
    and only who uses the number knows what matters: half a star of a rating, say, or a degree.

    >>> found = compare_values(Values([1.0, 3.0], ["a", "b"]), Values([1.1, 4.0], ["a", "b"]), tolerance=0.5)
    >>> found.mismatches, round(found.mean_shift.value, 2)
    (1, 0.55)

    Args:
        reference: its values, as `hf_compalign.measure.predictions.predict_values` gives them.
        candidate: the values of the same items.
        tolerance: in the unit of the labels, at least 0.

    Raises:
        ValueError: the tolerance is missing, no number or negative; or other items, inputs or labels on the two sides.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 <= float(tolerance) < math.inf:
        raise ValueError(
            f"tolerance must be a number of at least 0, in the unit of the labels. Got {tolerance!r}. Say from which "
            "change on a value counts as another answer, such as tolerance=0.5."
        )
    moved = candidate.aligned_to(reference)
    shift, examples = moved.values - reference.values, reference.examples
    beyond = rate_among(np.abs(shift) > float(tolerance), examples=examples)
    found = value_metrics(reference.values, moved.values)
    labels = np.where(np.isnan(reference.labels), moved.labels, reference.labels)
    before, after = (_errors(one.values, labels) for one in (reference, moved))
    return ValueComparison(
        n=len(shift),
        n_examples=None if examples is None else len(np.unique(examples)),
        tolerance=float(tolerance),
        mismatches=beyond.k,
        mismatch_rate=beyond.value,
        mismatch_rate_interval=beyond.interval,
        mismatch_rate_upper_bound=beyond.bounds[1],
        mean_shift=_mean(shift, examples),
        rms_shift=found["rms_shift"],
        r2=found["r2"],
        rmse_reference=before["rms_shift"],
        rmse_candidate=after["rms_shift"],
        r2_reference=before["r2"],
        r2_candidate=after["r2"],
    )


def _errors(values: Array, labels: Array) -> dict[str, float]:
    known = ~np.isnan(labels)
    return value_metrics(labels[known], values[known]) if known.any() else {"rms_shift": math.nan, "r2": math.nan}


def _mean(shift: Array, examples: Array | None) -> Estimate:
    sums = resampled_sums(np.column_stack([shift, np.ones(len(shift))]), examples=examples)[:, 0]
    return estimate(float(shift.mean()), sums[:, 0] / sums[:, 1])
