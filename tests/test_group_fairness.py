"""The evaluate module group_fairness: loaded by path and by name, combined, fed in batches, against fairlearn.

That the examples of its card run is tested with the other pages, in test_docs.py.
"""

import math
import sys
from pathlib import Path

import evaluate
import fairlearn.metrics
import numpy as np
import pytest
from transformers import EvalPrediction

import hf_compalign.metrics
from hf_compalign.measure.groups import audit_groups, normalized_groups
from hf_compalign.metrics import load_metric

FOLDER = Path(hf_compalign.metrics.__file__).parent / "group_fairness"
MEASURES = ("demographic_parity_difference", "demographic_parity_ratio", "equal_opportunity_difference")
MEASURES += ("equalized_odds_difference", "equalized_odds_ratio")

metric = pytest.fixture(lambda: load_metric("group_fairness"), scope="module")


@pytest.fixture(scope="module")
def inputs():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    groups = generator.choice(["a", "b", "c"], 200, p=[0.5, 0.4, 0.1])
    teacher = np.where(generator.random(200) < 0.2, 1 - labels, labels)
    student = np.where(generator.random(200) < 0.1 + 0.2 * (groups == "b"), 1 - teacher, teacher)
    columns = {"predictions": student, "references": labels, "teacher_predictions": teacher, "groups": groups}
    return {name: values.tolist() for name, values in columns.items()}


def same(first, second):
    np.testing.assert_equal(first, second)  # nan equals nan
    return True


def test_numbers_are_plain_and_those_of_the_audit_of_groups(metric, inputs):
    found = metric.compute(**inputs)
    answers = (inputs[name] for name in ("teacher_predictions", "predictions", "references"))
    audit = audit_groups(*answers, normalized_groups(inputs["groups"], 200), n_classes=2)
    (gap,) = audit.gaps
    assert (found["n_groups"], found["groups"]) == (2, [row.group for row in audit.rows])
    assert (found["mismatch_gap"], found["mismatch_gap_p"]) == (gap.mismatch_gap, gap.range_p_value)
    assert (found["mismatch_p"], found["n_ungrouped"]) == (gap.p_value, 0)
    for row in gap.fairness:
        if row.label is None:
            names = (f"{row.measure}_all_groups", f"teacher_{row.measure}_all_groups", f"{row.measure}_upper_bound")
            values = (row.candidate_all_groups, row.reference_all_groups, row.upper_bound)
            assert same([found[name] for name in names], list(values))
            assert found[f"{row.measure}_left_out"] == list(row.left_out)
    assert found["demographic_parity_difference_left_out"] == [row.group for row in audit.rows if row.small] == ["c"]
    assert found["mismatch_gap_upper_bound"] == gap.upper_bound > found["mismatch_gap"]
    assert found["worst_group_accuracy_drop_upper_bound"] == gap.drop_upper_bound
    assert same(found["group_p_adjusted"], [row.p_adjusted for row in audit.rows])
    assert {type(value) for value in found.values()} == {int, float, list}
    assert {type(one) for value in found.values() if isinstance(value, list) for one in value} == {int, float, str}
    loaded = evaluate.load(str(FOLDER), keep_in_memory=True)
    assert loaded.name == "group_fairness"
    assert same(loaded.compute(**inputs), found)


def test_numbers_are_those_of_numpy_and_fairlearn(metric, inputs):
    found = metric.compute(**inputs, min_group_size=1, label=1)
    student, labels, teacher, groups = (np.array(values) for values in inputs.values())
    names = found["groups"]
    assert found["group_n"] == [(groups == name).sum() for name in names]
    rates = [(student != teacher)[groups == name].mean() for name in names]
    assert found["group_mismatch_rate"] == pytest.approx(rates)
    assert found["mismatch_gap"] == pytest.approx(max(rates) - min(rates))
    lost = [((teacher == labels) & (student != labels))[groups == name].mean() for name in names]
    assert found["group_nfr"] == pytest.approx(lost)
    assert found["nfr_gap"] == pytest.approx(max(lost) - min(lost))
    for prefix, answers in (("", student), ("teacher_", teacher)):
        accuracy = [(answers == labels)[groups == name].mean() for name in names]
        assert found[f"{prefix}group_accuracy"] == pytest.approx(accuracy)
        assert found[f"{prefix}worst_group_accuracy"] == pytest.approx(min(accuracy))
        for measure in MEASURES:
            expected = getattr(fairlearn.metrics, measure)(labels, answers, sensitive_features=groups)
            assert found[f"{prefix}{measure}"] == pytest.approx(expected)
    assert found["worst_group_accuracy_drop"] == found["teacher_worst_group_accuracy"] - found["worst_group_accuracy"]
    for measure in MEASURES:
        assert found[f"{measure}_change"] == found[measure] - found[f"teacher_{measure}"]


