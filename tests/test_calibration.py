"""Calibration data: checked batches, the same at every call, and the loss that scores differentiate."""

import random

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
import zoo
from datasets import Dataset
from torch.utils.data import DataLoader, IterableDataset
from transformers import BatchEncoding, BertModel, default_data_collator

from hf_compalign.compress import calibration_batches, loss_of, own_loss, run_model, token_rows, training_batches


def equal(some, others):
    assert [set(batch) for batch in some] == [set(batch) for batch in others]
    return all(torch.equal(one[name], other[name]) for one, other in zip(some, others, strict=True) for name in one)


def loader(dataset, **settings):
    return DataLoader(dataset, collate_fn=default_data_collator, **settings)


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_every_form_gives_the_same_batches():
    dataset, model = tiny.texts(40), tiny.bert()
    expected = list(loader(dataset, batch_size=32))
    assert len(expected) == 2
    forms = [dataset, expected, tuple(expected), iter(expected), loader(dataset, batch_size=32)]
    forms.append([BatchEncoding(dict(batch)) for batch in expected])
    for form in forms:
        assert equal(calibration_batches(form, model), expected)


def test_what_is_no_tensor_is_left_out():
    (batch,) = calibration_batches(tiny.texts(4).add_column("text", ["a"] * 4), tiny.bert())
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    (batch,) = calibration_batches([batch | {"text": ["a"] * 4}], tiny.bert())
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_a_loader_that_shuffles_gives_the_same_rows_every_time():
    shuffled, model = loader(tiny.texts(40), batch_size=8, shuffle=True), tiny.bert()
    first = calibration_batches(shuffled, model)
    torch.manual_seed(17)
    states = random_states()
    assert equal(calibration_batches(shuffled, model), first)
    assert random_states() == states
    assert not equal(first, list(loader(tiny.texts(40), batch_size=8)))


def test_an_error_leaves_the_random_numbers_alone():
    model = zoo.build("vit")
    states = random_states()
    with pytest.raises(ValueError, match="'pixel_values' among them"):
        calibration_batches(loader(tiny.texts(40), batch_size=8, shuffle=True), model)
    assert random_states() == states


