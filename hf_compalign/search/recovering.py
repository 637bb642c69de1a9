"""Train a cut model to answer like the original again."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import (
    DataCollatorForMultipleChoice,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PrinterCallback,
    TrainingArguments,
)

from hf_compalign._formats import plural
from hf_compalign.align import AlignedDistillationTrainer, AlignmentArguments, last_complete_checkpoint
from hf_compalign.data import lengths, sample
from hf_compalign.labels import IGNORED
from hf_compalign.measure.predictions import Columns, Reader, reader_of
from hf_compalign.models import windows_of
from hf_compalign.search.setting import Setting
from hf_compalign.tasks import task_of

_MOST_STEPS = 100  # between two looks at the rows that choose; at least four looks
_LOOKED_AT = 1_000  # of these rows
# Where texts or images have one class each, half of every batch are inputs made of the batch itself, which only the
# original can answer; but not of windows.
_TRANSFER = 0.5


def recover(student: PreTrainedModel, setting: Setting, searched: Dataset, folder: Path) -> PreTrainedModel:
    """The student, trained on the original's answers alone: labels do not count.

    Of the checkpoints the one with the fewest mismatches on the rows that choose is taken. Rows of the training data
    cannot tell that, since those that the original was trained on are the ones that it is surest of.

    Args:
        student: the cut model; it is changed.
        setting: the original, the rows to train on, and how long and how fast.
        searched: the rows that choose.
        folder: for checkpoints; a training that was killed goes on from the last.

    Raises:
        ValueError: there are no rows to train on, or no checkpoint has fewer mismatches than the start.
    """
    if not setting.train:
        raise ValueError("There are no rows to train a cut model on. Give train=, with a row or more.")
    columns = Columns.of(setting.options.columns)
    reader = reader_of(setting.network, setting.train, processing_class=setting.processor)
    train, judges = (
        prepared_for_training(reader, rows, columns) for rows in (setting.train, sample(searched, _LOOKED_AT))
    )
    trainer = AlignedDistillationTrainer(
        student,
        _arguments(setting, folder),
        processing_class=setting.processor,
        train_dataset=train,
        eval_dataset=judges,
        teacher=setting.network,
        alignment=AlignmentArguments(transfer=_transfer(student)),
        data_collator=_collator(setting),
    )
    trainer.remove_callback(PrinterCallback)  # it would print among what the command prints
    begun = any(folder.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(str(folder)) if begun else None)
    if trainer.state.best_global_step == 0:
        raise ValueError(
            f"no checkpoint of {setting.options.train_steps} steps changes fewer of {plural(len(judges), 'row')} than "
            "the cut by itself"
        )
    return student.eval()


def _arguments(setting: Setting, folder: Path) -> TrainingArguments:
    options = setting.options
    every = max(1, min(_MOST_STEPS, options.train_steps // 4))
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=options.train_steps,
        per_device_train_batch_size=options.train_batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        save_steps=every,
        eval_strategy="steps",
        eval_steps=every,
        load_best_model_at_end=True,
        per_device_eval_batch_size=options.train_batch_size,
        save_total_limit=1,
        # Of images, a transform reads columns that the model does not know.
        remove_unused_columns=setting.task.model_input != "pixel_values",
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
    )


def prepared_for_training(reader: Reader, rows: Dataset, columns: Columns) -> Dataset:
    """The model's inputs; of words also which tokens answer them, which labels tell the trainer."""
    prepared = reader.prepared(rows, columns)
    if reader.task.label_depth != 1 or "labels" in prepared.column_names:
        return prepared
    labels = [[IGNORED] * int(length) for length in lengths(prepared, reader.task.model_input)]
    items = reader.items(rows, prepared, columns)
    for row, place in zip(items.rows.tolist(), np.asarray(items.places).tolist(), strict=True):
        labels[row][place] = 0  # any class: no term reads it
    return prepared.add_column("labels", labels)


def _transfer(student: PreTrainedModel) -> float:
    return _TRANSFER if task_of(student).is_classifier and not windows_of(student) else 0.0


def _collator(setting: Setting) -> Any:
    """What pads rows with several texts, or with labels of their own length; None for the Trainer's own."""
    if setting.task.label_depth == 1:
        return DataCollatorForTokenClassification(setting.processor)
    return DataCollatorForMultipleChoice(setting.processor) if setting.task.has_choices else None
