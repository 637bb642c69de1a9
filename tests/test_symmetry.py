"""Tests of changed class frequencies, against statsmodels, scipy and a generalized inverse."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.stats.contingency_tables import SquareTable
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from hf_compalign.measure.statistics import TestResult as Result
from hf_compalign.measure.statistics import predicted_frequencies

pytestmark = pytest.mark.filterwarnings("error")
NOTHING = Result(statistic=0.0, df=0, p_value=1.0)


def table_of(reference, candidate, n_classes):
    table = np.zeros((n_classes, n_classes), dtype=int)
    np.add.at(table, (np.asarray(reference), np.asarray(candidate)), 1)
    return table


def noisy(seed, n, n_classes, share, shift=0.3):
    """Answers, and the same with a share of them drawn anew, some of those toward class 0."""
    generator = np.random.default_rng(seed)
    reference = generator.integers(0, n_classes, n)
    drawn = np.where(generator.random(n) < shift, 0, generator.integers(0, n_classes, n))
    return reference, np.where(generator.random(n) < share, drawn, reference)


def same(result, expected):
    assert (result.statistic, result.df) == pytest.approx((expected.statistic, expected.df), rel=1e-9, abs=1e-9)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("n_classes", "n"), [(2, 50), (3, 300), (5, 2000), (12, 20_000)])
@pytest.mark.parametrize("seed", range(3))
def test_paired_tests_are_those_of_statsmodels(n_classes, n, seed):
    answers = noisy(seed, n, n_classes, share=0.4)
    table = table_of(*answers, n_classes)
    assert (table + np.eye(n_classes) > 0).all()  # with empty pairs the degrees of freedom are counted otherwise
    expected = SquareTable(table, shift_zeros=False)
    found = predicted_frequencies(*answers, n_classes)
    same(found.stuart_maxwell, expected.homogeneity())
    same(found.bowker, expected.symmetry())


@pytest.mark.parametrize("seed", range(4))
def test_the_unpaired_test_is_that_of_scipy(seed):
    answers = noisy(seed, 200, 6, share=0.5)
    counts = [np.bincount(array, minlength=6) for array in answers]
    found = predicted_frequencies(*answers, 6)
    assert [found.reference, found.candidate] == [tuple(row.tolist()) for row in counts]
    expected = scipy.stats.chi2_contingency(counts, correction=False)
    assert found.chi_squared_unpaired.statistic == pytest.approx(expected.statistic)
    assert found.chi_squared_unpaired.df == expected.dof
    assert found.chi_squared_unpaired.p_value == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("lost", "gained"), [(1, 0), (7, 3), (30, 30), (200, 150)])
def test_two_classes_are_mcnemar_without_correction(lost, gained):
    reference = [0] * lost + [1] * gained + [0, 1] * 50
    candidate = [1] * lost + [0] * gained + [0, 1] * 50
    expected = statsmodels_mcnemar([[50, lost], [gained, 50]], exact=False, correction=False)
    found = predicted_frequencies(reference, candidate, 2)
    for result in (found.stuart_maxwell, found.bowker):
        assert result.df == 1
        assert (result.statistic, result.p_value) == pytest.approx((expected.statistic, expected.pvalue))


@settings(deadline=None)
@given(st.integers(0, 30).flatmap(lambda n: arrays(np.int64, (2, n), elements=st.integers(0, 6))))
def test_any_table_has_the_generalized_inverse_and_its_rank(answers):
    table = table_of(*answers, 7)
    flow = table.sum(axis=1) - table.sum(axis=0)
    covariance = np.diag(table.sum(axis=1) + table.sum(axis=0)) - table - table.T
    found = predicted_frequencies(*answers, 7)
    assert found.stuart_maxwell.statistic == pytest.approx(flow @ np.linalg.pinv(covariance) @ flow, abs=1e-8)
    assert found.stuart_maxwell.df == np.linalg.matrix_rank(covariance)
    either = (table + table.T)[np.triu_indices(7, 1)]
    assert found.bowker.statistic == pytest.approx(SquareTable(table, shift_zeros=False).symmetry().statistic)
    assert found.bowker.df == (either > 0).sum()
    for result in (found.stuart_maxwell, found.bowker, found.chi_squared_unpaired):
        assert result.p_value == (scipy.stats.chi2.sf(result.statistic, result.df) if result.df else 1.0)


@pytest.mark.parametrize("answers", [[], [2], [1, 1, 1], [0, 1, 2, 2]])
def test_a_model_against_itself(answers):
    found = predicted_frequencies(answers, answers, 3)
    assert found.reference == found.candidate
    assert sum(found.reference) == len(answers)
    assert found.stuart_maxwell == found.bowker == NOTHING
    assert (found.chi_squared_unpaired.statistic, found.chi_squared_unpaired.p_value) == (0, 1)


def test_a_single_changed_item():
    found = predicted_frequencies([1], [0], 3)
    assert (found.reference, found.candidate) == ((0, 1, 0), (1, 0, 0))
    assert found.stuart_maxwell == found.bowker
    assert (found.stuart_maxwell.statistic, found.stuart_maxwell.df) == (1, 1)
    assert (found.chi_squared_unpaired.statistic, found.chi_squared_unpaired.df) == (2, 1)


def test_a_cycle_changes_no_frequency_but_is_not_symmetric():
    # 20 items each from class 0 to 1, from 1 to 2 and from 2 to 0
    reference, candidate = [0] * 20 + [1] * 20 + [2] * 20, [1] * 20 + [2] * 20 + [0] * 20
    found = predicted_frequencies(reference, candidate, 3)
    assert found.reference == found.candidate
    assert (found.stuart_maxwell.statistic, found.stuart_maxwell.df, found.stuart_maxwell.p_value) == (0, 2, 1)
    assert (found.bowker.statistic, found.bowker.df) == (60, 3)
    assert found.bowker.p_value < 1e-10


def test_the_pairing_shows_what_the_unpaired_test_misses():
    # 1000 items, of which 20 leave class 0 and none comes back
    reference = np.array([0] * 500 + [1] * 500)
    candidate = np.where(np.arange(1000) < 20, 1, reference)
    found = predicted_frequencies(reference, candidate, 2)
    assert found.stuart_maxwell.statistic == 20
    assert found.stuart_maxwell.p_value < 1e-5
    assert found.chi_squared_unpaired.p_value > 0.3


def test_a_thousand_classes():
    reference, candidate = noisy(0, 100_000, 1000, share=0.1, shift=0.01)
    found = predicted_frequencies(reference, candidate, 1000)
    table = table_of(reference, candidate, 1000)
    flow = (table.sum(axis=1) - table.sum(axis=0))[:-1]
    covariance = (np.diag(table.sum(axis=1) + table.sum(axis=0)) - table - table.T)[:-1, :-1]
    assert found.stuart_maxwell.df == 999
    assert found.stuart_maxwell.statistic == pytest.approx(flow @ np.linalg.solve(covariance, flow), rel=1e-8)


def test_a_chain_of_some_thousand_classes_among_many_that_never_occur():
    # Item by item from each class to the next: the statistic is the sum of net^2 / n over the links.
    forth, back = np.random.default_rng(0).integers(0, 5, (2, 3000))
    start = np.concatenate([np.repeat(np.arange(3000), forth), np.repeat(np.arange(1, 3001), back)])
    end = np.concatenate([np.repeat(np.arange(1, 3001), forth), np.repeat(np.arange(3000), back)])
    n = (forth + back)[forth + back > 0]
    net = (forth - back)[forth + back > 0]
    found = predicted_frequencies(16 * start, 16 * end, 50_000)
    assert len(n) < 3000  # the chain is broken into parts
    for result in (found.stuart_maxwell, found.bowker):
        assert (result.statistic, result.df) == (pytest.approx((net**2 / n).sum(), rel=1e-8), len(n))


def test_answers_outside_the_classes_and_other_items_are_refused():
    with pytest.raises(ValueError, match=r"candidate must be in \[0, 3\), one number per class. Got 3. Compare models"):
        predicted_frequencies([0, 1], [0, 3], 3)
    with pytest.raises(ValueError, match=r"reference must be in \[0, 3\).* Got -1"):
        predicted_frequencies([-1, 1], [0, 2], 3)
    with pytest.raises(ValueError, match=r"the same items. Got 2, 1 predictions"):
        predicted_frequencies([0, 1], [0], 2)


def test_answers_of_other_integers_are_counted():
    assert predicted_frequencies([], [], 3).reference == (0, 0, 0)
    assert predicted_frequencies(np.array([2, 0], dtype=np.uint8), [0, 0], 3).stuart_maxwell.df == 1
