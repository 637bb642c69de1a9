"""Divergences and scores per item, against scipy, scikit-learn and values worked out by hand."""

import math
from dataclasses import fields

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon

from hf_compalign.measure.statistics import ItemScores, js_distance, kl_divergence

pytestmark = pytest.mark.filterwarnings("error")
NAMES = [field.name for field in fields(ItemScores)]


def softmax(logits):
    return scipy.special.softmax(np.asarray(logits, dtype=np.float64), axis=-1)


def logits_of(shape):
    return arrays(np.float32, shape, elements=st.floats(-50, 50, width=32))


def random_pair(n, classes, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.normal(scale=3, size=(n, classes))
    candidate = reference + rng.normal(scale=0.5, size=(n, classes))
    labels = rng.integers(0, classes, size=n)
    labels[::7] = -100
    return reference.astype(dtype), candidate.astype(dtype), labels


@settings(deadline=None)
@given(st.integers(2, 5).flatmap(lambda c: st.tuples(logits_of((3, c)), logits_of((3, c)))))
def test_kl_is_that_of_scipy_and_never_negative(pair):
    p, q = (softmax(logits) for logits in pair)
    kl = kl_divergence(*pair)
    assert kl.shape == (3,)
    assert (kl >= 0).all()
    np.testing.assert_allclose(kl, scipy.stats.entropy(p, q, axis=1), rtol=1e-6, atol=1e-9)
    assert (kl_divergence(pair[0], pair[0]) == 0).all()


def test_kl_of_extreme_logits():
    assert kl_divergence([[1e4, 0.0]], [[0.0, 1e4]]) == pytest.approx([1e4])
    assert kl_divergence([[0.0, -np.inf]], [[0.0, 0.0]]) == pytest.approx([math.log(2)])
    assert kl_divergence([[0.0, 0.0]], [[0.0, -np.inf]]) == [math.inf]
    assert kl_divergence([[0.0, -np.inf]], [[0.0, -np.inf]]) == [0]


@settings(deadline=None)
@given(logits_of((5, 3)), logits_of((5, 3)))
def test_the_js_distance_is_that_of_scipy(first, second):
    p, q = softmax(first), softmax(second)
    with np.errstate(invalid="ignore"):
        distance = jensenshannon(p, q, base=2, axis=1)
    assert js_distance(p, q) == pytest.approx(np.nan_to_num(distance), abs=1e-6)  # scipy has nan for rounded -0
    assert (js_distance(p, p) == 0).all()


def test_the_js_distance_of_known_distributions():
    assert js_distance([[1.0, 0.0]], [[0.0, 1.0]]) == [1]
    # m = (3/4, 1/4): JS divergence = 1/2 log2(4/3) + 1/2 (1/2 log2(2/3) + 1/2 log2 2)
    divergence = 0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3) + 0.25
    assert js_distance([[1.0, 0.0]], [[0.5, 0.5]]) == pytest.approx([math.sqrt(divergence)])


@pytest.mark.parametrize("function", [kl_divergence, js_distance])
def test_other_classes_are_refused(function):
    with pytest.raises(ValueError, match=r"the same classes. Got shapes \[1, 2\] and \[1, 3\]"):
        function([[0.5, 0.5]], [[0.2, 0.3, 0.5]])


