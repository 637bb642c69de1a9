"""The data sets and the runs of fairness.py: each model, its answers and its reasons are made once and kept.

A data set is HateXplain, with MiniLM, or the loans of loans.py, with a small BERT. Learning rates, steps and sizes were
set before any recovery had run, one for all three losses.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import loans
import numpy as np
import sst2
from datasets import Dataset, concatenate_datasets
from sst2 import Store
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_compalign import (
    AlignedDistillationTrainer,
    AlignmentArguments,
    Predictions,
    PruningCallback,
    QuantizationCallback,
    cache_teacher_logits,
    predict,
    prune_,
    quantize_,
)
from hf_compalign.data import load_file, tokenized
from hf_compalign.measure.attribution import AttributionOptions, explain, similarities
from hf_compalign.measure.groups import group_membership, text_length

PRESETS = {"CE": "labels", "paper": "paper", "logits": "logits"}
PRUNED, INT8 = {"obs 50 %": "obs", "magnitude 50 %": "magnitude"}, "INT8"
SCHEME = "onnxruntime-w8a8"
CALIBRATION_ROWS = 512
EXPLAINED, EXPLAINED_ARMS = 60, ("CE", "logits")
# 16 points of the integral in place of 32 halve the time; the sum is still that of the logit within a percent or two.
ATTRIBUTION = AttributionOptions(n_steps=16)


@dataclass(frozen=True)
class Training:
    """How long, on how much, and how fast."""

    steps: int
    batch_size: int
    learning_rate: float


class Setting:
    """A data set, with how its models are trained and how they are compressed."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        train: Dataset,
        test: Dataset,
        groups: Sequence[Sequence[str]],
        *,
        fresh: Callable[[], PreTrainedModel],
        training: tuple[Training, Training],
        compressions: Sequence[str],
    ) -> None:
        self.tokenizer, self.fresh, self.compressions = tokenizer, fresh, compressions
        self.original_training, self.recovery = training
        self.collator = DataCollatorWithPadding(tokenizer)
        rows = tokenized(train, tokenizer, ("text",)).rename_column("label", "labels")
        self.train = rows.remove_columns([name for name in rows.column_names if name not in ("labels", "input_ids")])
        # Posts of like length together need little padding.
        order = np.argsort(text_length(test, "text"), kind="stable")
        self.test = test.select(order)
        self.names = sorted({name for of in groups for name in of})
        self.members = np.array([[name in groups[row] for name in self.names] for row in order])


