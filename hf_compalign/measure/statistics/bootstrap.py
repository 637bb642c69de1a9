"""Paired percentile bootstrap: draw items with replacement, and judge every model on the same draws.

`resampled_counts` serves statistics that count items, `resampled_sums` those that add up numbers; `estimate` makes an
interval of the results. All draws follow from the seed alone.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special

from hf_compalign.measure.statistics.blocks import each_block, row_blocks
from hf_compalign.measure.statistics.intervals import check_level

_RESAMPLES, _ITEMS = 64, 1024  # a thread's block: small enough for its cache
_FEW = 4096  # with at most so many items, each draw is made on its own


@dataclass(frozen=True)
class Estimate:
    """A value with its two-sided bootstrap interval; nan where there is nothing to estimate."""

    value: float
    low: float
    high: float


def estimate(value: float, draws: ArrayLike, *, level: float = 0.95) -> Estimate:
    """The value with the ends of the middle ``level`` of its resampled draws [R]; draws of nan do not count.

    A one-sided bound of 95 % is the end of a two-sided interval of 90 %: ``estimate(..., level=0.9).high``.

    >>> estimate(2.0, [1.0, 2.0, 3.0])
    Estimate(value=2.0, low=1.0, high=3.0)

    Raises:
        ValueError: the level is not in (0, 1).
    """
    check_level(level)
    found = np.asarray(draws, dtype=np.float64)
    found = found[~np.isnan(found)]
    if not found.size:
        return Estimate(float(value), math.nan, math.nan)
    # Interpolation between infinities would be nan, so each end is the outer one of two draws.
    low = np.quantile(found, (1 - level) / 2, method="lower")
    high = np.quantile(found, (1 + level) / 2, method="higher")
    return Estimate(float(value), float(low), float(high))


def resampled_counts(
    counts: ArrayLike, *, n_resamples: int = 1000, seed: int | tuple[int, ...] = 0
) -> NDArray[np.int64]:
    """Redraw the counts [K] of N items by kind: int64 [n_resamples, K], each row with the sum N.

    Where an item matters only through its kind, this is a draw of N items, at a cost that does not grow with N.

    >>> resampled_counts([3, 0], n_resamples=2)
    array([[3, 0],
           [3, 0]])

    Raises:
        ValueError: nothing to draw.
    """
    found = np.asarray(counts)
    n = int(found.sum())
    _check_drawable(n, n_resamples)
    return np.random.default_rng(seed).multinomial(n, found / n, size=n_resamples)


def resampled_sums(
    values: ArrayLike,
    cells: ArrayLike | None = None,
    *,
    n_cells: int = 1,
    n_resamples: int = 1000,
    seed: int | tuple[int, ...] = 0,
    examples: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Sums of the values [N, K] over N drawn items, by cell: float64 [n_resamples, n_cells, K].

    ``cells``, integers [N] in [0, n_cells), names each item's cell; by default there is one. All columns are summed
    over the same draws, so they are paired; a column of ones counts the drawn items. A sum that includes inf is inf.
    Where items share ``examples`` [N], as many of these are drawn as there are, with all their items.

    >>> resampled_sums([[2.0], [2.0]], n_resamples=3).ravel()
    array([4., 4., 4.])

    Raises:
        ValueError: nothing to draw, or a value that is nan or -inf.
    """
    columns = np.asarray(values, dtype=np.float64)
    n, n_columns = columns.shape
    _check_drawable(n, n_resamples)
    infinite = columns == math.inf
    if not np.isfinite(columns[~infinite]).all():
        raise ValueError("A sum over drawn items needs values that are finite or inf. Got nan or -inf among them.")
    # 0 times inf would be nan, so extra columns count the infinite values.
    split = [np.where(infinite, 0.0, columns), infinite] if infinite.any() else [columns]
    places = np.zeros(n, dtype=np.int64) if cells is None else np.asarray(cells, dtype=np.int64)
    if examples is not None:
        table = _by_example(np.column_stack(split), places, n_cells, np.asarray(examples))
        sums = resampled_examples(table, n_resamples=n_resamples, seed=seed).reshape(n_resamples, n_cells, -1)
        return _with_infinite(sums, n_columns) if infinite.any() else sums
    # With the items of a cell side by side, a sum over the cell is a product of matrices.
    order = np.argsort(places, kind="stable")
    items = _Items(np.column_stack([*split, np.ones(n)])[order], places[order], n_cells)
    # Each block has its own stream of random numbers, so the order of the threads does not matter.
    blocks = row_blocks(n_resamples, 1, block_size=_RESAMPLES)
    start = [seed] if isinstance(seed, int) else [*seed]
    drawn = each_block(lambda b: items.drawn(b.stop - b.start, np.random.default_rng([*start, b.start])), blocks)
    sums = np.concatenate(drawn)[..., :-1]
    return _with_infinite(sums, n_columns) if infinite.any() else sums


