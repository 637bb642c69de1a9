"""Statistics of two models that answered the same items with numbers: the regression."""

import math

import numpy as np
from numpy.typing import ArrayLike


def value_metrics(reference: ArrayLike, candidate: ArrayLike) -> dict[str, float]:
    """How far a candidate's values lie from the reference's, both [N], in their unit.

    ``mean_shift`` is the mean of candidate - reference, ``rms_shift`` the root of the mean square of it, and ``r2``
    the share of the reference's variance that the candidate keeps: 1 - sum (c - r)^2 / sum (r - mean r)^2, 1 at
    equality and nan where the reference gives one value to all.

    >>> value_metrics([1.0, 3.0], [1.0, 4.0])
    {'mean_shift': 0.5, 'rms_shift': 0.7071067811865476, 'r2': 0.5}
    """
    before, after = (np.asarray(values, dtype=np.float64) for values in (reference, candidate))
    shift, spread = after - before, ((before - before.mean()) ** 2).sum()
    return {
        "mean_shift": float(shift.mean()),
        "rms_shift": float(np.sqrt((shift**2).mean())),
        "r2": float(1 - (shift**2).sum() / spread) if spread else math.nan,
    }


def correlations(values: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Pearson's and Spearman's correlation of a regression's values [N] with the labels [N], over the labeled items.

    So GLUE scores STS-B: https://huggingface.co/papers/1804.07461. nan where values or labels are all the same.

    >>> {name: round(score, 3) for name, score in correlations([1, 2, 9], [1, 2, 3]).items()}
    {'pearson': 0.918, 'spearman': 1.0}
    """
    from scipy import stats  # half a second, for this alone

    found, truth = (np.asarray(numbers, dtype=np.float64) for numbers in (values, labels))
    known = ~np.isnan(truth)
    found, truth = found[known], truth[known]
    if not known.any() or not (np.ptp(found) and np.ptp(truth)):
        return {"pearson": math.nan, "spearman": math.nan}
    return {
        "pearson": float(stats.pearsonr(found, truth).statistic),
        "spearman": float(stats.spearmanr(found, truth).statistic),
    }
