"""What cannot work is refused when the trainer is built, with the reason and the way out."""

import logging
from math import inf
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign.align.answered import LOGITS_COLUMN
from hf_compalign.align.live import LiveTeacher, TeacherEnsemble
from hf_compalign.align.search import MISMATCHES, SHIFT
from hf_compalign.align.task_checks import check_options, may_make_labels
from hf_compalign.align.teacher import check_cached_logits, check_distinct, trusts_positions
from hf_compalign.align.vocabulary import check_same_tokens, vocabulary_mark, vocabulary_of
from hf_compalign.data import check_rows
from hf_compalign.models import (
    check_same_reading,
    check_texts_of_rows,
    is_unknown,
    label_column,
    position_limit,
    read_labels,
)
from hf_compalign.tasks import Task, task_of

logger = logging.getLogger(__name__)

LOWER_IS_BETTER = (MISMATCHES, "cie", "cie_u", "kl", SHIFT)


def check_setup(trainer: Any) -> None:
    """Refuse settings that the loss and its weighting cannot work with."""
    args = trainer.args
    check_options(trainer.task, trainer)
    for option, learns, else_take in (
        ("weighting='uncertainty'", trainer.alignment.weighting == "uncertainty", "use another weighting"),
        ("hidden_projection=True", trainer.alignment.hidden_projection, "leave it out"),
    ):
        if learns and trainer.optimizer is not None:
            raise ValueError(
                f"{option} learns its weights in the Trainer's optimizer, and cannot with optimizers=. "
                f"Leave optimizers out and choose with TrainingArguments(optim=...), or {else_take}."
            )
        if learns and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
            raise ValueError(
                f"{option} keeps its weights outside the model, which DeepSpeed and FSDP do not "
                f"optimize. Use DDP, or {else_take}."
            )
    _check_ignored(trainer)
    # With several evaluation datasets their names stand before the metric's.
    metric = args.metric_for_best_model or ""
    if f"_{metric}".endswith(tuple(f"_{name}" for name in LOWER_IS_BETTER)) and args.greater_is_better:
        # TrainingArguments takes every metric that does not end in "loss" for one to maximize.
        logger.warning("%s is better when it is lower: setting greater_is_better=False.", metric)
        args.greater_is_better = False


def _check_ignored(trainer: Any) -> None:
    """Refuse options of the Trainer that would have no effect on this loss."""
    args = trainer.args
    for name, given in (
        ("label_smoothing_factor", args.label_smoothing_factor > 0),
        ("compute_loss_func", trainer.compute_loss_func is not None),
    ):
        if given and "task" not in trainer.alignment.weights():
            raise ValueError(
                f"{name} would be ignored: it is about the labels' term, which takes no part in {trainer.alignment}. "
                f"Set task_weight above 0, or leave {name} out."
            )
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise ValueError(
            "average_tokens_across_devices=False would be ignored: each term is averaged over the items of all "
            "processes. Leave it out."
        )


def check_student_and_teacher(trainer: Any, teacher: PreTrainedModel) -> None:
    """Refuse two models that cannot answer the same question with the same labels."""
    student: PreTrainedModel = trainer.model
    check_distinct(teacher, student)
    ours, theirs = task_of(student), task_of(teacher)
    if (str(ours), ours.model_input) != (str(theirs), theirs.model_input):
        of_input = "" if str(ours) != str(theirs) else f", of {theirs.model_input} and {ours.model_input}"
        raise ValueError(
            f"Teacher and student must do the same task. Got {theirs} and {ours}{of_input}. "
            "Use the original of this student as its teacher."
        )
    check_same_reading({"teacher": teacher, "student": student})
    check_same_tokens(student, teacher, trainer.processing_class, trainer.data_collator)
    _check_positions(student, teacher, longest=getattr(trainer.processing_class, "model_max_length", inf))
    _check_same_answers(ours, student, teacher)
    names = ours.class_names(student.config), ours.class_names(teacher.config)
    if trusts_positions(*names):
        logger.warning(
            "Only one of teacher and student has label names, so they are matched by position: teacher %s, student %s.",
            list(names[1]),
            list(names[0]),
        )


