"""Compress a text classifier so that it keeps the answers of the original, and audit it example by example.

The flags are those of transformers' own scripts, of `AlignmentArguments` and of `CompressionArguments`:

    python examples/run_glue.py --task_name sst2 --model_name_or_path google-bert/bert-base-uncased \
        --sparsity 0.5 --do_train --do_eval --output_dir outputs/sst2

Where the labels are numbers, as in STS-B, a regression is trained, and values are compared by `--tolerance`.

README.md beside this file has more.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, Value, load_dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)

from hf_compalign import (
    AlignedDistillationTrainer,
    AlignmentArguments,
    Audit,
    AuditOptions,
    Columns,
    audit,
    cache_teacher_logits,
)
from hf_compalign.align import ModelArguments, RecipeParser, fine_tune_teacher, load_for_labels, train_student
from hf_compalign.compress import CompressionArguments
from hf_compalign.data import (
    class_names,
    find_text_columns,
    label_column_of,
    label_ids,
    load_file,
    mix_unlabeled,
    sample,
    tokenized_as_read,
    with_label_ids,
)
from hf_compalign.labels import names_of
from hf_compalign.measure.audit import compare_values
from hf_compalign.measure.predictions import predict_values
from hf_compalign.measure.statistics import correlations, task_scores
from hf_compalign.opening import load_model
from hf_compalign.ship import write_training_card

GLUE = "nyu-mll/glue"
VALIDATION = {"mnli": "validation_matched"}  # of the other tasks it is "validation"


@dataclass
class DataArguments:
    """Which data to take, and how."""

    task_name: str | None = field(default=None, metadata={"help": "A task of GLUE on the Hub: sst2, stsb ..."})
    dataset_name: str | None = field(default=None, metadata={"help": "Another dataset on the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of that dataset."})
    train_file: str | None = field(default=None, metadata={"help": "Training data: parquet, csv or json."})
    validation_file: str | None = field(default=None, metadata={"help": "Evaluation data: parquet, csv or json."})
    test_file: str | None = field(
        default=None, metadata={"help": "Audit on these data; the evaluation data then only accompany the training."}
    )
    transfer_file: str | None = field(
        default=None, metadata={"help": "Texts without labels, mixed in to learn the teacher's answers on."}
    )
    cache_teacher: bool = field(
        default=False, metadata={"help": "Run the teacher once over the data before training, not in every step."}
    )
    text_column_names: list[str] | None = field(
        default=None, metadata={"help": "The text column, or the two of a pair."}
    )
    label_column_name: str | None = field(default=None, metadata={"help": "The label column."})
    tolerance: float | None = field(
        default=None, metadata={"help": "Of a regression: a change by more, in the unit of the labels, is a mismatch."}
    )
    max_seq_length: int = field(
        default=128, metadata={"help": "Longer texts are truncated to so many tokens, or read in windows of so many."}
    )
    doc_stride: int | None = field(
        default=None, metadata={"help": "Read longer texts in windows that share so many tokens, instead."}
    )
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
            raise ValueError("validation_file goes with train_file; a dataset on the Hub has a split of its own.")

    @property
    def source(self) -> str:
        """What the training data are called."""
        return str(self.task_name or self.dataset_name or self.train_file)


def load_data(data: DataArguments, args: TrainingArguments) -> dict[str, Dataset]:
    """All rows of the splits train and, where there are such data, validation and test."""
    if not args.do_train or args.do_predict:
        raise ValueError(
            "Give do_train, and do_eval for the audit. To audit on test data give test_file instead of do_predict; to "
            "only compare two models use the command hf-compalign audit."
        )
    if data.train_file is not None:
        splits = {"train": load_file(data.train_file)}
        if data.validation_file is not None:
            splits["validation"] = load_file(data.validation_file)
    else:
        name, config = (GLUE, data.task_name) if data.task_name else (data.dataset_name, data.dataset_config_name)
        found = load_dataset(name, config)
        splits = {"train": found["train"], "validation": found[VALIDATION.get(data.source, "validation")]}
    if data.test_file is not None:
        splits["test"] = load_file(data.test_file)
    if args.do_eval and splits.keys() == {"train"}:
        raise ValueError("There is nothing to evaluate on. Give validation_file or test_file, or leave do_eval out.")
    return splits


def sampled(splits: dict[str, Dataset], data: DataArguments) -> dict[str, Dataset]:
    """At most so many rows of each split as the flags say."""
    most = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_eval_samples}
    return {split: sample(dataset, most[split]) for split, dataset in splits.items()}


class Texts:
    """Which columns are the texts and the labels, and how texts become a model's inputs."""

    def __init__(self, data: DataArguments, args: TrainingArguments, train: Dataset, models: ModelArguments) -> None:
        self.args = args
        self.columns = find_text_columns(train, data.text_column_names, labels=data.label_column_name)
        self.label_column = label_column_of(train, data.label_column_name)
        self.regression = answers_with_numbers(models.teacher_name_or_path, train, self.label_column)
        self._check_options(data)
        self.tokenizer = AutoTokenizer.from_pretrained(models.origin)
        # Saved with the tokenizer, so that whoever loads the model truncates as it was trained.
        self.tokenizer.model_max_length = min(data.max_seq_length, self.tokenizer.model_max_length)
        self.windows = models.windows(self.tokenizer.model_max_length, data.doc_stride)
        self.collator = DataCollatorWithPadding(
            self.tokenizer,
            padding="max_length" if data.pad_to_max_length else True,
            pad_to_multiple_of=8 if args.fp16 or args.bf16 else None,
        )

    def _check_options(self, data: DataArguments) -> None:
        if self.regression and self.args.do_eval and data.tolerance is None:
            raise ValueError(
                f"The column {self.label_column!r} holds numbers: this is a regression. Say with tolerance from which "
                "change on a value counts as another answer, in the unit of the labels, such as --tolerance 0.5."
            )
        if self.regression and data.transfer_file is not None:
            raise ValueError("transfer_file is for texts with classes. Leave it out: this is a regression.")
        if not self.regression and data.tolerance is not None:
            raise ValueError(
                f"tolerance is for a regression. Got {data.tolerance:g}, and classes in the column "
                f"{self.label_column!r}. Leave it out."
            )

    @property
    def head(self) -> dict[str, Any]:
        """What a config has to say of texts and labels; of classes transformers tells it from their number."""
        return {"windows": self.windows} | ({"problem_type": "regression"} if self.regression else {})

    @property
    def scores(self) -> Callable[[EvalPrediction], dict[str, float]]:
        """What the Trainer reports beside the agreement with the teacher."""
        return value_scores if self.regression else class_scores

    def class_names(self, train: Dataset) -> tuple[str, ...]:
        """What the model answers with; a sample may lack a class, so all rows are asked."""
        return ("score",) if self.regression else class_names(train, self.label_column)

    def tokenized(self, dataset: Dataset) -> Dataset:
        """The dataset with the tokenizer's columns added; one process computes them, the others read them."""
        with self.args.main_process_first(desc="tokenizing"):
            return tokenized_as_read(dataset, self.tokenizer, self.columns, windows=self.windows)

    def labeled(self, dataset: Dataset, names: Sequence[str]) -> Dataset:
        """Tokenized texts, and labels as the ids of a model with these label names, or as they are if numbers."""
        dataset = dataset.select_columns([*self.columns, self.label_column])
        if self.regression:
            values = dataset.cast_column(self.label_column, Value("float32"))
            return self.tokenized(values.rename_columns({self.label_column: "labels"}))
        return self.tokenized(with_label_ids(dataset, self.label_column, names))

    def check_labels(self, splits: Mapping[str, Dataset], names: Sequence[str]) -> None:
        """Refuse labels that are not among these names, before hours of training."""
        for dataset in splits.values():
            if self.label_column in dataset.column_names and not self.regression:
                label_ids(dataset, self.label_column, names)

    def unlabeled(self, path: str) -> Dataset:
        """The tokenized texts of a file, which may call its columns otherwise than the training data."""
        dataset = load_file(path)
        same = set(self.columns) <= set(dataset.column_names)
        found = self.columns if same else find_text_columns(dataset)
        if len(found) != len(self.columns):
            raise ValueError(f"transfer_file must have the text columns {self.columns}. Got {dataset.column_names}.")
        names = dict(zip(found, self.columns, strict=True))
        return self.tokenized(dataset.select_columns(list(found)).rename_columns(names))


