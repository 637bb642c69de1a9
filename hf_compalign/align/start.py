"""The start of a training as a candidate for its best model: training may well lose answers that the start kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from hf_compalign._compat import save_as_best
from hf_compalign._formats import count, number
from hf_compalign.align.answered import LOGITS_COLUMN
from hf_compalign.align.search import MISMATCHES, distance_metric
from hf_compalign.models import random_state_kept

logger = logging.get_logger(__name__)


def count_start(trainer: Any) -> None:
    """Let the start of the training that begins be a candidate for the best model, where a teacher can judge it.

    The Trainer's own metric for the best model, the loss, then gives way to the mismatch rate, or a regression's shift.
    """
    trainer.remove_callback(StartCallback)
    args = trainer.args
    seeks = args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST
    evaluates = args.eval_strategy != IntervalStrategy.NO
    if not (seeks and evaluates and trainer.alignment.needs_teacher and answered_by_teacher(trainer)):
        return
    if args.metric_for_best_model == "loss" and not isinstance(trainer.eval_dataset, dict):
        distance = distance_metric(trainer.task)
        logger.info(
            "The best model is the one with the lowest %s against the teacher. For the loss, set "
            "metric_for_best_model='eval_loss'.",
            distance,
        )
        args.metric_for_best_model, args.greater_is_better = distance, False
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        # Saving an optimizer in shards before its first step would make it count that as a step.
        logger.info("With FSDP and DeepSpeed the start is no candidate for the best model.")
        return
    # Last, so that the others have compressed the model when this one looks at it.
    trainer.add_callback(StartCallback(trainer))


def answered_by_teacher(trainer: Any) -> bool:
    """Whether there is an evaluation set, and all of it has a teacher: a live one, or its cached logits."""
    given = trainer.eval_dataset
    datasets = given.values() if isinstance(given, dict) else [given]
    cached = all(LOGITS_COLUMN in (getattr(one, "column_names", None) or ()) for one in datasets)
    return given is not None and (cached or bool(trainer.teachers))


class StartCallback(TrainerCallback):
    """Evaluates the model before the first step, and saves it as the best one so far.

    A model that a callback goes on compressing is no candidate, and none is in a search for hyperparameters: all trials
    would share it. The random numbers of the training stay those of one without this callback.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._due = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Find out whether the start is to be evaluated: not again in a resumed run, which knows its metric."""
        callbacks = self._trainer.callback_handler.callbacks
        compressed = all(getattr(callback, "final_step", 0) == 0 for callback in callbacks)
        resumed = state.global_step > 0 or state.best_global_step is not None
        self._due = compressed and not resumed and not state.is_hyper_param_search

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Evaluate the start and save it, before the first epoch draws its random numbers."""
        if self._due:
            self._due = False
            with random_state_kept():
                metrics = self._trainer.evaluate()
            save_as_best(self._trainer, metrics)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Say so when the training did not help."""
        if state.best_global_step != 0 or state.best_metric is None:
            return
        better, value = f"a better {args.metric_for_best_model}", number(state.best_metric)
        dataset = self._trainer.eval_dataset
        one_item_each = self._trainer.task.label_depth == 0
        if _best_metric(args) == f"eval_{MISMATCHES}" and one_item_each and hasattr(dataset, "__len__"):
            better = "fewer mismatches"
            value = f"{count(round(state.best_metric * len(dataset)))} of {count(len(dataset))}"
        logger.warning(
            "No checkpoint after training had %s than the start: keeping the start (%s). "
            "suggest_learning_rate(trainer) looks for a rate that helps.",
            better,
            value,
        )


@contextmanager
def start_apart(trainer: Any) -> Iterator[None]:
    """Let an EarlyStoppingCallback compare an evaluation with those after training began.

    While a training has not caught up with a good start, its evaluations may still get better.
    """
    state, args = trainer.state, trainer.args
    best = state.best_metric
    if state.best_global_step == 0:
        name = _best_metric(args)
        seen = [line[name] for line in state.log_history if name in line and line["step"] > 0]
        state.best_metric = (max if args.greater_is_better else min)(seen, default=None)
    try:
        yield
    finally:
        state.best_metric = best


def _best_metric(args: TrainingArguments) -> str:
    """What an evaluation calls the metric for the best model."""
    return f"eval_{(args.metric_for_best_model or '').removeprefix('eval_')}"