def resampled_examples(
    table: sparse.csr_array, *, n_resamples: int = 1000, seed: int | tuple[int, ...] = 0
) -> NDArray[np.float64]:
    """Sums of a table's rows [G, K], one for each example, over G drawn examples: float64 [n_resamples, K]."""
    n = table.shape[0]
    _check_drawable(n, n_resamples)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    return np.asarray((table.T @ drawn.T).T, dtype=np.float64)


def _by_example(
    values: NDArray[np.float64], cells: NDArray[np.int64], n_cells: int, examples: NDArray[Any]
) -> sparse.csr_array:
    """The sums of the values [N, K] by example and cell: [G, n_cells * K]."""
    _, rows = np.unique(examples, return_inverse=True)
    width = values.shape[1]
    columns = cells[:, np.newaxis] * width + np.arange(width)
    places = np.repeat(rows, width), columns.ravel()
    return sparse.coo_array((values.ravel(), places), shape=(int(rows.max()) + 1, n_cells * width)).tocsr()


def _with_infinite(sums: NDArray[np.float64], n_columns: int) -> NDArray[np.float64]:
    """The sums of the first columns, inf where the others count an infinite value."""
    return np.where(sums[..., n_columns:] > 0, math.inf, sums[..., :n_columns])


def mean_estimate(values: ArrayLike, *, n_resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of the values [N] with its interval; nan does not count, and inf makes the mean inf.

    >>> mean_estimate([3.0])
    Estimate(value=3.0, low=3.0, high=3.0)

    Raises:
        ValueError: the level is not in (0, 1), fewer than one resample, or a value of -inf.
    """
    check_level(level)
    found = np.asarray(values, dtype=np.float64)
    found = found[~np.isnan(found)]
    if not len(found):
        return Estimate(math.nan, math.nan, math.nan)
    # Deviations from the mean keep the digits that large values would cost.
    center = 0.0 if np.isinf(found.mean()) else found.mean()
    deviations = found - center
    draws = resampled_sums(deviations[:, np.newaxis], n_resamples=n_resamples, seed=seed)[:, 0, 0] / len(found)
    return estimate(deviations.mean() + center, draws + center, level=level)


@dataclass(frozen=True, eq=False)
class _Items:
    """Values [N, K] sorted by their cells [N]. The last column is ones."""

    values: NDArray[np.float64]
    cells: NDArray[np.int64]
    n_cells: int

    def drawn(self, n_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Sums over N draws with replacement: [n_resamples, n_cells, K].

        Independent Poisson counts, given their sum, are distributed like the counts of that many draws. So most of
        the N draws come from Poisson counts, which is fast, and the rest are made one by one.
        """
        n = len(self.values)
        sums = np.zeros((n_resamples, self.n_cells, self.values.shape[1]))
        if n > _FEW:
            # 6 standard deviations below N: the sum exceeds N once in 10^9 resamples.
            self._add_poisson(sums, 1 - 6 / math.sqrt(n), rng)
        missing = np.maximum(n - sums[:, :, -1].sum(axis=1), 0).astype(np.int64)
        for resample, n_missing in zip(sums, missing, strict=True):
            who = rng.integers(0, n, size=n_missing)
            where, values = self.cells[who], self.values[who]
            for column in range(values.shape[1]):
                resample[:, column] += np.bincount(where, weights=values[:, column], minlength=self.n_cells)
        return sums

    def _add_poisson(self, sums: NDArray[np.float64], mean: float, rng: np.random.Generator) -> None:
        """Add each item a Poisson number of times, with probabilities rounded to multiples of 1 / 65,536."""
        tails = [round(65536 * special.pdtrc(k, mean)) for k in range(8)]  # P(count > k)
        for block in row_blocks(len(self.values), 1, block_size=_ITEMS):
            values, cells = self.values[block], self.cells[block]
            words = rng.integers(0, 1 << 64, size=(len(sums), -(-len(values) // 4)), dtype=np.uint64)
            drawn = words.view(np.uint16)[:, : len(values)]
            counts = np.zeros(drawn.shape, dtype=np.uint8)
            for tail in tails:
                counts += drawn < tail
            times = counts.astype(np.float64)
            starts = np.flatnonzero(np.diff(cells, prepend=-1))
            for start, stop in zip(starts, [*starts[1:], len(cells)], strict=True):
                sums[:, cells[start]] += times[:, start:stop] @ values[start:stop]


def _check_drawable(n: int, n_resamples: int) -> None:
    if n < 1 or n_resamples < 1:
        raise ValueError(f"A bootstrap needs items and resamples. Got {n} and {n_resamples}.")
