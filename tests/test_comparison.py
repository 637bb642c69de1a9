"""The paired statistics, against hand-computed values, identities and independent implementations."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import differing

from hf_compalign.measure.statistics import Cells, alignment_metrics, cie_ratio, per_class, proportions, wilson_interval

# one item per cell, then one without a label that the models answer differently
REFERENCE = [0, 0, 1, 1, 1, 2]
CANDIDATE = [0, 1, 0, 1, 2, 0]
LABELS = [0, 0, 0, 0, 0, -100]


@st.composite
def three_answers(draw, classes=4):
    n = draw(st.integers(1, 40))
    reference, candidate = (draw(arrays(np.int64, n, elements=st.integers(0, classes - 1))) for _ in range(2))
    labels = draw(arrays(np.int64, n, elements=st.sampled_from([-100, *range(classes)])))
    return reference, candidate, labels


def test_rates_of_known_cells():
    assert Cells.count(REFERENCE, CANDIDATE, LABELS) == Cells(1, 1, 1, 1, 1)
    cells = Cells(both_right=80, lost=6, gained=4, same_wrong=7, different_wrong=3)
    assert (cells.n, cells.mismatches, cells.agreement, cells.churn) == (100, 13, 0.87, 0.13)
    assert (cells.nfr, cells.pfr, cells.flip_rate, cells.btc) == (0.06, 0.04, 0.10, 80 / 86)
    assert (cells.bec, cells.accuracy_reference, cells.accuracy_candidate) == (10 / 16, 0.86, 0.84)
    assert cells.accuracy_change == -0.02


def test_nothing_counted_is_nan_and_never_zero():
    empty = Cells(0, 0, 0, 0, 0)
    names = ["agreement", "churn", "nfr", "pfr", "flip_rate", "btc", "bec", "accuracy_change"]
    assert all(math.isnan(getattr(empty, name)) for name in names)
    assert math.isnan(Cells(5, 0, 0, 0, 0).bec)  # the candidate makes no error
    assert math.isnan(Cells(0, 0, 5, 0, 0).btc)  # the reference is never right


@settings(deadline=None)
@given(three_answers())
def test_cell_identities(answers):
    reference, candidate, labels = answers
    cells, known = Cells.count(*answers), labels != -100
    assert cells.n == known.sum()
    assert cells.mismatches == (reference != candidate)[known].sum()
    if cells.n:
        assert cells.agreement + cells.churn == pytest.approx(1)
        assert cells.churn >= abs(cells.accuracy_change)
        assert cells.flip_rate == pytest.approx(cells.nfr + cells.pfr)
        assert cells.accuracy_candidate - cells.accuracy_reference == pytest.approx(cells.accuracy_change)
        assert cells.accuracy_reference == sklearn.metrics.accuracy_score(labels[known], reference[known])
        assert cells.accuracy_candidate == sklearn.metrics.accuracy_score(labels[known], candidate[known])
        assert cells.agreement == sklearn.metrics.accuracy_score(reference[known], candidate[known])


@settings(deadline=None)
@given(three_answers(classes=2))
def test_with_two_classes_every_mismatch_is_a_flip(answers):
    cells = Cells.count(*answers)
    assert cells.different_wrong == 0
    assert cells.flip_rate == cells.churn or cells.n == 0


@settings(deadline=None)
@given(three_answers())
def test_a_model_against_itself(answers):
    reference, _, labels = answers
    cells = Cells.count(reference, reference, labels)
    assert cells.mismatches == 0
    assert cells.n == 0 or (cells.agreement, cells.nfr, cells.pfr) == (1, 0, 0)


def test_proportions_count_unlabeled_items_only_where_no_label_is_needed():
    found = proportions(REFERENCE, CANDIDATE, LABELS)
    assert (found["mismatch_rate"], found["agreement"], found["nfr"]) == ((4, 6), (2, 6), (1, 5))
    assert (found["btc"], found["bec"]) == ((1, 2), (2, 3))


@pytest.mark.filterwarnings("error")
def test_alignment_metrics():
    found = alignment_metrics(REFERENCE, CANDIDATE, LABELS, np.arange(6.0))
    assert found == {"mismatch_rate": 4 / 6, "cie": 4.0, "agreement": 2 / 6, "kl": 2.5, "cie_u": 1.0}
    assert {type(value) for value in found.values()} == {float}
    without_labels = alignment_metrics([0, 1], [0, 0], [-100, -100], [0.0, 1.0])
    assert without_labels == {"mismatch_rate": 0.5, "cie": 1.0, "agreement": 0.5, "kl": 0.5}
    nothing = alignment_metrics([], [], [], [])
    assert nothing.pop("cie") == 0
    assert all(math.isnan(value) for value in nothing.values())


@settings(deadline=None)
@given(three_answers())
def test_the_classes_add_up_to_the_whole(answers):
    reference, candidate, labels = answers
    rows, cells = per_class(*answers, 4), Cells.count(*answers)
    assert [row.label for row in rows] == [0, 1, 2, 3]
    for name in ("n", "mismatches", "lost", "gained"):
        assert sum(getattr(row, name) for row in rows) == getattr(cells, name)
    known = labels != -100
    if not known.any():
        return
    options = {"labels": range(4), "average": None, "zero_division": np.nan}
    for name, predicted in (("recall_reference", reference), ("recall_candidate", candidate)):
        expected = sklearn.metrics.recall_score(labels[known], predicted[known], **options)
        np.testing.assert_allclose([getattr(row, name) for row in rows], expected)


@settings(deadline=None)
@given(three_answers())
def test_a_class_row_is_that_of_the_items_with_its_label_alone(answers):
    for row in per_class(*answers, 4):
        here = Cells.count(*(array[answers[2] == row.label] for array in answers))
        assert (row.n, row.mismatches, row.lost, row.gained) == (here.n, here.mismatches, here.lost, here.gained)
        rates = (row.mismatch_rate, row.nfr, row.recall_reference, row.recall_candidate)
        np.testing.assert_equal(rates, (here.churn, here.nfr, here.accuracy_reference, here.accuracy_candidate))
        np.testing.assert_equal(row.mismatch_rate_interval, wilson_interval(here.mismatches, here.n))


@pytest.mark.filterwarnings("error")
def test_classes_of_nothing_and_without_labels_are_empty():
    for answers in (([], [], []), ([0, 1], [1, 1], [-100, -100])):
        rows = per_class(*answers, 2)
        assert [row.n for row in rows] == [0, 0]
        assert all(math.isnan(row.mismatch_rate) for row in rows)


def test_small_and_unsigned_integers_are_counted_too():
    for kind in (np.int8, np.uint64):
        rows = per_class(*(np.array([0, 1, 1], dtype=kind) for _ in range(3)), 200)
        assert [row.n for row in rows[:3]] == [1, 2, 0]


def test_one_class_row_by_hand():
    first, empty = per_class(REFERENCE[:4], CANDIDATE[:4], LABELS[:4], 2)
    assert (first.n, first.mismatches, first.mismatch_rate, first.nfr) == (4, 2, 0.5, 0.25)
    assert first.mismatch_rate_interval == pytest.approx((0.150, 0.850), abs=5e-4)
    assert empty.n == 0
    assert math.isnan(empty.nfr)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), or -100 where unknown. Got 2"):
        per_class([0, 1], [0, 1], [1, 2], 2)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_ratio_has_the_interval_of_an_item_bootstrap(level):
    n = 300
    baseline, candidate = differing(n, *range(60)), differing(n, *range(40, 80))
    found = cie_ratio(np.zeros(n, dtype=int), baseline, candidate, n_resamples=20_000, level=level)
    assert found.value == 60 / 40
    drawn = np.random.default_rng(1).integers(0, n, size=(20_000, n))
    ratios = baseline[drawn].sum(axis=1) / candidate[drawn].sum(axis=1)
    expected = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    assert (found.low, found.high) == pytest.approx(expected, rel=0.03)


def test_the_bootstrap_is_paired_and_reproducible():
    same = differing(300, *range(60))
    assert astuple(cie_ratio(differing(300), same, same)) == (1, 1, 1)
    arguments = (differing(50), differing(50, *range(20)), differing(50, *range(15, 25)))
    assert cie_ratio(*arguments, seed=3) == cie_ratio(*arguments, seed=3)
    assert cie_ratio(*arguments, seed=3) != cie_ratio(*arguments, seed=4)


def test_the_ratio_counts_only_what_the_reference_had_right():
    reference = differing(60)
    labels = differing(60, *range(5, 60, 2))  # the reference has every second item wrong
    baseline, candidate = differing(60, *range(30)), differing(60, *range(20, 40))
    found = cie_ratio(reference, baseline, candidate, labels=labels)
    lost = [Cells.count(reference, answers, labels).lost for answers in (baseline, candidate)]
    assert found.value == lost[0] / lost[1]
    kept = [np.where(reference == labels, answers, reference) for answers in (baseline, candidate)]
    assert found == cie_ratio(reference, *kept)


def test_items_are_drawn_within_their_run():
    # All items of one run differ and none of the other: only a draw over both could change a count.
    runs = np.repeat([7, 3], 30)
    baseline, candidate = differing(60, *range(30)), differing(60, *range(15), *range(30, 45))
    pooled = cie_ratio(differing(60), baseline, baseline, runs=runs)
    assert astuple(pooled) == astuple(cie_ratio(differing(60), baseline, baseline)) == (1, 1, 1)
    found = cie_ratio(differing(60), baseline, candidate, runs=runs, n_resamples=20_000)
    assert found.value == 1
    # The baseline has 30 in every draw; the candidate a binomial number of each run's 30 items.
    drawn = np.random.default_rng(1).binomial(30, 0.5, size=(20_000, 2)).sum(axis=1)
    assert (found.low, found.high) == pytest.approx(np.quantile(30 / drawn, [0.025, 0.975]), rel=0.05)
    assert found.high < cie_ratio(differing(60), baseline, candidate, n_resamples=20_000).high
    assert cie_ratio(differing(60), baseline, candidate, runs=[0] * 60) == cie_ratio(differing(60), baseline, candidate)


@pytest.mark.filterwarnings("error")
def test_ratios_without_a_denominator():
    nothing, some = differing(20), differing(20, 1, 2, 3)
    # Of three events all were the baseline's: p >= 0.025 ** (1 / 3) by Clopper and Pearson, so ratio >= p / (1 - p).
    least = 0.025 ** (1 / 3) / (1 - 0.025 ** (1 / 3))
    assert astuple(cie_ratio(nothing, some, nothing)) == pytest.approx((math.inf, least, math.inf))
    assert astuple(cie_ratio(nothing, nothing, some)) == pytest.approx((0, 0, 1 / least))
    both_perfect = cie_ratio(nothing, nothing, nothing)
    assert math.isnan(both_perfect.value)
    assert (both_perfect.low, both_perfect.high) == (0, math.inf)
    rare = cie_ratio(nothing, some, differing(20, 7))  # a third of the resamples have no mismatch of 7
    assert rare.value == 3
    assert rare.low < 3
    assert rare.high == math.inf


def test_nothing_and_what_are_no_answers_to_the_same_items_is_refused():
    with pytest.raises(ValueError, match=r"needs items and resamples. Got 0 and 1000"):
        cie_ratio([], [], [])
    with pytest.raises(ValueError, match="Got 1 and 0"):
        cie_ratio([0], [0], [0], n_resamples=0)
    with pytest.raises(ValueError, match=r"Did you mean 0.95"):
        cie_ratio([0], [0], [0], level=95)
    # No answers to the same items.
    with pytest.raises(ValueError, match=r"float64 of shape \[1, 2\].*Take the argmax of logits first"):
        Cells.count([[0.1, 0.9]], [1], [1])
    with pytest.raises(ValueError, match=r"the same items. Got 2, 1, 2 predictions and labels"):
        Cells.count([0, 1], [0], [0, 1])
