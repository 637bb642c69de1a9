"""Compress a classifier of sounds so that it keeps the answers of the original, and audit it example by example.

The flags are those of transformers' own scripts, of `AlignmentArguments` and of `CompressionArguments`:

    python examples/run_audio_classification.py --train_file train.parquet --validation_file validation.parquet \
        --model_name_or_path facebook/wav2vec2-base --sparsity 0.5 --do_train --do_eval --output_dir outputs/sounds

README.md beside this file has more.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    TrainingArguments,
    set_seed,
)

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, Audit, AuditOptions, Columns, audit
from hf_compalign.align import ModelArguments, RecipeParser, fine_tune_teacher, load_for_labels, train_student
from hf_compalign.compress import CompressionArguments
from hf_compalign.data import (
    DatasetArguments,
    class_names,
    find_audio_column,
    label_column_of,
    with_label_ids,
    with_sounds,
)
from hf_compalign.labels import names_of
from hf_compalign.measure.statistics import task_scores
from hf_compalign.opening import load_model
from hf_compalign.ship import write_training_card


@dataclass
class DataArguments(DatasetArguments):
    """Which data to take, and how."""

    audio_column_name: str | None = field(
        default=None, metadata={"help": "The column of sounds: WAV files, paths of them, or lists of floats."}
    )
    label_column_name: str | None = field(default=None, metadata={"help": "The label column."})
    max_length_seconds: float = field(
        default=20.0, metadata={"help": "Of a longer sound the training hears a random part of this length."}
    )


class RandomParts:
    """A feature extractor that hears a random part of each sound that is longer than so many seconds."""

    def __init__(self, extractor: Any, seconds: float) -> None:
        self.extractor, self.sampling_rate = extractor, extractor.sampling_rate
        self.n_samples = round(seconds * self.sampling_rate)

    def __call__(self, sounds: Sequence[np.ndarray], *, sampling_rate: int) -> Any:
        """What the extractor makes of the parts."""
        starts = [random.randint(0, max(0, len(sound) - self.n_samples)) for sound in sounds]
        parts = [sound[start : start + self.n_samples] for sound, start in zip(sounds, starts, strict=True)]
        return self.extractor(parts, sampling_rate=sampling_rate)


class Sounds:
    """Which columns are the sounds and the labels, and how sounds become a model's inputs."""

    def __init__(self, data: DataArguments, train: Dataset, checkpoint: str) -> None:
        self.audio_column = find_audio_column(train, data.audio_column_name)
        self.label_column = label_column_of(train, data.label_column_name)
        self.extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
        self.trained = RandomParts(self.extractor, data.max_length_seconds)
        self.collator = DataCollatorWithPadding(self.extractor)

    def prepared(self, splits: dict[str, Dataset], names: Sequence[str]) -> dict[str, Dataset]:
        """The splits with inputs made on access, and labels as the ids of a model with these label names."""
        found = {}
        for split, rows in splits.items():
            kept = rows.select_columns([self.audio_column, self.label_column])
            labeled = with_label_ids(kept, self.label_column, names)
            reads = self.trained if split == "train" else self.extractor
            found[split] = with_sounds(labeled, reads, self.audio_column)
        return found


def scores(prediction: EvalPrediction) -> dict[str, float]:
    """What the Trainer reports beside the agreement with the teacher: accuracy, F1 and Matthews' correlation."""
    logits = prediction.predictions
    return task_scores(logits.argmax(-1), prediction.label_ids, logits.shape[-1])


def audit_saved(args: TrainingArguments, teacher: str, sounds: Sounds, dataset: Dataset) -> Audit:
    """The audit of the saved student against the original; it is printed, and saved."""
    options = AuditOptions(
        columns=Columns(audio=sounds.audio_column, label=sounds.label_column),
        processing_class=sounds.extractor,
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
    # The Trainer would drop the sounds, from which the inputs are only made on access.
    args.remove_unused_columns = False
    splits = data.load(args)
    set_seed(args.seed)

    # The original: given, or fine-tuned with the labels alone.
    sounds = Sounds(data, splits["train"], models.origin)
    teacher = models.teacher_name_or_path
    with_extractor = {
        "data_collator": sounds.collator,
        "processing_class": sounds.extractor,
        "compute_metrics": scores,
    }
    if teacher is None:
        names = class_names(splits["train"], sounds.label_column)
        labeled = sounds.prepared(splits, names)
        teacher = fine_tune_teacher(
            models,
            args,
            auto_class=AutoModelForAudioClassification,
            names=names,
            recipe={"data": data.source, "rows": data.max_train_samples, "seconds": data.max_length_seconds},
            train_dataset=labeled["train"],
            eval_dataset=labeled.get("validation"),
            **with_extractor,
        )
    original = load_model(teacher)
    student = load_for_labels(
        AutoModelForAudioClassification,
        models.student_name_or_path or teacher,
        names_of(original.config.id2label),
        ignore_mismatched_sizes=models.ignore_mismatched_sizes,
    )
    labeled = sounds.prepared(splits, names_of(student.config.id2label))
    trainer = AlignedDistillationTrainer(
        student,
        args,
        teacher=original,
        alignment=alignment,
        train_dataset=labeled["train"],
        eval_dataset=labeled.get("validation"),
        callbacks=compression.callbacks(),
        **with_extractor,
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
        found = audit_saved(args, teacher, sounds, splits["validation"])
    trainer.accelerator.wait_for_everyone()
    if args.push_to_hub:
        # With the audit, and with a card that the Trainer drafts; ours takes its place below.
        trainer.push_to_hub()
    if found is not None:
        about = {"task": "audio-classification", "base_model": models.origin} | data.described
        write_training_card(trainer, found, original, compression=compression, **about)


if __name__ == "__main__":
    main()
