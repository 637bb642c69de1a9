"""Compress a text classifier so that it keeps the answers of the original, and audit it example by example.

The flags are those of transformers' own scripts, of `AlignmentArguments` and of `CompressionArguments`:

    python examples/run_glue.py --task_name sst2 --model_name_or_path google-bert/bert-base-uncased \
        --sparsity 0.5 --do_train --do_eval --output_dir outputs/sst2

See README.md beside this file for more.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    TrainingArguments,
    set_seed,
)

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, audit, cache_teacher_logits, footprint, predict
from hf_compalign.align.fine_tuning import fine_tune_teacher, load_for_labels
from hf_compalign.columns import find_label_column, find_text_columns, tokenized
from hf_compalign.compress.arguments import CompressionArguments
from hf_compalign.data import class_names, load_file, mix_unlabelled, sample, with_label_ids
from hf_compalign.inference import load_model
from hf_compalign.labels import names_of
from hf_compalign.measure.predict import Columns
from hf_compalign.report.card import CardDetails, write_model_card

logger = logging.getLogger("run_glue")

GLUE = "nyu-mll/glue"
VALIDATION = {"mnli": "validation_matched"}  # of the other tasks it is "validation"


@dataclass
class ModelArguments:
    """Which models take part."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained checkpoint that the teacher is fine-tuned from, when none is given."}
    )
    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "The original: a fine-tuned model, whose answers the student is to keep."}
    )
    student_name_or_path: str | None = field(
        default=None, metadata={"help": "Weights that the student starts from; the teacher's if left out."}
    )
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Start with a new head where a checkpoint has one for other labels."}
    )
    teacher_num_train_epochs: float = field(default=3.0, metadata={"help": "Epochs of fine-tuning the teacher."})
    teacher_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of fine-tuning the teacher."})
    cache_teacher: bool = field(
        default=False, metadata={"help": "Run the teacher once over the data before training, not in every step."}
    )

    def __post_init__(self) -> None:
        if (self.model_name_or_path is None) == (self.teacher_name_or_path is None):
            raise ValueError(
                "Give either model_name_or_path, to fine-tune the teacher from it first, or teacher_name_or_path, the "
                "fine-tuned original. What the student starts from, if not from the teacher, is student_name_or_path."
            )


@dataclass
class DataArguments:
    """Which data to take, and how."""

    task_name: str | None = field(default=None, metadata={"help": "A classification task of GLUE on the Hub: sst2 ..."})
    dataset_name: str | None = field(default=None, metadata={"help": "Another dataset on the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of that dataset."})
    train_file: str | None = field(default=None, metadata={"help": "Training data: parquet, csv or json."})
    validation_file: str | None = field(default=None, metadata={"help": "Evaluation data: parquet, csv or json."})
    test_file: str | None = field(
        default=None, metadata={"help": "Audit on these data; the evaluation data then only accompany the training."}
    )
    transfer_file: str | None = field(
        default=None, metadata={"help": "Texts without labels to learn the teacher's answers on, mixed into the training."}
    )
    text_column_names: list[str] | None = field(default=None, metadata={"help": "The text column, or the two of a pair."})
    label_column_name: str | None = field(default=None, metadata={"help": "The label column."})
    max_seq_length: int = field(default=128, metadata={"help": "Longer texts are truncated to so many tokens."})
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "Pad all texts to max_seq_length, not just to the longest of their batch."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Take so many training rows, at random."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Take so many evaluation rows, at random."})

    def __post_init__(self) -> None:
        given = [self.task_name, self.dataset_name, self.train_file]
        if sum(source is not None for source in given) != 1:
            raise ValueError(f"Give one of task_name, dataset_name and train_file. Got {given}.")
        if self.train_file is None and self.validation_file is not None:
            raise ValueError("validation_file goes with train_file. A dataset of the Hub has a split of its own.")


def load_data(data: DataArguments) -> dict[str, Dataset]:
    """The splits train and, where there are such data, validation and test."""
    if data.train_file is not None:
        splits = {"train": load_file(data.train_file)}
        if data.validation_file is not None:
            splits["validation"] = load_file(data.validation_file)
    else:
        name, config = (GLUE, data.task_name) if data.task_name else (data.dataset_name, data.dataset_config_name)
        found = load_dataset(name, config)
        splits = {"train": found["train"], "validation": found[VALIDATION.get(data.task_name or "", "validation")]}
    if data.test_file is not None:
        splits["test"] = load_file(data.test_file)
    most = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_eval_samples}
    return {split: sample(dataset, most[split]) for split, dataset in splits.items()}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """What the Trainer reports beside its agreement with the teacher."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune the teacher if need be, train the student, audit it."""
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, AlignmentArguments, CompressionArguments, TrainingArguments)
    )
    models, data, alignment, compression, args = parser.parse_args_into_dataclasses(argv)
    logging.basicConfig(level=logging.INFO if args.should_log else logging.WARNING, stream=sys.stderr)
