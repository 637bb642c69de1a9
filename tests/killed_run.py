"""What test_resume.py kills: a training that saves at every step and takes its time."""

import sys
import time
from typing import Any

import tiny
from transformers import TrainerCallback

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, PruningCallback


class Slow(TrainerCallback):
    """Half a second per step, so that the kill comes in the middle."""

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.5)


def build(folder: str, *callbacks: TrainerCallback) -> AlignedDistillationTrainer:
    return AlignedDistillationTrainer(
        tiny.bert(seed=2, dropout=0.1),
        tiny.arguments(folder, save_strategy="steps", save_steps=1, num_train_epochs=3),
        teacher=tiny.bert(seed=1),
        alignment=AlignmentArguments(weighting="softadapt", student_dropout=True),
        train_dataset=tiny.texts(32),
        callbacks=[PruningCallback(0.6, every=1), *callbacks],
    )


if __name__ == "__main__":
    build(sys.argv[1], Slow()).train()
