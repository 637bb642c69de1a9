"""What teacher and student answer in an evaluation, compared item by item."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from hf_compalign.align.losses import kl_loss
from hf_compalign.align.parts import values_of
from hf_compalign.measure.statistics import AlignmentSums, Cells, upper_bound, value_metrics
from hf_compalign.models import widest_float
from hf_compalign.tasks import Items, are_known

logger = logging.get_logger(__name__)

Gather = Callable[[Tensor], Tensor]
"""Rows of this process's examples -> those of all processes' examples, each once."""


class Agreement:
    """The answers of both models to the items of one evaluation after another.

    Of classes nothing but sums is kept: a language model or a segmentation answers millions of items.

    Args:
        categorical: whether items have classes, and not values.
    """

    def __init__(self, *, categorical: bool = True) -> None:
        self._categorical = categorical
        self._said = False
        self.begin()

    def begin(self) -> None:
        """Forget the items of the evaluation before."""
        self._sums: Tensor | None = None
        self._values: list[np.ndarray] = []

    def add(self, items: Items, teacher: Tensor, gather: Gather) -> None:
        """Note the student's items of a batch and the teacher's logits [..., C], of all processes' examples."""
        if not self._categorical:
            columns = [teacher.squeeze(-1), items.logits.squeeze(-1)]
            self._values.append(_gathered_items(columns, items.mask, gather).numpy())
            return
        (kl,) = values_of([kl_loss], items.logits, teacher, items.labels)
        reference, candidate, known = teacher.argmax(-1), items.logits.argmax(-1), are_known(items.labels)
        cells = [kind & known for kind in Cells.kinds(reference, candidate, items.labels)]
        sums = gathered_sums([items.mask, reference != candidate, *cells, kl], items.mask, gather)
        self._sums = sums if self._sums is None else self._sums + sums

    def metrics(self, *, aligns: bool) -> dict[str, float]:
        """Their agreement, none without items; where the training aligns, a teacher far behind is said once."""
        if self._values:
            return value_metrics(*np.concatenate(self._values).T)
        if self._sums is None:
            return {}
        *counts, kl = self._sums.tolist()
        n, mismatches, *kinds = map(int, counts)
        sums = AlignmentSums(n, mismatches, Cells(*kinds), kl)
        if aligns and not self._said:
            self._said = _said_if_far_ahead(sums.cells)
        return sums.metrics()


def gathered_sums(columns: Sequence[Tensor], mask: Tensor, gather: Gather) -> Tensor:
    """[K], float64, on the CPU: the sums of K numbers of each item that the mask keeps, of all processes' examples.

    Examples are summed up first and gathered whole, since the Trainer's gathering drops the examples that fill up a
    last batch.
    """
    dtype = widest_float(mask.device)
    kept = [torch.where(mask, column, torch.zeros_like(column)) for column in columns]
    rows = torch.stack([column.reshape(len(mask), -1).sum(1, dtype=dtype) for column in kept], dim=1)
    return gather(rows).cpu().double().sum(0)


def _gathered_items(columns: Sequence[Tensor], mask: Tensor, gather: Gather) -> Tensor:
    """[N, K], float64, on the CPU: K numbers of each item that the mask keeps, of all processes' examples."""
    dtype = widest_float(mask.device)
    rows = torch.stack([column.to(dtype).reshape(len(mask), -1) for column in (mask, *columns)], dim=-1)
    flat = gather(rows).cpu().double().flatten(0, 1)
    return flat[flat[:, 0] > 0][:, 1:]


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
