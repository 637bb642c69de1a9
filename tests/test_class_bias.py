"""Change of the error rates per class, against scikit-learn and by hand."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hf_compalign.measure.statistics import class_bias

pytestmark = pytest.mark.filterwarnings("error")
RATES = ("fpr_reference", "fpr_candidate", "fpr_change", "fnr_reference", "fnr_candidate", "fnr_change")


@st.composite
def three_answers(draw, classes=4):
    n = draw(st.integers(0, 40))
    reference, candidate = (draw(arrays(np.int64, n, elements=st.integers(0, classes - 1))) for _ in range(2))
    labels = draw(arrays(np.int64, n, elements=st.sampled_from([-100, *range(classes)])))
    return reference, candidate, labels


def expected_rates(predicted, labels, classes):
    """FPR and FNR of each class, from scikit-learn's one-vs-rest tables."""
    known = labels != -100
    if not known.any():
        return [(math.nan, math.nan)] * classes
    tables = sklearn.metrics.multilabel_confusion_matrix(labels[known], predicted[known], labels=range(classes))
    return [
        (fp / (fp + tn) if fp + tn else math.nan, fn / (fn + tp) if fn + tp else math.nan)
        for (tn, fp), (fn, tp) in tables.tolist()
    ]


@settings(deadline=None)
@given(three_answers())
def test_rates_and_what_is_made_of_them(answers):
    reference, candidate, labels = answers
    found = class_bias(*answers, 4)
    before, after = (expected_rates(predicted, labels, 4) for predicted in (reference, candidate))
    changes = []
    for k, row in enumerate(found.rows):
        pair = [100 * (new - old) / old if old else math.nan for old, new in zip(before[k], after[k], strict=True)]
        expected = (before[k][0], after[k][0], pair[0], before[k][1], after[k][1], pair[1])
        assert row.label == k
        assert [getattr(row, name) for name in RATES] == pytest.approx(expected, nan_ok=True)
        if not any(map(math.isnan, pair)):
            changes.append(pair)
    assert found.n_skipped == 4 - len(changes)
    if not changes:
        assert math.isnan(found.cev)
        assert math.isnan(found.sde)
        return
    means = [sum(column) / len(changes) for column in zip(*changes, strict=True)]
    cev = sum((fpr - means[0]) ** 2 + (fnr - means[1]) ** 2 for fpr, fnr in changes) / (2 * len(changes))
    sde = sum(abs(fpr - fnr) for fpr, fnr in changes) / math.sqrt(2) / len(changes)
    assert (found.cev, found.sde) == pytest.approx((cev, sde))


def test_three_classes_by_hand():
    # Ten items per class. The reference takes 2 of class 0 for 1, 2 of class 1 for 2, 2 of class 2 for 0:
    # FPR 2/20 and FNR 2/10 everywhere. The candidate takes 4, 2 and 1.
    labels = np.repeat([0, 1, 2], 10)
    reference, candidate = labels.copy(), labels.copy()
    for answers, errors in ((reference, (2, 2, 2)), (candidate, (4, 2, 1))):
        for k, count in enumerate(errors):
            answers[10 * k : 10 * k + count] = (k + 1) % 3
    found = class_bias(reference, candidate, labels, 3)
    assert [row.fpr_reference for row in found.rows] == [0.1] * 3
    assert [row.fnr_candidate for row in found.rows] == [0.4, 0.2, 0.1]
    assert [row.fpr_change for row in found.rows] == pytest.approx([-50, 100, 0])
    assert [row.fnr_change for row in found.rows] == pytest.approx([100, 0, -50])
    # Both means are 50/3: each sum of squares is 12500 - 2500/3, and the differences are 150, 100, 50.
    assert found.cev == pytest.approx((12500 - 2500 / 3) / 3)
    assert found.sde == pytest.approx(100 / math.sqrt(2))
    assert found.n_skipped == 0


def test_a_model_against_itself():
    labels = np.array([0, 0, 1, 1, 2, 2])
    answers = np.array([0, 1, 1, 2, 2, 0])
    found = class_bias(answers, answers, labels, 3)
    assert (found.cev, found.sde, found.n_skipped) == (0, 0, 0)
    wrong = class_bias([1, 0, 1, 0], [1, 0, 1, 0], [0, 1, 0, 1], 2)
    assert [(row.fpr_candidate, row.fnr_candidate) for row in wrong.rows] == [(1, 1), (1, 1)]
    assert (wrong.cev, wrong.sde) == (0, 0)


def test_a_faultless_reference_leaves_nothing_to_compare():
    found = class_bias([0, 1], [1, 1], [0, 1], 2)
    assert found.n_skipped == 2
    assert math.isnan(found.cev)
    assert found.rows[0].fnr_candidate == 1
    assert math.isnan(found.rows[0].fnr_change)


@pytest.mark.parametrize("answers", [([], [], []), ([0], [0], [0]), ([1, 0], [0, 1], [-100, -100])])
def test_without_anything_to_compare_all_classes_are_skipped(answers):
    found = class_bias(*answers, 2)
    assert (len(found.rows), found.n_skipped) == (2, 2)
    assert math.isnan(found.sde)


def test_a_class_that_nobody_has_is_skipped():
    answers = [0, 0, 1, 1, 1, 0]
    found = class_bias(answers, answers, [0, 1, 1, 0, 1, 0], 3)
    assert found.n_skipped == 1
    assert math.isnan(found.rows[2].fnr_reference)
    assert found.rows[2].fpr_reference == 0
    assert found.cev == 0


def test_numbers_outside_the_classes_are_refused():
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), or -100 where unknown. Got 2"):
        class_bias([0, 1], [0, 1], [0, 2], 2)
    with pytest.raises(ValueError, match=r"candidate must be in \[0, 2\).* Got 5"):
        class_bias([0, 1], [0, 5], [0, 1], 2)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\).* Got -1"):
        class_bias([0, 1], [0, 1], [0, -1], 2)
    with pytest.raises(ValueError, match="the same items"):
        class_bias([0, 1], [0, 1], [0], 2)
