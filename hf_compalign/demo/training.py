"""The demo's trainings, as jobs that any process can do: the reference of a seed, then what begins at each pruning."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_compalign.align import AlignedDistillationTrainer
from hf_compalign.compress.callbacks import PruningCallback
from hf_compalign.compress.prune import prune_
from hf_compalign.demo.digits import NAMES, SIZE, image_processor, load_digits, training_rows
from hf_compalign.demo.recipes import ARMS, REFERENCE, STARTS, Settings, answers_file, audit_file, level_name
from hf_compalign.demo.workers import Tick
from hf_compalign.measure.audit import audit
from hf_compalign.measure.predictions import Predictions, predict
from hf_compalign.opening import load_model

Rows = list[dict[str, Tensor]]

_TRAINING_THE_REFERENCE = "Training the reference"


def stages(settings: Settings, n_seeds: int) -> dict[str, int]:
    """What there is to wait for, in the order it is done: a stage and its optimizer steps over all seeds."""
    steps = {_TRAINING_THE_REFERENCE: settings.reference_steps}
    steps |= {_stage(sparsity): len(ARMS) * settings.recovery_steps for sparsity in settings.sparsities}
    return {stage: n_seeds * n_steps for stage, n_steps in steps.items()}


def _stage(sparsity: float) -> str:
    return f"{100 * sparsity:g} % pruned, {len(ARMS)} trainings"


@dataclass(frozen=True)
class Run:
    """One seed of the demo, and the folder for everything of it."""

    folder: Path
    seed: int
    settings: Settings

    def data(self) -> tuple[Rows, Dataset]:
        """The rows to train on, and the test images."""
        settings = self.settings
        train, test = load_digits(self.seed, test_share=settings.test_share, n_items=settings.n_items)
        return training_rows(train), test

    def arguments(self, steps: int, learning_rate: float) -> TrainingArguments:
        """Of one training."""
        return TrainingArguments(
            output_dir=str(self.folder),
            max_steps=steps,
            learning_rate=learning_rate,
            warmup_steps=steps // 10,
            per_device_train_batch_size=self.settings.batch_size,
            seed=self.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )

    def keep_answers(self, name: str, model: PreTrainedModel, test: Dataset) -> Predictions:
        """Save the answers of a model to the test images."""
        answers = predict(model, test, processing_class=image_processor())
        # The name replaces the temporary folder of the model.
        answers = replace(answers, model=name)
        answers.save(answers_file(self.folder, name))
        return answers


@dataclass(frozen=True)
class TrainReference:
    """Train the original of a seed."""

    run: Run

    def __call__(self, tick: Tick) -> list["Recover"]:
        """Do it; what can begin then is a job for each sparsity and each way to prune."""
        run, settings = self.run, self.run.settings
        rows, test = run.data()
        run.folder.mkdir(parents=True, exist_ok=True)
        test.to_parquet(run.folder / "test.parquet")
        with _one_thread():
            args = run.arguments(settings.reference_steps, settings.reference_learning_rate)
            model = _train(
                Trainer(_new_model(run.seed, settings), args, train_dataset=rows), _TRAINING_THE_REFERENCE, tick
            )
            _save(model, run.folder / REFERENCE)
            run.keep_answers(REFERENCE, model, test)
        return [Recover(run, sparsity, score) for sparsity in settings.sparsities for score in STARTS]


@dataclass(frozen=True)
class Recover:
    """Prune the reference at once, and train from there with each loss: the same steps on the same data.

    Attributes:
        run: where the reference is.
        sparsity: the share of the weights that go.
        score: how they are chosen.
    """

    run: Run
    sparsity: float
    score: str

    def __call__(self, tick: Tick) -> list[Any]:
        """Do it; nothing else waits for it."""
        run, level = self.run, level_name(self.sparsity)
        rows, test = run.data()
        with _one_thread():
            reference = Predictions.load(answers_file(run.folder, REFERENCE))
            start = self._pruned(rows)
            run.keep_answers(f"{level}/{STARTS[self.score]}", start, test)
            for name in (name for name, arm in ARMS.items() if arm.score == self.score):
                model = self._trained(name, copy.deepcopy(start), rows, tick)
                _save(model, run.folder / level / name)
                answers = run.keep_answers(f"{level}/{name}", model, test)
                audit(reference, answers).save(audit_file(run.folder, f"{level}/{name}"))
        return []

    def _pruned(self, rows: Rows) -> PreTrainedModel:
        model = load_model(self.run.folder / REFERENCE)
        calibration = None
        if self.score == "obs":
            calibration = [{"pixel_values": torch.stack([row["pixel_values"] for row in rows])}]
        prune_(model, self.sparsity, score=self.score, calibration=calibration)
        return model

    def _trained(self, name: str, model: PreTrainedModel, rows: Rows, tick: Tick) -> PreTrainedModel:
        run, settings, alignment = self.run, self.run.settings, ARMS[name].alignment
        trainer = AlignedDistillationTrainer(
            model,
            run.arguments(settings.recovery_steps, settings.learning_rates[name]),
            teacher=run.folder / REFERENCE if alignment.needs_teacher else None,
            alignment=alignment,
            train_dataset=rows,
            callbacks=[PruningCallback.holding(model)],
        )
        return _train(trainer, _stage(self.sparsity), tick)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A second thread brings nothing for such small matrices, and costs a lot on cores that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _new_model(seed: int, settings: Settings) -> PreTrainedModel:
    set_seed(seed)
    config = ViTConfig(
        image_size=SIZE,
        patch_size=2,
        hidden_size=settings.hidden_size,
        intermediate_size=2 * settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)},
    )
    return ViTForImageClassification(config)


class _Ticking(TrainerCallback):
    """Passes the Trainer's optimizer steps on."""

    def __init__(self, stage: str, tick: Tick) -> None:
        self.stage = stage
        self.tick = tick

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.tick(self.stage)


def _train(trainer: Trainer, stage: str, tick: Tick) -> PreTrainedModel:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Ticking(stage, tick))
    trainer.train()
    return trainer.model


def _save(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    image_processor().save_pretrained(folder)
