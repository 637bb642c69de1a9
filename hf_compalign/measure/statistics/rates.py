"""Each class against the rest: counts, selection and error rates, and how far these lie apart between groups."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_compalign.labels import IGNORED

Array = NDArray[Any]
CLASS_COUNTS = ("selected", "positives", "true_positives", "false_positives")
RATES = ("selection_rate", "tpr", "fpr")
# The measures, and which rates they are of.
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
    """One model's answers by class: name of `CLASS_COUNTS` -> items [G, C].

    Args:
        labels: int [N], -100 where unknown.
        answered: int [N].
        n_classes: C.
        groups: the number of each item's group, int [N]; by default all are in the first.
        n_groups: G.
    """
    known, right = labels != IGNORED, answered == labels
    parts: Mapping[str, tuple[Array, Array]] = {
        "selected": (answered, np.ones_like(known)),
        "positives": (labels, known),
        "true_positives": (labels, right),
        "false_positives": (answered, known & ~right),
    }
    start = np.zeros_like(labels) if groups is None else groups * n_classes
    return {
        name: np.bincount((start + of)[where], minlength=n_groups * n_classes).reshape(n_groups, n_classes)
        for name, (of, where) in ((name, parts[name]) for name in CLASS_COUNTS)
    }


def one_vs_rest(n: Array, n_labelled: Array, classes: Mapping[str, Array]) -> dict[str, NDArray[np.float64]]:
    """Each of `RATES`, [G, C], nan where it is out of nothing.

    Args:
        n: items of each group, [G].
        n_labelled: those of them with a label, [G].
        classes: one model's `CLASS_COUNTS`, [G, C] each.
    """
    out_of = rate_sizes(n, n_labelled, classes["positives"])
    numerators = ("selected", "true_positives", "false_positives")
    return {name: divided(classes[of], out_of[name]) for name, of in zip(RATES, numerators, strict=True)}


def rate_sizes(n: Array, n_labelled: Array, positives: Array) -> dict[str, Array]:
    """How many items each of `RATES` is out of, [G, C]; of the groups' items [G] and their positives [G, C]."""
    return {
        "selection_rate": np.broadcast_to(n[:, np.newaxis], positives.shape),
        "tpr": positives,
        "fpr": n_labelled[:, np.newaxis] - positives,
    }


def parity(
    rates: Mapping[str, Array], comparable: Mapping[str, NDArray[np.bool_]]
) -> dict[str, tuple[float, NDArray[np.float64]]]:
    """Each of `PARITY` of one model's `RATES` [G, C]: the worst of any class, and class by class [C].

    A difference is the largest rate - the smallest, a ratio the smallest / the largest, over the groups of which the
    rate of the class may be compared (True in ``comparable``, [G, C]); nan with fewer than two. Demographic parity
    is of the selection rate, equal opportunity of the true positive rate, and equalized odds is the worse of that
    and of the false positive rate.
    """
    differences, ratios = {}, {}
    for name in RATES:
        differences[name], ratios[name] = _spread(rates[name], comparable[name])
    found = {}
    for measure, needed in PARITY.items():
        is_ratio = measure.endswith("ratio")
        spreads = np.stack([(ratios if is_ratio else differences)[name] for name in needed])
        by_class = spreads.min(axis=0) if is_ratio else spreads.max(axis=0)
        known = by_class[~np.isnan(by_class)]
        worst = math.nan if not known.size else float(known.min() if is_ratio else known.max())
        found[measure] = worst, by_class
    return found


def _spread(rates: Array, comparable: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    high = np.where(comparable, rates, -np.inf).max(axis=0, initial=-np.inf)
    low = np.where(comparable, rates, np.inf).min(axis=0, initial=np.inf)
    enough = comparable.sum(axis=0) > 1
    high, low = np.where(enough, high, np.nan), np.where(enough, low, np.nan)
    return high - low, divided(low, high)


def divided(numerator: Array, denominator: Array) -> NDArray[np.float64]:
    """The quotient, of the numerator's shape; nan where the denominator is 0."""
    out = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) != 0)
