"""Compress a text classifier so that it keeps the answers of the original, and audit it example by example.

The flags are those of transformers' own scripts, of `AlignmentArguments` and of `CompressionArguments`:

    python examples/run_glue.py --task_name sst2 --model_name_or_path google-bert/bert-base-uncased \
        --sparsity 0.5 --do_train --do_eval --output_dir outputs/sst2

See README.md beside this file for more.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

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

from hf_compalign import (
    AlignedDistillationTrainer,
    AlignmentArguments,
    Audit,
    audit,
    cache_teacher_logits,
    footprint,
    predict,
)
from hf_compalign.align.fine_tuning import fine_tune_teacher, load_for_labels
from hf_compalign.columns import find_label_column, find_text_columns, tokenized
from hf_compalign.compress.arguments import CompressionArguments
from hf_compalign.data import class_names, load_file, mix_unlabelled, sample, with_label_ids
from hf_compalign.inference import load_model
from hf_compalign.labels import names_of
from hf_compalign.measure.predict import Columns
from hf_compalign.report.card import CardDetails, changed_options, write_model_card

GLUE = "nyu-mll/glue"
# What the model card says of the training.
REPORTED = ("num_train_epochs", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "seed")
VALIDATION = {"mnli": "validation_matched"}  # of the other tasks it is "validation"


@dataclass
class ModelArguments:
    """Which models take part."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Pretrained checkpoint that the teacher is fine-tuned from, when none is given."},
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
        default=None,
        metadata={"help": "Texts without labels to learn the teacher's answers on, mixed into the training."},
    )
    text_column_names: list[str] | None = field(
        default=None, metadata={"help": "The text column, or the two of a pair."}
    )
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


def check(args: TrainingArguments, raw: dict[str, Dataset]) -> None:
    """Refuse what this script does not do."""
    if not args.do_train or args.do_predict:
        raise ValueError(
            "Give do_train, and do_eval for the audit. To audit on test data give test_file instead of do_predict; to "
            "only compare two models use the command hf-compalign audit."
        )
    if args.do_eval and "validation" not in raw and "test" not in raw:
        raise ValueError("There is nothing to evaluate on. Give validation_file or test_file, or leave do_eval out.")


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


class TextPreparation:
    """Which columns are the texts and the labels, and how texts become a model's inputs."""

    def __init__(self, data: DataArguments, args: TrainingArguments, train: Dataset, checkpoint: str) -> None:
        self.args = args
        self.text_columns = find_text_columns(train, data.text_column_names)
        self.label_column = find_label_column(train, data.label_column_name)
        if self.label_column is None:
            raise ValueError(f"Name the label column with label_column_name: one of {', '.join(train.column_names)}.")
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        # Saved with the tokenizer, so that whoever loads the model truncates as it was trained.
        self.tokenizer.model_max_length = min(data.max_seq_length, self.tokenizer.model_max_length)
        self.collator = DataCollatorWithPadding(
            self.tokenizer,
            padding="max_length" if data.pad_to_max_length else True,
            pad_to_multiple_of=8 if args.fp16 or args.bf16 else None,
        )

    def tokenized(self, dataset: Dataset) -> Dataset:
        """The dataset with the tokenizer's columns added; one process computes them, the others read them."""
        with self.args.main_process_first(desc="tokenizing"):
            return tokenized(dataset, self.tokenizer, self.text_columns)

    def labelled(self, dataset: Dataset, names: Sequence[str]) -> Dataset:
        """Tokenized texts, and labels as the ids of a model with these label names."""
        dataset = dataset.select_columns([*self.text_columns, self.label_column])
        return self.tokenized(with_label_ids(dataset, self.label_column, names))

    def unlabelled(self, path: str) -> Dataset:
        """The texts of a file, under the names of the training data's columns."""
        dataset = load_file(path)
        found = find_text_columns(
            dataset, None if set(self.text_columns) - {*dataset.column_names} else self.text_columns
        )
        dataset = dataset.select_columns(list(found))
        return self.tokenized(dataset.rename_columns(dict(zip(found, self.text_columns, strict=True))))


