"""The evaluate modules: loaded by path and by name, combined, fed in batches, used by a Trainer's function.

That the examples of their cards run is tested with the other pages, in test_docs.py.
"""

import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from scipy.spatial.distance import jensenshannon
from transformers import EvalPrediction

import hf_compalign.metrics
from hf_compalign.measure.attribution import SIMILARITIES, similarities
from hf_compalign.measure.statistics import Cells, kl_divergence
from hf_compalign.measure.statistics import class_bias as measured_class_bias
from hf_compalign.metrics import load_metric

FOLDER = Path(hf_compalign.metrics.__file__).parent

# one item per cell, then one without a label that the models answer differently
TEACHER = [0, 0, 1, 1, 1, 2]
STUDENT = [0, 1, 0, 1, 2, 0]
LABELS = [0, 0, 0, 0, 0, -100]
INPUTS = {"predictions": STUDENT, "references": LABELS, "teacher_predictions": TEACHER}
SAME = {name: [0, 1] for name in INPUTS}
FOUND = {"mismatch_rate": 4 / 6, "agreement": 2 / 6, "nfr": 0.2, "pfr": 0.2, "flip_rate": 0.4, "btc": 0.5, "bec": 2 / 3}
FOUND |= {"accuracy": 0.4, "teacher_accuracy": 0.4, "accuracy_change": 0.0, "cie": 4, "cie_u": 1}

mismatch = pytest.fixture(lambda: load_metric("mismatch"), scope="module")
shift = pytest.fixture(lambda: load_metric("prediction_shift"), scope="module")
calibration = pytest.fixture(lambda: load_metric("calibration_shift"), scope="module")
bias = pytest.fixture(lambda: load_metric("class_bias"), scope="module")
agreement = pytest.fixture(lambda: load_metric("attribution_agreement"), scope="module")

# What evaluate has on the Hub: the inputs and the result of its accuracy and its f1.
STOCK = """
import datasets
import evaluate
from sklearn.metrics import NAME_score


class CLASS(evaluate.Metric):
    def _info(self):
        features = datasets.Features({name: datasets.Value("int32") for name in ("predictions", "references")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, sample_weight=None):
        return {"NAME": float(NAME_score(references, predictions, sample_weight=sample_weight))}
"""


def test_numbers_by_hand(mismatch):
    found = mismatch.compute(**INPUTS)
    assert found == FOUND
    assert {type(value) for value in found.values()} == {int, float}
    assert mismatch.keep_in_memory  # nothing is written to the cache
    same = mismatch.compute(**SAME)
    assert (same["cie"], same["agreement"], same["nfr"], same["accuracy_change"]) == (0, 1, 0, 0)
    assert math.isnan(same["bec"])


@pytest.mark.parametrize(
    "name", ["mismatch", "prediction_shift", "calibration_shift", "class_bias", "attribution_agreement"]
)
def test_they_are_loaded_by_path(name):
    metric = evaluate.load(str(FOLDER / name), keep_in_memory=True)
    assert metric.name == name
    if name == "mismatch":
        assert metric.compute(**INPUTS) == FOUND


def test_numbers_are_those_of_the_comparison(mismatch):
    teacher, student, labels = np.random.default_rng(0).integers(0, 3, (3, 100))
    found = mismatch.compute(predictions=student, references=labels, teacher_predictions=teacher)
    cells = Cells.count(teacher, student, labels)
    assert found["mismatch_rate"] == cells.churn
    assert (found["accuracy"], found["teacher_accuracy"]) == (cells.accuracy_candidate, cells.accuracy_reference)
    assert (found["nfr"], found["bec"]) == (cells.nfr, cells.bec)


def test_probabilities_add_divergences(mismatch):
    p, q = [[1.0, 0.0], [0.3, 0.7]], [[0.5, 0.5], [0.3, 0.7]]
    found = mismatch.compute(**SAME, probabilities=q, teacher_probabilities=p)
    assert found["kl"] == pytest.approx(math.log(2) / 2)
    assert found["kl"] == pytest.approx(kl_divergence(np.log([[1, 1e-300], p[1]]), np.log(q)).mean())
    assert 0 < found["probability_loyalty"] < 1


