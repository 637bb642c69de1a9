"""A Trainer that compares its model with a teacher wherever it evaluates."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from hf_compalign._compat import prepared
from hf_compalign.align.agreement import Agreement
from hf_compalign.align.answered import LOGITS_COLUMN, answered_collator
from hf_compalign.align.arguments import AlignmentArguments
from hf_compalign.align.checks import check_student_and_teacher
from hf_compalign.align.labeled import LabeledTrainer
from hf_compalign.align.live import Answer, LiveTeacher, TeacherEnsemble, live_teacher, loaded_teachers, shares_of
from hf_compalign.align.start import start_apart
from hf_compalign.models import Collator, collator_for, input_names
from hf_compalign.tasks import Task, labels_in, under_name

logger = logging.get_logger(__name__)


class TaughtTrainer(LabeledTrainer):
    """A `LabeledTrainer` with a teacher, or several: run live, or read from a column of their logits."""

    alignment: AlignmentArguments
    task: Task
    teacher: PreTrainedModel | list[PreTrainedModel] | None
    teachers: tuple[PreTrainedModel, ...]
    model: Any
    _signature_columns: list[str] | None

    def _take_teacher(self, teacher: Any) -> None:
        """Load the teachers, if there are live ones, and see that they can teach this model."""
        self._agreement = Agreement(categorical=self.task.categorical)
        self.teachers = () if teacher is None else loaded_teachers(teacher)
        self.teacher = [*self.teachers] if len(self.teachers) > 1 else next(iter(self.teachers), None)
        self._live: LiveTeacher | TeacherEnsemble | None = None
        self._for_teacher_alone = {LOGITS_COLUMN}
        shares_of(self.alignment.teacher_weights, len(self.teachers))  # refused without several
        for one in self.teachers:
            check_student_and_teacher(self, one)
        if self.teachers:
            labels = self.task.class_names(self.model.config)
            self._live = live_teacher(self.teachers, labels, self.alignment.teacher_weights)
            self._live.to(self.args.device)
            # DistilBERT, say, takes no token_type_ids, and its teacher BERT needs them for pairs.
            self._for_teacher_alone |= set(self._live.input_names) - set(input_names(self.model))

    def _taught(self, inputs: Mapping[str, Any], *, training: bool, asked: Collection[str] = ()) -> Answer | None:
        """From the batch's column, else from the live teacher; None in an evaluation that has neither."""
        cached: Tensor | None = inputs.get(LOGITS_COLUMN)
        if cached is not None and not asked:
            return Answer(cached.float())
        if self._live is not None:
            return self._live.answer(inputs, self.accelerator.autocast(), asked=asked)
        if training:
            raise ValueError(
                f"The batch has no {LOGITS_COLUMN!r}, and no teacher= was given. If the dataset has the column, the "
                "data_collator or a transform drops it: let it pass the column on as a float tensor [B, C]."
            )
        if self.alignment.needs_teacher:
            logger.warning_once(
                f"No teacher= and no {LOGITS_COLUMN!r} here: only the task term is evaluated, without the agreement."
            )
        return None

    def _of_student(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in inputs.items() if name not in self._for_teacher_alone}

    def _with_decoder_inputs(self, inputs: dict[str, Any], labels: Tensor | None) -> dict[str, Any]:
        """The inputs with what an encoder-decoder reads of the target, where its collator has not made them."""
        if not self.task.decodes or "decoder_input_ids" in inputs:
            return inputs
        target, _ = self.task.targets(labels, inputs, self.model.config)  # refuses a batch without
        return inputs | {"decoder_input_ids": self.model.prepare_decoder_input_ids_from_labels(labels=target)}

    def _collator_for(self, dataset: Any) -> Collator:
        return answered_collator(collator_for(self.model, given=super()._collator_for(dataset)), self.task)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """The Trainer's loop, with the agreement of student and teacher added to its metrics."""
        self._agreement.begin()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        for name, value in self._agreement.metrics(aligns=self.alignment.needs_teacher).items():
            # A metric of the user's own with that name stays what it was.
            output.metrics.setdefault(f"{metric_key_prefix}_{name}", value)
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as the Trainer does; the start of a training costs an EarlyStoppingCallback no patience."""
        with start_apart(self):
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        return metrics

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        """One evaluation batch, as the Trainer does it; both models' answers to each example are noted."""
        inputs = dict(under_name(prepared(self, inputs), self.label_names))
        labels = labels_in(inputs, self.label_names)
        inputs = self._with_decoder_inputs(inputs, labels)
        with torch.no_grad():
            teacher = self._taught(inputs, training=False)
        inputs = self._of_student(inputs)
        if teacher is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        # With labels the Trainer calls compute_loss, which takes the teacher's answer from here; without, the model.
        batch = inputs if labels is None else {**inputs, LOGITS_COLUMN: teacher.logits}
        ignored = getattr(self.model.config, "keys_to_ignore_at_inference", ["past_key_values"])
        # A mixture of experts gives the loss of its routers before the logits.
        ignored = [*(ignored if ignore_keys is None else ignore_keys), "aux_loss"]
        loss, logits, gathered_labels = super().prediction_step(model, batch, False, ignored)
        answer = self.task.answer(logits if isinstance(logits, tuple) else (logits,))
        items = self.task.items(answer, labels, inputs, self.model.config)
        self._agreement.add(items, self.task.logits(teacher.logits, items.labels), self.gather_function)
        return (loss, None, None) if prediction_loss_only else (loss, logits, gathered_labels)

    # A private method of Trainer: `_compat.OVERRIDDEN` says why.

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*(self._signature_columns or []), *self._for_teacher_alone]))
