"""Regressions: a number for each item, and what two models make of it."""

import math

import numpy as np
import pytest
import tiny
import torch
from every_task import CASES, padded, rows

from hf_compalign import predict
from hf_compalign.measure.audit import compare_values
from hf_compalign.measure.predictions import Values, predict_values
from hf_compalign.measure.statistics import cluster_bound, upper_bound, value_metrics, wilson_interval
from hf_compalign.tasks import say_ignored_is_a_value

pytestmark = pytest.mark.numeric


def asked(name, seed, n=6):
    model, dataset = CASES[name].model(seed), rows(name, n)
    return model, dataset, predict_values(model, dataset, data_collator=padded, batch_size=4)


def test_a_regression_gives_a_number_for_each_row(caplog):
    model, dataset, found = asked("regression", 1)
    given = padded(list(dataset))
    with torch.no_grad():
        own = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits[:, 0]
    assert tiny.distance(found.values, own) < tiny.ROUNDING
    np.testing.assert_allclose(found.labels, dataset["labels"])
    assert (len(found), found.examples, len(found.data_fingerprint)) == (6, None, 16)
    without = predict_values(model, dataset.remove_columns("labels"), data_collator=padded)
    assert np.isnan(without.labels).all()
    say_ignored_is_a_value.cache_clear()
    odd = dataset.remove_columns("labels").add_column("labels", [-100.0, np.nan, *dataset["labels"][2:]])
    np.testing.assert_allclose(predict_values(model, odd, data_collator=padded).labels, odd["labels"])
    assert "If nobody knows these, give nan for them" in caplog.text
    raw = predict_values(
        tiny.bert(n_labels=1), tiny.reviews(label=[0.5, 1, 2, 3, 4]), processing_class=tiny.tokenizer()
    )
    assert raw.labels.tolist() == [0.5, 1, 2, 3, 4]


def test_of_several_numbers_each_is_an_item():
    _, dataset, found = asked("regression of two", 1)
    assert [name.rpartition("/")[2] for name in found.ids.tolist()] == ["LABEL_0", "LABEL_1"] * 6
    assert found.examples.tolist() == np.repeat(np.arange(6), 2).tolist()
    np.testing.assert_allclose(found.labels, np.array(dataset["labels"]).ravel())
    other = asked("regression of two", 2)[2]
    compared = compare_values(found, other, tolerance=0.1)
    assert (compared.n, compared.n_examples) == (12, 6)
    differ = np.abs(found.values - other.values).reshape(6, 2) > 0.1
    assert compared.mismatch_rate_upper_bound == cluster_bound(differ.sum(1), [2] * 6)


def test_two_models_are_compared_in_the_unit_of_the_labels():
    rng = np.random.default_rng(0)
    labels, ids = rng.normal(size=200) * 3, [str(item) for item in range(200)]
    reference = Values(labels + rng.normal(size=200) / 2, ids, labels)
    candidate = Values(reference.values + 0.2 + rng.normal(size=200) / 4, ids, labels)
    turned = Values(candidate.values[::-1], ids[::-1], labels[::-1])
    found = compare_values(reference, turned, tolerance=0.5)
    shift = candidate.values - reference.values
    k = int((np.abs(shift) > 0.5).sum())
    assert (found.mismatches, found.mismatch_rate) == (k, k / 200)
    assert found.mismatch_rate_interval == wilson_interval(k, 200)
    assert found.mismatch_rate_upper_bound == pytest.approx(upper_bound(k, 200))
    assert found.mean_shift.value == pytest.approx(shift.mean())
    assert found.mean_shift.low < 0.2 < found.mean_shift.high
    assert found.rms_shift == pytest.approx(np.sqrt((shift**2).mean()))
    assert found.r2 == pytest.approx(1 - (shift**2).sum() / ((reference.values - reference.values.mean()) ** 2).sum())
    assert found.rmse_reference == pytest.approx(np.sqrt(((reference.values - labels) ** 2).mean()))
    assert found.r2_reference > found.r2_candidate > 0.9
    assert f"{k} of 200 values moved by more than 0.5" in str(found)
    assert "Error against the labels: " in str(found)
    itself = compare_values(reference, reference, tolerance=0)
    assert (itself.mismatches, itself.r2, itself.mean_shift.value) == (0, 1, 0)
    bare = compare_values(Values([1.0], ["a"]), Values([1.0], ["a"]), tolerance=0)
    assert math.isnan(bare.rmse_reference)
    assert math.isnan(bare.r2)
    assert "labels" not in str(bare)


def test_metrics_of_values_against_scikit_learn():
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(1)
    before, after = rng.normal(size=(2, 50))
    assert value_metrics(before, after)["r2"] == pytest.approx(r2_score(before, after))


@pytest.mark.parametrize("tolerance", [None, -0.1, math.nan, math.inf, "half", True])
def test_a_tolerance_that_is_missing_or_none_is_refused(tolerance):
    one = Values([1.0], ["a"])
    with pytest.raises(ValueError, match="tolerance must be a number of at least 0, in the unit of the labels. Got"):
        compare_values(one, one, tolerance=tolerance)


def test_what_cannot_be_compared_is_refused():
    one = Values([1.0, 2.0], ["a", "b"], [0.0, 1.0], data_fingerprint="x")
    cases = {
        "1 of the reference's 2 are missing among the 2 of the candidate": Values([1.0, 2.0], ["a", "c"]),
        "The ids match, but the data differ: x against y": Values([1.0, 2.0], ["a", "b"], data_fingerprint="y"),
        "must have the same label on both sides": Values([1.0, 2.0], ["a", "b"], [0.0, 2.0]),
    }
    for message, other in cases.items():
        with pytest.raises(ValueError, match=message):
            compare_values(one, other, tolerance=1)
    with pytest.raises(ValueError, match="values must be finite. Got NaN or infinity at id 'b'"):
        Values([1.0, math.nan], ["a", "b"])
    with pytest.raises(ValueError, match="ids must differ from each other"):
        Values([1.0, 2.0], ["a", "a"])
    with pytest.raises(ValueError, match="There are no values"):
        Values([], [])
    with pytest.raises(ValueError, match=r"labels must be one number for each of 1 items. Got \[2\]"):
        Values([1.0], ["a"], [1.0, 2.0])
    model, dataset, _ = asked("regression", 1, n=2)
    with pytest.raises(ValueError, match="is a regression: it answers with numbers.*Ask it with predict_values"):
        predict(model, dataset, data_collator=padded)
    with pytest.raises(ValueError, match=r"problem that is not supported. Got num_labels=3; supported is regression\."):
        predict_values(tiny.bert(), tiny.texts(2))
