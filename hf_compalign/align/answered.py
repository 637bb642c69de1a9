"""Cached answers to rows that a collator pads: cut to the row where they are cached, padded where they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_compalign.models import Collator
from hf_compalign.tasks import Task

LOGITS_COLUMN = "teacher_logits"


@dataclass(frozen=True)
class AnsweredCollator:
    """A collator whose rows may hold a teacher's answers, of several lengths; the batch then holds them padded.

    Attributes:
        collate: rows -> a batch; it does not see the answers.
        task: of the model that answered.
    """

    collate: Collator
    task: Task

    def __call__(self, rows: list[dict[str, Any]]) -> Mapping[str, Any]:
        """The batch of some rows."""
        given = [row[LOGITS_COLUMN] for row in rows if LOGITS_COLUMN in row]
        if len(given) < len(rows):
            return self.collate(rows)
        ids = ids_of(rows, self.task)
        batch = self.collate([{name: row[name] for name in row if name != LOGITS_COLUMN} for row in rows])
        answers = [torch.as_tensor(answer, dtype=torch.float32) for answer in given]
        return {**batch, LOGITS_COLUMN: _padded(answers, ids, batch[self.task.model_input], self.task)}


def answered_collator(collate: Collator, task: Task) -> Collator:
    """The collator for rows with cached answers; the given one where all answers have one shape."""
    return collate if task.label_depth == 0 or task.cached_shape is None else AnsweredCollator(collate, task)


def ids_of(rows: Sequence[Mapping[str, Any]], task: Task) -> list[Any]:
    """The main input of each row as a list, before a collator pads it."""
    return [torch.as_tensor(row[task.model_input]).tolist() if task.padded_axis is not None else [] for row in rows]


def unpadded(answers: Tensor, ids: Sequence[list[int]], batch: Mapping[str, Any], task: Task) -> Any:
    """The answers [B, ...] to a batch, each cut to its row, as one array or a list of arrays.

    Raises:
        ValueError: padding takes part in the answers, and rows are padded.
    """
    if task.padded_axis is None:
        return answers.numpy()
    padded = batch[task.model_input]
    places = [_place(row, whole.tolist(), task) for row, whole in zip(ids, padded, strict=True)]
    return [answer[place].numpy() for answer, place in zip(answers, places, strict=True)]


def _padded(answers: Sequence[Tensor], ids: Sequence[list[int]], padded: Tensor, task: Task) -> Tensor:
    """[B, ...]: the rows' answers with zeros where the batch has padding."""
    if task.padded_axis is None:
        return torch.stack(list(answers))
    shape = list(answers[0].shape)
    shape[task.padded_axis] = padded.shape[1]
    filled = torch.zeros(len(answers), *shape)
    for whole, answer, row, of_batch in zip(filled, answers, ids, padded, strict=True):
        whole[_place(row, of_batch.tolist(), task)] = answer
    return filled


def _place(row: list[int], padded: list[int], task: Task) -> tuple[slice, ...]:
    """Where in the answer to a padded row the row's own stands: behind the padding where that is on the left."""
    n, width = len(row), len(padded)
    if n != width and task.padding_counts:
        raise ValueError(
            f"Cached answers of {task.name} are to rows of one length, since padding takes part in them. Got a row of "
            f"{n} tokens padded to {width}. Tokenize with padding='max_length', or pass teacher= instead of the cache."
        )
    start = 0 if padded[:n] == row else width - n
    return (*(slice(None),) * (task.padded_axis or 0), slice(start, start + n))
