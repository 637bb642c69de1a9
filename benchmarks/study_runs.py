"""The runs of the study: a reference, its floor, compressed starts, and what a training makes of a start."""

import copy
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import study_records
import torch
from datasets import Dataset
from study_grid import ARMS, COMPRESSIONS, Arm, Cell, Compression, Plan, Training
from study_records import Run, claimed, path_of
from study_settings import SETTINGS, Data, Sources
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from hf_compalign import (
    Predictions,
    PruningCallback,
    QuantizationCallback,
    cache_teacher_logits,
    predict,
    prune_,
    quantize_,
    shrink_,
)
from hf_compalign._folders import staged_folder
from hf_compalign.compress import prunable_weights, sparsity_of
from hf_compalign.measure.statistics import ItemScores, alignment_metrics, calibration_shift
from hf_compalign.opening import load_model

SCHEME = "onnxruntime-w8a8"
STRUCTURED = {"ffn": 0.5, "heads": 0.25}
RERUN = 1000  # added to the seed of a reference: that of the floor
PREDICTED_AT_ONCE = 64


@dataclass(frozen=True)
class Place:
    """Where everything is, and who runs it."""

    output: Path
    sources: Sources
    preset: str

    @property
    def about(self) -> dict[str, Any]:
        """What is worth knowing of any run."""
        packages = ("torch", "transformers", "hf-compalign")
        versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        told = {"preset": self.preset, "command": shlex.join(sys.argv), "versions": versions, "device": device}
        return told | {"threads": torch.get_num_threads()}


