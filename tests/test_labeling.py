"""Training, evaluation and calibration read the labels of a dataset by name, as `predict` does."""

import copy
from functools import partial

import numpy as np
import pytest
import tiny
import torch
import zoo
from datasets import ClassLabel, Dataset, List, Value
from torch.utils.data import DataLoader
from transformers import Trainer, default_data_collator

from hf_compalign import (
    AlignedDistillationTrainer,
    AlignmentArguments,
    PruningCallback,
    ShrinkCallback,
    cache_teacher_logits,
    predict,
    prune_,
)
from hf_compalign.compress import calibration_batches
from hf_compalign.models import labeled_collator

NAMES = ("a", "b", "c")
NAMED = {"id2label": dict(enumerate(NAMES))}
TURNED = ClassLabel(names=["c", "a"])  # another order, and one class less
OURS = np.array([2, 0])  # the model's ids of its classes


@pytest.fixture(scope="module")
def model():
    return tiny.bert(seed=1, **NAMED)


def rows(n=12):
    """Rows of the classes of `TURNED`."""
    dataset = tiny.texts(n, labels=False).add_column("labels", [index % 2 for index in range(n)])
    return dataset.cast_column("labels", TURNED)


def renumbered(dataset):
    """The same rows with the model's ids."""
    ids = OURS[np.array(dataset["labels"])].tolist()
    return dataset.remove_columns("labels").add_column("labels", ids)


def with_labels(labels, column="labels"):
    return tiny.texts(len(labels), labels=False).add_column(column, labels)


def aligned(folder, model, train, *, settings=None, **given):
    settings = {"max_steps": 3, "train_sampling_strategy": "sequential"} | (settings or {})
    student, arguments = tiny.bert(seed=2, **NAMED), tiny.arguments(folder, **settings)
    return AlignedDistillationTrainer(student, arguments, teacher=model, train_dataset=train, **given)


def weights(folder, model, train, **given):
    """What a training ends with."""
    trainer = aligned(folder, model, train, **given)
    trainer.train()
    return tiny.flat(trainer.model)


@pytest.fixture(scope="module")
def right(tmp_path_factory, model):
    return weights(tmp_path_factory.mktemp("right"), model, renumbered(rows()))


def itself(batch):
    return dict(batch)


def renumbering(batch):
    return batch | {"labels": OURS[batch["labels"]].tolist()}


def making(batch):
    return renumbering(batch | {"labels": batch.pop("kind")})


FORMS = {
    "classes": rows,
    "names": lambda: with_labels([TURNED.names[label] for label in rows()["labels"]]),
    "a stream": lambda: rows().to_iterable_dataset(),
    "a transform": lambda: rows().with_transform(itself),
    "a transform that renumbers": lambda: rows().with_transform(renumbering),
    "a transform that makes the column": lambda: rows().rename_column("labels", "kind").with_transform(making),
    "another column": lambda: rows().rename_column("labels", "label"),
    "tensors": lambda: rows().with_format("torch"),
    "some of more rows": lambda: rows(24).select(range(12)),
}


@pytest.mark.parametrize("form", FORMS)
def test_training_and_evaluation_read_labels_by_name(form, tmp_path, model, right):
    dataset = FORMS[form]()
    settings = {"dataloader_num_workers": int(form == "a transform"), "remove_unused_columns": "makes" not in form}
    trainer = aligned(tmp_path, model, dataset, eval_dataset={"one": dataset}, settings=settings)
    trainer.train()
    assert torch.equal(tiny.flat(trainer.model), right)
    by_name = predict(model, rows()).labels
    assert by_name.tolist() == renumbered(rows())["labels"][:]
    np.testing.assert_array_equal(trainer.predict(dataset).label_ids, by_name)
    expected = trainer.evaluate(renumbered(rows()))
    found = trainer.evaluate()
    assert [found[f"eval_one_{name}"] for name in ("loss", "cie_u")] == [
        expected[f"eval_{name}"] for name in ("loss", "cie_u")
    ]


