"""The evaluate modules: loaded by path and by name, combined, fed in batches, used by a Trainer's function.

That the examples of their cards run is tested with the other pages, in test_docs.py.
"""

import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
from transformers import EvalPrediction

import hf_compalign.metrics
from hf_compalign.measure.comparison import Cells, kl_divergence
from hf_compalign.metrics import load_metric

FOLDER = Path(hf_compalign.metrics.__file__).parent / "mismatch"

# one item per cell, then one without a label that the models answer differently
TEACHER = [0, 0, 1, 1, 1, 2]
STUDENT = [0, 1, 0, 1, 2, 0]
LABELS = [0, 0, 0, 0, 0, -100]
INPUTS = {"predictions": STUDENT, "references": LABELS, "teacher_predictions": TEACHER}
FOUND = {
    "mismatch_rate": 4 / 6,
    "agreement": 2 / 6,
    "nfr": 0.2,
    "pfr": 0.2,
    "flip_rate": 0.4,
    "btc": 0.5,
    "bec": 2 / 3,
    "accuracy": 0.4,
    "teacher_accuracy": 0.4,
    "accuracy_change": 0.0,
    "cie": 4,
    "cie_u": 1,
}

TOY = """
import datasets
import evaluate


class Toy(evaluate.Metric):
    def _info(self):
        features = datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"n": len(predictions)}
"""


@pytest.fixture(scope="module")
def mismatch():
    return load_metric("mismatch")


def test_numbers_by_hand(mismatch):
    found = mismatch.compute(**INPUTS)
    assert found == FOUND
    assert {type(value) for value in found.values()} == {int, float}


def test_loaded_by_path():
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)
    assert metric.name == "mismatch"
    assert metric.compute(**INPUTS) == FOUND


def test_numbers_are_those_of_the_comparison(mismatch):
    generator = np.random.default_rng(0)
    teacher, student, labels = generator.integers(0, 3, (3, 100))
    found = mismatch.compute(predictions=student, references=labels, teacher_predictions=teacher)
    cells = Cells.count(teacher, student, labels)
    assert found["mismatch_rate"] == cells.churn
    assert (found["accuracy"], found["teacher_accuracy"]) == (cells.accuracy_candidate, cells.accuracy_reference)
    assert (found["nfr"], found["bec"]) == (cells.nfr, cells.bec)


def test_a_model_against_itself(mismatch):
    found = mismatch.compute(predictions=[0, 1], references=[0, 1], teacher_predictions=[0, 1])
    assert (found["cie"], found["agreement"], found["nfr"], found["accuracy_change"]) == (0, 1, 0, 0)
    assert math.isnan(found["bec"])


def test_probabilities_add_divergences(mismatch):
    p, q = [[1.0, 0.0], [0.3, 0.7]], [[0.5, 0.5], [0.3, 0.7]]
    found = mismatch.compute(
        predictions=[0, 1],
        references=[0, 1],
        teacher_predictions=[0, 1],
        probabilities=q,
        teacher_probabilities=p,
    )
    assert found["kl"] == pytest.approx(math.log(2) / 2)
    assert found["kl"] == pytest.approx(kl_divergence(np.log([[1, 1e-300], p[1]]), np.log(q)).mean())
    assert 0 < found["probability_loyalty"] < 1


def test_probabilities_of_one_model_are_refused(mismatch):
    with pytest.raises(ValueError, match="need both models' probabilities"):
        mismatch.compute(**INPUTS, probabilities=[[1.0, 0.0, 0.0]] * 6)


def test_logits_for_probabilities_are_refused(mismatch):
    p = [[1.0, 0.0, 0.0]] * 6
    for wrong in ([[2.0, 0.0, 0.0]] * 6, [[-0.5, 1.5, 0.0]] * 6):
        with pytest.raises(ValueError, match=r"rows of probabilities must not be neg.* Take the softmax of logits"):
            mismatch.compute(**INPUTS, probabilities=wrong, teacher_probabilities=p)


def test_probabilities_of_other_items_are_refused(mismatch):
    p = [[1.0, 0.0, 0.0]] * 6
    with pytest.raises(ValueError, match=r"teacher_probabilities must be 6 rows, .* Got shape \[5, 3\]"):
        mismatch.compute(**INPUTS, probabilities=p, teacher_probabilities=p[:5])


def test_batches_are_the_whole(mismatch):
    for start in (0, 4):
        mismatch.add_batch(**{name: values[start : start + 4] for name, values in INPUTS.items()})
    assert mismatch.compute() == FOUND


def test_combined_with_itself_and_with_a_metric_without_a_teacher(mismatch, tmp_path):
    assert evaluate.combine({"mismatch": mismatch}).compute(**INPUTS) == FOUND
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.py").write_text(TOY)
    toy = evaluate.load(str(tmp_path / "toy"), keep_in_memory=True)
    both = evaluate.combine([mismatch, toy])
    both.add_batch(**INPUTS)
    assert both.compute() == FOUND | {"n": 6}


def test_as_a_compute_metrics_function(mismatch):
    teacher_logits = np.eye(3)[TEACHER]

    def compute_metrics(evaluated):
        logits, labels = evaluated
        teacher = teacher_logits.argmax(-1)
        return mismatch.compute(predictions=logits.argmax(-1), references=labels, teacher_predictions=teacher)

    assert compute_metrics(EvalPrediction(np.eye(3)[STUDENT], np.array(LABELS))) == FOUND


def test_nothing_is_written_to_the_cache(mismatch):
    assert mismatch.keep_in_memory


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match=r"There is no metric 'mismatches'. Available: mismatch.$"):
        load_metric("mismatches")
