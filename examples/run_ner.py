"""Compress a model that labels words, such as names, so that it keeps the answers of the original, and audit it.

The flags are those of transformers' own scripts, of `AlignmentArguments` and of `CompressionArguments`:

    python examples/run_ner.py --dataset_name eriktks/conll2003 --label_column_name ner_tags \
        --model_name_or_path google-bert/bert-base-cased --sparsity 0.5 --do_train --do_eval --output_dir outputs/ner

README.md beside this file has more.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from datasets import Dataset
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EvalPrediction,
    TrainingArguments,
    set_seed,
)

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, Audit, AuditOptions, Columns, audit
from hf_compalign.align import ModelArguments, RecipeParser, fine_tune_teacher, load_for_labels, train_student
from hf_compalign.compress import CompressionArguments
from hf_compalign.data import (
    WORD_PLACES,
    DatasetArguments,
    existing_column,
    find_word_column,
    label_names,
    token_label_ids,
    tokenized_words,
)
from hf_compalign.labels import IGNORED, names_of
from hf_compalign.measure.audit import compare_entities
from hf_compalign.measure.statistics import task_scores
from hf_compalign.opening import load_model
from hf_compalign.ship import write_training_card


@dataclass
class DataArguments(DatasetArguments):
    """Which data to take, and how."""

    text_column_name: str | None = field(default=None, metadata={"help": "The column of words: tokens or words."})
    label_column_name: str = field(default="ner_tags", metadata={"help": "The column of tags, one for each word."})
    max_seq_length: int = field(default=128, metadata={"help": "Longer texts are truncated to so many tokens."})


class Words:
    """Which columns are the words and their tags, and how they become a model's inputs."""

    def __init__(self, data: DataArguments, train: Dataset, checkpoint: str) -> None:
        wanted = None if data.text_column_name is None else [data.text_column_name]
        column = find_word_column(train, wanted)
        if column is None:
            raise ValueError(f"Name the column of words with text_column_name: one of {', '.join(train.column_names)}.")
        self.column, self.tags = column, existing_column(train.column_names, data.label_column_name)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        # Saved with the tokenizer, so that whoever loads the model truncates as it was trained.
        self.tokenizer.model_max_length = min(data.max_seq_length, self.tokenizer.model_max_length)
        self.collator = DataCollatorForTokenClassification(self.tokenizer)

    def names(self, dataset: Dataset) -> tuple[str, ...]:
        """The names of the tags: those of the column's classes, or all that occur."""
        return label_names(dataset, self.tags) or tuple(sorted({tag for tags in dataset[self.tags] for tag in tags}))

    def labeled(self, dataset: Dataset, names: Sequence[str]) -> Dataset:
        """The inputs, with the tag of each word at its first token."""
        tags = token_label_ids(dataset, self.tags, names)
        rows = tokenized_words(dataset, self.tokenizer, self.column)
        labels = []
        for ids, places, of_words in zip(rows["input_ids"], rows[WORD_PLACES], tags, strict=True):
            row = [IGNORED] * len(ids)
            for place, tag in zip(places, of_words.tolist(), strict=False):  # what is truncated has no place
                if place >= 0:
                    row[place] = tag
            labels.append(row)
        inputs = [name for name in self.tokenizer.model_input_names if name in rows.column_names]
        return rows.select_columns(inputs).add_column("labels", labels)


def scores(prediction: EvalPrediction) -> dict[str, float]:
    """What the Trainer reports beside the agreement with the teacher, over the tagged words."""
    logits, labels = prediction.predictions, prediction.label_ids
    known = labels != IGNORED
    return task_scores(logits.argmax(-1)[known], labels[known], logits.shape[-1])


def audit_saved(args: TrainingArguments, teacher: str, words: Words, dataset: Dataset) -> Audit:
    """The audit of the saved student against the original, word by word, printed and saved; names are printed."""
    options = AuditOptions(
        columns=Columns(text=(words.column,), label=words.tags),
        processing_class=words.tokenizer,
        batch_size=args.per_device_eval_batch_size,
    )
    found = audit(teacher, args.output_dir, dataset, options=options)
    found.save_with_predictions(args.output_dir)
    print(found)
    if any(name.startswith("B-") for name in found.label_names):
        print(compare_entities(*found.predictions.values()))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune the teacher if need be, compress the student, audit it."""
    parser = RecipeParser((ModelArguments, DataArguments, AlignmentArguments, CompressionArguments, TrainingArguments))
    models, data, alignment, compression, args = parser.parse(argv)
    logging.basicConfig(level=logging.INFO if args.should_log else logging.WARNING)
    splits = data.load(args)
    set_seed(args.seed)

    # The original: given, or fine-tuned with the tags alone.
    words = Words(data, splits["train"], models.origin)
    teacher = models.teacher_name_or_path
    with_tokenizer = {"data_collator": words.collator, "processing_class": words.tokenizer, "compute_metrics": scores}
    if teacher is None:
        names = words.names(splits["train"])
        teacher = fine_tune_teacher(
            models,
            args,
            auto_class=AutoModelForTokenClassification,
            names=names,
            recipe={"data": data.source, "rows": data.max_train_samples, "max_seq_length": data.max_seq_length},
            train_dataset=words.labeled(splits["train"], names),
            eval_dataset=words.labeled(splits["validation"], names) if "validation" in splits else None,
            **with_tokenizer,
        )
    original = load_model(teacher)
    student = load_for_labels(
        AutoModelForTokenClassification,
        models.student_name_or_path or teacher,
        names_of(original.config.id2label),
        ignore_mismatched_sizes=models.ignore_mismatched_sizes,
    )
    labeled = {split: words.labeled(rows, names_of(student.config.id2label)) for split, rows in splits.items()}
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
        found = audit_saved(args, teacher, words, splits["validation"])
    trainer.accelerator.wait_for_everyone()
    if args.push_to_hub:
        # With the audit, and with a card that the Trainer drafts; ours takes its place below.
        trainer.push_to_hub()
    if found is not None:
        about = {"task": "token-classification", "base_model": models.origin} | data.described
        write_training_card(trainer, found, original, compression=compression, **about)


if __name__ == "__main__":
    main()
