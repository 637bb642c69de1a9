"""Compress an image classifier so that it keeps the answers of the original, and audit it example by example.

The flags are those of transformers' own scripts, of `AlignmentArguments` and of `CompressionArguments`:

    python examples/run_image_classification.py --dataset_name AI-Lab-Makerere/beans --output_dir outputs/beans \
        --model_name_or_path google/vit-base-patch16-224-in21k --sparsity 0.5 --do_train --do_eval

README.md beside this file has more.
"""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from PIL import Image, ImageOps
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    TrainingArguments,
    default_data_collator,
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
    find_image_column,
    label_column_of,
    label_ids,
    load_file,
    mix_unlabeled,
    sample,
    with_label_ids,
    with_pixels,
)
from hf_compalign.labels import names_of
from hf_compalign.measure.statistics import task_scores
from hf_compalign.opening import load_model
from hf_compalign.ship import write_training_card

# What random cropping keeps of each side.
KEPT = 7 / 8


@dataclass
class DataArguments:
    """Which data to take, and how."""

    dataset_name: str | None = field(default=None, metadata={"help": "A dataset of images on the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of that dataset."})
    train_dir: str | None = field(
        default=None, metadata={"help": "Training data: a folder with a subfolder of images for each class."}
    )
    validation_dir: str | None = field(default=None, metadata={"help": "Evaluation data: such a folder."})
    train_file: str | None = field(default=None, metadata={"help": "Training data: parquet with a column of images."})
    validation_file: str | None = field(default=None, metadata={"help": "Evaluation data: such a file."})
    test_file: str | None = field(
        default=None,
        metadata={"help": "Audit on this folder or file; the evaluation data then only accompany the training."},
    )
    train_val_split: float = field(
        default=0.15, metadata={"help": "Share of the training data to evaluate on, where there are no other."}
    )
    transfer_file: str | None = field(
        default=None, metadata={"help": "A folder or file of images, mixed in to learn the teacher's answers on."}
    )
    cache_teacher: bool = field(
        default=False, metadata={"help": "Run the teacher once over the data before training, not in every step."}
    )
    train_augmentation: bool = field(
        default=False, metadata={"help": "Flip and crop the training images at random; not with cache_teacher."}
    )
    image_column_name: str | None = field(default=None, metadata={"help": "The column with the images."})
    label_column_name: str | None = field(default=None, metadata={"help": "The label column."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Take so many training rows, at random."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Take so many evaluation rows, at random."})

    def __post_init__(self) -> None:
        given = [self.dataset_name, self.train_dir, self.train_file]
        if sum(source is not None for source in given) != 1:
            raise ValueError(f"Give one of dataset_name, train_dir and train_file. Got {given}.")
        if self.validation is not None and (self.dataset_name or (self.validation_dir and self.validation_file)):
            raise ValueError("Give one of validation_dir and validation_file, and none with a dataset on the Hub.")

    @property
    def source(self) -> str:
        """What the training data are called."""
        return str(self.dataset_name or self.train_dir or self.train_file)

    @property
    def validation(self) -> str | None:
        """Evaluation data of one's own."""
        return self.validation_dir or self.validation_file


def load_data(data: DataArguments, args: TrainingArguments) -> dict[str, Dataset]:
    """All rows of the splits train, validation and, where there are such data, test."""
    if not args.do_train or args.do_predict:
        raise ValueError(
            "Give do_train, and do_eval for the audit. To audit on test data give test_file instead of do_predict; to "
            "only compare two models use the command hf-compalign audit."
        )
    if data.dataset_name is not None:
        splits = dict(load_dataset(data.dataset_name, data.dataset_config_name))
    else:
        splits = {"train": load_file(data.source)}
        if data.validation is not None:
            splits["validation"] = load_file(data.validation)
    if "validation" not in splits:
        # Always the same rows, so that models of several seeds are measured on one set.
        parts = splits["train"].train_test_split(data.train_val_split, seed=0)
        splits |= {"train": parts["train"], "validation": parts["test"]}
    if data.test_file is not None:
        splits["test"] = load_file(data.test_file)
    return {split: splits[split] for split in ("train", "validation", *(["test"] if data.test_file else []))}


def sampled(splits: dict[str, Dataset], data: DataArguments) -> dict[str, Dataset]:
    """At most so many rows of each split as the flags say."""
    most = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_eval_samples}
    return {split: sample(dataset, most[split]) for split, dataset in splits.items()}


class Images:
    """Which columns are the images and the labels, and how images become a model's inputs."""

    def __init__(self, data: DataArguments, train: Dataset, checkpoint: str) -> None:
        self.image_column = find_image_column(train, data.image_column_name)
        self.label_column = label_column_of(train, data.label_column_name)
        self.processor = AutoImageProcessor.from_pretrained(checkpoint)
        self.n_channels = getattr(AutoConfig.from_pretrained(checkpoint), "num_channels", 3)
        self.trained = augmented(self.processor) if data.train_augmentation else self.processor

    def labeled(self, dataset: Dataset, names: Sequence[str]) -> Dataset:
        """The images, and labels as the ids of a model with these label names."""
        dataset = dataset.select_columns([self.image_column, self.label_column])
        return with_label_ids(dataset, self.label_column, names)

    def check_labels(self, splits: Mapping[str, Dataset], names: Sequence[str]) -> None:
        """Refuse labels that are not among these names, before hours of training."""
        for dataset in splits.values():
            if self.label_column in dataset.column_names:
                label_ids(dataset, self.label_column, names)

    def unlabeled(self, path: str) -> Dataset:
        """The images of a folder or file, which may call its column otherwise than the training data."""
        dataset = load_file(path)
        found = self.image_column if self.image_column in dataset.column_names else find_image_column(dataset)
        return dataset.select_columns([found]).rename_columns({found: self.image_column})

    def pixels(self, dataset: Dataset, *, training: bool) -> Dataset:
        """The dataset with pixel values in place of the images, made on access."""
        processor = self.trained if training else self.processor
        return with_pixels(dataset, processor, self.image_column, n_channels=self.n_channels)


