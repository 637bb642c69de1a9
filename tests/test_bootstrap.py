"""Bootstrap intervals, against scipy's and against draws of the items one by one."""

import math

import numpy as np
import pytest
import scipy.stats

from hf_compalign.measure.statistics import (
    Estimate,
    blocks,
    bootstrap,
    estimate,
    mean_estimate,
    resampled_counts,
    resampled_sums,
)

MANY = bootstrap._FEW + 1000  # so many that most of the draws are Poisson counts

pytestmark = pytest.mark.filterwarnings("error")


def ends(found):
    return found.low, found.high


def is_nan(found):
    return all(math.isnan(value) for value in (found.value, *ends(found)))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_an_estimate_has_the_percentiles_of_its_draws(level):
    draws = np.random.default_rng(0).normal(size=1001)
    found = estimate(0.5, draws, level=level)
    assert found.value == 0.5
    # Each end is one of the draws, so that beyond it are no more of them than the level allows.
    for beyond in (draws < found.low, draws > found.high):
        assert (1 - level) / 2 - 2 / 1001 <= beyond.mean() <= (1 - level) / 2
    assert {found.low, found.high} <= set(draws.tolist())


def test_draws_that_are_nan_or_infinite():
    assert estimate(1.0, [math.nan, 2.0, 2.0]) == Estimate(1.0, 2.0, 2.0)
    nothing = estimate(1.0, [math.nan])
    assert nothing.value == 1
    assert all(math.isnan(end) for end in ends(nothing))
    # Infinite ones are ends.
    assert estimate(1.0, [1.0, math.inf, math.inf]) == Estimate(1.0, 1.0, math.inf)


def test_a_level_in_percent_is_refused():
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\). Got 95. Did you mean 0.95"):
        estimate(0.0, [0.0], level=95)
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\). Got 0"):
        mean_estimate([], level=0)


def test_counts_are_drawn_as_items_are():
    counts = np.array([50, 30, 0, 20])
    draws = resampled_counts(counts, n_resamples=20_000)
    assert (draws.sum(axis=1) == 100).all()
    assert (draws[:, 2] == 0).all()
    law = scipy.stats.multinomial(100, counts / 100)
    np.testing.assert_allclose(draws.mean(axis=0), law.mean(), atol=0.15)
    np.testing.assert_allclose(np.cov(draws.T), law.cov(), atol=0.8)


@pytest.mark.parametrize("n", [40, MANY])
def test_each_item_is_drawn_as_often_as_a_binomial_law_says(n):
    n_resamples = 200
    drawn = resampled_sums(np.ones((n, 1)), np.arange(n), n_cells=n, n_resamples=n_resamples)[..., 0]
    assert (drawn.sum(axis=1) == n).all()
    seen = np.bincount(drawn.astype(int).ravel(), minlength=9)
    assert seen.sum() == n * n_resamples
    expected = scipy.stats.binom(n, 1 / n).pmf(np.arange(len(seen))) * seen.sum()
    # The counts of one resample add up to n, which makes them a little more even than independent ones.
    assert (np.abs(seen - expected) < 4.5 * np.sqrt(expected) + 3).all()


def test_no_item_and_no_resample_is_preferred():
    drawn = resampled_sums(np.ones((MANY, 1)), np.arange(MANY), n_cells=MANY, n_resamples=300)[..., 0]
    per_item = drawn.sum(axis=0)
    assert scipy.stats.chisquare(per_item).pvalue > 1e-4
    assert np.corrcoef(drawn[:5])[np.triu_indices(5, 1)] == pytest.approx(np.zeros(10), abs=0.06)


@pytest.mark.parametrize("n", [60, MANY])
def test_a_mean_has_the_interval_of_scipy(n):
    values = np.random.default_rng(1).exponential(size=n)
    found = mean_estimate(values, n_resamples=4000)
    expected = scipy.stats.bootstrap((values,), np.mean, n_resamples=4000, batch=100, method="percentile", rng=2)
    assert found.value == pytest.approx(values.mean())
    width = found.high - found.low
    assert ends(found) == pytest.approx(tuple(expected.confidence_interval), abs=0.06 * width)


