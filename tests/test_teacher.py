"""The live and the cached teacher give the same answers, and stale ones are refused."""

import copy

import numpy as np
import pytest
import tiny
import torch
from datasets import DatasetDict, concatenate_datasets
from transformers import AutoModelForSequenceClassification

from hf_compalign import cache_teacher_logits
from hf_compalign.align import LiveTeacher, check_cached_logits, check_distinct, load_for_labels, without_fingerprints
from hf_compalign.models import default_collator

pytestmark = pytest.mark.numeric

NAMES = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
TURNED = {"id2label": {0: "c", 1: "a", 2: "b"}, "label2id": {"c": 0, "a": 1, "b": 2}}


@pytest.fixture(scope="module")
def teacher():
    return tiny.bert(seed=1)


@pytest.fixture(scope="module")
def cached(teacher):
    return cache_teacher_logits(tiny.texts(), teacher, batch_size=5)


def test_cached_logits_are_the_models_own(teacher, cached):
    dataset = tiny.texts()
    with torch.no_grad():
        expected = teacher.eval()(**default_collator()(list(dataset.remove_columns("labels")))).logits
    assert tiny.distance(cached["teacher_logits"][:], expected) < tiny.ROUNDING
    assert cached.column_names[:3] == dataset.column_names


def test_the_teacher_runs_in_eval_mode_and_without_gradients():
    model = tiny.bert(seed=1, dropout=0.5).train()
    live = LiveTeacher(model, ("LABEL_0", "LABEL_1", "LABEL_2"))
    batch = default_collator()(list(tiny.texts(4)))
    first, second = live.answer(batch).logits, live.answer(batch).logits
    assert torch.equal(first, second)
    assert not first.requires_grad
    # A student that is copied from it can be trained.
    assert all(parameter.requires_grad for parameter in copy.deepcopy(model).parameters())


def test_logits_come_in_the_students_order():
    model = tiny.bert(seed=1, **TURNED)
    batch = default_collator()(list(tiny.texts(4)))
    own = LiveTeacher(model, ("c", "a", "b")).answer(batch).logits
    assert torch.equal(LiveTeacher(model, ("a", "b", "c")).answer(batch).logits, own[:, [1, 2, 0]])


def test_valid_logits_are_accepted_after_every_way_of_arranging_rows(teacher, cached, tmp_path):
    fingerprint = LiveTeacher(teacher, ("LABEL_0", "LABEL_1", "LABEL_2")).fingerprint
    student = tiny.bert(seed=2)
    arranged = concatenate_datasets([cached.shuffle(seed=1), cached.select([3, 1])])
    arranged.to_parquet(tmp_path / "rows.parquet")
    for dataset in (cached, arranged, type(cached).from_parquet(str(tmp_path / "rows.parquet"))):
        assert check_cached_logits(dataset, student, teacher_fingerprint=fingerprint) == fingerprint


def test_a_dataset_dict_is_filled_split_by_split(teacher):
    filled = cache_teacher_logits(DatasetDict(train=tiny.texts(4), test=tiny.texts(3, seed=1)), teacher)
    assert {name: len(split["teacher_logits"]) for name, split in filled.items()} == {"train": 4, "test": 3}


def test_filling_again_replaces_the_column(teacher, cached):
    again = cache_teacher_logits(cached, tiny.bert(seed=3))
    assert again.column_names == cached.column_names
    assert again["teacher_logits"] != cached["teacher_logits"]


def test_images_and_transforms_are_cached_too(teacher):
    images = tiny.images(6)
    vit = tiny.vit(seed=1)
    check_cached_logits(cache_teacher_logits(images, vit), tiny.vit())

    def shifted(batch):
        batch["input_ids"] = [[token % 30 + 1 for token in row] for row in batch["input_ids"]]
        return batch

    transformed = cache_teacher_logits(tiny.texts().with_transform(shifted), teacher)
    check_cached_logits(transformed, tiny.bert())
    assert transformed["input_ids"] != tiny.texts()["input_ids"]


def test_a_random_transform_is_refused(teacher):
    rng = np.random.default_rng(0)

    def augmented(batch):
        batch["input_ids"] = [rng.permutation(row).tolist() for row in batch["input_ids"]]
        return batch

    dataset = cache_teacher_logits(tiny.texts().with_transform(augmented), teacher)
    with pytest.raises(ValueError, match="stale: the inputs of row 0 .* changed or is random. Run cache_teacher"):
        check_cached_logits(dataset, tiny.bert())


