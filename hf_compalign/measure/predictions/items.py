"""Which items the rows of a dataset hold, and the logits of each in a model's answers to the rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hf_compalign.data import WORD_PLACES, find_label_column, label_ids, token_label_ids
from hf_compalign.labels import IGNORED
from hf_compalign.measure.predictions.columns import Columns
from hf_compalign.models import read_labels
from hf_compalign.tasks import Task

YES_NO = ("no", "yes")


@dataclass(frozen=True, eq=False)
class RowItems:
    """The items of R rows, one row after the other.

    Attributes:
        task: what is asked.
        labels: int64 [N], `IGNORED` where unknown.
        names: what each item is called within its row, such as the number of a word; None where a row is one item.
        rows: int64 [N], the row of each item.
        places: int64 [N], where the answer to its row answers it; None where the whole does, or holds that of one item
            after the other.
        classes: what an item may be answered.
    """

    task: Task
    labels: NDArray[np.int64]
    names: list[str] | None
    rows: NDArray[np.int64]
    places: NDArray[np.int64] | None
    classes: tuple[str, ...]

    @property
    def examples(self) -> NDArray[np.int64] | None:
        """The row of each item, None where a row is one item."""
        return None if self.names is None else self.rows

    def ids(self, row_ids: NDArray[np.str_]) -> NDArray[np.str_]:
        """The names of the items, ``<row>/<item>`` where a row has several."""
        if self.names is None:
            return row_ids
        return np.array([f"{row_ids[row]}/{name}" for row, name in zip(self.rows.tolist(), self.names, strict=True)])

    def logits(self, answers: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """[N, C], from the answers to the rows."""
        if self.places is None:
            return np.stack(answers) if self.names is None else np.concatenate(answers)
        found = np.stack([answers[row][place] for row, place in zip(self.rows, self.places, strict=True)])
        if self.task.yes_or_no:
            found = np.stack([np.zeros_like(found), found], axis=-1)
        return found


def items_of_rows(
    raw: Dataset, prepared: Dataset, task: Task, config: Any, *, columns: Columns, tokenizer: Any
) -> RowItems:
    """The items of a dataset, as given and as a model's inputs; a tokenizer, if known, tells which tokens are special.

    Raises:
        ValueError: the labels are not those of the task, or no row has an item.
    """
    column = find_label_column(raw, columns.label)
    if task.label_depth == 1:
        return _of_tokens(raw, prepared, task, config, column=column, skip=_special(tokenizer))
    n = len(raw)
    rows, classes = np.arange(n), task.class_names(config)
    if task.label_depth == 0:
        labels = np.full(n, IGNORED) if column is None else label_ids(raw, column, classes)
        return RowItems(task, labels, None, rows, None, classes)
    given = None if column is None else list(read_labels(raw, column, task, config))
    if task.yes_or_no:
        found = np.full((n, len(classes)), IGNORED) if given is None else np.array(given)
        # A target between no and yes is what it is nearer to, as in the trainer's metrics.
        labels = np.where(found == IGNORED, IGNORED, found >= 0.5)
        places = np.tile(np.arange(len(classes)), n)
        return RowItems(task, labels.ravel(), [*classes] * n, np.repeat(rows, len(classes)), places, YES_NO)
    labels = np.full(n, IGNORED) if given is None else np.array(given, dtype=np.int64)
    sizes = {
        len(choices) for choices in prepared.with_format(None).select_columns([task.model_input])[task.model_input]
    }
    if len(sizes) > 1:
        raise ValueError(
            f"All questions must have as many choices. Got {min(sizes)} and {max(sizes)}. Predict those of each number "
            "on their own."
        )
    return RowItems(task, labels, None, rows, None, tuple(f"choice {place}" for place in range(sizes.pop())))


def _special(tokenizer: Any) -> frozenset[int]:
    """The ids of tokens that are no part of a text; an unknown word is a word."""
    words = {getattr(tokenizer, f"{name}_token_id", None) for name in ("unk", "mask")}
    return frozenset(getattr(tokenizer, "all_special_ids", ())) - words


def _of_tokens(
    raw: Dataset, prepared: Dataset, task: Task, config: Any, *, column: str | None, skip: frozenset[int]
) -> RowItems:
    """Every word of a text, answered at its first token; of prepared rows every labeled token.

    Without labels, every token of prepared rows that is neither padding nor special.
    """
    names = task.class_names(config)
    of_words = WORD_PLACES in prepared.column_names
    lists = None
    if column is not None:
        lists = token_label_ids(raw, column, names) if of_words else [*read_labels(raw, column, task, config)]
    needed = WORD_PLACES if of_words else task.model_input
    kept = [name for name in (needed, "attention_mask") if name in prepared.column_names]
    labels: list[int] = []
    found: list[tuple[int, int, int]] = []
    for row, held in enumerate(prepared.with_format(None).select_columns(kept)):
        given = None if lists is None else [*lists[row]]
        for name, place in _places(held, given, skip, of_words=of_words, row=row):
            found.append((row, name, place))
            labels.append(IGNORED if given is None else int(given[name]))
    if not found:
        raise ValueError("No row has a labeled token. Give labels that are not all -100, or none at all.")
    rows, item_names, places = np.array(found, dtype=np.int64).T
    return RowItems(task, np.array(labels, dtype=np.int64), [*map(str, item_names)], rows, places, names)


def _places(
    held: dict[str, Any], labels: list[int] | None, skip: frozenset[int], *, of_words: bool, row: int
) -> list[tuple[int, int]]:
    """The number of each item of a row, and the token that answers it."""
    if of_words:
        words = held[WORD_PLACES]
        if labels is not None and len(labels) < len(words):
            raise ValueError(
                f"Each word must have a label. Got {len(labels)} for {len(words)} words in row {row}. Give the column "
                "of the words that the labels are of: columns=Columns(text=..., label=...)."
            )
        return [(word, place) for word, place in enumerate(words) if place >= 0]
    ids = next(values for name, values in held.items() if name != "attention_mask")
    if labels is not None:
        return [(place, place) for place, label in enumerate(labels) if label != IGNORED]
    mask = held.get("attention_mask") or [1] * len(ids)
    return [(place, place) for place, token in enumerate(ids) if mask[place] and token not in skip]
