"""Probabilities of both models as a user gives them to a metric: checked, and compared."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_compalign.measure.statistics import js_distance, kl_divergence

_Floats = NDArray[np.float64]


def probability_pair(teacher: ArrayLike, student: ArrayLike, *, n: int) -> tuple[_Floats, _Floats]:
    """Both models' probabilities of n examples, float64 [n, C] each; a ValueError if they are not."""
    p, q = _probabilities("teacher_probabilities", teacher, n), _probabilities("probabilities", student, n)
    check_same_classes(p, q)
    return p, q


def table_of(name: str, values: ArrayLike, *, n: int) -> _Floats:
    """The values as float64 [n, C]; a ValueError if they are not, or one is NaN."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except ValueError as error:
        raise ValueError(
            f"{name} must have as many classes in each of their rows. Got rows of different lengths, or no numbers."
        ) from error
    if found.ndim != 2 or len(found) != n:
        raise ValueError(f"{name} must be {n} rows, one per example. Got shape {list(found.shape)}.")
    broken = np.isnan(found).any(axis=1)
    if broken.any():
        raise ValueError(
            f"{name} must be numbers. {broken.sum()} of {n} rows have NaN, the first is row {broken.argmax()}. "
            "Check the model's weights and precision."
        )
    return found


def check_same_classes(teacher: _Floats, student: _Floats) -> None:
    """Raise a ValueError unless both have the same number of columns."""
    if teacher.shape != student.shape:
        raise ValueError(
            f"Both models must answer over the same classes. Got {teacher.shape[1]} of the teacher and "
            f"{student.shape[1]} of the student."
        )


def _probabilities(name: str, given: ArrayLike, n: int) -> _Floats:
    values = table_of(name, given, n=n)
    sums = values.sum(axis=1)
    # Half precision leaves up to a thousandth.
    wrong = (values < 0).any(axis=1) | (np.abs(sums - 1) > 1e-3)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"The rows of {name} must not be negative and sum to 1. Row {row} sums to {sums[row]:g}, its smallest is "
            f"{values[row].min(initial=np.inf):g}. Take the softmax of logits first."
        )
    return values


def log_probabilities(probabilities: _Floats) -> _Floats:
    """Logits with these probabilities: -inf for a probability of 0."""
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def divergences(p: _Floats, q: _Floats) -> dict[str, float]:
    """Means over the examples: ``kl``, ``js_distance`` and ``probability_loyalty``; nan without examples."""
    if not len(p):
        return dict.fromkeys(("kl", "js_distance", "probability_loyalty"), float("nan"))
    kl, distance = kl_divergence(log_probabilities(p), log_probabilities(q)), js_distance(p, q)
    means = {"kl": float(kl.mean()), "js_distance": float(distance.mean())}
    return means | {"probability_loyalty": 1 - means["js_distance"]}