IDS = torch.ones(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "calibration holds no batch. Give at least one; a few hundred rows do."),
        (tiny.texts(0), "calibration holds no batch"),
        ("sst2", "calibration must be a DataLoader, a list of batches or a datasets.Dataset. Got str"),
        ({"input_ids": IDS}, "calibration must be .* Got dict"),
        (5, "calibration must be .* Got int"),
        (Dataset.from_dict({"text": ["a", "b"]}), "must hold the inputs of BertForSequenceClassification .* Got dict"),
        (Dataset.from_dict({"sentence": ["a"], "label": [1]}), r"'input_ids' among them. Got labels \(Tensor\)"),
        ([{"pixel_values": torch.zeros(2, 1, 8, 8)}], r"Got pixel_values \(Tensor\). Tokenize the texts, or turn"),
        ([{"input_ids": [[1, 2]], "labels": torch.ones(1)}], r"Got input_ids \(list\), labels \(Tensor\)"),
        ([{"input_ids": torch.ones(3, dtype=torch.long)}], r"as tensors of several rows.* Got input_ids \(Tensor\)"),
        ([IDS], "A calibration batch must hold .* Got Tensor"),
        ([{"input_ids": IDS, "weights": torch.tensor([1.0, torch.nan])}], "NaN or infinite values in 'weights'"),
        ([{"input_ids": IDS}, {"input_ids": IDS, "w": torch.tensor([torch.inf])}], "infinite values in 'w'. Remove"),
        (
            Dataset.from_dict({"input_ids": [[1, 2], [1]]}),
            r"rows of the calibration data cannot be stacked.* DataCollatorWithPadding\(tokenizer\)",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused(calibration, message):
    with pytest.raises(ValueError, match=message):
        calibration_batches(calibration, tiny.bert())


def test_pixels_that_are_nan_are_refused():
    pixels = torch.zeros(2, 1, 8, 8)
    pixels[1, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="The calibration data hold NaN or infinite values in 'pixel_values'"):
        calibration_batches([{"pixel_values": pixels}], tiny.vit())


def test_rows_of_the_training_data_are_evenly_spaced():
    dataset, model = tiny.texts(3 * 512), tiny.bert()
    states = random_states()
    batches = training_batches(loader(dataset, batch_size=7, shuffle=True), model)
    assert random_states() == states
    assert [len(batch["input_ids"]) for batch in batches] == [32] * 16
    assert torch.cat([batch["input_ids"] for batch in batches]).tolist() == dataset["input_ids"][::3]
    # Of few data all rows are taken.
    batches = training_batches(loader(tiny.texts(40), batch_size=40), tiny.bert())
    assert [len(batch["input_ids"]) for batch in batches] == [32, 8]
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == tiny.texts(40)["labels"]


def test_random_transforms_give_the_same_values_and_no_other_random_number_changes():
    def noisy(rows):
        noise = np.random.normal(size=(len(rows["labels"]), 1, 8, 8)) + random.random() + torch.randn(1).item()
        return rows | {"pixel_values": list(noise.astype(np.float32))}

    dataset, model = tiny.images(10).with_transform(noisy), tiny.vit()
    states = random_states()
    first = training_batches(loader(dataset, batch_size=4), model)
    assert random_states() == states
    np.random.seed(5)
    assert equal(training_batches(loader(dataset, batch_size=4), model), first)


def test_a_stream_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(tiny.texts(4))

    class SizedStream(Stream):
        def __len__(self):
            return 4

    for dataset in (Stream(), SizedStream(), tiny.texts(4).to_iterable_dataset()):
        with pytest.raises(ValueError, match="The training data are a stream.* Give calibration=, a list of batches"):
            training_batches(loader(dataset, batch_size=2), tiny.bert())


def test_padding_is_no_token():
    values = torch.arange(24.0).view(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert torch.equal(token_rows(values, {"attention_mask": mask}), values.view(6, 4)[[0, 1, 3]])
    assert torch.equal(token_rows(values, {}), values.view(6, 4))
    assert torch.equal(token_rows(values[:, 0], {"attention_mask": mask}), values[:, 0])  # one per item
    choices = mask.view(1, 2, 3)  # one item of two choices
    assert torch.equal(token_rows(values, {"attention_mask": choices}), values.view(6, 4)[[0, 1, 3]])


def batch_for(model, **columns):
    return zoo.inputs(model) | columns


def test_the_models_own_loss_for_labels():
    model, labels = zoo.build("bert"), torch.tensor([0, 1, 2, 0, 1])
    batch = batch_for(model, labels=labels, teacher_logits=torch.zeros(5, 3))
    torch.testing.assert_close(own_loss(model, batch), F.cross_entropy(model(**zoo.inputs(model)).logits, labels))
    assert model.config.problem_type is None
    assert run_model(model, batch).get("loss") is None


@pytest.mark.parametrize("head", [None, "ForTokenClassification", "ForMultipleChoice"])
def test_without_labels_its_own_predictions(head):
    model = zoo.build("bert" if head else "vit", head=head)
    batch = zoo.inputs(model)
    logits = model(**batch).logits
    if head == "ForTokenClassification":
        logits = logits[batch["attention_mask"].bool()]  # padding has no prediction
    if head == "ForMultipleChoice":
        assert logits.shape == (5, 2)
    torch.testing.assert_close(own_loss(model, batch), -logits.softmax(-1).max(-1).values.log().mean())


def test_without_labels_the_answer_to_each_label_is_its_own():
    """The binary cross-entropy of an answer that is right by itself: log(1 + exp(-|z|))."""
    model = zoo.build("bert", problem_type="multi_label_classification")
    logits = model(**zoo.inputs(model)).logits
    torch.testing.assert_close(own_loss(model, zoo.inputs(model)), torch.nn.functional.softplus(-logits.abs()).mean())


def test_predictions_that_are_no_classes_need_labels():
    models = [
        zoo.build("bert", num_labels=1),
        zoo.build("bert", head="ForQuestionAnswering"),
        BertModel(tiny.bert().config),
    ]
    for model in models:
        message = f"have no labels, and {type(model).__name__} does not predict classes.* or give loss="
        with pytest.raises(ValueError, match=message):
            own_loss(model, zoo.inputs(model))
    question_answering = zoo.build("bert", head="ForQuestionAnswering")
    positions = {"start_positions": torch.zeros(5, dtype=torch.long), "end_positions": torch.ones(5, dtype=torch.long)}
    assert own_loss(question_answering, batch_for(question_answering, **positions)).requires_grad


def test_a_loss_must_be_a_scalar_with_a_gradient():
    model = zoo.build("bert")
    batch = zoo.inputs(model)
    assert torch.equal(loss_of(model, batch, lambda m, b: m(**b).logits.sum()), model(**batch).logits.sum())
    with pytest.raises(ValueError, match=r"loss must return a scalar .* of shape \[5, 3\]\."):
        loss_of(model, batch, lambda m, b: m(**b).logits)
    with pytest.raises(ValueError, match=r"Got a tensor of shape \[\] without a gradient"):
        loss_of(model, batch, lambda m, b: m(**b).logits.sum().detach())