def augmented(processor: Any) -> Callable[..., Any]:
    """The processor, after a random crop and a flip of every other image."""

    def process(images: list[Image.Image], **options: Any) -> Any:
        return processor([flip_and_crop(image) for image in images], **options)

    return process


def flip_and_crop(image: Image.Image) -> Image.Image:
    """A crop of `KEPT` of each side at a random place, mirrored with probability one half."""
    width, height = (max(1, round(KEPT * side)) for side in image.size)
    left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
    crop = image.crop((left, top, left + width, top + height))
    return ImageOps.mirror(crop) if random.random() < 0.5 else crop


def scores(prediction: EvalPrediction) -> dict[str, float]:
    """What the Trainer reports beside the agreement with the teacher: accuracy, F1 and Matthews' correlation."""
    logits = prediction.predictions
    return task_scores(logits.argmax(-1), prediction.label_ids, logits.shape[-1])


def audit_saved(args: TrainingArguments, teacher: str, images: Images, dataset: Dataset) -> Audit:
    """The audit of the saved student against the original; it is printed, and saved with both models' predictions."""
    label_column = images.label_column if images.label_column in dataset.column_names else None
    options = AuditOptions(
        columns=Columns(image=images.image_column, label=label_column),
        processing_class=images.processor,
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
    # The Trainer would drop the images, from which the pixel values are only made on access.
    args.remove_unused_columns = False
    whole = load_data(data, args)
    set_seed(args.seed)

    # The original: given, or fine-tuned with the labels alone.
    images = Images(data, whole["train"], models.origin)
    raw = sampled(whole, data)
    teacher = models.teacher_name_or_path
    if teacher is None:
        # A sample may lack a class.
        names = class_names(whole["train"], images.label_column)
        images.check_labels(raw, names)
        teacher = fine_tune_teacher(
            models,
            args,
            auto_class=AutoModelForImageClassification,
            names=names,
            recipe={"data": data.source, "rows": data.max_train_samples, "augmented": data.train_augmentation},
            train_dataset=images.pixels(images.labeled(raw["train"], names), training=True),
            eval_dataset=images.pixels(images.labeled(raw["validation"], names), training=False),
            compute_metrics=scores,
            data_collator=default_data_collator,
            processing_class=images.processor,
        )
    original = load_model(teacher)

    # The student, and what it is trained on: labeled images, and others that only the teacher answers.
    student = load_for_labels(
        AutoModelForImageClassification,
        models.student_name_or_path or teacher,
        names_of(original.config.id2label),
        ignore_mismatched_sizes=models.ignore_mismatched_sizes,
    )
    names = names_of(student.config.id2label)
    images.check_labels(raw, names)
    train, evaluated = (images.labeled(raw[split], names) for split in ("train", "validation"))
    if data.transfer_file is not None:
        train = mix_unlabeled(train, images.unlabeled(data.transfer_file), seed=args.seed)
    splits = {"train": images.pixels(train, training=True), "validation": images.pixels(evaluated, training=False)}
    if data.cache_teacher:
        with args.main_process_first(desc="caching the teacher's logits"):
            options = {"student_labels": names, "batch_size": args.eval_batch_size}
            splits = {split: cache_teacher_logits(rows, original, **options) for split, rows in splits.items()}

    trainer = AlignedDistillationTrainer(
        student,
        args,
        teacher=None if data.cache_teacher else original,
        alignment=alignment,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=default_data_collator,
        processing_class=images.processor,
        compute_metrics=scores,
        callbacks=compression.callbacks(),
    )
    parser.save(args)
    metrics = train_student(trainer, models)
    trainer.save_model()
    trainer.log_metrics("train", metrics | {"train_samples": len(train)})
    trainer.save_metrics("train", metrics | {"train_samples": len(train)})
    trainer.save_state()
    if args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    # The proof, and a card that tells it; only the first process writes.
    split = "test" if "test" in raw else "validation"
    found = None
    if args.do_eval and trainer.is_world_process_zero():
        found = audit_saved(args, teacher, images, raw[split])
    trainer.accelerator.wait_for_everyone()
    if args.push_to_hub:
        # With the audit, and with a card that the Trainer drafts; ours takes its place below.
        trainer.push_to_hub()
    if found is not None:
        own_data = data.test_file or data.validation or data.train_dir or data.train_file
        write_training_card(
            trainer,
            found,
            original,
            compression=compression,
            task="image-classification",
            base_model=models.origin,
            dataset=Path(own_data).name if own_data else data.source,
            dataset_id=None if own_data else data.dataset_name,
            dataset_config=None if own_data else data.dataset_config_name,
            dataset_split=split,
        )


if __name__ == "__main__":
    main()