def test_probabilities_that_do_not_fit_are_refused(mismatch):
    p = [[1.0, 0.0, 0.0]] * 6
    with pytest.raises(ValueError, match="need both models' probabilities"):
        mismatch.compute(**INPUTS, probabilities=p)
    with pytest.raises(ValueError, match=r"teacher_probabilities must be 6 rows, .* Got shape \[5, 3\]"):
        mismatch.compute(**INPUTS, probabilities=p, teacher_probabilities=p[:5])
    for wrong in ([[2.0, 0.0, 0.0]] * 6, [[-0.5, 1.5, 0.0]] * 6):
        with pytest.raises(ValueError, match=r"rows of probabilities must not be neg.* Take the softmax of logits"):
            mismatch.compute(**INPUTS, probabilities=wrong, teacher_probabilities=p)


def test_batches_are_the_whole(mismatch):
    for start in (0, 4):
        mismatch.add_batch(**{name: values[start : start + 4] for name, values in INPUTS.items()})
    assert mismatch.compute() == FOUND


def test_combined_with_itself_and_with_metrics_without_a_teacher(mismatch, tmp_path):
    assert evaluate.combine({"mismatch": mismatch}).compute(**INPUTS) == FOUND
    for name in ("accuracy", "f1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(STOCK.replace("NAME", name).replace("CLASS", name.title()))
    stock = [evaluate.load(str(tmp_path / name), keep_in_memory=True) for name in ("accuracy", "f1")]
    answers = {"predictions": [0, 1, 1, 0], "references": [0, 1, 0, 0], "teacher_predictions": [0, 1, 1, 1]}
    # As the card says: in batches, and a name that two have gets that of its metric before it.
    combined = evaluate.combine([mismatch, *stock])
    combined.add_batch(**answers)
    found = combined.compute()
    assert (found["accuracy_accuracy"], found["mismatch_accuracy"], found["f1"]) == (0.75, 0.75, 2 / 3)
    assert (found["cie"], found["teacher_accuracy"]) == (1, 0.5)


CLASSES = ["predictions", "references", "teacher_predictions"]


@pytest.mark.parametrize("name", ["mismatch", "class_bias", "calibration_shift", "attribution_agreement"])
def test_a_class_is_a_whole_number_and_is_not_cut_to_one(name):
    metric, rows = load_metric(name), [[1.0, 0.0], [0.3, 0.7]]
    given = {column: [0, 1] if column in CLASSES else rows for column in metric.features}
    expected = metric.compute(**given)
    for column in metric.features.keys() & CLASSES:
        for wrong in ([0, 0.9], np.array([0.0, math.nan])):
            with pytest.raises(ValueError, match=rf"{column} must be classes, .* Got {wrong[1]} in row 1. Take the ar"):
                metric.compute(**given | {column: wrong})
        one = {key.removesuffix("s") if key in CLASSES[:2] else key: values[0] for key, values in given.items()}
        with pytest.raises(ValueError, match=f"{column} must be classes, .* Got 0.5 in row 0"):
            metric.add(**one | {column.removesuffix("s") if column in CLASSES[:2] else column: 0.5})
        # As pandas writes them where one is missing. Nothing is left of what was refused.
        np.testing.assert_equal(metric.compute(**given | {column: [0.0, 1.0]}), expected)


@pytest.mark.parametrize("column", CLASSES)
def test_a_class_in_a_group_is_not_cut_either(column):
    given = {name: [0, 1] for name in CLASSES} | {"groups": ["a", "b"]}
    with pytest.raises(ValueError, match=f"{column} must be classes"):
        load_metric("group_fairness").compute(**given | {column: [0, 0.9]})


def test_as_a_compute_metrics_function(mismatch):
    teacher_logits = np.eye(3)[TEACHER]

    def compute_metrics(evaluated):
        logits, labels = evaluated
        teacher = teacher_logits.argmax(-1)
        return mismatch.compute(predictions=logits.argmax(-1), references=labels, teacher_predictions=teacher)

    assert compute_metrics(EvalPrediction(np.eye(3)[STUDENT], np.array(LABELS))) == FOUND


def test_an_unknown_metric_is_refused():
    message = r"There is no metric 'mismatches'. Available: .*\bmismatch, prediction_shift.$"
    with pytest.raises(ValueError, match=message):
        load_metric("mismatches")


def tables(n, n_classes=3, seed=0):
    """Probabilities of a teacher and a student, [n, n_classes] each, and labels."""
    generator = np.random.default_rng(seed)
    teacher, student = generator.dirichlet(np.ones(n_classes), (2, n))
    return teacher, student, generator.integers(0, n_classes, n)


def test_the_shift_is_that_of_scipy(shift):
    p, q, _ = tables(50)
    found = shift.compute(probabilities=q, teacher_probabilities=p, logits=q, teacher_logits=p)
    assert found["kl"] == pytest.approx(scipy.stats.entropy(p, q, axis=1).mean())
    assert found["js_distance"] == pytest.approx(jensenshannon(p, q, base=2, axis=1).mean())
    assert found["probability_loyalty"] == 1 - found["js_distance"]
    assert found["logit_error"] == pytest.approx(sklearn.metrics.mean_squared_error(p, q))
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.filterwarnings("error")
def test_the_shift_of_certain_models(shift):
    found = shift.compute(probabilities=[[0.0, 1.0]], teacher_probabilities=[[1.0, 0.0]])
    assert found == {"kl": math.inf, "js_distance": 1, "probability_loyalty": 0}
    same = shift.compute(probabilities=[[0.0, 1.0]], teacher_probabilities=[[0.0, 1.0]])
    assert same == {"kl": 0, "js_distance": 0, "probability_loyalty": 1}


def test_the_shift_is_that_of_mismatch(shift, mismatch):
    p, q, labels = tables(20)
    both = {"probabilities": q, "teacher_probabilities": p}
    found, other = shift.compute(**both), mismatch.compute(**dict.fromkeys(INPUTS, labels), **both)
    for name in ("kl", "probability_loyalty"):
        assert other[name] == found[name]


def test_logits_that_do_not_fit_are_refused(shift):
    p = [[0.5, 0.5]] * 2
    with pytest.raises(ValueError, match="logit_error needs both models' logits. Got one"):
        shift.compute(probabilities=p, teacher_probabilities=p, logits=p)
    with pytest.raises(ValueError, match=r"^logits must be 2 rows, one per example. Got shape \[1, 2\]"):
        shift.compute(probabilities=p, teacher_probabilities=p, logits=p[:1], teacher_logits=p)
    with pytest.raises(ValueError, match="over the same classes. Got 2 of the teacher and 3 of the student"):
        shift.compute(probabilities=p, teacher_probabilities=p, logits=[[1, 2, 3]] * 2, teacher_logits=p)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([[1.0, 0], [math.nan, 1]], "teacher_probabilities must be numbers. 1 of 2 rows have NaN, the first is row 1"),
        ([[0.5, 0.5], [0.5, 0.6]], "rows of teacher_probabilities .* Row 1 sums to 1.1, its smallest is 0.5"),
        ([[-0.5, 1.5], [0.5, 0.5]], "Row 0 sums to 1, its smallest is -0.5. Take the softmax of logits first"),
        ([[0.5, 0.5], [1.0]], "teacher_probabilities must have as many classes in each of their rows"),
        ([[0.2, 0.3, 0.5]] * 2, "over the same classes. Got 3 of the teacher and 2 of the student"),
    ],
)
def test_what_are_no_probabilities_is_refused(shift, calibration, mismatch, wrong, message):
    given = {"probabilities": [[0.5, 0.5]] * 2, "teacher_probabilities": wrong}
    for metric, more in ((shift, {}), (calibration, {"references": [0, 1]}), (mismatch, SAME)):
        with pytest.raises(ValueError, match=message):
            metric.compute(**given, **more)


