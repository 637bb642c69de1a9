"""A teacher with a tokenizer of its own teaches like the same teacher with the student's."""

import numpy as np
import pytest
import tiny
import torch
from datasets import DatasetDict
from every_task import CASES, padded, rows

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, cache_teacher_logits
from hf_compalign.align import carry_teacher_logits

pytestmark = pytest.mark.numeric


def turned(dataset, order):
    """The rows with other ids for the tokens."""
    ids = [order[row].tolist() for row in np.array(dataset["input_ids"])]
    return dataset.remove_columns("input_ids").add_column("input_ids", ids)


def with_other_ids(teacher, order):
    """The same model for a tokenizer that numbers the tokens in another way."""
    table = teacher.get_input_embeddings().weight
    with torch.no_grad():
        table[torch.tensor(order)] = table.clone()
    return teacher


def trained(folder, dataset):
    alignment = AlignmentArguments(preset="logits")
    data = {"train_dataset": dataset, "eval_dataset": dataset}
    trainer = AlignedDistillationTrainer(tiny.bert(seed=2), tiny.arguments(folder), alignment=alignment, **data)
    trainer.train()
    return trainer


def test_answers_to_other_tokens_train_like_those_to_the_students(tmp_path):
    order = np.random.default_rng(0).permutation(tiny.VOCABULARY)
    dataset = tiny.texts(8)
    teacher = with_other_ids(tiny.bert(seed=1), order)
    splits = DatasetDict(train=turned(dataset, order))
    carried = carry_teacher_logits(DatasetDict(train=dataset), cache_teacher_logits(splits, teacher))["train"]
    assert carried.remove_columns(["teacher_logits", "teacher_fingerprint"])[:] == dataset[:]
    found = [trained(tmp_path, one) for one in (carried, cache_teacher_logits(dataset, tiny.bert(seed=1)))]
    assert tiny.distance(*(tiny.flat(one.model) for one in found)) < tiny.ROUNDING
    assert found[0].evaluate()["eval_cie"] == found[1].evaluate()["eval_cie"]
    # Of other rows, they are as stale as any.
    with pytest.raises(ValueError, match="stale: the inputs of row"):
        trained(tmp_path, turned(carried, order))


def test_what_cannot_be_carried_is_refused():
    dataset = tiny.texts(8)
    answered = cache_teacher_logits(dataset, tiny.bert(seed=1))
    words = rows("token-classification", 4)
    tagged = cache_teacher_logits(words, CASES["token-classification"].model(1), data_collator=padded)
    cases = [
        (dataset, dataset, "The answered dataset has no column 'teacher_logits'. Fill it with cache_teacher_logits"),
        (dataset.select(range(7)), answered, "the same rows in the same order. Got 7 and 8 rows"),
        (dataset.select([*range(7, -1, -1)]), answered, r"Got \d and \d in column 'labels', row \d. Prepare both"),
        (dataset.remove_columns("labels"), answered, "they share no column but inputs. Keep the labels or an id"),
        (dataset.select_columns("labels"), answered, "must hold the student's inputs. Got the columns labels"),
        (words, tagged, "Answers to each token belong to the tokens that the teacher reads"),
        (DatasetDict(a=dataset), answered, "from one datasets.Dataset to another, .* Got DatasetDict and Dataset"),
    ]
    for own, other, message in cases:
        with pytest.raises(ValueError, match=message):
            carry_teacher_logits(own, other)
