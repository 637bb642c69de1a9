"""The seed floor: against draws of the items one by one and scipy's exact test."""

import numpy as np
import pytest
import scipy.stats
from tiny import differing

from hf_compalign.measure.statistics import seed_floor, wilson_interval

pytestmark = pytest.mark.filterwarnings("error")


def test_the_floor_has_the_interval_of_an_item_bootstrap():
    n, zeros = 400, differing(400)
    candidate, rerun = differing(n, *range(30)), differing(n, *range(20, 60))
    found = seed_floor(zeros, candidate, rerun, model="seed 1", n_resamples=20_000)
    assert (found.model, found.n, found.mismatches, found.mismatch_rate) == ("seed 1", 400, 40, 0.1)
    assert found.mismatch_rate_interval == wilson_interval(40, 400)
    drawn = np.random.default_rng(1).integers(0, n, size=(20_000, n))
    gaps = (candidate - rerun)[drawn].mean(axis=1)
    low, high = np.quantile(gaps, [0.025, 0.975])
    assert found.difference.value == -0.025
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=0.003)
    assert not found.below
    assert not found.above
    assert found.p_value == pytest.approx(scipy.stats.binomtest(20, 50).pvalue)
    assert str(found) == (
        "This compressed model and this re-run cannot be told apart in how much they differ from the original: "
        "7.50 % of the answers change, against 10.00 % "
        f"(difference -2.50 points, 95 % interval {100 * found.difference.low:+.2f} to "
        f"{100 * found.difference.high:+.2f} points, p = 0.203)."
    )


def test_the_floor_is_paired_and_reproducible():
    same = differing(100, *range(40))
    found = seed_floor(differing(100), same, same)
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)
    assert not found.below
    assert "cannot be told apart" in str(found)
    answers = (differing(50), differing(50, *range(20)), differing(50, *range(15, 25)))
    assert seed_floor(*answers, seed=3) == seed_floor(*answers, seed=3)
    assert seed_floor(*answers, seed=3) != seed_floor(*answers, seed=4)


def test_fewer_and_more_mismatches_than_a_rerun():
    zeros, few, many = np.zeros(200, dtype=int), differing(200, 0, 1), differing(200, *range(60))
    less, more = seed_floor(zeros, few, many), seed_floor(zeros, many, few)
    assert less.below
    assert str(less).startswith("This compressed model differs from the original less than this re-run does: 1.00 % of")
    assert not more.below
    assert more.above
    assert not less.above
    assert str(more).startswith("This compressed model differs from the original more than this re-run does: 30.00 % ")
    assert more.difference.value == -less.difference.value


def test_the_floor_of_one_item():
    found = seed_floor([0], [0], [1])
    assert (found.mismatches, found.mismatch_rate) == (1, 1)
    assert (found.difference.low, found.difference.value, found.difference.high) == (-1, -1, -1)
    assert (found.p_value, found.below) == (1, False)  # which an interval of one item cannot tell
    same = seed_floor([0], [0], [0])
    assert (same.mismatches, same.difference.high, same.p_value, same.below) == (0, 0, 1, False)


def test_a_few_items_that_differ_show_nothing():
    zeros, five, six = np.zeros(1000, dtype=int), differing(1000, *range(5)), differing(1000, *range(6))
    found = seed_floor(zeros, zeros, five)
    assert found.difference.high < 0
    assert found.p_value == 0.0625
    assert not found.below
    assert "cannot be told apart" in str(found)
    assert not seed_floor(zeros, five, zeros).above
    assert seed_floor(zeros, zeros, six).below
    assert seed_floor(zeros, six, zeros).above


def test_a_floor_without_items_is_refused():
    with pytest.raises(ValueError, match="needs items and resamples. Got 0 and 1000"):
        seed_floor([], [], [])
    with pytest.raises(ValueError, match="the same items. Got 2, 2, 1"):
        seed_floor([0, 1], [0, 1], [0])
