"""Each class against the rest: counts, selection and error rates, and how far these differ between groups."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_compalign.labels import IGNORED

Array = NDArray[Any]
CLASS_COUNTS = ("selected", "positives", "true_positives", "false_positives")
RATES = ("selection_rate", "tpr", "fpr")
# Each measure, and the rates it compares.
PARITY = {
    "demographic_parity_difference": ("selection_rate",),
    "demographic_parity_ratio": ("selection_rate",),
    "equal_opportunity_difference": ("tpr",),
    "equalized_odds_difference": ("tpr", "fpr"),
    "equalized_odds_ratio": ("tpr", "fpr"),
}


def class_counts(
    labels: Array, answered: Array, n_classes: int, *, groups: Array | None = None, n_groups: int = 1
) -> dict[str, NDArray[np.int64]]:
    """One model's answers [N] by group and class: name of `CLASS_COUNTS` -> items [G, C]."""
    known, right = labels != IGNORED, answered == labels
    parts = ((answered, np.ones_like(known)), (labels, known), (labels, right), (answered, known & ~right))
    start = np.zeros_like(labels) if groups is None else groups * n_classes
    return {
        name: np.bincount((start + of)[where], minlength=n_groups * n_classes).reshape(n_groups, n_classes)
        for name, (of, where) in zip(CLASS_COUNTS, parts, strict=True)
    }


def one_vs_rest(n: Array, n_labeled: Array, classes: Mapping[str, Array]) -> dict[str, NDArray[np.float64]]:
    """Each of `RATES` [G, C], from the groups' items [G], labeled items [G] and `CLASS_COUNTS` [G, C]."""
    out_of = rate_sizes(n, n_labeled, classes["positives"])
    numerators = ("selected", "true_positives", "false_positives")
    return {name: divided(classes[of], out_of[name]) for name, of in zip(RATES, numerators, strict=True)}


def rate_sizes(n: Array, n_labeled: Array, positives: Array) -> dict[str, Array]:
    """The denominators [G, C] of `RATES`, from the groups' items [G], labeled items [G] and positives [G, C]."""
    return {
        "selection_rate": np.broadcast_to(n[:, np.newaxis], positives.shape),
        "tpr": positives,
        "fpr": n_labeled[:, np.newaxis] - positives,
    }


def parity(
    rates: Mapping[str, Array], comparable: Mapping[str, NDArray[np.bool_]]
) -> dict[str, tuple[float, NDArray[np.float64]]]:
    """Each of `PARITY` for one model's `RATES` [G, C]: the worst of any class, and class by class [C].

    A difference is the largest rate - the smallest, a ratio the smallest / the largest, over the groups that are
    ``comparable`` [G, C] for the class; nan with fewer than two. Demographic parity compares selection rates, equal
    opportunity true positive rates. Equalized odds is the worse of the spreads of true and false positive rates.
    """
    spreads = {name: _spread(rates[name], comparable[name]) for name in RATES}
    found = {}
    for measure, needed in PARITY.items():
        is_ratio = measure.endswith("ratio")
        values = np.stack([spreads[name][is_ratio] for name in needed])
        by_class = values.min(axis=0) if is_ratio else values.max(axis=0)
        known = by_class[~np.isnan(by_class)]
        worst = math.nan if not known.size else float(known.min() if is_ratio else known.max())
        found[measure] = worst, by_class
    return found


def _spread(rates: Array, comparable: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The difference and the ratio of the extreme rates, [C] each."""
    high = np.where(comparable, rates, -np.inf).max(axis=0, initial=-np.inf)
    low = np.where(comparable, rates, np.inf).min(axis=0, initial=np.inf)
    enough = comparable.sum(axis=0) > 1
    high, low = np.where(enough, high, np.nan), np.where(enough, low, np.nan)
    return high - low, divided(low, high)


def divided(numerator: Array, denominator: Array) -> NDArray[np.float64]:
    """The quotient, in the numerator's shape; nan where the denominator is 0."""
    out = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) != 0)