class Bench:
    """One setting with one reference. What its runs share is made once and kept in a folder."""

    def __init__(self, place: Place, setting: str, plan: Plan, origin: int) -> None:
        self.place, self.name, self.plan, self.origin = place, setting, plan, origin
        self.setting = SETTINGS[setting]
        self.folder = place.output / "models" / setting / f"seed{origin}"

    @cached_property
    def data(self) -> Data:
        """The rows."""
        return self.setting.load(self.place.sources, self.origin)

    # ---- the original ----

    @cached_property
    def reference(self) -> Path:
        """The fine-tuned model, with what it answers and what a re-run of it answers beside it."""
        folder = self.folder / "reference"
        with claimed(folder):
            if not folder.is_dir():
                self._fine_tune(folder)
        return folder

    def _fine_tune(self, folder: Path) -> None:
        print(f"{self.name}, seed {self.origin}: the reference and its re-run", flush=True)
        began = time.perf_counter()
        models = [self._fine_tuned(seed) for seed in (self.origin, self.origin + RERUN)]
        answers, again = (self._ask(model) for model in models)
        with staged_folder(folder) as work:
            models[0].save_pretrained(work)
            for name, found in answers.items():
                found.save(work / "answers" / f"{name}.npz")
            about = self.place.about | {"seconds": time.perf_counter() - began, "items": self.data.items}
            about |= {"labels": {name: found.labels.tolist() for name, found in answers.items()}}
            for name, found in (("reference", answers), ("floor", again)):
                parts = _compared(answers, found)
                study_records.write(work / f"{name}.json", self._recipe(name), about, parts)

    def _fine_tuned(self, seed: int) -> PreTrainedModel:
        model = self.setting.build(self.place.sources, seed, self.data.names)
        collator = self.data.augmented or self.data.collator
        return self._train(
            Trainer, model, self.plan.reference, seed=seed, train_dataset=self.data.train, data_collator=collator
        )

    @cached_property
    def answers(self) -> dict[str, Predictions]:
        """Of the reference, by part."""
        return {name: Predictions.load(self.reference / "answers" / f"{name}.npz") for name in self.data.parts}

    @cached_property
    def taught(self) -> Dataset:
        """The training rows with the reference's logits."""
        model = self._loaded(self.reference)
        return cache_teacher_logits(self.data.train, model, data_collator=self.data.collator, batch_size=64)

    # ---- the compressed starts ----

    def start(self, compression: str, seed: int) -> Path:
        """The compressed reference; for INT8, which is in the computation, the reference itself."""
        found = COMPRESSIONS[compression]
        if found.kind == "int8":
            return self.reference
        # By magnitude there is nothing to draw.
        folder = self.folder / "starts" / (compression if found.kind == "magnitude" else f"{compression}-seed{seed}")
        with claimed(folder):
            if not folder.is_dir():
                model = self._loaded(self.reference)
                self._compress(model, found, seed)
                with staged_folder(folder) as work:
                    model.save_pretrained(work)
        return folder

    def _compress(self, model: PreTrainedModel, found: Compression, seed: int) -> None:
        if found.kind == "magnitude":
            prune_(model, found.sparsity)
            return
        calibration = [*self.data.calibration(self.plan.calibration_rows, seed=seed)]
        if found.kind == "obs":
            prune_(model, found.sparsity, score="obs", calibration=calibration)
        else:
            shrink_(model, **STRUCTURED, calibration=calibration)

    def _loaded(self, folder: Path) -> PreTrainedModel:
        return load_model(folder).to("cuda" if torch.cuda.is_available() else "cpu")

    # ---- a run ----

    def run(self, cell: Cell) -> Run:
        """The run of a cell with a fixed learning rate, made unless it is there.

        Raises:
            Busy: another process makes it, or what it starts from.
        """
        path, recipe = path_of(self.place.output, cell), self._recipe(cell.arm, cell)
        if (found := study_records.done(path, recipe)) is not None:
            return found
        with claimed(path):
            # Another process may have made it in the meantime.
            return study_records.done(path, recipe) or self._make(cell, path, recipe)

    def _make(self, cell: Cell, path: Path, recipe: Mapping[str, Any]) -> Run:
        start, answers = self.start(cell.compression, cell.seed), self.answers
        began = time.perf_counter()
        model = self._trained(cell, self._loaded(start))
        about = self.place.about | {"training_seconds": time.perf_counter() - began}
        if COMPRESSIONS[cell.compression].sparsity is not None:
            about["achieved_sparsity"] = sparsity_of(prunable_weights(model))
        parts = _compared(answers, self._ask(model))
        about["seconds"] = time.perf_counter() - began
        study_records.write(path, recipe, about, parts)
        return study_records.read(path)

    def _trained(self, cell: Cell, model: PreTrainedModel) -> PreTrainedModel:
        arm, compression = ARMS[cell.arm], COMPRESSIONS[cell.compression]
        if arm.trainer is None:
            if compression.kind == "int8":
                quantize_(model, SCHEME)
            return model
        start = copy.deepcopy(model) if arm.halfway else None
        training = Training(self.plan.steps, cell.learning_rate, self.plan.reference.batch_size)
        model = self._train(
            arm.trainer, model, training, seed=cell.seed, callbacks=_kept(cell, model), **self._teaching(arm)
        )
        if start is not None:
            _go_halfway_(model, start)
        return model

    def _teaching(self, arm: Arm) -> dict[str, Any]:
        """The rows of an arm, and what its trainer needs to know of the reference."""
        if arm.trainer is Trainer:
            return {"train_dataset": self.data.train}
        if arm.arguments is None:
            return {"train_dataset": self.data.train, "teacher": self._loaded(self.reference)}
        if arm.asks:
            return {
                "train_dataset": self.data.train,
                "teacher": self._loaded(self.reference),
                "alignment": arm.arguments,
            }
        return {"train_dataset": self.taught, "alignment": arm.arguments}

    def _train(
        self,
        trainer: type[Trainer],
        model: PreTrainedModel,
        training: Training,
        *,
        seed: int,
        **more: Any,
    ) -> PreTrainedModel:
        args = TrainingArguments(
            str(self.place.output / "trainer"),
            max_steps=training.steps,
            learning_rate=training.learning_rate,
            warmup_steps=training.steps // 10,
            per_device_train_batch_size=training.batch_size,
            train_sampling_strategy="group_by_length" if self.setting.padded else "random",
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        more.setdefault("data_collator", self.data.collator)
        made = trainer(model, args, **more)
        made.remove_callback(PrinterCallback)
        made.train()
        return made.model

    def _ask(self, model: PreTrainedModel) -> dict[str, Predictions]:
        return {
            name: predict(model, rows, data_collator=self.data.collator, batch_size=PREDICTED_AT_ONCE)
            for name, rows in self.data.parts.items()
        }

    def _recipe(self, arm: str, cell: Cell | None = None) -> dict[str, Any]:
        """Of a run; without a cell, of the reference or the floor."""
        sources = self.place.sources
        rows = {"train_rows": sources.train_rows, "test_rows": sources.test_rows}
        found = {"setting": self.name, "reference": asdict(self.plan.reference), "reference_seed": self.origin, **rows}
        if cell is None:
            return {**found, "arm": arm}
        compression = COMPRESSIONS[cell.compression]
        return found | {
            "seed": cell.seed,
            "compression": cell.compression,
            "sparsity": compression.sparsity,
            "calibration_rows": self.plan.calibration_rows,
            "arm": cell.arm,
            "training": ARMS[cell.arm].recipe,
            "learning_rate": cell.learning_rate,
            "steps": self.plan.steps,
            "batch_size": self.plan.reference.batch_size,
        }


def _kept(cell: Cell, model: PreTrainedModel) -> Sequence[TrainerCallback]:
    """What holds the compression while the model is trained."""
    compression = COMPRESSIONS[cell.compression]
    if compression.kind == "int8":
        return [QuantizationCallback(SCHEME)]
    if compression.sparsity is None:
        return []
    return [PruningCallback.holding(model)]


@torch.no_grad()
def _go_halfway_(model: PreTrainedModel, start: PreTrainedModel) -> None:
    for trained, first in zip(model.parameters(), start.parameters(), strict=True):
        trained.lerp_(first.to(trained.device), 0.5)


def _compared(reference: Mapping[str, Predictions], candidate: Mapping[str, Predictions]) -> dict[str, dict[str, Any]]:
    """What a record says of a model's answers, by part."""
    return {name: _part(reference[name], found) for name, found in candidate.items()}


def _part(reference: Predictions, candidate: Predictions) -> dict[str, Any]:
    labels = reference.labels
    scores = ItemScores.of(reference.logits, candidate.logits, labels)
    before, after = reference.predicted, candidate.predicted
    shift = calibration_shift(before, after, labels, scores, n_resamples=1)
    metrics = alignment_metrics(before, after, labels, scores.kl)
    metrics |= {"accuracy": float((after == labels).mean()), "ece": shift.candidate.ece}
    return {"predicted": after.tolist(), "metrics": metrics}