def test_a_cached_teacher_changes_nothing_about_the_labels(tmp_path, model):
    cached = cache_teacher_logits(rows(), model, batch_size=4)
    live = weights(tmp_path, model, rows(), alignment=AlignmentArguments(preset="logits"))
    assert tiny.distance(weights(tmp_path, None, cached), live) < tiny.ROUNDING


@pytest.mark.parametrize("labels", [[0.0, 1.0, None, 0.0], [False, True, None, False], [0, 1, -100, 0], [0, 1, -1, 0]])
def test_what_predict_takes_for_unknown_or_for_ids_the_trainer_takes_too(labels, tmp_path, model):
    trainer = aligned(tmp_path, model, with_labels(labels), settings={"max_steps": 1})
    trainer.train()
    expected = weights(tmp_path, model, with_labels([0, 1, -100, 0]), settings={"max_steps": 1})
    assert torch.equal(tiny.flat(trainer.model), expected)
    found = trainer.predict(with_labels(labels))
    assert found.label_ids.tolist() == predict(model, with_labels(labels)).labels.tolist() == [0, 1, -100, 0]
    assert "test_cie" in trainer.predict(with_labels([-1] * 3)).metrics


def test_rows_that_are_no_dataset_have_ids_and_their_names_are_left_to_the_collator(tmp_path, model):
    plain = [row | {"labels": -1} for row in with_labels([0, 0])]
    assert aligned(tmp_path, model, plain).predict(plain).label_ids.tolist() == [-100, -100]

    def collate(rows):
        return default_data_collator([row | {"labels": "xyz".index(row["labels"])} for row in rows])

    named = [row | {"labels": "z"} for row in plain]
    assert aligned(tmp_path, model, named, data_collator=collate).predict(named).label_ids.tolist() == [2, 2]


@pytest.mark.parametrize("wins", ["label", "labels"])
def test_of_two_label_columns_the_trainer_takes_the_one_that_predict_takes(wins, tmp_path, model):
    # DataCollatorWithPadding takes `label`, the default collator `labels`.
    def collate(batch):
        return default_data_collator([{name: row[name] for name in ("input_ids", wins)} for row in batch])

    dataset = renumbered(rows()).add_column("label", rows()["labels"][:]).cast_column("label", TURNED)
    found = aligned(tmp_path, model, dataset, data_collator=collate).predict(dataset).label_ids
    assert found.tolist() == predict(model, dataset).labels.tolist() == dataset["labels"][:]


def test_labels_that_are_not_the_models_are_refused_before_training(tmp_path, model):
    foreign = rows().cast_column("labels", ClassLabel(names=["ham", "spam"]))
    message = "The classes of column 'labels' must be the model's labels. Got ham, spam against the model's a, b, c"
    cases = [
        ({"train": foreign}, f"train dataset.*{message}"),
        ({"train": rows(), "eval_dataset": {"one": rows(), "two": foreign}}, f"two dataset.*{message}"),
        ({"train": with_labels(["a", "z"])}, r"names of the model's labels \(a, b, c\). Got z"),
        ({"train": with_labels([0.5, 1.0])}, "must be class ids or names. Got float"),
        (
            {"train": with_labels([[1.0, 0.0, 1.0]] * 2)},
            "names. Got list.* in each row, set config.problem_type to 'multi_label",
        ),
    ]
    for given, error in cases:
        with pytest.raises(ValueError, match=error):
            aligned(tmp_path, model, **given)
    trainer = aligned(tmp_path, model, foreign.to_iterable_dataset(), eval_dataset=rows())
    for refused in (trainer.train, lambda: trainer.evaluate(foreign), lambda: trainer.predict(foreign)):
        with pytest.raises(ValueError, match=message):
            refused()


