"""Rates of items that share examples, such as the tokens of a text: intervals and bounds over examples.

The items of one example are alike: a text that a model misreads is misread in several places. So N items of G examples
say less than N items of N examples, and intervals that take them for independent are too narrow.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_compalign.measure.statistics.bootstrap import estimate, resampled_counts
from hf_compalign.measure.statistics.intervals import check_level, exact_bounds, rate, wilson_interval

# The bets of `cluster_bound`: shares of the largest possible one, and how much is put on each.
_SHARES = 0.5 ** np.arange(12)
_LOG_WEIGHTS = -np.log((np.arange(12) + 1) * (np.arange(12) + 2))
_HALVINGS = 40


def cluster_bound(hits: ArrayLike, sizes: ArrayLike, level: float = 0.95) -> float:
    """One-sided upper bound of the rate of items in examples with ``hits`` of ``sizes`` items each, [G].

    Valid for any number of examples and whatever the items of one have to do with each other, if the examples are
    independent: given their sizes m_i, the bound is below the true rate p = sum E[k_i] / sum m_i in at most 1 - level
    of all samples. It is the largest p for which sum_j w_j prod_i (1 + b_j (p m_i - k_i)) < 1 / (1 - level), over
    bets b_j = 2^-j / (max m (1 - p)) with weights w_j whose sum is at most 1. Why: no factor is negative. At the true
    p the factors' means are on average 1, so the product of these means is at most 1 (geometric mean <= arithmetic
    mean), and by Markov's inequality the sum reaches 1 / (1 - level) with a probability of at most 1 - level. These
    are the bets of https://huggingface.co/papers/2010.09686, fixed in advance. The order of the examples does not
    matter. Where all are right it is about 3.7 times the items of the largest example, out of all items.

    >>> round(cluster_bound([0] * 200, [1] * 200), 4), round(cluster_bound([0] * 200, [5] * 200), 4)
    (0.0179, 0.0179)

    Raises:
        ValueError: not 0 <= hits <= sizes, no items, or the level is not in (0, 1).
    """
    check_level(level)
    k, m = (np.asarray(counts, dtype=np.float64) for counts in (hits, sizes))
    if k.shape != m.shape or k.ndim != 1 or not ((k >= 0) & (k <= m)).all() or not m.sum():
        raise ValueError("Hits must be between 0 and the size, both [G], of examples that have items together.")
    pairs, n = np.unique(np.stack([k, m])[:, m > 0], axis=1, return_counts=True)
    low, high = rate(k.sum(), m.sum()), 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_capital(middle, pairs, n) < -math.log1p(-level) else (low, middle)
    return float(high)


def one_of_each(order: NDArray[np.int64], examples: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first item of each example, of items in some order; ``examples`` [N] says which one an item is of.

    >>> one_of_each(np.array([3, 0, 2, 1]), np.array([7, 7, 8, 8])).tolist()
    [3, 0]
    """
    return order[np.sort(np.unique(examples[order], return_index=True)[1])]


def examples_needed(n: int, shown: float, wanted: float, *, observed: float = 0.0) -> float:
    """About how many examples without a hit show a `cluster_bound` as low as ``wanted``, if n of such sizes show one.

    The first of its bets decides then, so that n log(1 - bound) is the same for any n. Where a rate was ``observed``,
    the bound comes closer to that with the root of n. inf where no number of them does.

    >>> examples_needed(200, cluster_bound([0] * 200, [5] * 200), wanted=0.01)
    360
    >>> cluster_bound([0] * 360, [5] * 360) <= 0.01 < cluster_bound([0] * 359, [5] * 359)
    True
    """
    if not observed < wanted < 1:
        return 1 if wanted >= 1 else math.inf
    if observed:
        return math.ceil(round(n * ((shown - observed) / (wanted - observed)) ** 2, 6))
    return math.ceil(round(n * math.log1p(-shown) / math.log1p(-wanted), 6))


def _log_capital(p: float, pairs: NDArray[np.float64], n: NDArray[np.int64]) -> float:
    """The logarithm of the weighted sum of products; it grows with p."""
    k, m = pairs
    largest = 1 / (m.max() * (1 - p)) if p < 1 else math.inf
    if math.isinf(largest):
        return math.inf
    factors = 1 + np.outer(_SHARES * largest, p * m - k)
    with np.errstate(divide="ignore"):  # a factor of 0: that bet is lost
        return float(np.logaddexp.reduce(_LOG_WEIGHTS + np.log(factors.clip(min=0.0)) @ n))


def rate_bounds(hits: ArrayLike, counted: ArrayLike, examples: ArrayLike | None = None) -> tuple[float, float]:
    """One-sided 95 % lower and upper bounds of the rate of hits among the counted items, bool [N] both.

    ``examples`` [N] says which items belong together: then the upper bound is `cluster_bound`, and the lower one that
    of the items that are no hits. Items that share none have Clopper-Pearson bounds. (nan, nan) without items.

    >>> low, high = rate_bounds([True] + [False] * 9, [True] * 10)
    >>> round(low, 4), round(high, 4)
    (0.0051, 0.3942)
    """
    return example_bounds(*_by_example(hits, counted, examples))


def example_bounds(hits: ArrayLike, sizes: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """`rate_bounds` from the hits among each example's items, int [G] both."""
    k, m = np.asarray(hits), np.asarray(sizes)
    if not m.sum():
        return math.nan, math.nan
    if m.max() <= 1:
        low, high = exact_bounds(k.sum(), m.sum(), level)
        return float(low), float(high)
    return 1 - cluster_bound(m - k, m, level), cluster_bound(k, m, level)


def rate_interval(hits: ArrayLike, counted: ArrayLike, examples: ArrayLike | None = None) -> tuple[float, float]:
    """Two-sided 95 % interval of the rate of hits among the counted items, bool [N] both; (nan, nan) without items.

    For items that share ``examples`` [N] it is a percentile bootstrap of examples, and where all examples have one
    rate, which every resample would have too, the bounds of `rate_bounds` at 97.5 % each. Other items have a Wilson
    interval.

    >>> rate_interval([True, False], [True, True]) == wilson_interval(1, 2)
    True
    """
    return example_interval(*_by_example(hits, counted, examples))


def example_interval(hits: ArrayLike, sizes: ArrayLike) -> tuple[float, float]:
    """`rate_interval` from the hits among each example's items, int [G] both."""
    k, m = np.asarray(hits), np.asarray(sizes)
    k, m = k[m > 0], m[m > 0]
    if not len(m) or m.max() <= 1:
        return wilson_interval(int(k.sum()), int(m.sum()))
    if (k * m.sum() == m * k.sum()).all():
        return example_bounds(k, m, level=0.975)
    # An example matters only through its two counts.
    pairs, counts = np.unique(np.stack([k, m]), axis=1, return_counts=True)
    drawn = resampled_counts(counts)
    found = estimate(rate(float(k.sum()), int(m.sum())), (drawn @ pairs[0]) / (drawn @ pairs[1]))
    return found.low, found.high


def _by_example(
    hits: ArrayLike, counted: ArrayLike, examples: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The hits and the counted items of each example that has any, int64 [G]."""
    among = np.asarray(counted, dtype=bool)
    of = np.arange(len(among)) if examples is None else np.asarray(examples)
    _, places = np.unique(of[among], return_inverse=True)
    k = np.bincount(places, weights=np.asarray(hits, dtype=bool)[among]).astype(np.int64)
    return k, np.bincount(places).astype(np.int64)
