"""Mismatches against the reference's margin: bins, counts and what is degenerate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.stats.proportion import proportion_confint

from hf_compalign.measure.statistics import MarginRow, mismatches_by_margin

pytestmark = pytest.mark.filterwarnings("error")


@st.composite
def judged(draw):
    n = draw(st.integers(1, 60))
    reference, candidate = (draw(arrays(np.int64, n, elements=st.integers(0, 2))) for _ in range(2))
    # few different margins, so that many are equal
    margin = draw(arrays(np.float64, n, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0])))
    return reference, candidate, margin


@settings(deadline=None)
@given(judged(), st.integers(1, 12))
def test_every_item_is_in_one_row(items, n_bins):
    reference, candidate, margin = items
    rows = mismatches_by_margin(*items, n_bins=n_bins)
    assert 1 <= len(rows) <= n_bins
    assert rows[0].low == margin.min()
    assert rows[-1].high == margin.max()
    for place, row in enumerate(rows):
        within = (margin <= row.high) & (margin >= row.low if place == 0 else margin > row.low)
        assert row.n == within.sum() > 0
        assert row.mismatches == (reference != candidate)[within].sum()
        assert row.mismatch_rate == row.mismatches / row.n
        expected = proportion_confint(row.mismatches, row.n, method="wilson")
        assert row.mismatch_rate_interval == pytest.approx(expected, abs=1e-12)
    assert sum(row.n for row in rows) == len(margin)
    assert [row.low for row in rows[1:]] == [row.high for row in rows[:-1]]


@pytest.mark.parametrize("n", [100, 103, 1009])
def test_margins_that_differ_are_shared_out_evenly(n):
    margin = np.random.default_rng(0).random(n)
    rows = mismatches_by_margin(np.zeros(n, dtype=int), np.zeros(n, dtype=int), margin)
    assert len(rows) == 10
    assert all(abs(row.n - n / 10) <= 1 for row in rows)
    assert all(row.mismatch_rate == 0 for row in rows)


def test_flips_where_the_reference_is_unsure():
    margin = np.linspace(0, 1, 100)
    candidate = (margin < 0.1).astype(int)
    rates = [row.mismatch_rate for row in mismatches_by_margin(np.zeros(100, dtype=int), candidate, margin)]
    assert rates == [1.0] + [0.0] * 9


def test_equal_margins_are_one_row_and_no_items_none():
    only = mismatches_by_margin([0, 0], [0, 1], [0.5, 0.5])
    assert only == (MarginRow(0.5, 0.5, 2, 1, 0.5, only[0].mismatch_rate_interval),)
    assert mismatches_by_margin([0], [0], [0.25])[0].n == 1
    assert mismatches_by_margin([], [], []) == ()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"one number for each of the 2 items. Got 0 nan among shape \[1\]"):
        mismatches_by_margin([0, 1], [0, 1], [0.5])
    with pytest.raises(ValueError, match=r"Got 1 nan among shape \[2\]"):
        mismatches_by_margin([0, 1], [0, 1], [0.5, np.nan])
    with pytest.raises(ValueError, match=r"n_bins must be at least 1. Got 0. 10 is usual"):
        mismatches_by_margin([0], [0], [0.5], n_bins=0)
    with pytest.raises(ValueError, match="must be integers"):
        mismatches_by_margin([0.5], [0], [0.5])
