"""Calibration of both models and its change, against scikit-learn and draws of the items one by one."""

import math

import numpy as np
import pytest
import sklearn.metrics
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from hf_compalign.measure.statistics import Estimate, ItemScores, calibration_shift

pytestmark = pytest.mark.filterwarnings("error")


def answers(n, classes=4, seed=0, unknown=0):
    """Logits of two models, the second of which is too sure, and labels drawn from the first one's probabilities."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(scale=2, size=(n, classes))
    candidate = 2 * reference + rng.normal(scale=0.3, size=(n, classes))
    labels = (softmax(reference, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, classes - 1)
    labels[:unknown] = -100
    return reference, candidate, labels


def shift(reference, candidate, labels, **options):
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    scores = ItemScores.of(reference, candidate, labels)
    return calibration_shift(reference.argmax(axis=1), candidate.argmax(axis=1), labels, scores, **options)


def error_of(logits, labels, n_bins):
    """ECE through scikit-learn's curve, which leaves empty bins out."""
    sure, right = softmax(logits, axis=1).max(axis=1), logits.argmax(axis=1) == labels
    shares, means = calibration_curve(right, sure, n_bins=n_bins)
    counts = np.histogram(sure, bins=np.linspace(0, 1, n_bins + 1))[0]
    return (counts[counts > 0] / len(labels) * np.abs(shares - means)).sum()


@pytest.mark.parametrize("n_bins", [1, 5, 15])
def test_calibration_is_that_of_scikit_learn(n_bins):
    reference, candidate, labels = answers(500, unknown=20)
    found = shift(reference, candidate, labels, n_bins=n_bins, n_resamples=10)
    assert (found.n, found.n_bins) == (480, n_bins)
    y = labels[20:]
    for logits, of in ((reference[20:], found.reference), (candidate[20:], found.candidate)):
        p, right = softmax(logits, axis=1), logits.argmax(axis=1) == y
        assert of.ece == pytest.approx(error_of(logits, y, n_bins))
        assert of.brier == pytest.approx(sklearn.metrics.brier_score_loss(y, p, labels=range(4), scale_by_half=False))
        assert of.nll == pytest.approx(sklearn.metrics.log_loss(y, p, labels=range(4)))
        shares, means = calibration_curve(right, p.max(axis=1), n_bins=n_bins)
        filled = [row for row in of.bins if row.n]
        assert [row.accuracy for row in filled] == pytest.approx(shares)
        assert [row.confidence for row in filled] == pytest.approx(means)
        assert [row.low for row in of.bins] == pytest.approx(np.arange(n_bins) / n_bins)
        assert [row.high for row in of.bins] == pytest.approx((np.arange(n_bins) + 1) / n_bins)
        assert sum(row.n for row in of.bins) == 480
    assert found.ece_change.value == found.candidate.ece - found.reference.ece
    assert found.brier_change.value == found.candidate.brier - found.reference.brier
    assert found.nll_change.value == found.candidate.nll - found.reference.nll


def test_the_intervals_are_those_of_a_paired_draw_of_items():
    reference, candidate, labels = answers(400, seed=1)
    found = shift(reference, candidate, labels, n_resamples=4000)
    scores = ItemScores.of(reference, candidate, labels)
    rng, draws = np.random.default_rng(5), []
    for _ in range(600):
        who = rng.integers(0, 400, size=400)
        ece = error_of(candidate[who], labels[who], 15) - error_of(reference[who], labels[who], 15)
        brier = (scores.candidate_brier - scores.reference_brier)[who].mean()
        draws.append((ece, brier, (scores.candidate_nll - scores.reference_nll)[who].mean()))
    expected = np.quantile(draws, [0.025, 0.975], axis=0).T
    for change, (low, high) in zip(changes_of(found), expected, strict=True):
        assert (change.low, change.high) == pytest.approx((low, high), abs=0.12 * (high - low))


def changes_of(found):
    return found.ece_change, found.brier_change, found.nll_change


