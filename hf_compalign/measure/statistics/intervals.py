"""Intervals and upper bounds of a rate, what they need, the test of a change, and the correction for many tests."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special


def rate(k: float, n: int) -> float:
    """k / n; nan where n is 0.

    >>> rate(1, 4), rate(0, 0)
    (0.25, nan)
    """
    return k / n if n else math.nan


def wilson_interval(k: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Two-sided Wilson score interval of the proportion k / n; (nan, nan) for n = 0.

    (k + z^2/2 +- z sqrt(k (n - k) / n + z^2/4)) / (n + z^2)

    >>> wilson_interval(0, 100)
    (0.0, 0.03699349820698568)

    Raises:
        ValueError: not 0 <= k <= n, or the level is not in (0, 1).
    """
    _check(k, n, level)
    if n == 0:
        return math.nan, math.nan
    z = float(special.ndtri((1 + level) / 2))
    middle = k + z**2 / 2
    half = z * math.sqrt(k * (n - k) / n + z**2 / 4)
    # At k = 0 and k = n the ends are exactly 0 and 1, but for rounding.
    low = 0.0 if k == 0 else (middle - half) / (n + z**2)
    high = 1.0 if k == n else (middle + half) / (n + z**2)
    return low, high


def upper_bound(k: int, n: int, level: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound of the proportion k / n; nan for n = 0.

    At this rate, k or fewer out of n have probability 1 - level. So "the rate is below this" is wrong in at most
    1 - level of all samples, for any true rate and any n.

    >>> round(upper_bound(0, 100), 4)  # about 3 / n
    0.0295

    Raises:
        ValueError: not 0 <= k <= n, or the level is not in (0, 1).
    """
    _check(k, n, level)
    if n == 0:
        return math.nan
    return float(exact_bounds(k, n, level)[1])


def exact_bounds(k: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One-sided Clopper-Pearson lower and upper bounds of proportions k / n [...]; 0 and 1 for n = 0.

    >>> low, high = exact_bounds([0, 5], [10, 10])
    >>> low.round(4), high.round(4)
    (array([0.    , 0.2224]), array([0.2589, 0.7776]))

    Raises:
        ValueError: the level is not in (0, 1).
    """
    check_level(level)
    hits, misses = np.asarray(k), np.asarray(n) - np.asarray(k)
    with np.errstate(invalid="ignore"):
        low = np.where(hits > 0, special.betaincinv(np.maximum(hits, 1), misses + 1, 1 - level), 0.0)
        high = np.where(misses > 0, special.betaincinv(hits + 1, np.maximum(misses, 1), level), 1.0)
    return low, high


def items_needed(limit: float, rate: float = 0.0, level: float = 0.95) -> float:
    """About how many items show that a rate is within the limit, if the rate stays as it is.

    >>> items_needed(0.01), items_needed(0.01, rate=0.005), items_needed(0.0)
    (299, 1441, inf)

    Args:
        limit: on the one-sided `upper_bound`.
        rate: the share of items that count, such as mismatches.
        level: of the bound.
    """
    if not rate < limit:
        return math.inf
    if limit >= 1:
        return 1
    below, n = 0, 1
    while upper_bound(math.ceil(rate * n), n, level) > limit:
        below, n = n, 2 * n
    while n - below > 1:
        middle = (below + n) // 2
        kept = upper_bound(math.ceil(rate * middle), middle, level) <= limit
        below, n = (below, middle) if kept else (middle, n)
    return n


def most_within(limit: float, n: int, level: float = 0.95) -> int:
    """The largest k of n items whose `upper_bound` is within the limit; -1 if not even that of 0 is.

    >>> most_within(0.01, 872), most_within(0.01, 200)
    (3, -1)
    """
    # No bound is below the proportion itself, and the bounds rise with k.
    kept, beyond = -1, int(limit * n) + 1
    while beyond - kept > 1:
        k = (kept + beyond) // 2
        kept, beyond = (k, beyond) if exact_bounds(k, n, level)[1] <= limit else (kept, k)
    return kept


def count_ratio_interval(first: int, second: int, level: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of the ratio of two rates from the counts of rare events; (0, inf) of two zeros.

    Given the sum of two Poisson counts, the first is binomial with p = ratio / (1 + ratio); Clopper-Pearson bounds p.
    So a count of 0 has an interval too. Where both counts share items the ratio varies less, and this is wide.

    >>> count_ratio_interval(0, 0)
    (0.0, inf)
    >>> low, high = count_ratio_interval(20, 0)
    >>> round(low, 2), high
    (4.94, inf)

    Raises:
        ValueError: a count is negative, or the level is not in (0, 1).
    """
    check_level(level)
    if min(first, second) < 0:
        raise ValueError(f"Counts cannot be negative. Got {first} and {second}.")
    low, high = (float(end) for end in exact_bounds(first, first + second, (1 + level) / 2))
    return low / (1 - low), high / (1 - high) if high < 1 else math.inf


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided McNemar p-value of equal *accuracy*; 1.0 when nothing flipped.

    As many items lost as gained give p = 1, however many they are. So this never shows that two models answer alike;
    `upper_bound` of the mismatches does.

    >>> mcnemar(10, 10), mcnemar(0, 0), mcnemar(8, 1)
    (1.0, 1.0, 0.0390625)
    """
    if min(lost, gained) < 0:
        raise ValueError(f"lost and gained are counts and cannot be negative. Got {lost} and {gained}.")
    return min(1.0, 2 * float(special.bdtr(min(lost, gained), lost + gained, 0.5)))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjustment of the p-values [M] of M tests of one question: float64 [M], in the order given.

    With the p-values sorted, adjusted_i = max over j <= i of min(1, (M - j + 1) p_j). If one rejects those up to 0.05,
    at most 5 % of all samples have any wrong rejection, however the tests depend on each other. A nan is no test: it
    stays nan and does not count in M.

    >>> holm([0.01, 0.04, float("nan"), 0.03])
    array([0.03, 0.06,  nan, 0.06])

    Raises:
        ValueError: not one row of numbers in [0, 1].
    """
    p = _checked_p_values(p_values)
    tested = ~np.isnan(p)
    order = np.argsort(p[tested])
    remaining = np.arange(len(order), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[np.flatnonzero(tested)[order]] = np.maximum.accumulate(np.minimum(remaining * p[tested][order], 1.0))
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Benjamini and Hochberg's adjustment of the p-values [M] of M tests: float64 [M], in the order given.

    With the p-values sorted, adjusted_i = min over j >= i of min(1, M p_j / j). If one rejects those up to 0.05, on
    average at most 5 % of the rejections are wrong (https://doi.org/10.1111/j.2517-6161.1995.tb02031.x), for tests that
    are independent or depend on each other positively.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    array([0.03, 0.04, 0.04])

    Raises:
        ValueError: not one row of numbers in [0, 1].
    """
    from scipy import stats  # half a second, for this alone

    return np.asarray(stats.false_discovery_control(_checked_p_values(p_values), method="bh"))


def excess_p_value(k: ArrayLike, n: ArrayLike, total: int, n_all: int) -> NDArray[np.float64]:
    """Fisher's exact test, one-sided: do more of these n items count than of the others? float64 [...].

    P(K >= k) of the hypergeometric K: as many or more among n items drawn from n_all, of which ``total`` count.

    >>> excess_p_value([3, 0], [3, 3], total=3, n_all=6)
    array([0.05, 1.  ])

    Args:
        k: items that count among the n, [...].
        n: items in question, [...].
        total: items that count among all.
        n_all: all items.
    """
    from scipy import stats  # half a second, for this alone

    found = stats.hypergeom.sf(np.asarray(k) - 1, n_all, total, np.asarray(n))
    return np.asarray(found, dtype=np.float64)


def check_level(level: float) -> None:
    """Raise a ValueError unless a confidence level is in (0, 1)."""
    if not 0 < level < 1:
        hint = f" Did you mean {level / 100:g}?" if 1 < level < 100 else ""
        raise ValueError(f"level must be in (0, 1). Got {level}.{hint}")


def _checked_p_values(p_values: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    known = p[~np.isnan(p)]
    if p.ndim != 1 or not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"p-values must be one row of numbers in [0, 1], nan where there is none. Got {p.tolist()}.")
    return p


def _check(k: float, n: int, level: float) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"A proportion k / n needs 0 <= k <= n. Got k = {k} and n = {n}.")
    check_level(level)
