"""Rows that a collator pads: where each stands in the batch, what is answered to it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_compalign.tasks import Task


def unpadded_ids(rows: Sequence[Mapping[str, Any]], task: Task) -> list[list[int]]:
    """The main input of each row, before a collator pads it; empty where answers are not as long as rows."""
    if task.padded_axis is None:
        return [[] for _ in rows]
    return [torch.as_tensor(row[task.model_input]).tolist() for row in rows]


def unpadded_answers(answers: Tensor, ids: Sequence[list[int]], batch: Mapping[str, Any], task: Task) -> list[Tensor]:
    """The answers [B, ...] to a batch, each cut to its row."""
    if task.padded_axis is None:
        return list(answers)
    padded = batch[task.model_input]
    places = [place_of(row, whole.tolist(), task) for row, whole in zip(ids, padded, strict=True)]
    return [answer[place] for answer, place in zip(answers, places, strict=True)]


def place_of(row: list[int], padded: list[int], task: Task) -> tuple[slice, ...]:
    """Where in the answer to a padded row the row's own stands: behind the padding where that is on the left."""
    start = starts_at(row, padded)
    return (*(slice(None),) * (task.padded_axis or 0), slice(start, start + len(row)))


def starts_at(row: list[int], padded: list[int]) -> int:
    """Where a row begins once it is padded: at the front, or behind padding on the left."""
    return 0 if padded[: len(row)] == row else len(padded) - len(row)
