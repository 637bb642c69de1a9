"""F1 and Matthews' correlation, against scikit-learn; their change against resamples of the items, by hand."""

import math
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from hf_compalign.measure.statistics import SCORES, task_score_changes, task_scores


def answers(n, classes, *, seed=0, unknown=0.0):
    """Two models' answers and the labels; the last classes are rare."""
    generator = np.random.default_rng(seed)
    shares = 1 / np.arange(1, classes + 1)
    labels = generator.choice(classes, n, p=shares / shares.sum())
    reference = np.where(generator.random(n) < 0.2, generator.integers(0, classes, n), labels)
    candidate = np.where(generator.random(n) < 0.15, generator.integers(0, classes, n), reference)
    return reference, candidate, np.where(generator.random(n) < unknown, -100, labels)


def of_sklearn(predicted, labels, classes):
    average = {"average": "binary", "pos_label": 1} if classes == 2 else {"average": "macro"}
    f1 = f1_score(labels, predicted, **average)
    return {"accuracy": accuracy_score(labels, predicted), "f1": f1, "mcc": matthews_corrcoef(labels, predicted)}


@pytest.mark.parametrize("classes", [2, 3, 40])  # of 40 not all occur
def test_scores_are_those_of_scikit_learn(classes):
    reference, candidate, labels = answers(150, classes, unknown=0.1)
    known = labels != -100
    for predicted in (reference, candidate, np.zeros(150, dtype=int)):
        found, expected = task_scores(predicted, labels, classes), of_sklearn(predicted[known], labels[known], classes)
        assert list(found) == list(SCORES) == list(expected)
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 5])
def test_changes_are_those_of_scikit_learn_with_the_interval_of_drawn_items(classes):
    sides = answers(400, classes, unknown=0.1)
    found = task_score_changes(*sides, classes, n_resamples=2000)
    r, c, y = (values[sides[2] != -100] for values in sides)
    before, after = (of_sklearn(predicted, y, classes) for predicted in (r, c))
    drawn = {name: [] for name in SCORES}
    for items in np.random.default_rng(1).integers(0, len(y), (2000, len(y))):
        one, other = (task_scores(predicted[items], y[items], classes) for predicted in (r, c))
        for name in SCORES:
            drawn[name].append(other[name] - one[name])
    for name, change in found.items():
        assert change.value == pytest.approx(after[name] - before[name])
        assert [change.low, change.high] == pytest.approx(np.quantile(drawn[name], [0.025, 0.975]), abs=0.006)


def test_what_is_not_defined_is_nan_and_one_answer_to_all_correlates_with_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert task_scores([0, 0], [0, 1], 2)["mcc"] == 0
        assert math.isnan(task_scores([0, 1], [1, 1], 2)["mcc"])  # there is nothing to tell apart
        assert math.isnan(task_scores([0, 0], [0, 0], 2)["f1"])  # class 1 is neither a label nor an answer
        assert all(map(math.isnan, task_scores([0, 1], [-100, -100], 2).values()))
        assert all(math.isnan(change.value) for change in task_score_changes([0], [1], [-100], 2).values())
        same = task_score_changes([0, 1, 1], [0, 1, 1], [0, 1, 0], 2)
    assert {(one.value, one.low, one.high) for one in same.values()} == {(0, 0, 0)}


def test_the_seed_decides_the_draws_and_blocks_do_not_matter_to_the_value():
    sides = answers(200, 3)
    assert task_score_changes(*sides, 3, seed=4) == task_score_changes(*sides, 3, seed=4)
    first, second = (task_score_changes(*sides, 3, seed=seed) for seed in (4, 5))
    assert first["f1"].value == second["f1"].value
    assert first["f1"] != second["f1"]


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([0, 2], [0, 1], r"predictions must be in \[0, 2\), one number per class. Got 2"),
        ([0, 1], [0, 3], r"labels must be in \[0, 2\), or -100 where unknown. Got 3"),
        ([0.5, 1], [0, 1], r"must be integers of shape \[N\]"),
    ],
)
def test_bad_answers_are_refused(predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        task_scores(predicted, labels, 2)
    with pytest.raises(ValueError, match=message):
        task_score_changes(predicted, predicted, labels, 2)
