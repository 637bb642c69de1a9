"""The evaluate module: numbers by hand, loaded by path, combined, in batches, degenerate.

That the examples of its card run is tested with the other pages, in test_docs.py.
"""

import math
from pathlib import Path

import evaluate
import numpy as np
import pytest

import hf_compalign.metrics
from hf_compalign.measure.attribution import SIMILARITIES, similarities
from hf_compalign.metrics import load_metric

FOLDER = Path(hf_compalign.metrics.__file__).parent / "attribution_agreement"

# Two examples that the models answer alike, one that they do not.
INPUTS = {
    "predictions": [0, 1, 0],
    "teacher_predictions": [0, 1, 1],
    "attributions": [[3.0, 4.0, 0.0], [0.0, 0.0, -2.0], [1.0, 0.0]],
    "teacher_attributions": [[3.0, 4.0, 0.0], [0.0, 0.0, 2.0], [0.6, 0.8]],
}


@pytest.fixture(scope="module")
def agreement():
    return load_metric("attribution_agreement")


def test_numbers_by_hand(agreement):
    found, items = agreement.compute(**INPUTS, top_k=1), ("", "_agreeing", "_mismatches")
    assert found.keys() == {f"{name}{suffix}" for name in SIMILARITIES for suffix in items}
    assert [found[f"cosine{suffix}"] for suffix in items] == pytest.approx([0.2, 0, 0.6])
    assert [found[f"top_k_overlap{suffix}"] for suffix in items] == pytest.approx([2 / 3, 1, 0])
    assert found["weighted_jaccard_mismatches"] == pytest.approx(0.6 / 1.8)
    assert found["spearman_mismatches"] == pytest.approx(-1)
    assert {type(value) for value in found.values()} == {float}


def test_the_means_are_those_of_the_similarities(agreement):
    rng = np.random.default_rng(0)
    student, teacher = ([rng.normal(size=n).tolist() for n in range(6, 14)] for _ in range(2))
    found = agreement.compute(
        predictions=[0] * 8, teacher_predictions=[0] * 8, attributions=student, teacher_attributions=teacher
    )
    each = [similarities(*pair) for pair in zip(student, teacher, strict=True)]
    for name in SIMILARITIES:
        assert found[name] == found[f"{name}_agreeing"] == pytest.approx(np.mean([one[name] for one in each]))
        assert math.isnan(found[f"{name}_mismatches"])


def test_loaded_by_path_in_batches(agreement):
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)
    assert metric.name == "attribution_agreement"
    for rows in (slice(1), slice(1, 3)):
        metric.add_batch(**{name: values[rows] for name, values in INPUTS.items()})
    assert metric.compute() == pytest.approx(agreement.compute(**INPUTS), nan_ok=True)


def test_combined_with_the_mismatches(agreement):
    both = evaluate.combine([load_metric("mismatch"), agreement])
    both.add_batch(references=[0, 1, 1], **INPUTS)
    found = both.compute()
    assert (found["cie"], found["cie_u"]) == (1, 1)
    assert found["cosine"] == pytest.approx(0.2)


def test_what_is_not_defined_is_left_out(agreement):
    found = agreement.compute(
        predictions=[0, 0], teacher_predictions=[0, 0], attributions=[[], [1.0, 2.0]], teacher_attributions=[[], [1, 2]]
    )
    assert found["cosine"] == pytest.approx(1)
    assert math.isnan(found["top_k_overlap"])  # no example has more than 5 scores


def test_bad_input_is_refused(agreement):
    with pytest.raises(ValueError, match=r"inputs are missing: \['teacher_attributions'\]"):
        agreement.compute(**{name: values for name, values in INPUTS.items() if name != "teacher_attributions"})
    with pytest.raises(ValueError, match=r"equally many scores. Got the shapes \[2\] and \[1\]"):
        agreement.compute(
            predictions=[0], teacher_predictions=[0], attributions=[[1.0]], teacher_attributions=[[1.0, 2.0]]
        )
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        agreement.compute(**INPUTS, top_k=0)