def test_where_the_orders_agree_training_is_still_that_of_the_stock_trainer(tmp_path):
    dataset = tiny.texts(12).cast_column("labels", ClassLabel(names=list(NAMES)))
    plain = AlignmentArguments(preset="labels")
    stock = tiny.bert(seed=2, dropout=0.1, **NAMED)
    ours = copy.deepcopy(stock)
    Trainer(stock, tiny.arguments(tmp_path), train_dataset=dataset).train()
    AlignedDistillationTrainer(ours, tiny.arguments(tmp_path), alignment=plain, train_dataset=dataset).train()
    assert torch.equal(tiny.flat(stock), tiny.flat(ours))


def test_calibration_reads_labels_by_name_where_they_are_needed(model):
    loader = partial(DataLoader, batch_size=12, collate_fn=default_data_collator)
    collate = labeled_collator(default_data_collator, rows(), model)
    forms = [rows(), loader(rows()), loader(renumbered(rows())), loader(rows(), collate_fn=collate)]
    for form in forms:
        (batch,) = calibration_batches(form, model, labeled=True)
        assert batch["labels"].tolist() == renumbered(rows())["labels"][:]
    pruned = [copy.deepcopy(model) for _ in range(2)]
    for one, form in zip(pruned, forms[1:3], strict=True):
        prune_(one, 0.5, score="taylor", calibration=form)
    assert torch.equal(*map(tiny.flat, pruned))
    foreign = loader(rows().cast_column("labels", ClassLabel(names=["ham", "spam"])))
    prune_(copy.deepcopy(model), 0.5, score="wanda", calibration=foreign)
    with pytest.raises(ValueError, match="Got ham, spam against the model's a, b, c"):
        prune_(copy.deepcopy(model), 0.5, score="taylor", calibration=foreign)


@pytest.mark.parametrize(
    "callback",
    [partial(PruningCallback, 0.5, score="taylor", schedule="constant"), partial(ShrinkCallback, ffn=0.5, begin=0.0)],
)
def test_callbacks_read_the_labels_of_their_calibration_data_by_name(tmp_path, model, callback):
    def compressed(calibration):
        one = callback(calibration=calibration)
        trainer = tiny.trainer(tmp_path, copy.deepcopy(model), one, max_steps=1, learning_rate=0.0)
        trainer.train()
        return tiny.flat(trainer.model)

    by_name, by_id, by_place = map(
        compressed, (rows(), renumbered(rows()), rows().cast_column("labels", Value("int64")))
    )
    assert torch.equal(by_name, by_id)
    assert not torch.equal(by_name, by_place)
    with pytest.raises(ValueError, match="Got ham, spam against the model's a, b, c"):
        compressed(rows().cast_column("labels", ClassLabel(names=["ham", "spam"])))


def test_calibration_of_other_heads_takes_labels_as_they_are():
    model = tiny.bert(n_labels=1)
    (batch,) = calibration_batches(with_labels([0.5, -1.0]), model, labeled=True)
    assert batch["labels"].tolist() == [0.5, -1.0]


def test_a_transform_that_renumbers_is_known_where_a_label_is_missing(tmp_path, model):
    def renumbered_or_none(batch):
        return batch | {"labels": [None if label is None else OURS[label] for label in batch["labels"]]}

    dataset = with_labels([None, 0, 1]).cast_column("labels", TURNED).with_transform(renumbered_or_none)
    trainer = aligned(tmp_path, model, renumbered(rows()))
    assert trainer.predict(dataset).label_ids.tolist() == [-100, 2, 0]


def test_classes_of_tokens_are_read_by_name_in_calibration():
    model = zoo.build("bert", head="ForTokenClassification", id2label=dict(enumerate(NAMES)))
    tokens = Dataset.from_dict({"input_ids": [[1, 2]] * 2, "labels": [[0, 1]] * 2})
    same, turned = (tokens.cast_column("labels", List(ClassLabel(names=names))) for names in ("ab", "ba"))
    (batch,) = calibration_batches(same, model, labeled=True)
    assert batch["labels"].tolist() == [[0, 1]] * 2
    (batch,) = calibration_batches(turned, model, labeled=True)
    assert batch["labels"].tolist() == [[1, 0]] * 2