def _check_same_answers(task: Task, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Refuse models that answer with other numbers of tokens, though their tokenizers may be the same."""
    ours, theirs = (getattr(model.config, "vocab_size", None) for model in (student, teacher))
    if task.predicts_tokens and ours != theirs:
        raise ValueError(
            f"Two language models are compared token by token of one vocabulary. Got logits for {theirs} tokens of the "
            f"teacher and for {ours} of the student. Resize the embeddings of one: model.resize_token_embeddings(n)."
        )


def _check_positions(student: PreTrainedModel, teacher: PreTrainedModel, *, longest: float) -> None:
    """Refuse a teacher that cannot read all that the student and its tokenizer can."""
    ours, theirs = (position_limit(model) or inf for model in (student, teacher))
    if theirs < min(ours, longest):
        own = "any number" if ours == inf else ours
        raise ValueError(
            f"The teacher takes texts of up to {theirs} tokens, the student of {own}, so longer ones would fail in "
            f"the teacher. Take a teacher with as many positions, or tokenize with truncation=True, "
            f"max_length={theirs}, and give the tokenizer with model_max_length={theirs} as processing_class=."
        )


def check_datasets(trainer: Any, teacher: LiveTeacher | TeacherEnsemble | None) -> str | None:
    """Refuse data that do not fit the terms in use; return the fingerprint of the cached teacher, if there is one."""
    given = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"eval": trainer.eval_dataset}
    splits = {"train": trainer.train_dataset} | given
    found: set[str] = set()
    for split, dataset in splits.items():
        if dataset is None:
            continue
        if isinstance(dataset, dict):
            check_rows(dataset)
        if hasattr(dataset, "__len__") and len(dataset) == 0:
            raise ValueError(f"The {split} dataset is empty. Give it at least one row.")
        if isinstance(dataset, Dataset):
            check_texts_of_rows(dataset, trainer.model)
            _check_labels(trainer, dataset, split)
        columns = getattr(dataset, "column_names", None) or ()
        if LOGITS_COLUMN in columns and isinstance(dataset, Dataset):
            own = None if teacher is None else teacher.fingerprint
            tokens = vocabulary_of(trainer.model, trainer.processing_class, trainer.data_collator)
            found.add(
                check_cached_logits(
                    dataset,
                    trainer.model,
                    teacher_fingerprint=own,
                    vocabulary=vocabulary_mark(tokens),
                    split=split,
                )
            )
        elif trainer.alignment.needs_teacher and teacher is None and isinstance(dataset, Dataset):
            raise ValueError(
                f"The loss has terms with a teacher, but there is none for the {split} dataset. Pass teacher=, or fill "
                f"the column {LOGITS_COLUMN!r} with cache_teacher_logits, or take AlignmentArguments(preset='labels')."
            )
    if len(found) > 1:
        raise ValueError(
            f"The datasets carry the logits of different teachers: {', '.join(sorted(found))}. "
            "Run cache_teacher_logits on all of them with the same teacher."
        )
    return found.pop() if found else None


def _check_labels(trainer: Any, dataset: Dataset, split: str) -> None:
    try:
        column = label_column(dataset, trainer.label_names)
        labels = [] if column is None else read_labels(dataset, column, trainer.task, trainer.model.config)
    except ValueError as error:
        if dataset.format["type"] == "custom":
            return  # the transform may well make other labels of them
        raise ValueError(f"The {split} dataset does not fit the model. {error}") from error
    # Then the first batch tells.
    made_later = column is None and (dataset.format["type"] == "custom" or may_make_labels(trainer.data_collator))
    if split == "train" and all(map(is_unknown, labels)) and not made_later and not trainer.alignment.needs_teacher:
        raise ValueError(
            f"The train dataset has no labels (columns: {', '.join(dataset.column_names)}), and the task term is the "
            "only one in use. Add a label column, name it with TrainingArguments(label_names=[...]), or train on "
            "a teacher's answers: AlignmentArguments() with teacher=."
        )
