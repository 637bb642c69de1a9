"""What teacher and student answer in an evaluation, compared item by item."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from hf_compalign.align.losses import kl_loss
from hf_compalign.measure.statistics import Cells, alignment_metrics, upper_bound, value_metrics
from hf_compalign.tasks import Items

logger = logging.get_logger(__name__)

Gather = Callable[[Tensor], Tensor]
"""Rows of this process's examples -> those of all processes' examples, each once."""


class Agreement:
    """The answers of both models to the items of one evaluation after another.

    Args:
        categorical: whether items have classes, and not values.
    """

    def __init__(self, *, categorical: bool = True) -> None:
        self._categorical = categorical
        self._answers: list[np.ndarray] = []
        self._said = False

    def begin(self) -> None:
        """Forget the items of the evaluation before."""
        self._answers = []

    def add(self, items: Items, teacher: Tensor, gather: Gather) -> None:
        """Note the student's items of a batch and the teacher's logits [..., C], of all processes' examples."""
        if self._categorical:
            kl = kl_loss(items.logits, teacher, items.labels)
            columns = [teacher.argmax(-1), items.logits.argmax(-1), items.labels, kl]
        else:
            columns = [teacher.squeeze(-1), items.logits.squeeze(-1)]
        self._answers.append(gathered_items(columns, items.mask, gather).cpu().numpy())

    def metrics(self, *, aligns: bool) -> dict[str, float]:
        """Their agreement, none without items; where the training aligns, a teacher far behind is said once."""
        if not self._answers:
            return {}
        answers = np.concatenate(self._answers).T
        if not self._categorical:
            return value_metrics(*answers)
        reference, candidate, labels = answers[:3].astype(int)
        if aligns and not self._said:
            self._said = _said_if_far_ahead(Cells.count(reference, candidate, labels))
        return alignment_metrics(reference, candidate, labels, answers[3])


def gathered_items(columns: list[Tensor], mask: Tensor, gather: Gather) -> Tensor:
    """[N, K]: K numbers of each item that the mask keeps, of all processes' examples.

    Examples are gathered whole, since the Trainer's gathering drops the examples that fill up a last batch.
    """
    rows = torch.stack([column.double() for column in (mask, *columns)], dim=-1)
    rows = gather(rows.reshape(len(rows), -1, rows.shape[-1]))
    flat = rows.reshape(-1, rows.shape[-1])
    return flat[flat[:, 0] > 0][:, 1:]


def padding_gather(trainer: Any) -> Gather:
    """The Trainer's own gathering, of rows that may have more positions in one process than in another."""

    def gather(rows: Tensor) -> Tensor:
        found: Tensor = trainer.gather_function(trainer.accelerator.pad_across_processes(rows, dim=1))
        return found

    return gather


def _said_if_far_ahead(cells: Cells) -> bool:
    """Warn where the student is far ahead of its teacher.

    Far ahead: of the items that one of them alone has right, the student has more than two thirds, by the exact
    one-sided bound of 99 %.
    """
    if not upper_bound(cells.lost, cells.lost + cells.gained, 0.99) < 1 / 3:
        return False
    logger.warning(
        "The student is far ahead of its teacher: it alone is right on %d items, the teacher alone on %d. Alignment "
        "copies the teacher's mistakes too. Fine-tune the teacher further before you take it for the original, or "
        "train the student with the labels alone (AlignmentArguments(preset='labels')).",
        cells.gained,
        cells.lost,
    )
    return True
