"""Trainers of other losses than the library's, each a stock Trainer with a live teacher.

Of other libraries we take the loss: in their own loops no callback could hold the zeros, and rows would come in another
order.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from hf_compalign.align import kl_loss


class TaughtTrainer(Trainer):
    """Trains with a loss of the task's own loss, the logits of student and teacher, and the labels."""

    def __init__(self, *args: Any, teacher: PreTrainedModel, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval()

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """Of a batch."""
        outputs = model(**inputs)
        with torch.no_grad():
            teacher = self.teacher(**inputs).logits
        loss = self.combined(outputs.loss, outputs.logits, teacher, inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def combined(self, task: Tensor, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss: a scalar of the task's loss, logits [B, C] twice, and labels [B]."""
        raise NotImplementedError


class DocumentedTrainer(TaughtTrainer):
    """Distillation as the documentation of transformers shows it: half the task's loss, half the KL at T = 5."""

    def combined(self, task: Tensor, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Means over the batch, the divergence times T^2."""
        return 0.5 * task + 0.5 * kl_loss(student, teacher, labels, temperature=5.0).mean()


class FocalTrainer(TaughtTrainer):
    """Focal distillation: CE + mean of (1 + 5 * 1[r = y]) * KL, r the teacher's answer, at T = 2 as in `kd`.

    The weights 1 and 5 are those of https://huggingface.co/papers/2011.09161.
    """

    def combined(self, task: Tensor, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Six times the divergence where the teacher is right."""
        focus = 1.0 + 5.0 * (teacher.argmax(-1) == labels)
        return task + (focus * kl_loss(student, teacher, labels, temperature=2.0)).mean()


class TextBrewerTrainer(TaughtTrainer):
    """The loss of TextBrewer's `DistillationConfig()`: cross-entropy with the teacher at T = 4, no labels."""

    def combined(self, task: Tensor, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Its "ce" of kd_loss_type."""
        from textbrewer.losses import kd_ce_loss

        return kd_ce_loss(student, teacher, temperature=4.0)


class TorchdistillTrainer(TaughtTrainer):
    """torchdistill's `KDLoss` with the values of its example for SST-2: T = 3, alpha = 0.9."""

    def combined(self, task: Tensor, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """alpha * CE + (1 - alpha) * T^2 * KL."""
        from torchdistill.losses.mid_level import KDLoss

        loss = KDLoss("logits", "output", "logits", "output", temperature=3.0, alpha=0.9)
        outputs = ({"logits": {"output": logits}} for logits in (student, teacher))
        return loss(*outputs, targets=labels)
