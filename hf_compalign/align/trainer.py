"""The Trainer whose loss keeps the student answering like its teacher."""

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.utils import logging

from hf_compalign._compat import loss_is_scaled
from hf_compalign._files import write_text_atomic
from hf_compalign.align.arguments import AlignmentArguments
from hf_compalign.align.card import complete_card
from hf_compalign.align.checkpoint import (
    check_loaded,
    check_resumable,
    last_complete_checkpoint,
    restore_weighting,
)
from hf_compalign.align.checks import check_datasets, check_setup
from hf_compalign.align.dropout import without_dropout
from hf_compalign.align.inner_checks import fitted
from hf_compalign.align.inside import Watch
from hf_compalign.align.losses import masked_mean
from hf_compalign.align.meter import LossGuard, TermMeter
from hf_compalign.align.projection import Projection, load_projection, save_projection
from hf_compalign.align.search import closest, distance_metric
from hf_compalign.align.start import count_start
from hf_compalign.align.task_checks import check_unlabeled
from hf_compalign.align.task_term import note_problem, router_loss, task_values
from hf_compalign.align.taught import TaughtTrainer
from hf_compalign.align.teacher import without_fingerprints
from hf_compalign.align.terms import TeacherTerms
from hf_compalign.align.transfer_setup import transfer_of
from hf_compalign.align.weighting import state_as_json
from hf_compalign.models import explaining_tokens, follow_config
from hf_compalign.tasks import OF_MODELS, Items, are_known, labels_in, task_of, under_name

STATE_FILE = "alignment.json"

logger = logging.get_logger(__name__)