@pytest.mark.parametrize("classes", [2, 3, 40])
def test_scores_are_those_of_scipy_and_scikit_learn(classes):
    reference, candidate, labels = random_pair(300, classes)
    scores = ItemScores.of(reference, candidate, labels)
    p, q = softmax(reference), softmax(candidate)
    np.testing.assert_allclose(scores.kl, scipy.stats.entropy(p, q, axis=1), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(scores.js_distance, jensenshannon(p, q, base=2, axis=1), rtol=1e-7)
    np.testing.assert_allclose(scores.logit_error, ((reference - candidate) ** 2).mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(scores.reference_confidence, p.max(axis=1), rtol=1e-12)
    np.testing.assert_allclose(scores.candidate_confidence, q.max(axis=1), rtol=1e-12)
    ordered = np.sort(p, axis=1)
    np.testing.assert_allclose(scores.reference_margin, ordered[:, -1] - ordered[:, -2], rtol=1e-9)
    # The proper scores are those of scikit-learn.
    known = labels != -100
    for name, probabilities in (("reference", p), ("candidate", q)):
        p, y = probabilities[known], labels[known]
        nll, brier = getattr(scores, f"{name}_nll"), getattr(scores, f"{name}_brier")
        assert np.isnan(nll[~known]).all()
        assert np.isnan(brier[~known]).all()
        options = {"labels": range(classes)}
        assert nll[known].mean() == pytest.approx(sklearn.metrics.log_loss(y, p, **options))
        expected = sklearn.metrics.brier_score_loss(y, p, scale_by_half=False, **options)
        assert brier[known].mean() == pytest.approx(expected)


@settings(deadline=None)
@given(st.integers(1, 4).flatmap(lambda c: st.tuples(logits_of((4, c)), logits_of((4, c)))))
def test_scores_agree_with_the_functions_of_whole_arrays(pair):
    scores = ItemScores.of(*pair, [0, -100, 0, 0])
    np.testing.assert_allclose(scores.kl, kl_divergence(*pair), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scores.js_distance, js_distance(*map(softmax, pair)), rtol=1e-7, atol=3e-8)
    assert (scores.kl >= 0).all()
    for name in ("js_distance", "reference_confidence", "candidate_confidence", "reference_margin"):
        assert ((getattr(scores, name) >= 0) & (getattr(scores, name) <= 1)).all()


@pytest.mark.parametrize("scale", [0, 1e-3, 1, 1e4])
def test_a_model_differs_in_nothing_from_itself(scale):
    logits = random_pair(500, 9)[0] * scale
    scores = ItemScores.of(logits, logits, np.zeros(500, dtype=int))
    assert not np.any([scores.kl, scores.js_distance, scores.logit_error])
    np.testing.assert_array_equal(scores.reference_nll, scores.candidate_nll)
    np.testing.assert_array_equal(scores.reference_brier, scores.candidate_brier)


def test_one_item_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2), the label is the second class
    scores = ItemScores.of([[math.log(3), 0.0]], [[0.0, 0.0]], [1])
    for kind, *expected in (("confidence", 0.75, 0.5), ("nll", math.log(4), math.log(2)), ("brier", 2 * 0.75**2, 0.5)):
        found = [getattr(scores, f"{model}_{kind}") for model in ("reference", "candidate")]
        np.testing.assert_allclose(found, np.transpose([expected]), rtol=1e-6)
    assert scores.reference_margin == pytest.approx([0.5])
    assert scores.logit_error == pytest.approx([math.log(3) ** 2 / 2])
    assert scores.kl == pytest.approx([0.75 * math.log(1.5) + 0.25 * math.log(0.5)])


@pytest.mark.parametrize(
    ("n", "classes", "part"), [(40_000, 3, slice(9_000, 23_456)), (2_111, 2_000, slice(2_090, 2_111))]
)
def test_many_blocks_give_what_each_part_gives(n, classes, part):
    reference, candidate, labels = random_pair(n, classes, np.float32)
    whole = ItemScores.of(reference, candidate, labels)
    again = ItemScores.of(reference[part], candidate[part], labels[part])
    for name in NAMES:
        assert getattr(whole, name).shape == (n,)
        np.testing.assert_array_equal(getattr(whole, name)[part], getattr(again, name))


def test_half_floats_and_files_are_read_as_they_are(tmp_path):
    reference, candidate, labels = random_pair(100, 5, np.float16)
    expected = ItemScores.of(reference.astype(np.float64), candidate.astype(np.float64), labels)
    np.save(tmp_path / "x.npy", reference)
    found = ItemScores.of(np.load(tmp_path / "x.npy", mmap_mode="r"), candidate, labels)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == np.float64


def test_impossible_classes_have_a_probability_of_0():
    reference = [[0.0, -np.inf, 0.0], [0.0, 0.0, 0.0], [1.0, -np.inf, -np.inf]]
    candidate = [[0.0, -np.inf, 0.0], [0.0, -np.inf, 0.0], [0.0, 1.0, 2.0]]
    scores = ItemScores.of(reference, candidate, [0, 1, 0])
    np.testing.assert_allclose(scores.kl, kl_divergence(reference, candidate), rtol=1e-12)
    assert scores.kl[:2].tolist() == [0, math.inf]
    np.testing.assert_allclose(scores.js_distance, js_distance(softmax(reference), softmax(candidate)), rtol=1e-12)
    assert scores.candidate_nll[1] == math.inf
    assert scores.candidate_brier[1] == pytest.approx(1.5)
    assert scores.reference_margin.tolist() == [0, 0, 1]


def test_extreme_logits_are_no_trouble():
    scores = ItemScores.of([[3e38, -3e38]], [[-3e38, 3e38]], [1])
    assert scores.kl == pytest.approx([6e38])
    assert (scores.js_distance, scores.reference_margin, scores.candidate_nll) == ([1], [1], [0])
    assert scores.reference_nll == pytest.approx([6e38])
    assert scores.reference_brier == pytest.approx([2])


def test_no_items_one_item_and_one_class():
    nothing = ItemScores.of(np.empty((0, 3)), np.empty((0, 3)), [])
    assert all(getattr(nothing, name).shape == (0,) for name in NAMES)
    alone = ItemScores.of([[5.0]], [[7.0]], [0])
    assert (alone.kl, alone.js_distance, alone.reference_confidence, alone.reference_margin) == ([0], [0], [1], [1])
    assert (alone.reference_nll, alone.reference_brier, alone.logit_error) == ([0], [0], [4])


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [np.inf, np.inf], [-np.inf, -np.inf]])
def test_what_is_no_logit_is_refused(row):
    logits = [[0.0, 0.0], row, row]
    message = r"-inf for a probability of 0. 2 of 3 items .* The first is item 1. Check"
    for pair in ((logits, np.zeros((3, 2))), (np.zeros((3, 2)), logits)):
        with pytest.raises(ValueError, match=message):
            ItemScores.of(*pair, [0, 0, 0])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([0.0, 1.0], [0, 1], r"shape \[N, C\], and labels must be integers of shape \[N\]. Got \[2\] and int64"),
        ([[0.0, 1.0]], [0, 1], r"Got \[1, 2\] and int64 of shape \[2\]"),
        ([[0.0, 1.0]], [0.0], r"Got \[1, 2\] and float64 of shape \[1\]"),
        ([[]], [0], r"Got \[1, 0\] and int64 of shape \[1\]"),
        ([[0.0, 1.0]], [2], r"labels must be in \[0, 2\), or -100 where unknown. Got 2"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        ItemScores.of(logits, logits, labels)
    with pytest.raises(ValueError, match=r"the same classes. Got shapes \[1, 2\] and \[2, 2\]"):
        ItemScores.of([[0.0, 1.0]], np.zeros((2, 2)), [0])


@pytest.mark.parametrize("rows", [[], [3], [299, 0, 5], np.arange(300)])
def test_scores_of_some_rows_are_those_of_all(rows):
    inputs = random_pair(300, 40)
    some, every = ItemScores.of(*inputs, rows=rows), ItemScores.of(*inputs)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[rows])


def test_a_broken_row_is_named_by_its_place_among_all():
    reference, candidate, labels = random_pair(5, 2)
    reference[3] = math.nan
    with pytest.raises(ValueError, match="1 of 2 items have others.* The first is item 3"):
        ItemScores.of(reference, candidate, labels, rows=[1, 3])
    assert len(ItemScores.of(reference, candidate, labels, rows=[0, 1]).kl) == 2
