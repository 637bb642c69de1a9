"""Every rate of two models' answers, with how sure it is: its interval, and its bounds."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hf_compalign.labels import IGNORED
from hf_compalign.measure.statistics.clusters import rate_bounds, rate_interval
from hf_compalign.measure.statistics.comparison import paired, proportions
from hf_compalign.measure.statistics.intervals import exact_bounds, rate, wilson_interval
from hf_compalign.measure.statistics.rates import Array


@dataclass(frozen=True)
class Rate:
    """A rate k / n with its two-sided 95 % interval and its one-sided 95 % bounds, a lower and an upper one."""

    k: int
    n: int
    interval: tuple[float, float]
    bounds: tuple[float, float]

    @property
    def value(self) -> float:
        """k / n; nan without items."""
        return rate(self.k, self.n)


def rate_among(hits: ArrayLike, among: ArrayLike | None = None, examples: ArrayLike | None = None) -> Rate:
    """The rate of the hits among some items, by default all, bool [N] both, over ``examples`` [N] if items share them.

    >>> found = rate_among([True, False, False])
    >>> found.k, found.n, round(found.bounds[1], 4)
    (1, 3, 0.8646)
    """
    of = np.asarray(hits, dtype=bool)
    counted = np.ones_like(of) if among is None else np.asarray(among, dtype=bool)
    k, n = int((of & counted).sum()), int(counted.sum())
    return Rate(k, n, rate_interval(of, counted, examples), rate_bounds(of, counted, examples))


def rates_of(
    reference: ArrayLike, candidate: ArrayLike, labels: ArrayLike, *, examples: ArrayLike | None = None
) -> dict[str, Rate]:
    """All `proportions` with their intervals and bounds, over ``examples`` [N] where items share them.

    >>> from hf_compalign.measure.statistics import wilson_interval
    >>> found = rates_of([0, 1], [0, 0], [-100, 1])["mismatch_rate"]
    >>> found.k, found.n, found.interval == wilson_interval(1, 2)
    (1, 2, True)
    """
    if examples is None:
        counts = proportions(reference, candidate, labels)
        return {name: Rate(k, n, wilson_interval(k, n), _exact(k, n)) for name, (k, n) in counts.items()}
    masks = _masks(*paired(reference, candidate, labels))
    return {name: rate_among(hits, among, examples) for name, (hits, among) in masks.items()}


def _exact(k: int, n: int) -> tuple[float, float]:
    if not n:
        return math.nan, math.nan
    low, high = exact_bounds(k, n)
    return float(low), float(high)


def _masks(r: Array, c: Array, y: Array) -> dict[str, tuple[Array, Array]]:
    """The items that each of `proportions` counts, and those that it counts among, bool [N]."""
    known, right, still = y != IGNORED, r == y, c == y
    lost, gained, wrong = known & right & ~still, known & ~right & still, known & ~right & ~still
    return {
        "mismatch_rate": (r != c, np.ones_like(known)),
        "agreement": (r == c, np.ones_like(known)),
        "nfr": (lost, known),
        "pfr": (gained, known),
        "flip_rate": (lost | gained, known),
        "btc": (known & right & still, known & right),
        "bec": (wrong, known & ~still),
        "accuracy_reference": (known & right, known),
        "accuracy_candidate": (known & still, known),
    }
