"""Cached answers of a teacher that reads the same rows in another form, for a student that reads its own."""

from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_compalign.align.answered import LOGITS_COLUMN
from hf_compalign.align.teacher import FINGERPRINT_COLUMN, marks_of
from hf_compalign.align.vocabulary import ANY_VOCABULARY
from hf_compalign.data import check_rows, row_fingerprint
from hf_compalign.tasks import TASKS

_INPUTS = tuple(dict.fromkeys(task.model_input for task in TASKS))
# Columns that each model has its own of.
_OWN = {*_INPUTS, "attention_mask", "token_type_ids", "pixel_mask", LOGITS_COLUMN, FINGERPRINT_COLUMN}


def carry_teacher_logits(dataset: Dataset | DatasetDict, answered: Dataset | DatasetDict) -> Any:
    """Give a student's rows the answers of a teacher with a tokenizer or an image processor of its own.

    The teacher answers rows that are prepared for it, and this puts its answers beside the same rows as they are
    prepared for the student. What both have in common besides inputs, such as the labels or an id, says that they are
    the same rows. It is for tasks whose answer to a row does not depend on its tokens.

    Args:
        dataset: the rows as the student reads them; a `DatasetDict` is filled split by split.
        answered: the same rows, in the same order, as the teacher reads them, from `cache_teacher_logits`.

    Returns:
        The dataset with the columns that `cache_teacher_logits` would have added.

    Raises:
        ValueError: these are not the same rows, or nothing says so; they have no answers, or one for each token.

    >>> mine = Dataset.from_dict({"input_ids": [[5, 6], [7]], "labels": [1, 0]})
    >>> answers = {"teacher_logits": [[0.1, 2.0], [3.0, 0.2]], "teacher_fingerprint": ["abc-any-any-12"] * 2}
    >>> read = Dataset.from_dict({"input_ids": [[11], [12, 13]], "labels": [1, 0], **answers})
    >>> carry_teacher_logits(mine, read)[1]["teacher_logits"]
    [3.0, 0.2]
    """
    if isinstance(dataset, dict) and isinstance(answered, dict) and dataset.keys() == answered.keys():
        return DatasetDict({name: carry_teacher_logits(dataset[name], answered[name]) for name in dataset})
    if not isinstance(dataset, Dataset) or not isinstance(answered, Dataset):
        raise ValueError(
            "Answers are carried from one datasets.Dataset to another, or between dicts of the same splits. Got "
            f"{type(dataset).__name__} and {type(answered).__name__}. Give both in one of these forms."
        )
    for one in (dataset, answered):
        check_rows(one)
    _check_answers(answered)
    _check_same_rows(dataset, answered)
    columns = list(dataset[0])
    main = next((name for name in _INPUTS if name in columns), None)
    if main is None:
        raise ValueError(
            f"The dataset must hold the student's inputs. Got the columns {', '.join(columns)}. Prepare it for the "
            "student first."
        )
    marks = []
    for index, (row, mark) in enumerate(zip(dataset, answered[FINGERPRINT_COLUMN], strict=True)):
        teacher, order, *_ = marks_of(mark, "answered", index)
        marks.append(f"{teacher}-{order}-{ANY_VOCABULARY}-{row_fingerprint({main: row[main]})}")
    stale = [name for name in (LOGITS_COLUMN, FINGERPRINT_COLUMN) if name in dataset.column_names]
    answers = answered.with_format(None).select_columns([LOGITS_COLUMN])
    whole = concatenate_datasets([dataset.remove_columns(stale), answers], axis=1)
    return whole.add_column(FINGERPRINT_COLUMN, marks)


def _check_answers(answered: Dataset) -> None:
    missing = [name for name in (LOGITS_COLUMN, FINGERPRINT_COLUMN) if name not in answered.column_names]
    if missing:
        raise ValueError(f"The answered dataset has no column {missing[0]!r}. Fill it with cache_teacher_logits.")
    if any(isinstance(value, list) for value in answered.with_format(None)[0][LOGITS_COLUMN]):
        raise ValueError(
            "Answers to each token belong to the tokens that the teacher reads, and the student reads others. Take a "
            "teacher with the student's tokenizer."
        )


def _check_same_rows(dataset: Dataset, answered: Dataset) -> None:
    if len(dataset) != len(answered):
        raise ValueError(
            f"Both datasets must hold the same rows in the same order. Got {len(dataset)} and {len(answered)} rows. "
            "Prepare both from one dataset."
        )
    shared = [name for name in dataset.column_names if name in answered.column_names and name not in _OWN]
    if not shared:
        raise ValueError(
            "Nothing says that both datasets hold the same rows: they share no column but inputs. Keep the labels or "
            "an id in both."
        )
    for name in shared:
        ours, theirs = (one.with_format(None)[name] for one in (dataset, answered))
        for index, (own, other) in enumerate(zip(ours, theirs, strict=True)):
            if own != other:
                raise ValueError(
                    f"Both datasets must hold the same rows in the same order. Got {own!r:.80} and {other!r:.80} in "
                    f"column {name!r}, row {index}. Prepare both from one dataset, without shuffling."
                )