def answers_with_numbers(teacher: str | None, train: Dataset, label_column: str) -> bool:
    """Whether it is a regression: by the teacher's config, or without one by labels that are no whole numbers."""
    if teacher is not None:
        config = AutoConfig.from_pretrained(teacher)
        return bool(config.num_labels == 1 or config.problem_type == "regression")
    labels = train.with_format(None).select_columns([label_column])[:][label_column]
    return any(isinstance(label, float) and label % 1 for label in labels)


def class_scores(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, F1 and Matthews' correlation, by which GLUE scores its classifications."""
    logits = prediction.predictions
    return task_scores(logits.argmax(-1), prediction.label_ids, logits.shape[-1])


def value_scores(prediction: EvalPrediction) -> dict[str, float]:
    """Pearson's and Spearman's correlation, by which GLUE scores STS-B."""
    return correlations(prediction.predictions.reshape(-1), prediction.label_ids.reshape(-1))


def audit_saved(args: TrainingArguments, teacher: str, texts: Texts, dataset: Dataset) -> Audit:
    """The audit of the saved student against the original; it is printed, and saved with both models' predictions."""
    options = AuditOptions(
        columns=Columns(label=texts.label_column if texts.label_column in dataset.column_names else None),
        processing_class=texts.tokenizer,
        batch_size=args.per_device_eval_batch_size,
    )
    found = audit(teacher, args.output_dir, dataset, options=options)
    found.save_with_predictions(args.output_dir)
    print(found)
    return found


def compare_saved(args: TrainingArguments, teacher: str, texts: Texts, dataset: Dataset, tolerance: float) -> None:
    """Print and save how far the saved student's values lie from the original's: what an audit is for a regression."""
    options = {
        "columns": Columns(label=texts.label_column if texts.label_column in dataset.column_names else None),
        "processing_class": texts.tokenizer,
        "batch_size": args.per_device_eval_batch_size,
    }
    values = [predict_values(model, dataset, **options) for model in (teacher, args.output_dir)]
    found = compare_values(*values, tolerance=tolerance)
    (Path(args.output_dir) / "values.json").write_text(json.dumps(asdict(found), indent=2))
    print(found)


def prepared(
    texts: Texts, raw: Mapping[str, Dataset], names: Sequence[str], *, data: DataArguments, original: PreTrainedModel
) -> dict[str, Dataset]:
    """The rows of the training: with labels, or for the teacher alone; and its answers where these are cached."""
    args = texts.args
    splits = {split: texts.labeled(raw[split], names) for split in ("train", "validation") if split in raw}
    if data.transfer_file is not None:
        splits["train"] = mix_unlabeled(splits["train"], texts.unlabeled(data.transfer_file), seed=args.seed)
    if data.cache_teacher:
        with args.main_process_first(desc="caching the teacher's logits"):
            options = {"student_labels": names, "data_collator": texts.collator, "batch_size": args.eval_batch_size}
            splits = {split: cache_teacher_logits(rows, original, **options) for split, rows in splits.items()}
    return splits


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune the teacher if need be, compress the student, audit it."""
    parser = RecipeParser((ModelArguments, DataArguments, AlignmentArguments, CompressionArguments, TrainingArguments))
    models, data, alignment, compression, args = parser.parse(argv)
    logging.basicConfig(level=logging.INFO if args.should_log else logging.WARNING)
    whole = load_data(data, args)
    set_seed(args.seed)

    # The original: given, or fine-tuned with the labels alone.
    texts = Texts(data, args, whole["train"], models)
    raw = sampled(whole, data)
    teacher = models.teacher_name_or_path
    if teacher is None:
        names = texts.class_names(whole["train"])
        texts.check_labels(raw, names)
        teacher = fine_tune_teacher(
            models,
            args,
            auto_class=AutoModelForSequenceClassification,
            names=names,
            recipe={"data": data.source, "rows": data.max_train_samples, "max_seq_length": data.max_seq_length},
            train_dataset=texts.labeled(raw["train"], names),
            eval_dataset=texts.labeled(raw["validation"], names) if "validation" in raw else None,
            compute_metrics=texts.scores,
            data_collator=texts.collator,
            processing_class=texts.tokenizer,
            **texts.head,
        )
    original = load_model(teacher)

    # The student, and what it is trained on.
    student = load_for_labels(
        AutoModelForSequenceClassification,
        models.student_name_or_path or teacher,
        names_of(original.config.id2label),
        ignore_mismatched_sizes=models.ignore_mismatched_sizes,
        **texts.head,
    )
    names = names_of(student.config.id2label)
    texts.check_labels(raw, names)
    splits = prepared(texts, raw, names, data=data, original=original)

    trainer = AlignedDistillationTrainer(
        student,
        args,
        teacher=None if data.cache_teacher else original,
        alignment=alignment,
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        data_collator=texts.collator,
        processing_class=texts.tokenizer,
        compute_metrics=texts.scores,
        callbacks=compression.callbacks(),
    )
    parser.save(args)
    metrics = train_student(trainer, models)
    trainer.save_model()
    trainer.log_metrics("train", metrics | {"train_samples": len(splits["train"])})
    trainer.save_metrics("train", metrics | {"train_samples": len(splits["train"])})
    trainer.save_state()
    if args.do_eval and "validation" in splits:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    # The proof, and of classes a card that tells it; only the first process writes.
    split = "test" if "test" in raw else "validation"
    audited = texts.tokenized(raw[split]) if args.do_eval else None
    found = None
    if audited is not None and texts.regression and trainer.is_world_process_zero():
        compare_saved(args, teacher, texts, audited, data.tolerance)
    elif audited is not None and trainer.is_world_process_zero():
        found = audit_saved(args, teacher, texts, audited)
    trainer.accelerator.wait_for_everyone()
    if args.push_to_hub:
        # With the audit, and with a card that the Trainer drafts; ours takes its place below.
        trainer.push_to_hub()
    if found is not None:
        own_file = data.test_file or data.validation_file
        write_training_card(
            trainer,
            found,
            original,
            compression=compression,
            task="text-classification",
            base_model=models.origin,
            dataset=Path(own_file).name if own_file else data.source,
            dataset_id=None if own_file else (GLUE if data.task_name else data.dataset_name),
            dataset_config=None if own_file else (data.task_name or data.dataset_config_name),
            dataset_split=split if own_file else VALIDATION.get(data.source, split),
        )


if __name__ == "__main__":
    main()