def changed(cached, **columns):
    for name, values in columns.items():
        cached = cached.remove_columns(name).add_column(name, values)
    return cached


def test_stale_columns_are_refused(cached, teacher):
    student = tiny.bert()
    other = cache_teacher_logits(tiny.texts(seed=5), tiny.bert(seed=9))
    tokens = [[token % 30 for token in row] for row in cached["input_ids"]]
    nan = [[float("nan")] * 3] * len(cached)
    cases = {
        "has a column 'teacher_logits' but no 'teacher_fingerprint'": without_fingerprints(cached),
        "stale: the inputs of row": changed(cached, input_ids=tokens),
        "must hold 3 logits a row, .* Got shape \\(2,\\) in row 0": changed(cached, teacher_logits=[[0.0, 1.0]] * 24),
        "holds nan or inf in row 0": changed(cached, teacher_logits=nan),
        "'teacher_fingerprint' of the train dataset holds 'a-b' in row 0": changed(
            cached, teacher_fingerprint=["a-b"] * 24
        ),
        "are of another teacher: got .*, .*; they must be one": concatenate_datasets([cached, other]),
    }
    for message, dataset in cases.items():
        with pytest.raises(ValueError, match=message):
            check_cached_logits(dataset, student)
    with pytest.raises(ValueError, match="of another teacher: got .*; the teacher given is 123"):
        check_cached_logits(cached, student, teacher_fingerprint="123")


def test_another_label_order_is_refused_and_can_be_asked_for():
    teacher, student = tiny.bert(seed=1, **TURNED), tiny.bert(seed=2, **NAMES)
    wrong = cache_teacher_logits(tiny.texts(), teacher)
    with pytest.raises(ValueError, match=r"another label order than the student's \(a, b, c\)"):
        check_cached_logits(wrong, student)
    right = cache_teacher_logits(tiny.texts(), teacher, student_labels=["a", "b", "c"])
    check_cached_logits(right, student)
    np.testing.assert_array_equal(np.array(right["teacher_logits"]), np.array(wrong["teacher_logits"])[:, [1, 2, 0]])
    check_cached_logits(right, tiny.bert(id2label={0: "A", 1: "B", 2: "C"}))
    cased = cache_teacher_logits(tiny.texts(1), teacher=tiny.bert(seed=1, id2label={0: "a", 1: "A", 2: "b"}))
    with pytest.raises(ValueError, match="another label order than the student's"):
        check_cached_logits(cased, tiny.bert(id2label={0: "A", 1: "a", 2: "b"}))


def test_a_model_for_labels_keeps_its_own_order_where_it_knows_them(tmp_path):
    tiny.bert(id2label={0: "A", 1: "a", 2: "b"}).save_pretrained(tmp_path)
    for names, expected in ((["B", "a", "A"], "Aab"), (["a", "A", "c"], "aAc"), (["x", "a", "b"], "xab")):
        found = load_for_labels(AutoModelForSequenceClassification, tmp_path, names).config
        assert "".join(found.id2label.values()) == expected
        assert found.label2id is None or found.label2id == {name: index for index, name in found.id2label.items()}


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (tiny.texts(1).select([]), "The dataset is empty"),
        (tiny.texts().remove_columns("input_ids"), "needs 'input_ids'. Tokenize the texts"),
        (tiny.texts().to_iterable_dataset(), "Only a datasets.Dataset can be cached. Got IterableDataset"),
    ],
)
def test_what_cannot_be_cached_is_refused(teacher, dataset, message):
    with pytest.raises(ValueError, match=message):
        cache_teacher_logits(dataset, teacher)


def test_a_teacher_that_would_change_is_refused(teacher):
    student = copy.deepcopy(teacher)
    check_distinct(teacher, student)
    tied = tiny.bert()
    tied.bert.embeddings = student.bert.embeddings
    for wrong in (student, tied):
        with pytest.raises(ValueError, match="The teacher must not be the student, nor share parameters"):
            check_distinct(wrong, student)


@pytest.mark.parametrize("place", ["nowhere/at/all", "README.md"])
def test_a_teacher_that_cannot_be_loaded_is_refused(place):
    with pytest.raises(ValueError, match=f"No model could be loaded from '{place}'"):
        cache_teacher_logits(tiny.texts(), place)
