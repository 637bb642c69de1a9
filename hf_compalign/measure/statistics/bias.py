"""How the error rates of each class changed: CEV and SDE."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hf_compalign.labels import IGNORED
from hf_compalign.measure.statistics.comparison import check_classes, paired
from hf_compalign.measure.statistics.rates import Array, class_counts, divided


@dataclass(frozen=True)
class ClassBiasRow:
    """One class against the rest: its rates in [0, 1], and their changes in percent of the reference's rate.

    ``fpr`` is the share of the other classes' items that get this class, ``fnr`` the share of this class's items
    that do not. The change is nan where the reference's rate is 0 or undefined.
    """

    label: int
    fpr_reference: float
    fpr_candidate: float
    fpr_change: float
    fnr_reference: float
    fnr_candidate: float
    fnr_change: float


@dataclass(frozen=True)
class ClassBias:
    """The classes, and two numbers for how unequally they changed, both nan without a class.

    ``cev`` is the combined error variance in percent squared, ``sde`` the symmetric distance error in percent. They
    leave out ``n_skipped`` classes, since one of their changes is undefined.
    """

    rows: tuple[ClassBiasRow, ...]
    cev: float
    sde: float
    n_skipped: int


def class_bias(reference: ArrayLike, candidate: ArrayLike, labels: ArrayLike, n_classes: int) -> ClassBias:
    """Change of the false positive and false negative rate of each class, over the labeled items of [N].

    dFPR_k = 100 (FPR_k candidate - FPR_k reference) / FPR_k reference, dFNR_k alike. Over the K classes where both
    are defined: CEV = sum_k [(dFPR_k - mean dFPR)^2 + (dFNR_k - mean dFNR)^2] / 2K, how unequal the classes' changes
    are, and SDE = sum_k |dFPR_k - dFNR_k| / (sqrt(2) K), how far classes move toward errors of one kind. Both are 0
    when no rate changes. See https://huggingface.co/papers/2106.07849. Implementations differ by constant factors:
    compare only numbers from the same one.

    >>> found = class_bias([0, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1], 2)
    >>> [row.fpr_change for row in found.rows], [row.fnr_change for row in found.rows]
    ([0.0, 100.0], [100.0, 0.0])
    >>> found.cev, round(found.sde, 2)
    (2500.0, 70.71)

    Raises:
        ValueError: not integers of one shape [N], or not in [0, n_classes); a label may also be -100.
    """
    r, c, y = paired(reference, candidate, labels)
    known = y != IGNORED
    r, c, y = r[known], c[known], y[known]
    check_classes(n_classes, reference=r, candidate=c, labels=y)
    before, after = _error_rates(r, y, n_classes), _error_rates(c, y, n_classes)
    changes = 100 * divided(after - before, before)
    columns = np.stack([before, after, changes], axis=1).reshape(6, n_classes)  # as in ClassBiasRow
    rows = tuple(ClassBiasRow(label, *values) for label, values in enumerate(columns.T.tolist()))
    defined = changes[:, ~np.isnan(changes).any(axis=0)]
    if not defined.size:
        return ClassBias(rows, math.nan, math.nan, n_classes)
    cev, sde = defined.var(axis=1).mean(), np.abs(defined[0] - defined[1]).mean() / math.sqrt(2)
    return ClassBias(rows, float(cev), float(sde), n_skipped=n_classes - defined.shape[1])


def _error_rates(predicted: Array, labels: Array, n_classes: int) -> Array:
    """FPR and FNR of each class against the rest: [2, n_classes], nan without a denominator."""
    counts = {name: of_one[0] for name, of_one in class_counts(labels, predicted, n_classes).items()}
    positives = counts["positives"]
    errors = np.stack([counts["false_positives"], positives - counts["true_positives"]])
    return divided(errors, np.stack([len(labels) - positives, positives]))
