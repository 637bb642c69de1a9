"""What the benchmarks on SST-2 share: the data, split once and for all, and the original model.

The training file holds 67,349 phrases, many of them parts of each other. The rows that end in a full stop are whole
sentences or close to it: 6,920 of them, drawn with a fixed seed, train the original and recover the compressed models;
14,000 of the other rows, taken without their labels, are transfer data, and 5,000 more are there to compare models on
where 872 rows tell too little. All models are tested on the 872 sentences of
the validation file, which no training sees.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, Predictions, predict
from hf_compalign.data import load_file, tokenized

SENTENCES = 6920
TRANSFER = 14_000
UNSEEN = 5_000
MAX_TOKENS = 64
BATCH_SIZE = 32


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark on texts has."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--checkpoint", required=True, help="the pretrained encoder: a folder or a Hub id")
    found.add_argument("--data", type=Path, required=True, help="folder of the parquet files")
    found.add_argument("--output", type=Path, required=True, help="where the models and results go")
    return found


def split(phrases: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows of the training file are sentences to train on, transfer data, and unseen."""
    whole = np.array([text.rstrip().endswith(" .") for text in phrases])
    rng = np.random.default_rng(0)
    sentences = rng.permutation(np.flatnonzero(whole))[:SENTENCES]
    others = rng.permutation(np.setdiff1d(np.arange(len(phrases)), sentences))
    return sentences, others[:TRANSFER], others[TRANSFER : TRANSFER + UNSEEN]


class Sst2:
    """The tokenized splits: train, transfer (no labels), unseen and test."""

    def __init__(self, checkpoint: str, folder: Path) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(checkpoint)
        self.tokenizer.model_max_length = MAX_TOKENS
        self.collator = DataCollatorWithPadding(self.tokenizer)
        phrases = load_file(str(folder / "train.parquet"))
        sentences, transfer, unseen = split(phrases["sentence"])
        self.train = self._prepared(phrases.select(sentences))
        self.transfer = self._prepared(phrases.select(transfer)).remove_columns("labels")
        self.unseen = self._prepared(phrases.select(unseen))
        self.test = self._prepared(load_file(str(folder / "validation.parquet")))

    def _prepared(self, dataset: Dataset) -> Dataset:
        rows = tokenized(dataset, self.tokenizer, ("sentence",)).rename_column("label", "labels")
        return rows.remove_columns([name for name in ("sentence", "idx") if name in rows.column_names])

    def calibration(self, n_rows: int, *, seed: int) -> DataLoader:
        """Padded batches of some training rows, without their labels, of like length together."""
        rows = self.train.shuffle(seed=seed).select(range(n_rows)).remove_columns("labels")
        by_length = sorted(range(n_rows), key=lambda index: len(rows[index]["input_ids"]))
        return DataLoader(rows.select(by_length), batch_size=64, collate_fn=self.collator)

    def answers(self, model: PreTrainedModel, rows: Dataset | None = None) -> Predictions:
        """What a model says of the test data, or of other rows."""
        return predict(model, self.test if rows is None else rows, data_collator=self.collator, batch_size=64)


def original(data: Sst2, checkpoint: str, folder: Path, *, seed: int = 0) -> Path:
    """The fine-tuned model: two epochs over the sentences, kept in the folder and made once."""
    if not (folder / "config.json").is_file():
        model = AutoModelForSequenceClassification.from_pretrained(
            checkpoint, num_labels=2, id2label={0: "negative", 1: "positive"}
        )
        args = TrainingArguments(
            str(folder),
            num_train_epochs=2,
            learning_rate=5e-5,
            per_device_train_batch_size=BATCH_SIZE,
            save_strategy="no",
            seed=seed,
        )
        trainer = Trainer(
            model, args, train_dataset=data.train, data_collator=data.collator, processing_class=data.tokenizer
        )
        trainer.train()
        trainer.save_model()
    return folder


def train(  # noqa: PLR0913 - one training, told by its differences
    model: PreTrainedModel,
    data: Sst2,
    rows: Dataset,
    *,
    seed: int,
    learning_rate: float = 5e-5,
    callbacks: Sequence[TrainerCallback] = (),
    alignment: AlignmentArguments | None = None,
    epochs: int = 1,
) -> None:
    """As many steps as epochs over the sentences take; aligned where the rows have the original's logits."""
    args = TrainingArguments(
        "runs",
        max_steps=-(-epochs * len(data.train) // BATCH_SIZE),
        learning_rate=learning_rate,
        per_device_train_batch_size=BATCH_SIZE,
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
    )
    settings = {"train_dataset": rows, "data_collator": data.collator, "callbacks": list(callbacks)}
    if "teacher_logits" in rows.column_names:
        AlignedDistillationTrainer(model, args, alignment=alignment, **settings).train()
    else:
        Trainer(model, args, **settings).train()


def folder_of(root: Path, name: str) -> Path:
    """Where a model goes that a table calls by this name."""
    return root / name.replace(" %", "").replace(", ", "-").replace(" ", "-")


class Store:
    """The answers of every run, one file each: a benchmark that was stopped goes on where it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, make: Callable[[], Predictions]) -> Predictions:
        """The answers of a run, made unless they are there."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            make().save(path)
        return Predictions.load(path)