def fine_tuned_teacher(
    models: ModelArguments, data: DataArguments, args: TrainingArguments, text: TextPreparation, train: Dataset
) -> str:
    """The folder of the original: model_name_or_path, trained with the labels alone."""
    names = class_names(train, text.label_column)
    return fine_tune_teacher(
        Path(args.output_dir) / "teacher",
        args,
        model_init=lambda: load_for_labels(
            AutoModelForSequenceClassification,
            models.model_name_or_path,
            names,
            ignore_mismatched_sizes=models.ignore_mismatched_sizes,
        ),
        recipe={
            "model_name_or_path": models.model_name_or_path,
            "data": data.task_name or data.dataset_name or data.train_file,
            "max_train_samples": data.max_train_samples,
            "max_seq_length": data.max_seq_length,
        },
        num_train_epochs=models.teacher_num_train_epochs,
        learning_rate=models.teacher_learning_rate,
        train_dataset=text.labelled(train, names),
        data_collator=text.collator,
        processing_class=text.tokenizer,
    )


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """What the Trainer reports beside the agreement with the teacher."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def audited(args: TrainingArguments, teacher: str, text: TextPreparation, dataset: Dataset) -> Audit:
    """The audit of the saved student against the original; it is printed, and saved with both models' predictions."""
    folder = Path(args.output_dir)
    label_column = text.label_column if text.label_column in dataset.column_names else None
    reference, candidate = (
        predict(
            model,
            dataset,
            processing_class=text.tokenizer,
            data_collator=text.collator,
            columns=Columns(label=label_column),
            batch_size=args.per_device_eval_batch_size,
        )
        for model in (teacher, args.output_dir)
    )
    reference.save(folder / "predictions_reference.npz")
    candidate.save(folder / "predictions_candidate.npz")
    found = audit(reference, candidate)
    found.save(folder / "audit.json")
    print(found)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune the teacher if need be, compress the student, audit it."""
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, AlignmentArguments, CompressionArguments, TrainingArguments)
    )
    models, data, alignment, compression, args = parser.parse_args_into_dataclasses(argv)
    logging.basicConfig(level=logging.INFO if args.should_log else logging.WARNING)
    raw = load_data(data)
    check(args, raw)
    set_seed(args.seed)

    # The original, and the student that starts from its weights.
    text = TextPreparation(data, args, raw["train"], models.teacher_name_or_path or models.model_name_or_path)
    teacher = models.teacher_name_or_path or fine_tuned_teacher(models, data, args, text, raw["train"])
    original = load_model(teacher)
    student = load_for_labels(
        AutoModelForSequenceClassification,
        models.student_name_or_path or teacher,
        names_of(original.config.id2label),
        ignore_mismatched_sizes=models.ignore_mismatched_sizes,
    )

    # What it is trained on: labelled texts, and others that only the teacher answers.
    names = names_of(student.config.id2label)
    datasets = {split: text.labelled(raw[split], names) for split in ("train", "validation") if split in raw}
    if data.transfer_file is not None:
        datasets["train"] = mix_unlabelled(datasets["train"], text.unlabelled(data.transfer_file), seed=args.seed)
    if models.cache_teacher:
        with args.main_process_first(desc="caching the teacher's logits"):
            datasets = {
                split: cache_teacher_logits(
                    dataset,
                    original,
                    student_labels=names,
                    data_collator=text.collator,
                    batch_size=args.eval_batch_size,
                )
                for split, dataset in datasets.items()
            }

    trainer = AlignedDistillationTrainer(
        student,
        args,
        teacher=None if models.cache_teacher else original,
        alignment=alignment,
        train_dataset=datasets["train"],
        eval_dataset=datasets.get("validation"),
        data_collator=text.collator,
        processing_class=text.tokenizer,
        compute_metrics=accuracy,
        callbacks=compression.callbacks(),
    )
    resume = args.resume_from_checkpoint
    metrics = trainer.train(resume_from_checkpoint=True if resume == "True" else resume).metrics
    metrics["train_samples"] = len(datasets["train"])
    trainer.save_model()
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    if args.do_eval and "validation" in datasets:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    if args.push_to_hub:
        trainer.push_to_hub()
    if args.do_eval and trainer.is_world_process_zero():
        split = "test" if "test" in raw else "validation"
        found = audited(args, teacher, text, text.tokenized(raw[split]))
        details = CardDetails(
            task="text-classification",
            base_model=models.teacher_name_or_path or models.model_name_or_path,
            dataset=data.task_name or data.dataset_name or Path(data.test_file or data.validation_file).name,
            dataset_id=None if data.train_file or data.test_file else raw[split].info.dataset_name,
            dataset_config=data.task_name or data.dataset_config_name,
            dataset_split=split,
            name=trainer.hub_model_id,
            tags=["pruning"] if compression.sparsity else [],
            recipe={
                "Compression": changed_options(compression),
                "Alignment": alignment.weights() | changed_options(alignment),
                "Training": {name: getattr(args, name) for name in REPORTED} | {"steps": trainer.state.global_step},
            },
            footprints=(footprint(original), footprint(trainer.model)),
        )
        card = write_model_card(args.output_dir, found, details=details)
        if args.push_to_hub:
            # The Trainer has drafted a card of its own.
            card.push_to_hub(trainer.hub_model_id, token=args.hub_token)
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
