"""How alike two attributions of one item are: cosine, Spearman, top-k overlap, weighted Jaccard."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from hf_compalign.measure.attribution.record import SIMILARITIES
from hf_compalign.measure.statistics import top_overlap

Scores = NDArray[np.float64]


def cosine(a: ArrayLike, b: ArrayLike) -> float:
    """The cosine of the angle between two attributions, in [-1, 1]: sum a b / (|a| |b|); nan where one is all 0.

    >>> cosine([1.0, 0.0], [2.0, 0.0]), cosine([0.0, 1.0], [0.0, -3.0])
    (1.0, -1.0)

    Raises:
        ValueError: they are not two rows of the same length.
    """
    first, second = _both(a, b)
    if not (first.any() and second.any()):
        return math.nan
    first, second = _rescaled(first), _rescaled(second)
    # Rounding may leave the range by a hair.
    return float(np.clip(first @ second / math.sqrt((first @ first) * (second @ second)), -1.0, 1.0))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """The correlation of the ranks of two attributions [D], in [-1, 1]; ties share their mean rank.

    nan where one of them gives every part the same score.

    >>> spearman([0.1, 0.2, 0.9], [1.0, 2.0, 3.0])
    1.0

    Raises:
        ValueError: they are not two rows of the same length.
    """
    # The mean of the ranks 1 to D is (D + 1) / 2, with ties too.
    first, second = (rankdata(scores) - (len(scores) + 1) / 2 for scores in _both(a, b))
    return cosine(first, second)


def top_k_overlap(a: ArrayLike, b: ArrayLike, k: int = 5) -> float:
    """The share of the k parts with the largest absolute scores that both attributions [D] have in common.

    nan where an item has no more than k parts, as any two attributions of it overlap fully. Of equal scores the first
    count.

    >>> top_k_overlap([5.0, -4.0, 1.0, 0.0], [5.0, 0.0, 1.0, 4.0], k=2)
    0.5

    Raises:
        ValueError: they are not two rows of the same length, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"top_k must be at least 1. Got {k}.")
    return top_overlap(*map(np.abs, _both(a, b)), top=k)


def weighted_jaccard(a: ArrayLike, b: ArrayLike) -> float:
    """sum min(|a|, |b|) / sum max(|a|, |b|) of two attributions [D], in [0, 1]; nan where both are all 0.

    The scale of the scores matters, so give both the length 1, as `similarities` does.

    >>> weighted_jaccard([1.0, -1.0], [1.0, 3.0])
    0.5

    Raises:
        ValueError: they are not two rows of the same length.
    """
    first, second = map(np.abs, _both(a, b))
    most = np.maximum(first, second).sum()
    return float(np.minimum(first, second).sum() / most) if most > 0 else math.nan


def similarities(a: ArrayLike, b: ArrayLike, *, top_k: int = 5) -> dict[str, float]:
    """All `SIMILARITIES` of two attributions [D] of one item, each first scaled to length 1.

    All are nan where a score is not finite. The overlap compares the ``top_k`` largest absolute scores.

    >>> found = similarities([3.0, 4.0, 0.0], [3.0, 4.0, 0.0], top_k=2)
    >>> {name: round(value, 6) for name, value in found.items()}
    {'cosine': 1.0, 'spearman': 1.0, 'top_k_overlap': 1.0, 'weighted_jaccard': 1.0}

    Raises:
        ValueError: they are not two rows of the same length, or top_k is below 1.
    """
    raw = _both(a, b)
    if not np.isfinite(raw).all():
        return dict.fromkeys(SIMILARITIES, math.nan)
    first, second = map(_unit, raw)
    return {
        "cosine": cosine(first, second),
        "spearman": spearman(first, second),
        "top_k_overlap": top_k_overlap(first, second, top_k),
        "weighted_jaccard": weighted_jaccard(first, second),
    }


def _both(a: ArrayLike, b: ArrayLike) -> tuple[Scores, Scores]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            "Two attributions of an item must be two rows of equally many scores. Got the shapes "
            f"{list(first.shape)} and {list(second.shape)}. Explain both models on the same tokens or cells."
        )
    return first, second


def _unit(scores: Scores) -> Scores:
    """The scores scaled to length 1; all 0 stay 0."""
    return _rescaled(scores) / np.linalg.norm(_rescaled(scores)) if scores.any() else scores


def _rescaled(scores: Scores) -> Scores:
    """The scores over the largest of them, as the squares of very small ones would be 0."""
    largest = np.abs(scores).max(initial=0.0)
    return scores / largest if 0 < largest < math.inf else scores
