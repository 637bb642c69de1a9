"""Intervals and tests of counts, against statsmodels and scipy."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from hf_compalign.measure.statistics import (
    benjamini_hochberg,
    check_level,
    count_ratio_interval,
    exact_bounds,
    excess_p_value,
    holm,
    items_needed,
    mcnemar,
    most_within,
    rate,
    upper_bound,
    wilson_interval,
)

COUNTS = [(0, 1), (1, 1), (0, 50), (3, 50), (25, 50), (50, 50), (36, 1821)]


@st.composite
def counts(draw):
    n = draw(st.integers(1, 5000))
    return draw(st.integers(0, n)), n


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("k", "n"), COUNTS)
def test_interval_and_bound_are_those_of_scipy_and_statsmodels(k, n, level):
    expected = proportion_confint(k, n, alpha=1 - level, method="wilson")
    assert wilson_interval(k, n, level) == pytest.approx(expected, abs=1e-12)
    # One-sided at level is the upper end of the two-sided interval at 1 - 2 (1 - level).
    _, expected = proportion_confint(k, n, alpha=2 * (1 - level), method="beta")
    assert upper_bound(k, n, level) == pytest.approx(expected, abs=1e-9)
    exact = scipy.stats.binomtest(k, n, alternative="less").proportion_ci(level, method="exact").high
    assert upper_bound(k, n, level) == pytest.approx(exact, abs=1e-9)
    lowest = scipy.stats.binomtest(k, n, alternative="greater").proportion_ci(level, method="exact").low
    both = exact_bounds([k], [n], level)
    assert [one.item() for one in both] == pytest.approx([lowest, exact], abs=1e-9)


@settings(deadline=None)
@given(counts())
def test_the_bounds_enclose_the_rate(pair):
    low, high = wilson_interval(*pair)
    assert 0 <= low <= rate(*pair) <= high <= 1
    assert rate(*pair) <= upper_bound(*pair) <= 1


def test_the_upper_bound_is_the_rate_at_which_so_few_are_rare():
    bound = upper_bound(7, 300)
    assert scipy.stats.binom.cdf(7, 300, bound) == pytest.approx(0.05)


def test_nothing_counted_is_nan():
    assert math.isnan(rate(0, 0))
    assert all(math.isnan(end) for end in wilson_interval(0, 0))
    assert math.isnan(upper_bound(0, 0))


@pytest.mark.parametrize(("lost", "gained"), [(0, 1), (5, 0), (8, 1), (10, 10), (10, 11), (40, 60), (900, 1000)])
def test_mcnemar_is_that_of_statsmodels(lost, gained):
    expected = statsmodels_mcnemar([[1, lost], [gained, 1]], exact=True).pvalue
    assert mcnemar(lost, gained) == pytest.approx(expected)
    assert mcnemar(lost, gained) == pytest.approx(scipy.stats.binomtest(lost, lost + gained).pvalue)
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize("function", [wilson_interval, upper_bound])
def test_impossible_counts_are_refused(function):
    for k, n in [(-1, 5), (6, 5), (0, -1)]:
        with pytest.raises(ValueError, match=rf"needs 0 <= k <= n. Got k = {k} and n = {n}"):
            function(k, n)


def test_impossible_levels_and_flips_are_refused():
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\). Got 95. Did you mean 0.95\?"):
        check_level(95)
    with pytest.raises(ValueError, match=r"Got 1.$"):
        upper_bound(1, 2, 1)
    with pytest.raises(ValueError, match=r"Got 0.$"):
        wilson_interval(1, 2, 0)
    with pytest.raises(ValueError, match=r"cannot be negative. Got -1 and 3"):
        mcnemar(-1, 3)


@pytest.mark.parametrize(("adjust", "method"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
def test_adjusted_p_values_are_those_of_statsmodels(adjust, method):
    for seed in (0, 1, 5, 12, 19):
        generator = np.random.default_rng(seed)
        p_values = np.concatenate([generator.random(seed), 10 ** generator.uniform(-8, 0, 3), [0.0, 0.01, 0.01, 1.0]])
        generator.shuffle(p_values)
        _, expected, _, _ = multipletests(p_values, method=method)
        assert adjust(p_values) == pytest.approx(expected, rel=1e-12)
    assert adjust([]).tolist() == []


def test_holm_by_hand_and_without_what_was_not_tested():
    assert holm([0.04, 0.01, 0.03]).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.6]).tolist() == [1, 1]
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).tolist() == []
    np.testing.assert_array_equal(holm([math.nan, 0.01, 0.04, math.nan]), [math.nan, 0.02, 0.04, math.nan])
    assert np.isnan(holm([math.nan])).all()


def test_what_is_no_p_value_is_refused():
    for wrong in ([0.5, 1.5], [-0.1], [[0.1, 0.2]]):
        for adjust in (holm, benjamini_hochberg):
            with pytest.raises(ValueError, match=r"p-values must be one row of numbers in \[0, 1\]"):
                adjust(wrong)


@pytest.mark.parametrize(
    ("k", "n", "total", "n_all"), [(5, 20, 9, 100), (0, 10, 0, 50), (20, 20, 20, 40), (1, 30, 7, 60)]
)
def test_an_excess_has_the_p_value_of_fishers_test(k, n, total, n_all):
    table = [[k, n - k], [total - k, n_all - n - (total - k)]]
    assert excess_p_value(k, n, total, n_all) == pytest.approx(
        scipy.stats.fisher_exact(table, alternative="greater").pvalue
    )


@pytest.mark.parametrize(("first", "second"), [(20, 0), (0, 20), (12, 5), (1, 1)])
def test_the_ratio_of_two_counts_has_the_odds_of_an_exact_interval(first, second):
    exact = scipy.stats.binomtest(first, first + second).proportion_ci(0.9, method="exact")
    wanted = [end / (1 - end) if end < 1 else math.inf for end in (exact.low, exact.high)]
    found = count_ratio_interval(first, second, 0.9)
    assert found == pytest.approx(wanted)
    low, high = count_ratio_interval(second, first, 0.9)
    assert found == pytest.approx([1 / high if high else math.inf, 1 / low if low else math.inf])


def test_counts_below_0_have_no_ratio():
    with pytest.raises(ValueError, match="Counts cannot be negative. Got 1 and -2"):
        count_ratio_interval(1, -2)


@pytest.mark.parametrize("limit", [0.5, 0.05, 0.01, 0.001])
def test_so_many_items_are_needed_and_no_fewer(limit):
    for level in (0.95, 0.99):
        n = items_needed(limit, level=level)
        assert upper_bound(0, n, level) <= limit < upper_bound(0, n - 1, level)


def test_no_number_of_items_shows_a_rate_of_zero():
    assert items_needed(0.0) == math.inf
    assert items_needed(1.0) == 1


@pytest.mark.parametrize("level", [0.9, 0.95, 1 - 0.05 / 3])
@pytest.mark.parametrize("limit", [0.002, 0.01, 0.3, 0.999])
def test_the_most_within_a_limit_is_that_of_the_binomial_test(limit, level):
    """The bound is within the limit where as few, at that rate, have at most the probability 1 - level."""
    for n in (1, 50, 299, 872, 3000):
        as_few = scipy.stats.binom.cdf(np.arange(n + 1), n, limit)
        assert most_within(limit, n, level) == int((as_few <= 1 - level).sum()) - 1
