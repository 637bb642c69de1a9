"""Compress a text classifier with several labels at once so that it keeps the answers of the original, and audit it.

The flags are those of transformers' own scripts, of `AlignmentArguments` and of `CompressionArguments`:

    python examples/run_multilabel.py --train_file train.csv --validation_file validation.csv \
        --label_column_names toxic insult threat --model_name_or_path google-bert/bert-base-uncased --sparsity 0.5 \
        --do_train --do_eval --output_dir outputs/labels

README.md beside this file has more.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    TrainingArguments,
    set_seed,
)

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, Audit, AuditOptions, Columns, audit
from hf_compalign.align import ModelArguments, RecipeParser, fine_tune_teacher, load_for_labels, train_student
from hf_compalign.compress import CompressionArguments
from hf_compalign.data import DatasetArguments, existing_column, find_text_columns, tokenized_as_read
from hf_compalign.labels import names_of
from hf_compalign.measure.statistics import task_scores
from hf_compalign.opening import load_model
from hf_compalign.ship import write_training_card

PROBLEM = "multi_label_classification"


@dataclass
class DataArguments(DatasetArguments):
    """Which data to take, and how."""

    label_column_names: list[str] = field(
        default_factory=list, metadata={"help": "The columns of the labels, 1 where one holds and 0 where not."}
    )
    text_column_names: list[str] | None = field(
        default=None, metadata={"help": "The text column, or the two of a pair."}
    )
    max_seq_length: int = field(
        default=128, metadata={"help": "Longer texts are truncated to so many tokens, or read in windows of so many."}
    )
    doc_stride: int | None = field(
        default=None, metadata={"help": "Read longer texts in windows that share so many tokens, instead."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.label_column_names:
            raise ValueError("Name the columns of the labels with label_column_names, such as toxic insult threat.")


class Texts:
    """Which columns are the texts and their labels, and how they become a model's inputs."""

    def __init__(self, data: DataArguments, train: Dataset, models: ModelArguments) -> None:
        self.names = tuple(existing_column(train.column_names, name) for name in data.label_column_names)
        rest = train.remove_columns(list(self.names))
        self.columns = find_text_columns(rest, data.text_column_names)
        self.tokenizer = AutoTokenizer.from_pretrained(models.origin)
        # Saved with the tokenizer, so that whoever loads the model truncates as it was trained.
        self.tokenizer.model_max_length = min(data.max_seq_length, self.tokenizer.model_max_length)
        self.windows = models.windows(self.tokenizer.model_max_length, data.doc_stride)
        self.collator = DataCollatorWithPadding(self.tokenizer)

    def labeled(self, dataset: Dataset, names: Sequence[str]) -> Dataset:
        """The texts with the column `labels`: 1 or 0 for each of these labels, in this order."""
        columns = dataset.select_columns([*names])[:]
        labels = [[float(holds) for holds in row] for row in zip(*(columns[name] for name in names), strict=True)]
        return dataset.select_columns([*self.columns]).add_column("labels", labels)

    def prepared(self, dataset: Dataset, names: Sequence[str]) -> Dataset:
        """The same, tokenized."""
        return tokenized_as_read(self.labeled(dataset, names), self.tokenizer, self.columns, windows=self.windows)


def scores(prediction: EvalPrediction) -> dict[str, float]:
    """What the Trainer reports beside the agreement with the teacher: of all answers yes and no, and the F1 of yes."""
    answers, labels = prediction.predictions > 0, prediction.label_ids
    return task_scores(answers.astype(int).ravel(), labels.astype(int).ravel(), 2)


def audit_saved(args: TrainingArguments, teacher: str, texts: Texts, dataset: Dataset) -> Audit:
    """The audit of the saved student against the original, label by label; it is printed, and saved."""
    options = AuditOptions(
        columns=Columns(text=texts.columns, label="labels"),
        processing_class=texts.tokenizer,
        batch_size=args.per_device_eval_batch_size,
    )
    found = audit(teacher, args.output_dir, dataset, options=options)
    found.save_with_predictions(args.output_dir)
    print(found)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune the teacher if need be, compress the student, audit it."""
    parser = RecipeParser((ModelArguments, DataArguments, AlignmentArguments, CompressionArguments, TrainingArguments))
    models, data, alignment, compression, args = parser.parse(argv)
    logging.basicConfig(level=logging.INFO if args.should_log else logging.WARNING)
    splits = data.load(args)
    set_seed(args.seed)

    # The original: given, or fine-tuned with the labels alone.
    texts = Texts(data, splits["train"], models)
    teacher = models.teacher_name_or_path
    head = {"problem_type": PROBLEM, "windows": texts.windows}
    with_tokenizer = {"data_collator": texts.collator, "processing_class": texts.tokenizer, "compute_metrics": scores}
    if teacher is None:
        teacher = fine_tune_teacher(
            models,
            args,
            auto_class=AutoModelForSequenceClassification,
            names=texts.names,
            recipe={"data": data.source, "rows": data.max_train_samples, "max_seq_length": data.max_seq_length},
            train_dataset=texts.prepared(splits["train"], texts.names),
            eval_dataset=texts.prepared(splits["validation"], texts.names) if "validation" in splits else None,
            **head,
            **with_tokenizer,
        )
    original = load_model(teacher)
    student = load_for_labels(
        AutoModelForSequenceClassification,
        models.student_name_or_path or teacher,
        names_of(original.config.id2label),
        ignore_mismatched_sizes=models.ignore_mismatched_sizes,
        **head,
    )
    names = names_of(student.config.id2label)
    labeled = {split: texts.prepared(rows, names) for split, rows in splits.items()}
    trainer = AlignedDistillationTrainer(
        student,
        args,
        teacher=original,
        alignment=alignment,
        train_dataset=labeled["train"],
        eval_dataset=labeled.get("validation"),
        callbacks=compression.callbacks(),
        **with_tokenizer,
    )
    parser.save(args)
    metrics = train_student(trainer, models)
    trainer.save_model()
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    if args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    # The proof, and a card that tells it; only the first process writes.
    found = None
    if args.do_eval and trainer.is_world_process_zero():
        found = audit_saved(args, teacher, texts, texts.labeled(splits["validation"], names))
    trainer.accelerator.wait_for_everyone()
    if args.push_to_hub:
        # With the audit, and with a card that the Trainer drafts; ours takes its place below.
        trainer.push_to_hub()
    if found is not None:
        about = {"task": "text-classification", "base_model": models.origin} | data.described
        write_training_card(trainer, found, original, compression=compression, **about)


if __name__ == "__main__":
    main()
