"""Statistics of two rankings of the same rows, from the scores that order them."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ranked(scores: ArrayLike) -> NDArray[np.int64]:
    """The places of the scores [N] from the highest to the lowest; equal ones stay in the order they are given in.

    >>> ranked([0.5, 2.0, 0.5])
    array([1, 0, 2])
    """
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")


def kendall_tau(reference: ArrayLike, candidate: ArrayLike) -> float:
    """Kendall's tau-b of two scores [N] each: 1 for the same order, -1 for the reverse one.

    (pairs in the same order - pairs in another) / sqrt(pairs that the first does not tie x those that the second does
    not): https://doi.org/10.1093/biomet/33.3.239. It is nan where one of the two gives all rows the same score.

    >>> round(kendall_tau([1, 2, 3], [1, 3, 2]), 4)
    0.3333
    """
    from scipy import stats  # half a second, for this alone

    before, after = (np.asarray(scores, dtype=np.float64) for scores in (reference, candidate))
    if not (np.ptp(before) and np.ptp(after)):
        return math.nan
    return float(stats.kendalltau(before, after, variant="b").statistic)


def top_overlap(reference: ArrayLike, candidate: ArrayLike, *, top: int) -> float:
    """The share of the ``top`` highest of N scores that both rank there: https://doi.org/10.1137/S0895480102412856.

    It is nan where no more than ``top`` are ranked: these would be all the same in any order.

    >>> top_overlap([3, 2, 1], [1, 2, 3], top=2)
    0.5
    """
    before, after = (ranked(scores)[:top].tolist() for scores in (reference, candidate))
    return len({*before} & {*after}) / top if np.size(reference) > top else math.nan