def hatexplain(checkpoint: str, folder: Path) -> Setting:
    """Posts; the groups that they target may overlap."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.model_max_length = 48
    test = concatenate_datasets([load_file(str(folder / f"{name}.parquet")) for name in ("validation", "test")])
    targets = [of or ("no one",) for of in group_membership(test, "target_groups")]
    labels = dict(enumerate(test.features["label"].names))
    return Setting(
        tokenizer,
        load_file(str(folder / "train.parquet")).shuffle(seed=0).select(range(4000)),
        test.remove_columns("target_groups"),
        targets,
        fresh=lambda: AutoModelForSequenceClassification.from_pretrained(checkpoint, id2label=labels),
        training=(Training(500, 16, 5e-5), Training(120, 16, 2e-5)),
        compressions=("obs 50 %", INT8),
    )


def loan_applications() -> Setting:
    """Made-up applications; each is in one group."""
    train, _ = loans.applications(8000, seed=1)
    test, status = loans.applications(4000, seed=2)
    return Setting(
        loans.tokenizer(),
        train,
        test,
        [(name,) for name in status],
        fresh=loans.untrained,
        training=(Training(1500, 32, 2e-3), Training(250, 32, 3e-4)),
        compressions=("obs 50 %", "magnitude 50 %", INT8),
    )


class Runs:
    """The models of a data set, their answers and their reasons; each is made once and kept."""

    def __init__(self, setting: Setting, folder: Path, seeds: Sequence[int]) -> None:
        self.setting, self.folder, self.seeds = setting, folder, seeds
        self.store = Store(folder / "answers")

    def original(self) -> Path:
        """The reference."""

        def make(folder: Path) -> None:
            set_seed(0)  # of the new head, or of all weights
            self._train(self.setting.fresh(), folder, self.setting.original_training, seed=0)

        return self._kept("original", make)

    def start(self, compression: str) -> Path:
        """The compressed reference, not trained."""
        return self._kept(sst2.folder_of(Path(), compression).name, lambda folder: self._compress(compression, folder))

    def recovered(self, compression: str, arm: str, seed: int) -> Path:
        """The start, trained; of INT8 with the rounding in every step."""

        def make(folder: Path) -> None:
            if compression in PRUNED:
                model = AutoModelForSequenceClassification.from_pretrained(self.start(compression))
                callback: TrainerCallback = PruningCallback.holding(model)
            else:
                model = AutoModelForSequenceClassification.from_pretrained(self.original())
                callback = QuantizationCallback(SCHEME)
            self._train(model, folder, self.setting.recovery, seed=seed, arm=arm, callbacks=[callback])

        return self._kept(f"{self.start(compression).name}-{arm}-{seed}", make)

    def arms(self, compression: str) -> dict[str, list[Predictions]]:
        """The answers of the original, of the start and of each arm, seed by seed."""
        found = {"original": [self.answers(self.original())], "no training": [self.answers(self.start(compression))]}
        for arm in PRESETS:
            found[arm] = [self.answers(self.recovered(compression, arm, seed)) for seed in self.seeds]
        return found

    def answers(self, model: Path) -> Predictions:
        """To the test data."""
        return self.store.get(model.name, lambda: predict(model, self.setting.test, batch_size=64))

    def alike(self, compression: str, arm: str) -> dict[str, np.ndarray]:
        """Similarity -> of the reasons of each explained item to the original's, seed by seed, [seeds, items]."""
        ours, start = self._reasons(self.original(), self.start(compression))
        if arm == "no training":
            models = [start]
        else:
            pairs = [[self.recovered(compression, one, seed) for one in EXPLAINED_ARMS] for seed in self.seeds]
            models = [self._reasons(*pair)[EXPLAINED_ARMS.index(arm)] for pair in pairs]
        found = [[similarities(*pair) for pair in zip(ours, theirs, strict=True)] for theirs in models]
        return {name: np.array([[one[name] for one in row] for row in found]) for name in found[0][0]}

    def _reasons(self, first: Path, second: Path) -> list[list[list[float]]]:
        """The scores of the tokens of the same items, for the original's answers: two models at a time."""
        path = self.folder / "reasons" / f"{first.name}, {second.name}.json"
        if not path.is_file():
            rows = np.random.default_rng(0).permutation(len(self.setting.test))[:EXPLAINED]
            targets = self.answers(self.original()).predicted[rows].tolist()
            found = explain(first, second, self.setting.test.select(rows), targets=targets, options=ATTRIBUTION)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps([[one.reference for one in found], [one.candidate for one in found]]))
        return json.loads(path.read_text())

    @cached_property
    def _with_teacher(self) -> Dataset:
        model = AutoModelForSequenceClassification.from_pretrained(self.original())
        return cache_teacher_logits(self.setting.train, model, data_collator=self.setting.collator, batch_size=64)

    def _compress(self, compression: str, folder: Path) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(self.original())
        if compression == INT8:
            quantize_(model, SCHEME)
        else:
            score = PRUNED[compression]
            rows = self.setting.train.shuffle(seed=0).select(range(CALIBRATION_ROWS)).remove_columns("labels")
            batches = DataLoader(rows, batch_size=64, collate_fn=self.setting.collator)
            prune_(model, 0.5, score=score, calibration=batches if score == "obs" else None)
        model.save_pretrained(folder)
        self.setting.tokenizer.save_pretrained(folder)

    def _train(
        self,
        model: PreTrainedModel,
        folder: Path,
        how: Training,
        *,
        seed: int,
        arm: str = "CE",
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        args = TrainingArguments(
            str(folder),
            max_steps=how.steps,
            learning_rate=how.learning_rate,
            warmup_steps=how.steps // 15,
            per_device_train_batch_size=how.batch_size,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            disable_tqdm=True,
            seed=seed,
        )
        trainer = AlignedDistillationTrainer(
            model,
            args,
            alignment=AlignmentArguments(preset=PRESETS[arm]),
            train_dataset=self.setting.train if arm == "CE" else self._with_teacher,
            data_collator=self.setting.collator,
            processing_class=self.setting.tokenizer,
            callbacks=list(callbacks),
        )
        trainer.train()
        trainer.save_model()

    def _kept(self, name: str, make: Callable[[Path], None]) -> Path:
        folder = self.folder / "models" / name
        if not folder.is_dir():
            partial = folder.with_name(f"{name}.partial")
            make(partial)
            partial.rename(folder)
        return folder
