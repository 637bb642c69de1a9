"""What of a trainer's options means nothing for its task is refused before any training."""

import logging
from collections.abc import Iterable
from typing import Any

from transformers import DataCollatorWithPadding, DefaultDataCollator, default_data_collator

from hf_compalign.data import LABEL_COLUMNS
from hf_compalign.tasks import OF_MODELS, Task

logger = logging.getLogger(__name__)

# The terms about classes, which a regression has none of.
_OF_CLASSES = ("agreement", "margin", "kl")
_MAKE_NO_LABELS = (DataCollatorWithPadding, DefaultDataCollator)


def check_options(task: Task, trainer: Any) -> None:
    """Refuse options of a trainer that mean nothing for its task."""
    wanted = [*task.label_names]
    if len(wanted) > 1 and [*trainer.label_names] != wanted:
        raise ValueError(
            f"label_names must be {wanted} for {task.name}. Got {trainer.label_names}. Leave it out, and name the "
            "columns so."
        )
    if len(wanted) == 1 and len(trainer.label_names) != 1:
        raise ValueError(
            f"label_names must hold one name. Got {trainer.label_names}. Name the one column with the class labels."
        )
    _check_own_terms(task, trainer)
    if task.categorical:
        return
    asked = trainer.alignment.weights()
    for name in _OF_CLASSES:
        if name in asked:
            raise ValueError(
                f"The {name} term compares classes, and a regression answers with numbers. Got {trainer.alignment}. "
                f"Take the preset 'default', 'logits' or 'labels', or set {name}_weight=0."
            )
    if trainer.alignment.focus is not None:
        raise ValueError(
            "only_where_teacher_is_right, focal_alpha and focal_beta ask whether the teacher's class is the label, and "
            "a regression has no classes. Leave them out."
        )
    if trainer.args.label_smoothing_factor > 0:
        raise ValueError(
            "label_smoothing_factor spreads a label over the other classes, and a regression has none. Leave it out."
        )


def _check_own_terms(task: Task, trainer: Any) -> None:
    """Refuse what a model adds to its loss only when it sees labels, and say what is not trained without."""
    if "task" not in trainer.alignment.weights() or trainer.compute_loss_func is not None:
        return
    config, model = trainer.model.config, type(trainer.model).__name__
    if task.decodes and getattr(config, "output_router_logits", False):
        raise ValueError(
            f"output_router_logits=True adds a loss of the routers, which {model} computes from labels alone, and here "
            "it is called without. Set config.output_router_logits=False, or the task term's task_weight=0."
        )
    if task.has_maps and getattr(trainer.model, "auxiliary_head", None) is not None:
        logger.warning(
            "%s adds the loss of an auxiliary head to its own when it sees labels. Here that head is not trained: the "
            "task term is about the answers. Set config.use_auxiliary_head=False to leave it out.",
            model,
        )


def may_make_labels(collator: Any) -> bool:
    """Whether a collator may give a batch labels that the dataset has no column of: not those of a Trainer's own."""
    return collator is not default_data_collator and type(collator) not in _MAKE_NO_LABELS


def check_unlabeled(trainer: Any, batch: Iterable[str]) -> None:
    """Refuse a training batch without labels that the task term cannot do without.

    It can where a teacher teaches too, unless the dataset has labels and they got lost on the way.

    Raises:
        ValueError: what the batch holds instead.
    """
    if trainer.compute_loss_func is not None:
        return  # which may do without
    columns = getattr(trainer.train_dataset, "column_names", None) or ()
    lost = {*trainer.label_names, *LABEL_COLUMNS}.intersection(columns)
    if trainer.alignment.needs_teacher and not lost:
        return
    names = [*map(repr, trainer.label_names)]
    wanted = " and ".join(names) if len(names) > 1 else " or ".join(dict.fromkeys([*names, repr(OF_MODELS)]))
    raise ValueError(
        f"The task term needs labels, and a batch of the training has none under {wanted}. Got "
        f"{', '.join(batch)}. Let the data_collator return them under that name, or name theirs with TrainingArguments("
        "label_names=[...]). Or train on a teacher's answers alone: AlignmentArguments() with teacher=."
    )
