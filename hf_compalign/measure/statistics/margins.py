"""The mismatch rate against how sure the reference was."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hf_compalign.measure.statistics.clusters import rate_interval
from hf_compalign.measure.statistics.comparison import paired
from hf_compalign.measure.statistics.intervals import rate, wilson_interval


@dataclass(frozen=True)
class MarginRow:
    """The ``n`` items with a margin in (low, high], in [low, high] for the first row.

    ``mismatch_rate_interval`` is the 95 % Wilson interval.
    """

    low: float
    high: float
    n: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]


def mismatches_by_margin(
    reference: ArrayLike,
    candidate: ArrayLike,
    margin: ArrayLike,
    *,
    n_bins: int = 10,
    examples: ArrayLike | None = None,
) -> tuple[MarginRow, ...]:
    """Mismatch rate of the predictions [N] by the reference's margin [N], the lowest margins first.

    The margin is the reference's largest probability minus its second (`ItemScores.reference_margin`). Each row has
    about N / n_bins items, or more where margins are equal. Without items there are no rows.

    >>> rows = mismatches_by_margin([0, 0, 0, 0], [1, 0, 0, 0], [0.1, 0.2, 0.8, 0.9], n_bins=2)
    >>> [(row.low, row.high, row.mismatches, row.n) for row in rows]
    [(0.1, 0.2, 1, 2), (0.2, 0.9, 0, 2)]

    Raises:
        ValueError: predictions that are not integers [N], margins of another length or nan, or fewer than 1 bin.
    """
    r, c = paired(reference, candidate)
    margins = np.asarray(margin, dtype=np.float64)
    if margins.shape != r.shape or np.isnan(margins).any():
        got = f"{np.isnan(margins).sum()} nan among shape {list(margins.shape)}"
        raise ValueError(f"margin must be one number for each of the {len(r)} items. Got {got}.")
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1. Got {n_bins}. 10 is usual.")
    if not len(r):
        return ()
    # Edges that are margins themselves leave no bin empty.
    edges = np.unique(np.quantile(margins, np.linspace(0, 1, n_bins + 1), method="inverted_cdf"))
    lows, highs = (edges[:-1], edges[1:]) if len(edges) > 1 else (edges, edges)
    bins = np.searchsorted(highs[:-1], margins, side="left")
    counts = np.bincount(bins, minlength=len(highs))
    mismatches = np.bincount(bins, weights=r != c, minlength=len(highs)).astype(np.int64)
    return tuple(
        MarginRow(
            low,
            high,
            n,
            k,
            rate(k, n),
            wilson_interval(k, n) if examples is None else rate_interval(r != c, bins == place, examples),
        )
        for place, (low, high, n, k) in enumerate(
            zip(lows.tolist(), highs.tolist(), counts.tolist(), mismatches.tolist(), strict=True)
        )
    )
