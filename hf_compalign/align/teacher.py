"""The frozen original's answers as a column of the dataset, filled once and refused when they are stale."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hf_compalign._checks import check_whole
from hf_compalign._compat import dataset_fingerprint
from hf_compalign.align.answered import LOGITS_COLUMN, answers_to_rows
from hf_compalign.align.live import LiveTeacher, TeacherEnsemble, live_teacher, loaded_teachers
from hf_compalign.align.vocabulary import ANY_VOCABULARY, check_vocabularies, vocabulary_mark, vocabulary_of
from hf_compalign.data import DIGITS, combined_fingerprint, naming_rows, row_fingerprint
from hf_compalign.labels import are_placeholders
from hf_compalign.models import (
    Collator,
    check_prepared,
    checked_device,
    collator_for,
    default_device,
    unpadded_ids,
)
from hf_compalign.tasks import Task, task_of

FINGERPRINT_COLUMN = "teacher_fingerprint"
# Rows of a cached dataset that are checked when training starts; evenly spaced, so that a stale part shows.
CHECKED_ROWS = 256
_ANY_ORDER = "any"


def cache_teacher_logits(
    dataset: Dataset | DatasetDict,
    teacher: Any,
    *,
    student_labels: Sequence[str] | None = None,
    processing_class: Any = None,
    data_collator: Collator | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> Any:
    """Fill the column `teacher_logits`, so that training needs no teacher and costs what plain training costs.

    Beside it the column `teacher_fingerprint` says for each row which teacher answered, in which label order, and
    from which inputs: a dataset that is prepared again, or changes at random on access, is refused later.

    Args:
        dataset: tokenized texts or pixel values, as the Trainer takes them; a `DatasetDict` is filled split by split.
        teacher: a module, a local folder or a Hub id; or a list of several, whose logits are averaged. One that is to
            count twice stands there twice.
        student_labels: the student's label names, when its order differs from that of the only or first teacher.
        processing_class: the tokenizer that made the rows, to pad with and to compare with the teacher's.
        data_collator: in place of the default one, as in the Trainer.
        batch_size: rows at a time.
        device: where to run the teacher; by default a GPU if there is one.

    Returns:
        The dataset with the two columns added: the logits of each row, float32, without padding.

    Raises:
        ValueError: the dataset is empty or not prepared, is an iterable one, or the labels, the tasks or the tokenizers
            do not match; answers to such rows are not cached.
    """
    splits = dataset if isinstance(dataset, dict) else {"": dataset}
    check_whole("batch_size", batch_size, least=1)
    for split in splits.values():
        if not isinstance(split, Dataset):
            raise ValueError(
                f"Only a datasets.Dataset can be cached. Got {type(split).__name__}. Pass teacher= to the trainer "
                "instead: the live teacher takes any dataset."
            )
    models = loaded_teachers(teacher)
    task = task_of(models[0])
    _shape_of_answers(task)  # refuses those of other tasks
    live = live_teacher(models, student_labels or task.class_names(models[0].config))
    live.to(checked_device(device or default_device(models[0]) or "cpu"))
    ours = vocabulary_of(models[0], processing_class, data_collator)
    for model in models:
        theirs = vocabulary_of(model)
        if theirs is not None and ours is not None:
            check_vocabularies(ours, theirs)
    tokens = vocabulary_mark(ours)
    collate = collator_for(models[0], processing_class, data_collator)
    filled = {name: _filled(split, live, collate, batch_size, tokens) for name, split in splits.items()}
    return DatasetDict(filled) if isinstance(dataset, dict) else filled[""]


def _filled(
    dataset: Dataset, teacher: LiveTeacher | TeacherEnsemble, collate: Collator, batch_size: int, tokens: str
) -> Dataset:
    for model in teacher.models:
        check_prepared(dataset, model)
    columns, main = teacher.input_names, teacher.task.model_input
    prefix = f"{teacher.fingerprint}-{_order_mark(teacher.student_labels)}-{tokens}"

    def answer(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        inputs = [{name: row[name] for name in row if name in columns} for row in rows]
        # Hashed first: a collator may pad or change the rows it is given. Only the main input, from which the others
        # follow: the student may take fewer of them than the teacher.
        marks = [f"{prefix}-{row_fingerprint({main: row[main]})}" for row in inputs]
        ids = unpadded_ids(inputs, teacher.task)
        collated = collate(inputs)
        answers = answers_to_rows(teacher.answer(collated).logits.cpu(), ids, collated, teacher.task)
        return {LOGITS_COLUMN: answers, FINGERPRINT_COLUMN: marks}

    stale = [name for name in (LOGITS_COLUMN, FINGERPRINT_COLUMN) if name in dataset.column_names]
    with naming_rows(dataset):
        return dataset.remove_columns(stale).map(
            answer,
            batched=True,
            batch_size=batch_size,
            # Hashing the teacher inside the function would take longer than running it.
            new_fingerprint=combined_fingerprint([dataset_fingerprint(dataset), prefix]),
            desc="Teacher logits",
        )


def check_cached_logits(
    dataset: Dataset,
    student: PreTrainedModel,
    *,
    teacher_fingerprint: str | None = None,
    vocabulary: str = ANY_VOCABULARY,
    split: str = "train",
) -> str:
    """Refuse cached logits that do not belong to these rows, this student or the teacher at hand, if there is one.

    ``vocabulary`` is that of the rows, by `vocabulary_mark`.

    The fingerprint of the teacher that answered is returned.
    """
    if FINGERPRINT_COLUMN not in dataset.column_names:
        raise ValueError(
            f"The {split} dataset has a column {LOGITS_COLUMN!r} but no {FINGERPRINT_COLUMN!r}, so nothing tells "
            "whether the logits are still right. Fill both with cache_teacher_logits."
        )
    task = task_of(student)
    names = task.class_names(student.config)
    expected_order = _order_mark(names)
    main, shape_of = task.model_input, _shape_of_answers(task)
    found: set[str] = set()
    for index in np.unique(np.linspace(0, len(dataset) - 1, CHECKED_ROWS).astype(int)).tolist():
        row = dataset[index]
        _check_logits(row[LOGITS_COLUMN], shape_of(len(row[main]), student.config), split, index)
        # Caches of earlier versions do not say which tokenizer made the rows.
        teacher, order, tokens, inputs = marks_of(row[FINGERPRINT_COLUMN], split, index)
        if inputs != row_fingerprint({main: row[main]}):
            raise ValueError(
                f"The cached teacher logits of the {split} dataset are stale: the inputs of row {index} are not those "
                "that the teacher answered. The preprocessing has changed or is random. Run cache_teacher_logits "
                "again after it, or pass teacher= and drop the column."
            )
        if _ANY_ORDER not in (order, expected_order) and order != expected_order:
            raise ValueError(
                f"The cached teacher logits of the {split} dataset are in another label order than the student's "
                f"({', '.join(names)}). Run cache_teacher_logits again with student_labels= in that order."
            )
        if tokens and ANY_VOCABULARY not in (*tokens, vocabulary) and tokens != [vocabulary]:
            raise ValueError(
                f"The cached teacher logits of the {split} dataset are of another tokenizer than the student's. Use "
                "the original of this student as its teacher, and run cache_teacher_logits again with "
                "processing_class=."
            )
        found.add(teacher)
    if len(found) > 1 or (teacher_fingerprint is not None and found != {teacher_fingerprint}):
        wanted = f"the teacher given is {teacher_fingerprint}" if teacher_fingerprint else "they must be one"
        raise ValueError(
            f"The cached teacher logits of the {split} dataset are of another teacher: got {', '.join(sorted(found))}; "
            f"{wanted}. Run cache_teacher_logits again."
        )
    return found.pop()


def without_fingerprints(dataset: Any) -> Any:
    """The dataset, or dict of them, without the fingerprints once they are checked: no collator takes strings."""
    if isinstance(dataset, dict):
        return {name: without_fingerprints(split) for name, split in dataset.items()}
    if isinstance(dataset, Dataset) and FINGERPRINT_COLUMN in dataset.column_names:
        return dataset.remove_columns(FINGERPRINT_COLUMN)
    return dataset


def check_distinct(teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    """Refuse a teacher that would change along with the student."""
    own = {parameter.data_ptr() for parameter in student.parameters() if parameter.numel()}
    if teacher is student or any(p.data_ptr() in own for p in teacher.parameters() if p.numel()):
        raise ValueError(
            "The teacher must not be the student, nor share parameters with it: it would change in training. "
            "Load it separately (teacher='path/to/the/original'), or pass copy.deepcopy(model) made before training."
        )


def trusts_positions(student_labels: Sequence[str], teacher_labels: Sequence[str]) -> bool:
    """Whether labels can only be matched by position, because one side never named them and the other did."""
    return are_placeholders(student_labels) != are_placeholders(teacher_labels)


def _order_mark(names: Sequence[str]) -> str:
    if are_placeholders(names):
        return _ANY_ORDER
    spellings = Counter(name.casefold() for name in names)
    known_as = [fold if spellings[fold := name.casefold()] == 1 else name for name in names]
    return row_fingerprint({"names": known_as})[: DIGITS // 2]


def marks_of(fingerprint: Any, split: str, index: int) -> tuple[str, str, list[str], str]:
    """What a row says of the teacher, the order of the labels, perhaps the tokens, and the inputs."""
    parts = str(fingerprint).split("-")
    if len(parts) not in (3, 4):
        raise ValueError(
            f"The column {FINGERPRINT_COLUMN!r} of the {split} dataset holds {fingerprint!r:.80} in row {index}, which "
            "cache_teacher_logits does not write. Run it again."
        )
    return parts[0], parts[1], parts[2:-1], parts[-1]


def _shape_of_answers(task: Task) -> Callable[[int, Any], tuple[int, ...]]:
    """(length of a row, config) -> the shape of the answer to it."""
    if task.cached_shape is None:
        raise ValueError(
            f"Answers of {task.name} are not cached: a row of them is many times as large as its input. Pass teacher= "
            f"to the trainer, without a column {LOGITS_COLUMN!r}: the live teacher answers batch by batch."
        )
    return task.cached_shape


def _check_logits(logits: Any, expected: tuple[int, ...], split: str, index: int) -> None:
    values = np.asarray(logits, dtype=np.float64)
    if values.shape != expected:
        size = " x ".join(map(str, expected))
        raise ValueError(
            f"The column {LOGITS_COLUMN!r} of the {split} dataset must hold {size} logits a row, as the "
            f"student answers. Got shape {values.shape} in row {index}. Run cache_teacher_logits again with the right "
            "teacher."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"The column {LOGITS_COLUMN!r} of the {split} dataset holds nan or inf in row {index}: "
            "the teacher is broken there. Check the teacher, then run cache_teacher_logits again."
        )
