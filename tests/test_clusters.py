"""Rates of items that share examples: what their bounds promise, and what they become where nothing is shared."""

import math

import numpy as np
import pytest
from scipy import sparse

from hf_compalign.measure.statistics import (
    cluster_bound,
    exact_bounds,
    examples_needed,
    rate_bounds,
    rate_interval,
    upper_bound,
    wilson_interval,
)
from hf_compalign.measure.statistics.bootstrap import resampled_examples

ALIKE = {"apart": 0.0, "half alike": 0.5, "wholly alike": 1.0}


def drawn(rng, n_examples, rate, alike, *, largest=8):
    """Hits and sizes of examples: with the probability `alike` all items of an example are one draw."""
    sizes = rng.integers(1, largest + 1, n_examples)
    each, whole = rng.binomial(sizes, rate), sizes * (rng.random(n_examples) < rate)
    return np.where(rng.random(n_examples) < alike, whole, each), sizes


@pytest.mark.parametrize("alike", ALIKE.values(), ids=ALIKE)
@pytest.mark.parametrize(("n_examples", "rate"), [(30, 0.05), (200, 0.01), (200, 0.3)])
def test_the_bounds_hold_in_95_of_100_samples(n_examples, rate, alike):
    """However the items of an example hang together; and where they do, bounds that ignore it do not."""
    rng = np.random.default_rng(0)
    samples = [drawn(rng, n_examples, rate, alike) for _ in range(60)]
    missed = sum(cluster_bound(k, m) < rate for k, m in samples)
    missed_below = sum(1 - cluster_bound(m - k, m) > rate for k, m in samples)
    # More of 60 would be missed with a probability below 1 % if 5 % are missed on average.
    assert max(missed, missed_below) <= 8
    ignoring = sum(upper_bound(int(k.sum()), int(m.sum())) < rate for k, m in samples)
    assert alike == ALIKE["half alike"] or (ignoring > 8) == (alike > 0)


def test_the_worst_case_is_covered_too():
    """All hits of the largest examples, whole examples at a time."""
    rng = np.random.default_rng(1)
    sizes = np.array([1] * 150 + [20] * 50)
    missed = 0
    for _ in range(60):
        hits = np.where((sizes == 20) & (rng.random(200) < 0.02), 20, 0)
        missed += cluster_bound(hits, sizes) < 0.02 * 1000 / 1150
    assert missed <= 8


def test_the_bound_is_monotone_and_within_its_price():
    none = cluster_bound([0] * 100, [10] * 100)
    assert none == pytest.approx(3.7 * 10 / 1000, rel=0.05)
    bounds = [cluster_bound([k] + [0] * 99, [10] * 100) for k in range(11)]
    assert bounds == sorted(bounds)
    assert cluster_bound([10] * 5, [10] * 5) == 1
    many = cluster_bound(np.tile([0, 0, 1, 0], 25_000), np.full(100_000, 4))
    assert 0.0625 < many < 0.066
    assert cluster_bound([0] * 9, [1] * 9, level=0.99) > cluster_bound([0] * 9, [1] * 9)


def test_items_that_share_nothing_have_the_exact_bounds_and_wilsons_interval():
    rng = np.random.default_rng(2)
    hits, counted = rng.random(60) < 0.2, rng.random(60) < 0.8
    k, n = int((hits & counted).sum()), int(counted.sum())
    for examples in (None, rng.permutation(60)):
        assert rate_bounds(hits, counted, examples) == tuple(float(one) for one in exact_bounds(k, n))
        assert rate_interval(hits, counted, examples) == wilson_interval(k, n)
    nothing = np.zeros(60, dtype=bool)
    assert all(map(math.isnan, (*rate_bounds(hits, nothing), *rate_interval(hits, nothing, np.zeros(60)))))


def test_an_interval_over_examples_is_as_wide_as_that_of_its_examples():
    """Where all items of an example are alike, N items are G items."""
    rng = np.random.default_rng(3)
    answers, examples = rng.random(200) < 0.3, np.repeat(np.arange(200), 6)
    low, high = rate_interval(np.repeat(answers, 6), np.ones(1200, dtype=bool), examples)
    alone = wilson_interval(int(answers.sum()), 200)
    assert (low, high) == pytest.approx(alone, abs=0.01)
    narrow = wilson_interval(6 * int(answers.sum()), 1200)
    assert high - low > 2 * (narrow[1] - narrow[0])


def test_without_a_single_hit_an_interval_is_not_empty():
    low, high = rate_interval(np.zeros(100, dtype=bool), np.ones(100, dtype=bool), np.arange(100) // 5)
    assert low == 0
    assert high == cluster_bound([0] * 20, [5] * 20, level=0.975) > 0.1
    low, high = rate_interval(np.ones(100, dtype=bool), np.ones(100, dtype=bool), np.arange(100) // 5)
    assert (low, high) == pytest.approx((1 - cluster_bound([0] * 20, [5] * 20, level=0.975), 1))


@pytest.mark.parametrize(("hits", "sizes"), [([2], [1]), ([-1], [1]), ([], []), ([0], [0]), ([0, 0], [1])])
def test_counts_that_cannot_be_are_refused(hits, sizes):
    with pytest.raises(ValueError, match="Hits must be between 0 and the size, both"):
        cluster_bound(hits, sizes)


def test_examples_are_drawn_whole():
    table = sparse.csr_array(np.array([[1.0, 10.0], [2.0, 20.0], [0.0, 0.0]]))
    sums = resampled_examples(table, n_resamples=200, seed=1)
    assert sums.shape == (200, 2)
    np.testing.assert_array_equal(sums[:, 1], 10 * sums[:, 0])
    assert sums[:, 0].mean() == pytest.approx(3.0, abs=0.3)
    assert {*sums[:, 0]} <= {float(total) for total in range(7)}


def test_how_many_examples_show_a_bound():
    """Searched for one by one; where a rate was observed, the doubt falls with the root of their number."""
    for size, wanted in ((1, 0.02), (5, 0.01), (40, 0.05)):
        found = examples_needed(200, cluster_bound([0] * 200, [size] * 200), wanted)
        first = next(n for n in range(1, 1000) if cluster_bound([0] * n, [size] * n) <= wanted)
        assert abs(found - first) <= 1
    assert examples_needed(100, 0.06, 0.04, observed=0.02) == 400
    assert examples_needed(100, 0.06, 0.02, observed=0.02) == math.inf
    assert examples_needed(100, 0.06, 0.0) == math.inf
    assert examples_needed(100, 0.06, 1.0) == 1
