"""Compress a model that answers questions about texts so that it keeps the answers of the original, and compare both.

The flags are those of transformers' own scripts, of `AlignmentArguments` and of `CompressionArguments`:

    python examples/run_qa.py --dataset_name rajpurkar/squad --model_name_or_path google-bert/bert-base-uncased \
        --sparsity 0.5 --do_train --do_eval --output_dir outputs/squad

README.md beside this file has more.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments
from hf_compalign.align import ModelArguments, RecipeParser, fine_tune_teacher, train_student
from hf_compalign.compress import CompressionArguments
from hf_compalign.data import DatasetArguments, existing_column
from hf_compalign.measure.audit import SpanComparison, compare_spans
from hf_compalign.measure.predictions import SpanOptions, predict_spans
from hf_compalign.opening import load_model

COLUMNS = ("question", "context", "answers")
NAMES = ("LABEL_0", "LABEL_1")  # of the start and the end


@dataclass
class DataArguments(DatasetArguments):
    """Which data to take, and how."""

    max_seq_length: int = field(default=384, metadata={"help": "Tokens of a window: a question and a part of a text."})
    doc_stride: int = field(default=128, metadata={"help": "Tokens that two windows of a text share."})
    max_answer_length: int = field(default=30, metadata={"help": "Tokens of an answer."})
    version_2_with_negative: bool = field(default=False, metadata={"help": "A text may hold no answer."})


class Questions:
    """How questions and texts become a model's inputs, and where the answers are in them."""

    def __init__(self, data: DataArguments, train: Dataset, checkpoint: str) -> None:
        for name in COLUMNS:
            existing_column(train.column_names, name)
        self.data, self.tokenizer = data, AutoTokenizer.from_pretrained(checkpoint)
        # Saved with the tokenizer, so that whoever loads the model reads windows as it was trained.
        self.tokenizer.model_max_length = min(data.max_seq_length, self.tokenizer.model_max_length)

    def windows(self, dataset: Dataset) -> Dataset:
        """The windows of all texts, of one length, with the first and last token of the answer; 0 and 0 without one."""
        return dataset.map(self._windows, batched=True, remove_columns=dataset.column_names, desc="Tokenizing")

    def _windows(self, rows: dict[str, list[Any]]) -> dict[str, Any]:
        found = self.tokenizer(
            rows["question"],
            rows["context"],
            truncation="only_second",
            stride=self.data.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length",
        )
        owners, offsets = found.pop("overflow_to_sample_mapping"), found.pop("offset_mapping")
        places = [
            self._place(found.sequence_ids(window), offsets[window], rows["answers"][owner])
            for window, owner in enumerate(owners)
        ]
        starts, ends = map(list, zip(*places, strict=True))
        return {**found, "start_positions": starts, "end_positions": ends}

    @staticmethod
    def _place(parts: Sequence[int | None], offsets: Sequence[tuple[int, int]], answers: Any) -> tuple[int, int]:
        if not answers["text"]:
            return 0, 0
        begin = answers["answer_start"][0]
        end = begin + len(answers["text"][0])
        tokens = [place for place, part in enumerate(parts) if part == 1]
        inside = [place for place in tokens if offsets[place][0] < end and offsets[place][1] > begin]
        whole = tokens and offsets[tokens[0]][0] <= begin and offsets[tokens[-1]][1] >= end
        return (inside[0], inside[-1]) if whole and inside else (0, 0)

    def compared(self, teacher: str, student: str, dataset: Dataset, batch_size: int) -> SpanComparison:
        """The answers of both saved models to all questions, whole texts at a time."""
        data = self.data
        options = SpanOptions(data.max_answer_length, data.doc_stride, data.version_2_with_negative, batch_size)
        models = (teacher, student)
        spans = [predict_spans(model, dataset, processing_class=self.tokenizer, options=options) for model in models]
        return compare_spans(*spans)


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune the teacher if need be, compress the student, compare their answers."""
    parser = RecipeParser((ModelArguments, DataArguments, AlignmentArguments, CompressionArguments, TrainingArguments))
    models, data, alignment, compression, args = parser.parse(argv)
    logging.basicConfig(level=logging.INFO if args.should_log else logging.WARNING)
    splits = data.load(args)
    set_seed(args.seed)

    # The original: given, or fine-tuned with the right answers alone.
    questions = Questions(data, splits["train"], models.origin)
    windows = {split: questions.windows(rows) for split, rows in splits.items()}
    teacher = models.teacher_name_or_path
    with_tokenizer = {"data_collator": default_data_collator, "processing_class": questions.tokenizer}
    if teacher is None:
        teacher = fine_tune_teacher(
            models,
            args,
            auto_class=AutoModelForQuestionAnswering,
            names=NAMES,
            recipe={"data": data.source, "rows": data.max_train_samples, "max_seq_length": data.max_seq_length},
            train_dataset=windows["train"],
            eval_dataset=windows.get("validation"),
            **with_tokenizer,
        )
    original = load_model(teacher)
    student = AutoModelForQuestionAnswering.from_pretrained(models.student_name_or_path or teacher)
    trainer = AlignedDistillationTrainer(
        student,
        args,
        teacher=original,
        alignment=alignment,
        train_dataset=windows["train"],
        eval_dataset=windows.get("validation"),
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
        # The proof; only the first process writes it.
        if trainer.is_world_process_zero():
            found = questions.compared(teacher, args.output_dir, splits["validation"], args.per_device_eval_batch_size)
            (Path(args.output_dir) / "answers.json").write_text(json.dumps(asdict(found), indent=2))
            print(found)
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
