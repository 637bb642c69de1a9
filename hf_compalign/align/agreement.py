"""What teacher and student answer in an evaluation, compared item by item."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from hf_compalign.align.losses import kl_loss
from hf_compalign.measure.statistics import Cells, alignment_metrics, upper_bound
from hf_compalign.tasks import Items

logger = logging.get_logger(__name__)


class Agreement:
    """The answers of both models to the items of one evaluation after another."""

    def __init__(self) -> None:
        self._answers: list[np.ndarray] = []
        self._said = False

    def begin(self) -> None:
        """Forget the items of the evaluation before."""
        self._answers = []

    def add(self, items: Items, teacher: Tensor, gather: Callable[[Tensor], Tensor]) -> None:
        """Note the student's items of a batch and the teacher's logits [N, C], of all processes' examples."""
        kl = kl_loss(items.logits, teacher, items.labels)
        columns = [teacher.argmax(-1), items.logits.argmax(-1), items.labels, kl]
        answers = torch.stack([column.double() for column in columns], dim=-1)
        self._answers.append(gather(answers[items.mask]).cpu().numpy())

    def metrics(self, *, aligns: bool) -> dict[str, float]:
        """Their agreement, none without items; where the training aligns, a teacher far behind is said once."""
        if not self._answers:
            return {}
        reference, candidate, labels, kl = np.concatenate(self._answers).T
        reference, candidate, labels = (answers.astype(int) for answers in (reference, candidate, labels))
        if aligns and not self._said:
            self._said = _said_if_far_ahead(Cells.count(reference, candidate, labels))
        return alignment_metrics(reference, candidate, labels, kl)


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
