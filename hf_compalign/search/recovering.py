"""Train a cut model to answer like the original again."""

from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments

from hf_compalign.align import AlignedDistillationTrainer, AlignmentArguments, last_complete_checkpoint
from hf_compalign.data import sample
from hf_compalign.measure.predictions import Columns, reader_of
from hf_compalign.models import windows_of
from hf_compalign.search.setting import Setting

_MOST_STEPS = 100  # between two looks at the rows that choose; at least four looks
_LOOKED_AT = 1_000  # of these rows
# Half of every batch are inputs made of the batch itself, which only the original can answer; but not of windows.
_TRANSFER = 0.5


def recover(student: PreTrainedModel, setting: Setting, searched: Dataset, folder: Path) -> PreTrainedModel:
    """The student, trained on the original's answers alone: labels do not count.

    Of the start and a checkpoint every so often the one with the fewest mismatches on the rows that choose is taken: a
    cut model that is good already is not made worse. Rows of the training data cannot tell that, since those that the
    original was trained on are the ones that it is surest of.

    Args:
        student: the cut model; it is changed.
        setting: the original, the rows to train on, and how long and how fast.
        searched: the rows that choose.
        folder: for checkpoints; a training that was killed goes on from the last.

    Raises:
        ValueError: there are no rows to train on.
    """
    if not setting.train:
        raise ValueError("There are no rows to train a cut model on. Give train=, with a row or more.")
    options = setting.options
    columns = Columns.of(options.columns)
    reader = reader_of(setting.network, setting.train, processing_class=setting.processor)
    train, judges = (reader.prepared(rows, columns) for rows in (setting.train, sample(searched, _LOOKED_AT)))
    every = max(1, min(_MOST_STEPS, options.train_steps // 4))
    args = TrainingArguments(
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
    trainer = AlignedDistillationTrainer(
        student,
        args,
        processing_class=setting.processor,
        train_dataset=train,
        eval_dataset=judges,
        teacher=setting.network,
        alignment=AlignmentArguments(transfer=0.0 if windows_of(student) else _TRANSFER),
    )
    trainer.remove_callback(PrinterCallback)  # it would print among what the command prints
    begun = any(folder.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(str(folder)) if begun else None)
    return student.eval()