def test_half_precision_sums_to_one_closely_enough(shift):
    p = tables(30, n_classes=200)[0].astype(np.float16)
    assert not (p.astype(np.float64).sum(axis=1) == 1).all()
    assert shift.compute(probabilities=p, teacher_probabilities=p)["kl"] == 0


def expected_ece(probabilities, labels, n_bins):
    """The calibration error, bin by bin."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for index in range(n_bins):
        inside = (confidence > index / n_bins) & (confidence <= (index + 1) / n_bins)
        total += abs(confidence[inside].sum() - right[inside].sum())
    return total / len(labels)


@pytest.mark.parametrize("n_bins", [15, 4])
def test_calibration_is_that_of_scikit_learn(calibration, n_bins):
    p, q, labels = tables(300)
    found = calibration.compute(references=labels, probabilities=q, teacher_probabilities=p, n_bins=n_bins)
    assert found["n"] == 300
    one_hot = np.eye(3)[labels]
    for prefix, table in (("", q), ("teacher_", p)):
        assert found[f"{prefix}nll"] == pytest.approx(sklearn.metrics.log_loss(labels, table))
        assert found[f"{prefix}brier"] == pytest.approx(((table - one_hot) ** 2).sum(axis=1).mean())
        assert found[f"{prefix}ece"] == pytest.approx(expected_ece(table, labels, n_bins))
    for name in ("ece", "brier", "nll"):
        assert found[f"{name}_change"] == pytest.approx(found[name] - found[f"teacher_{name}"])
        assert found[f"{name}_change_low"] < found[f"{name}_change"] < found[f"{name}_change_high"]
    assert {type(value) for value in found.values()} == {int, float}


def test_calibration_leaves_out_what_has_no_label(calibration):
    p, q, labels = tables(20)
    some = np.where(np.arange(20) < 12, labels, -100)
    found = calibration.compute(references=some, probabilities=q, teacher_probabilities=p)
    assert found == calibration.compute(references=labels[:12], probabilities=q[:12], teacher_probabilities=p[:12])
    nothing = calibration.compute(references=[-100] * 20, probabilities=q, teacher_probabilities=p)
    assert nothing.pop("n") == 0
    assert all(map(math.isnan, nothing.values()))


@pytest.mark.filterwarnings("error")
def test_calibration_of_certain_models(calibration):
    certain = [[1.0, 0.0], [1.0, 0.0]]
    found = calibration.compute(references=[0, 1], probabilities=certain, teacher_probabilities=[[0.5, 0.5]] * 2)
    assert (found["ece"], found["brier"], found["nll"], found["nll_change"]) == (0.5, 1, math.inf, math.inf)
    assert found["teacher_nll"] == pytest.approx(math.log(2))
    # A label without a column is refused.
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), or -100 where unknown. Got 2"):
        calibration.compute(references=[2], probabilities=[[0.5, 0.5]], teacher_probabilities=[[0.5, 0.5]])


def test_bias_is_that_of_the_measure(bias):
    teacher, student, labels = np.random.default_rng(0).integers(0, 4, (3, 200))
    labels[:20] = -100
    found = bias.compute(predictions=student, references=labels, teacher_predictions=teacher)
    expected = measured_class_bias(teacher, student, labels, 4)
    assert (found["cev"], found["sde"], found["n_skipped"]) == (expected.cev, expected.sde, 0)
    for rate in ("fpr", "fnr"):
        names = {rate: f"{rate}_candidate", f"teacher_{rate}": f"{rate}_reference", f"{rate}_change": f"{rate}_change"}
        for ours, theirs in names.items():
            assert found[ours] == [getattr(row, theirs) for row in expected.rows]


def test_bias_counts_the_classes_that_occur_or_are_named(bias):
    answers = {"predictions": [0, 1], "references": [0, -100], "teacher_predictions": [0, 2]}
    assert len(bias.compute(**answers)["fpr"]) == 3
    assert bias.compute(**answers, n_classes=5)["n_skipped"] == 5
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\), or -100 where unknown. Got 1"):
        bias.compute(predictions=[0], references=[1], teacher_predictions=[0], n_classes=1)
    nothing = bias.compute(predictions=[], references=[], teacher_predictions=[])
    assert (nothing["n_skipped"], nothing["fpr"]) == (0, [])
    assert math.isnan(nothing["cev"])


def test_all_of_them_combined_in_batches(mismatch, shift, calibration, bias):
    p, q, labels = tables(30)
    answers = {"predictions": q.argmax(axis=1), "references": labels, "teacher_predictions": p.argmax(axis=1)}
    probabilities = {"probabilities": q, "teacher_probabilities": p}
    combined = evaluate.combine([mismatch, shift, calibration, bias])
    for rows in (slice(0, 20), slice(20, 30)):
        combined.add_batch(**{name: values[rows] for name, values in (answers | probabilities).items()})
    found = combined.compute()
    expected = mismatch.compute(**answers) | shift.compute(**probabilities)
    expected |= calibration.compute(references=labels, **probabilities) | bias.compute(**answers)
    assert found == expected


# Two examples that the models answer alike, one that they do not.
EXPLAINED = {
    "predictions": [0, 1, 0],
    "teacher_predictions": [0, 1, 1],
    "attributions": [[3.0, 4.0, 0.0], [0.0, 0.0, -2.0], [1.0, 0.0]],
    "teacher_attributions": [[3.0, 4.0, 0.0], [0.0, 0.0, 2.0], [0.6, 0.8]],
}


def test_agreement_by_hand(agreement):
    found, items = agreement.compute(**EXPLAINED, top_k=1), ("", "_agreeing", "_mismatches")
    assert found.keys() == {f"{name}{suffix}" for name in SIMILARITIES for suffix in items}
    assert [found[f"cosine{suffix}"] for suffix in items] == pytest.approx([0.2, 0, 0.6])
    assert [found[f"top_k_overlap{suffix}"] for suffix in items] == pytest.approx([2 / 3, 1, 0])
    assert found["weighted_jaccard_mismatches"] == pytest.approx(0.6 / 1.8)
    assert found["spearman_mismatches"] == pytest.approx(-1)
    assert {type(value) for value in found.values()} == {float}


def test_agreement_is_the_mean_of_the_similarities(agreement):
    rng = np.random.default_rng(0)
    student, teacher = ([rng.normal(size=n).tolist() for n in range(6, 14)] for _ in range(2))
    answers = {"predictions": [0] * 8, "teacher_predictions": [0] * 8}
    found = agreement.compute(**answers, attributions=student, teacher_attributions=teacher)
    each = [similarities(*pair) for pair in zip(student, teacher, strict=True)]
    for name in SIMILARITIES:
        assert found[name] == found[f"{name}_agreeing"] == pytest.approx(np.mean([one[name] for one in each]))
        assert math.isnan(found[f"{name}_mismatches"])


def test_agreement_loaded_by_path_in_batches(agreement):
    metric = evaluate.load(str(FOLDER / "attribution_agreement"), keep_in_memory=True)
    for rows in (slice(1), slice(1, 3)):
        metric.add_batch(**{name: values[rows] for name, values in EXPLAINED.items()})
    assert metric.compute() == pytest.approx(agreement.compute(**EXPLAINED), nan_ok=True)


def test_agreement_combined_with_the_mismatches(mismatch, agreement):
    both = evaluate.combine([mismatch, agreement])
    both.add_batch(references=[0, 1, 1], **EXPLAINED)
    found = both.compute()
    assert (found["cie"], found["cie_u"]) == (1, 1)
    assert found["cosine"] == pytest.approx(0.2)


def test_agreement_leaves_out_what_is_not_defined(agreement):
    answers = {"predictions": [0, 0], "teacher_predictions": [0, 0]}
    found = agreement.compute(**answers, attributions=[[], [1.0, 2.0]], teacher_attributions=[[], [1, 2]])
    assert found["cosine"] == pytest.approx(1)
    assert math.isnan(found["top_k_overlap"])  # no example has more than 5 scores


def test_bad_attributions_are_refused(agreement):
    with pytest.raises(ValueError, match=r"inputs are missing: \['teacher_attributions'\]"):
        agreement.compute(**{name: values for name, values in EXPLAINED.items() if name != "teacher_attributions"})
    one = {"predictions": [0], "teacher_predictions": [0], "attributions": [[1.0]]}
    with pytest.raises(ValueError, match=r"equally many scores. Got the shapes \[2\] and \[1\]"):
        agreement.compute(**one, teacher_attributions=[[1.0, 2.0]])
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        agreement.compute(**EXPLAINED, top_k=0)