def test_without_a_label_the_measures_are_the_worst_over_the_classes(metric, inputs):
    worst, *by_class = (metric.compute(**inputs, label=label) for label in (None, 0, 1))
    for measure in MEASURES:
        pick = min if measure.endswith("ratio") else max
        assert worst[measure] == pick(one[measure] for one in by_class)


def test_batches_and_single_examples_are_the_whole(metric, inputs):
    whole = metric.compute(**inputs)
    for start in (0, 70, 140):
        metric.add_batch(**{name: values[start : start + 70] for name, values in inputs.items()})
    assert same(metric.compute(), whole)
    for prediction, reference, teacher, group in zip(*inputs.values(), strict=True):
        metric.add(prediction=prediction, reference=reference, teacher_predictions=teacher, groups=group)
    assert same(metric.compute(), whole)
    with pytest.raises(ValueError, match="add_batch needs predictions, one for each of the groups. Got none"):
        metric.add_batch(references=[0, 1], teacher_predictions=[0, 1], groups=["a", "b"])


def test_groups_may_overlap_or_be_missing_in_any_order(metric):
    answers = {"predictions": [0, 1, 1, 0], "references": [0, 1, 0, 0], "teacher_predictions": [0, 1, 0, 1]}
    for groups in ([None, "a", ["a", "b"], ["b"]], [[], ["a"], ["a", "b"], "b"], [(), ("a",), ("a", "b"), ("b",)]):
        found = metric.compute(**answers, groups=groups, min_group_size=2)
        assert (found["groups"], found["group_n"], found["group_mismatch_rate"]) == (["a", "b"], [2, 2], [0.5, 1.0])


def test_combined_with_another_metric(metric, inputs):
    both = evaluate.combine([metric, load_metric("mismatch")])
    both.add_batch(**inputs)
    found = both.compute()
    assert found["cie"] == np.sum(np.array(inputs["predictions"]) != inputs["teacher_predictions"])
    assert found["mismatch_gap"] == metric.compute(**inputs)["mismatch_gap"]


def test_as_a_compute_metrics_function(metric, inputs):
    def compute_metrics(evaluated):
        logits, labels = evaluated
        given = {name: inputs[name] for name in ("teacher_predictions", "groups")}
        return metric.compute(predictions=logits.argmax(-1), references=labels, **given)

    evaluated = EvalPrediction(np.eye(2)[inputs["predictions"]], np.array(inputs["references"]))
    assert same(compute_metrics(evaluated), metric.compute(**inputs))


def test_degenerate_inputs_are_defined_or_nan(metric):
    answers = {"predictions": [0, 1], "teacher_predictions": [0, 0], "groups": ["a", "b"]}
    unlabeled = metric.compute(**answers, references=[-100, -100], min_group_size=1)
    assert (unlabeled["mismatch_gap"], unlabeled["n_groups"]) == (1.0, 2)
    assert math.isnan(unlabeled["worst_group_accuracy"])
    small = metric.compute(**answers, references=[0, 1])
    assert (small["n_groups"], small["groups"], small["group_mismatch_rate"]) == (0, ["a", "b"], [0.0, 1.0])
    assert math.isnan(small["mismatch_gap"])
    none = metric.compute(predictions=[0], references=[0], teacher_predictions=[0], groups=[None])
    assert (none["n_groups"], none["groups"]) == (0, [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": ["a"]}, "groups must have one entry per item: 2 of them. Got 1"),
        ({"groups": ["a", 3]}, r"groups must be a text, a list of texts, .* Got 3 \(int\) for item 1"),
        ({"groups": ["a", "b"], "label": 2}, r"label must be one of the 2 classes, in \[0, 2\). Got 2."),
        ({"groups": ["a", "b"], "n_classes": 1}, r"reference must be in \[0, 1\), one number per class. Got 1"),
        ({}, "Evaluation module inputs are missing: .*groups"),
    ],
)
def test_bad_inputs_are_refused(metric, settings, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=[0, 1], references=[0, 1], teacher_predictions=[0, 1], **settings)


def test_a_class_out_of_very_many_has_its_measures(metric):
    answers = np.arange(300) % 150
    inputs = {"predictions": answers, "references": answers, "teacher_predictions": answers}
    groups = ["a", "b"] * 150
    found = metric.compute(**inputs, groups=groups, label=7, n_classes=200, min_group_size=1)
    assert found["demographic_parity_difference"] == 2 / 150
    nowhere = metric.compute(**inputs, groups=groups, label=170, n_classes=200, min_group_size=1)
    assert math.isnan(nowhere["demographic_parity_difference"])


def test_without_fairlearn_the_command_that_installs_it_is_named(metric, monkeypatch):
    monkeypatch.setitem(sys.modules, "fairlearn.metrics", None)
    with pytest.raises(ImportError, match=r"pip install 'hf-compalign\[fairness\]'"):
        metric.compute(predictions=[0], references=[0], teacher_predictions=[0], groups=["a"])