@pytest.mark.parametrize("n", [60, MANY])
def test_sums_by_cell_are_sums_over_the_same_draws(n):
    rng = np.random.default_rng(3)
    values, cells = rng.integers(0, 100, size=(n, 2)).astype(float), rng.integers(0, 5, size=n)
    columns = np.column_stack([values, values[:, 0], np.ones(n), cells == 3])
    sums = resampled_sums(columns, cells, n_cells=7, n_resamples=70)
    assert sums.shape == (70, 7, 5)
    np.testing.assert_array_equal(sums[..., 0], sums[..., 2])  # equal columns are drawn alike
    assert (sums[..., 3].sum(axis=1) == n).all()
    np.testing.assert_array_equal(sums[:, 3, 4], sums[:, 3, 3])
    assert (sums[:, [0, 1, 2, 4], 4] == 0).all()
    assert (sums[:, 5:] == 0).all()  # empty cells
    means = sums[..., 0].sum(axis=0) / sums[..., 3].sum(axis=0).clip(1)
    expected = [values[cells == cell, 0].mean() for cell in range(5)]
    assert means[:5] == pytest.approx(expected, abs=6 * 30 / math.sqrt(70 * n / 5))


@pytest.mark.parametrize("n", [50, MANY])
def test_draws_follow_from_the_seed_alone(n, monkeypatch):
    values = np.random.default_rng(4).normal(size=(n, 2))
    first = resampled_sums(values, n_resamples=150, seed=1)
    monkeypatch.setattr(blocks, "_THREADS", 1)
    np.testing.assert_array_equal(resampled_sums(values, n_resamples=150, seed=1), first)
    assert (resampled_sums(values, n_resamples=150, seed=2) != first).all()
    # More resamples begin with the same ones.
    np.testing.assert_array_equal(resampled_sums(values, n_resamples=200, seed=1)[:128], first[:128])


@pytest.mark.parametrize("n", [1, 7, MANY])
def test_equal_values_leave_no_doubt(n):
    assert mean_estimate(np.full(n, 0.1)) == Estimate(0.1, 0.1, 0.1)


def test_large_values_lose_no_digits():
    values = np.array([0.0, 1e-3] * 50)
    near, far = mean_estimate(values), mean_estimate(values + 1e9)
    assert far.high - far.low == pytest.approx(near.high - near.low, rel=1e-3)


def test_nan_values_are_left_out():
    assert mean_estimate([math.nan, 2.0, math.nan]) == Estimate(2.0, 2.0, 2.0)
    values = np.random.default_rng(6).normal(size=100)
    with_gaps = np.concatenate([values[:50], [math.nan] * 5, values[50:]])
    assert mean_estimate(with_gaps) == mean_estimate(values)
    assert is_nan(mean_estimate([]))
    assert is_nan(mean_estimate([math.nan]))


@pytest.mark.parametrize("n", [20, MANY])
def test_an_infinite_value_makes_the_mean_infinite_where_it_is_drawn(n):
    infinite = mean_estimate([1.0] * (n - 1) + [math.inf])
    assert (infinite.value, infinite.high) == (math.inf, math.inf)
    assert infinite.low < 1.1  # a third of the draws miss it
    sums = resampled_sums(np.column_stack([[1.0] * (n - 1) + [math.inf], np.ones(n)]))
    assert (sums[..., 1] == n).all()


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_cannot_be_added_up_is_refused(value):
    with pytest.raises(ValueError, match="values that are finite or inf. Got nan or -inf among them"):
        resampled_sums([[value]])


def test_a_bootstrap_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"needs items and resamples. Got 0 and 1000"):
        resampled_counts([0, 0])
    with pytest.raises(ValueError, match=r"Got 0 and 1000"):
        resampled_sums(np.empty((0, 2)))
    with pytest.raises(ValueError, match=r"Got 3 and 0"):
        mean_estimate([1.0, 2.0, 3.0], n_resamples=0)