def test_a_model_against_itself_has_not_changed():
    reference, _, labels = answers(300)
    found = shift(reference, reference, labels)
    assert found.reference == found.candidate
    assert {*changes_of(found)} == {Estimate(0.0, 0.0, 0.0)}


def test_twice_the_logits_are_too_sure():
    found = shift(*answers(2000))
    assert found.reference.ece < 0.05
    for change in changes_of(found):
        assert 0 < change.low < change.value < change.high


def test_confidences_on_an_edge_are_in_the_bin_below():
    found = shift(np.zeros((3, 2)), np.zeros((3, 2)), [0, 0, 1], n_bins=2)
    low, high = found.reference.bins
    assert (low.n, low.confidence, low.accuracy) == (3, 0.5, pytest.approx(2 / 3))
    assert high.n == 0
    assert math.isnan(high.confidence)
    assert math.isnan(high.accuracy)
    assert found.reference.ece == pytest.approx(2 / 3 - 1 / 2)


@pytest.mark.parametrize("n", [0, 3])
def test_without_labels_everything_is_nan(n):
    found = shift(np.zeros((n, 2)), np.zeros((n, 2)), np.full(n, -100))
    assert found.n == 0
    for model in (found.reference, found.candidate):
        assert all(math.isnan(value) for value in (model.ece, model.brier, model.nll))
        assert [row.n for row in model.bins] == [0] * 15
    for change in changes_of(found):
        assert all(math.isnan(value) for value in (change.value, change.low, change.high))


def test_one_item_leaves_nothing_to_draw():
    found = shift([[1.0, 0.0]], [[0.0, 1.0]], [0])
    for change in changes_of(found):
        assert (change.low, change.high) == pytest.approx((change.value, change.value))
    p = 1 / (1 + math.exp(-1))
    assert (found.reference.ece, found.candidate.ece) == pytest.approx((1 - p, p))
    assert found.nll_change.value == pytest.approx(1)


def test_all_wrong_is_as_wrong_as_it_is_sure():
    logits = np.tile([5.0, 0.0, 0.0], (50, 1))
    found = shift(logits, logits, np.full(50, 1))
    assert found.reference.ece == pytest.approx(softmax(logits, axis=1).max())
    assert found.reference.bins[-1].accuracy == 0


def test_a_label_ruled_out_costs_without_bound():
    reference, candidate = np.zeros((30, 2)), np.zeros((30, 2))
    candidate[0, 1] = -np.inf
    found = shift(reference, candidate, np.ones(30, dtype=int))
    assert (found.candidate.nll, found.nll_change.value, found.nll_change.high) == (math.inf, math.inf, math.inf)
    assert found.nll_change.low == pytest.approx(0)  # a third of the draws miss it
    same = shift(candidate, candidate, np.ones(30, dtype=int))
    assert math.isnan(same.nll_change.value)
    assert same.brier_change == Estimate(0.0, 0.0, 0.0)


def test_the_seed_decides():
    pair = answers(100)
    assert shift(*pair, seed=1) == shift(*pair, seed=1)
    assert shift(*pair, seed=1) != shift(*pair, seed=2)


def test_bad_input_is_refused():
    scores = ItemScores.of([[0.0, 1.0]], [[0.0, 1.0]], [0])
    with pytest.raises(ValueError, match=r"scores must be of the same 2 items. Got those of 1"):
        calibration_shift([0, 1], [0, 1], [0, 1], scores)
    with pytest.raises(ValueError, match=r"the same items. Got 1, 2, 1 predictions and labels"):
        calibration_shift([0], [0, 1], [0], scores)
    with pytest.raises(ValueError, match=r"n_bins must be at least 1. Got 0. 15 is usual"):
        calibration_shift([0], [0], [0], scores, n_bins=0)
    with pytest.raises(ValueError, match=r"needs items and resamples. Got 1 and 0"):
        calibration_shift([0], [0], [0], scores, n_resamples=0)