class AlignedDistillationTrainer(TaughtTrainer):
    """A `Trainer` that also trains the student to keep the answers of a frozen teacher.

    Everything a `Trainer` takes can be given, by position too, and works as it does there. The loss is the weighted sum
    of the terms of `AlignmentArguments`, each averaged over its own items: an item whose label is -100, or nan in a
    regression, and every item of a dataset without labels, takes part in the teacher's terms alone. Class names are
    matched with the student's, as in `hf_compalign.predict`; a data_collator gets the student's ids. `evaluate` and
    `predict` add mismatch_rate, cie, cie_u, agreement and kl against the teacher; the loss they report has the weights
    of the arguments, also where the training adapts them. https://huggingface.co/papers/2012.01604

    Args:
        model: the student, with a head of one of the tasks (`docs/tasks.md`).
        args: as for `Trainer`.
        *further: the arguments that `Trainer` takes next: data_collator, train_dataset, eval_dataset and so on.
        teacher: the original: a module, a local folder or a Hub id; or a list of several, whose logits are averaged,
            for the loss and for the metrics. None when the datasets carry their logits (`cache_teacher_logits`), or
            with the preset "labels".
        alignment: the loss terms and their weights; the default needs no change. The attribute has what is in force.
        **trainer: the other arguments of `Trainer`, by name.

    Attributes:
        teacher: the model that was given or loaded, a list where there are several; None without one.
        weighting: the `Weighting` of the terms, in the order of `AlignmentArguments.weights`.

    Raises:
        ValueError: something that cannot work, with what to change; before any training.
    """

    _signature_columns: list[str] | None
    _counts: Tensor | None  # of the optimizer step
    _projection: Projection | None

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *further: Any,
        teacher: Any = None,
        alignment: AlignmentArguments | None = None,
        **trainer: Any,
    ) -> None:
        self.alignment = alignment or AlignmentArguments()
        super().__init__(model, args, *further, **trainer)
        self.add_callback(LossGuard(self._raise_if_broken))
        # What reports comes last, so that it sees what other callbacks (the sparsity, say) put into a log line.
        reports = tuple(get_reporting_integration_callbacks(self.args.report_to))
        self.callback_handler.callbacks.sort(key=lambda callback: isinstance(callback, reports))
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "attach"):  # such as an AuditCallback, whose numbers are to reach the trackers
                callback.attach(self)
        self.task = task_of(follow_config(self.model))
        # Each term is divided by the count of a whole optimizer step, over all its batches and processes.
        loss_is_scaled(self)
        self.label_names = self.label_names or [*self.task.label_names]
        check_setup(self)
        self._take_teacher(teacher)
        self.alignment = fitted(self, self.teachers)
        self._cached_fingerprint = check_datasets(self, self._live)
        self.train_dataset = without_fingerprints(self.train_dataset)
        self.eval_dataset = without_fingerprints(self.eval_dataset)
        self._transfer = transfer_of(self)
        self._reset_learned()

    # ---- the loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The weighted sum of the terms; called by the Trainer for training and evaluation."""
        training = model.training
        given, labels, inputs = self._without_labels(inputs)
        inputs = self._with_decoder_inputs(inputs, labels)
        asked = self._compared.inner if training else ()  # an evaluation is about the answers
        teacher = self._taught(inputs, training=training, asked=asked) if self.alignment.needs_teacher else None
        watch = Watch(self.accelerator.unwrap_model(model), self._of_student(inputs), asked, trained=True)
        drops = not training or not self.alignment.needs_teacher or self.alignment.student_dropout
        with nullcontext() if drops else without_dropout(model), explaining_tokens(self.model, inputs), watch:
            outputs = model(**watch.inputs, **watch.options)
        items = self.task.items(self.task.answer(outputs), labels, inputs, self.model.config)
        note_problem(self.task, self.model.config)
        counts = None if num_items_in_batch is None else self._counts if training else self._counted([given])
        n_items, n_examples = (None, None) if counts is None else (counts[0], counts[2])
        found = {}
        if "task" in self._names:
            if training and labels is None:
                check_unlabeled(self, given)
            found["task"] = self._task_loss(outputs, items, labels, counts)
        if teacher is not None:
            answers = self.task.logits(teacher.logits, items.labels)
            found |= self._compared.of_items(items, answers, n_items)
            if asked:
                inside = watch.seen(outputs, items.logits, answers), teacher.inside
                padding = inputs.get("attention_mask")
                found |= self._compared.of_examples(inside, items, answers, padding=padding, count=n_examples)
        # An evaluation on a dataset without the teacher's answers, or of what is no answer, has nothing to compare.
        nothing = items.logits.new_zeros(())
        losses = torch.stack([found.get(name, nothing) for name in self._names])
        if not training:
            loss = (self.weighting.base * losses).sum()
        else:
            if self._begins_step:
                for parameter in self._learned:
                    parameter.grad = None  # the Trainer clears the gradients of the model alone
            loss = self.weighting(losses, batches=1 if counts is None else counts[3])
            self._note(losses)
        # Trainer takes the first of a plain tuple for the loss when it evaluates.
        return (loss, outputs if hasattr(outputs, "keys") else (loss, *outputs)) if return_outputs else loss

    def _without_labels(self, inputs: Mapping[str, Any]) -> tuple[Mapping[str, Any], Tensor | None, dict[str, Any]]:
        """A batch with its labels under the name that is wanted; its labels; and the rest of it."""
        given = under_name(inputs, self.label_names)
        rest = {name: value for name, value in given.items() if name not in (*self.label_names, OF_MODELS)}
        return given, labels_in(given, self.label_names), rest

    def _task_loss(self, outputs: Any, items: Items, labels: Tensor | None, counts: Tensor | None) -> Tensor:
        count, batches = (None, 1) if counts is None else (counts[1], counts[3])
        if self.compute_loss_func is not None:
            world = self.accelerator.num_processes
            # A step may be without labels; what is divided by is not 0 then.
            total = None if count is None else (count * world).clamp_min(1)
            # The user's function divides by all processes' items, and DDP divides once more by the processes.
            scale = 1 if count is None else world
            given = items.labels if labels is None else labels
            own: Tensor = self.compute_loss_func(outputs, given, num_items_in_batch=total) * scale
            return own
        how = {"label_smoothing": self.args.label_smoothing_factor, "in_parts": self.alignment.needs_teacher}
        loss = masked_mean(task_values(self.task, items, labels, **how), items.labeled, count)
        of_routers = None if labels is None else router_loss(self.model, outputs)
        # That is of a batch as a whole, and not of its items.
        return loss if of_routers is None else loss + of_routers / batches

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int]:
        """The batches of an optimizer step and the Trainer's count of them; what the terms are divided by is noted."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [under_name(batch, self.label_names) for batch in batches]
        if self._transfer is not None:
            batches = self._transfer(batches, self.args.seed, self.state.global_step, self.accelerator)
        self._counts = self._counted(batches)
        # The Trainer counts labels alone, and without a count does not call the loss scaled.
        return batches, self._counts[0] if count is None else count

    def _counted(self, batches: list[Any]) -> Tensor:
        """[4]: items, labeled items, examples and batches of an optimizer step, for one process on average."""
        counts = torch.zeros(4, device=self.args.device)
        for batch in batches:
            labels, mask = self.task.targets(labels_in(batch, self.label_names), batch, self.model.config)
            size = next(value.shape[0] for value in batch.values() if isinstance(value, Tensor))
            counts[0] += mask.sum().to(counts.device)
            counts[1] += (mask & are_known(labels)).sum().to(counts.device)
            counts[2] += size
            counts[3] += 1
        return self._mean_over_processes(counts)

    def _mean_over_processes(self, values: Tensor) -> Tensor:
        reduced: Tensor = self.accelerator.reduce(values.clone(), reduction="mean")
        return reduced

    # ---- bookkeeping of the terms ----

    def _reset_learned(self) -> None:
        """Build what is trained beside the model, and what counts along with it, afresh."""
        self._names = [*self.alignment.weights()]
        self.weighting = self.alignment.build_weighting(self.args.seed).to(self.args.device)
        self._learned = [*self.weighting.parameters()]
        self._projection = None
        if self.alignment.hidden_projection:
            widths = [model.config.hidden_size for model in (self.model, *self.teachers)]
            self._projection = Projection(*widths, seed=self.args.seed).to(self.args.device)
            self._learned += self._projection.parameters()
        self._compared = TeacherTerms(self.alignment, self._projection)
        for parameter in self._learned:
            # They live outside the model, so DDP does not know them.
            parameter.register_hook(self._mean_over_processes)
        self._begins_step = True
        self._counts = None
        self._meter = TermMeter(self._names, self.args.device)
        self._step_losses = torch.zeros(len(self._names), device=self.args.device)

    def _note(self, losses: Tensor) -> None:
        """Add up the losses of an optimizer step; at its last batch, log them and let the weighting see them."""
        self._step_losses += losses.detach()
        self._begins_step = self.accelerator.sync_gradients
        if not self._begins_step:
            return
        step = self.state.global_step + 1
        self._meter.add(self._step_losses, self.weighting.weights(), step=step)
        seen = self._mean_over_processes(self._step_losses) if self.weighting.observes else self._step_losses
        self.weighting.step(seen, step)
        self._step_losses.zero_()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, with every term's mean and weight beside the training loss."""
        if "loss" in logs:
            logs |= self._meter.averages(self._mean_over_processes)
        super().log(logs, start_time)

    def _raise_if_broken(self) -> None:
        self._meter.raise_if_broken(self._mean_over_processes)

    # ---- what surrounds the loop ----

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """A fresh model, as the Trainer makes it; it reads windows if its config says so."""
        model: nn.Module = follow_config(super().call_model_init(trial))
        return model

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The Trainer's optimizer, which also trains what is learned beside the model: weights, a projection."""
        fresh = self.optimizer is None
        if fresh:
            self._reset_learned()
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if fresh and self._learned:
            optimizer.add_param_group({"params": self._learned, "weight_decay": 0.0})
        return optimizer

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; a checkpoint is resumed with the alignment that it was made with.

        Raises:
            ValueError: the checkpoint was made with another alignment, or without any.
            FloatingPointError: a loss term became nan or infinite: which, and at which step.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            check_resumable(Path(resume_from_checkpoint), STATE_FILE, self._recipe())
        count_start(self)
        logger.info("Alignment: %s.", self.alignment)
        output = super().train(resume_from_checkpoint, *args, **kwargs)
        self._raise_if_broken()
        return output

    def hyperparameter_search(
        self,
        hp_space: Any = None,
        compute_objective: Any = None,
        n_trials: int = 20,
        direction: Any = "minimize",
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Search as the Trainer does; without an objective, for the fewest mismatches where there is a teacher.

        Raises:
            ValueError: there is no objective, and its direction is another.
        """
        if compute_objective is None and (self._live is not None or self._cached_fingerprint is not None):
            compute_objective = closest(self.eval_dataset, direction, distance_metric(self.task))
        return super().hyperparameter_search(hp_space, compute_objective, n_trials, direction, *args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Draft the card as the Trainer does, with the teacher, the alignment and what the callbacks did.

        `push_to_hub` calls it. `hf_compalign.ship.write_model_card` writes another one, around an audit.
        """
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            complete_card(
                Path(self.args.output_dir) / "README.md",
                alignment=self.alignment,
                teachers=[one.name_or_path for one in self.teachers],
                callbacks=self.callback_handler.callbacks,
            )

    def _recipe(self) -> dict[str, Any]:
        teacher = self._cached_fingerprint if self._live is None else self._live.fingerprint
        return {"alignment": self.alignment.recipe(), "teacher": teacher}

    # Private methods of Trainer: `_compat.OVERRIDDEN` says why.

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            state = self._recipe() | {"weighting": state_as_json(self.weighting)}
            write_text_atomic(Path(output_dir) / STATE_FILE, json.dumps(state, indent=2))
            if self._projection is not None:
                save_projection(self._projection, Path(output_dir))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        check_loaded(self.model, load_result.missing_keys, load_result.unexpected_keys)
        super()._issue_warnings_after_load(load_result)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            restore_weighting(self.weighting, Path(checkpoint) / STATE_FILE, self._recipe())
            if self._projection is not None:
                load_projection(self._projection, Path(checkpoint))
