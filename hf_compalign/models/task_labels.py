"""The labels of a dataset as each task has them; what is no label of a task is refused."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import Dataset

from hf_compalign.data import LABEL_COLUMNS, label_ids, token_label_ids
from hf_compalign.labels import IGNORED
from hf_compalign.tasks import POSITION_COLUMNS, Task, say_ignored_is_a_value


def read_labels(dataset: Dataset, column: str, task: Task, config: Any) -> Iterable[Any]:
    """The labels of a column, as the task has them: one value or list for each row.

    Raises:
        ValueError: they are not labels of that task.
    """
    if task.label_depth == 0:
        return label_ids(dataset, column, task.class_names(config)).tolist()
    if task.label_depth == 1:
        lists = token_label_ids(dataset, column, task.class_names(config))
        _check_lengths(dataset, column, [len(one) for one in lists], task)
        return [one.tolist() for one in lists]
    check = _CHECKS.get(task.problem or task.name)
    if check is None:
        return (row[column] for row in dataset.with_format(None).select_columns([column]))
    values = list(dataset.with_format(None).select_columns([column])[:][column])
    check(values, column, _facts(dataset, task, config))
    return values


def is_unknown(label: Any) -> bool:
    """Whether a label, or each of a list of them, is -100, or the nan of a regression."""
    if isinstance(label, list):
        return all(map(is_unknown, label))
    return label == IGNORED or (isinstance(label, float) and math.isnan(label))


def label_column(dataset: Dataset, wanted: Sequence[str]) -> str | None:
    """The column of a dataset that the labels stand in, None without one: a wanted one, or one with a usual name.

    Raises:
        ValueError: a task with several columns has some of them alone.
    """
    names = dataset.column_names
    if [*wanted] == [*POSITION_COLUMNS]:
        missing = [name for name in POSITION_COLUMNS if name not in names]
        if len(missing) == 1:
            raise ValueError(
                f"A question is answered from one position to another. Got no column {missing[0]!r} among "
                f"{', '.join(names)}. Give both {' and '.join(POSITION_COLUMNS)}, the first and the last token."
            )
        return None if missing else POSITION_COLUMNS[0]
    return next((name for name in (wanted[0], *LABEL_COLUMNS) if name in names), None)


def _check_lengths(dataset: Dataset, column: str, lengths: list[int], task: Task) -> None:
    """Refuse lists of labels that are not as long as the texts."""
    if task.model_input not in dataset.column_names:
        return  # the collator makes the inputs
    texts = dataset.with_format(None).select_columns([task.model_input])[:][task.model_input]
    for row, (n_labels, text) in enumerate(zip(lengths, texts, strict=True)):
        if n_labels != len(text):
            raise ValueError(
                f"Each token must have a label, {IGNORED} where it counts for nothing. Got {n_labels} labels in column "
                f"{column!r} for the {len(text)} tokens of row {row}. Align the labels of words with the tokens, by "
                "the tokenizer's word_ids()."
            )


def _facts(dataset: Dataset, task: Task, config: Any) -> dict[str, Any]:
    """What labels depend on: how many there are of the model, and how many choices a row has."""
    facts: dict[str, Any] = {"n_labels": config.num_labels}
    if task.name == "multiple-choice":
        rows = dataset.with_format(None).select_columns([task.model_input])[:][task.model_input]
        facts["n_choices"] = [len(row) for row in rows]
    if task.label_names == POSITION_COLUMNS:
        columns = dataset.with_format(None).select_columns([*POSITION_COLUMNS])[:]
        facts["positions"] = [columns[name] for name in POSITION_COLUMNS]
    return facts


def _check_yes_or_no(values: list[Any], column: str, facts: Mapping[str, Any]) -> None:
    n = facts["n_labels"]
    for row, value in enumerate(values):
        found = np.asarray(value, dtype=object)
        if found.shape != (n,) or not all(map(_is_share_or_unknown, found.tolist())):
            raise ValueError(
                f"Labels of several at once are a list of {n} numbers in each row, 1 for each label that holds and 0 "
                f"for each that does not, in between where nobody is sure. Got {value!r:.80} in column {column!r}, row "
                f"{row}. Fix that column, or name another one."
            )


def _is_share_or_unknown(label: Any) -> bool:
    return isinstance(label, int | float) and (0 <= label <= 1 or label == IGNORED)


def _check_values(values: list[Any], column: str, facts: Mapping[str, Any]) -> None:
    n = facts["n_labels"]
    for row, value in enumerate(values):
        numbers = np.asarray(value, dtype=object).reshape(-1).tolist()
        if len(numbers) != n or not all(isinstance(one, int | float) for one in numbers):
            raise ValueError(
                f"The labels of a regression are {n} number{'s' * (n > 1)} in each row. Got {value!r:.80} in column "
                f"{column!r}, row {row}. Name the column of the values, or give nan where nobody knows one."
            )
    if any(one == IGNORED for value in values for one in np.asarray(value).reshape(-1)):
        say_ignored_is_a_value()


def _check_choices(values: list[Any], column: str, facts: Mapping[str, Any]) -> None:
    for row, (value, n) in enumerate(zip(values, facts["n_choices"], strict=True)):
        if value != IGNORED and not (isinstance(value, int) and 0 <= value < n):
            raise ValueError(
                f"The label of a multiple choice is the number of the right one, in [0, {n}) where there are {n}. Got "
                f"{value!r:.80} in column {column!r}, row {row}."
            )


def _check_positions(values: list[Any], column: str, facts: Mapping[str, Any]) -> None:
    for row, places in enumerate(zip(*facts["positions"], strict=True)):
        if not all(isinstance(one, int) for one in places) or any(one > other for one, other in pairwise(places)):
            raise ValueError(
                f"An answer goes from the token at start_positions to the one at end_positions. Got {places} in row "
                f"{row}. Find both with the tokenizer's offsets; give 0 and 0 where a text holds no answer."
            )


_CHECKS: dict[str, Callable[[list[Any], str, Mapping[str, Any]], None]] = {
    "multi_label_classification": _check_yes_or_no,
    "regression": _check_values,
    "multiple-choice": _check_choices,
    "question-answering": _check_positions,
}
