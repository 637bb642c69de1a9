"""Cached answers to rows that a collator pads: cut to the row where they are cached, padded where they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_compalign.models import Collator, place_of, unpadded_answers, unpadded_ids
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
        ids = unpadded_ids(rows, self.task)
        batch = self.collate([{name: row[name] for name in row if name != LOGITS_COLUMN} for row in rows])
        answers = [torch.as_tensor(answer, dtype=torch.float32) for answer in given]
        return {**batch, LOGITS_COLUMN: _padded(answers, ids, batch[self.task.model_input], self.task)}


def answered_collator(collate: Collator, task: Task) -> Collator:
    """The collator for rows with cached answers; the given one where all answers have one shape."""
    return collate if task.label_depth == 0 or task.cached_shape is None else AnsweredCollator(collate, task)


def _padded(answers: Sequence[Tensor], ids: Sequence[list[int]], padded: Tensor, task: Task) -> Tensor:
    """[B, ...]: the rows' answers with zeros where the batch has padding."""
    if task.padded_axis is None:
        return torch.stack(list(answers))
    shape = list(answers[0].shape)
    shape[task.padded_axis] = padded.shape[1]
    filled = torch.zeros(len(answers), *shape)
    for whole, answer, row, of_batch in zip(filled, answers, ids, padded, strict=True):
        _check_length(row, of_batch, task)
        whole[place_of(row, of_batch.tolist(), task)] = answer
    return filled


def answers_to_rows(answers: Tensor, ids: Sequence[list[int]], batch: Mapping[str, Any], task: Task) -> list[Any]:
    """The answers [B, ...] to a batch, each cut to its row, as arrays.

    Raises:
        ValueError: padding takes part in the answers, and rows are padded.
    """
    for row, of_batch in zip(ids, batch[task.model_input], strict=True):
        _check_length(row, of_batch, task)
    return [answer.numpy() for answer in unpadded_answers(answers, ids, batch, task)]


def _check_length(row: list[int], padded: Tensor, task: Task) -> None:
    if task.padding_counts and len(row) != len(padded):
        raise ValueError(
            f"Cached answers of {task.name} are to rows of one length, since padding takes part in them. Got a row of "
            f"{len(row)} tokens padded to {len(padded)}. Tokenize with padding='max_length', or pass teacher= instead "
            "of the cache."
        )
