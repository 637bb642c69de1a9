"""What test_resume.py kills: trainings that save at every step and take their time."""

import sys
import time
from typing import Any

import tiny
from transformers import TrainerCallback

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, PruningCallback
from hf_compalign.compress.callbacks import QuantizationCallback, ShrinkCallback


def compression(kind: str) -> list[TrainerCallback]:
    """Of 24 optimizer steps, the first 10 remove units and the following 10 prune what is left; or all 21 round."""
    if kind == "quantizing":
        return [QuantizationCallback("quanto-w8a8", begin=0.1)]
    return [
        ShrinkCallback(ffn=0.5, heads=0.5, begin=0.0, end=0.4, every=1),
        PruningCallback(0.6, score="movement", begin=0.4, end=0.8, every=1),
    ]


class Slow(TrainerCallback):
    """Half a second per step, so that the kill comes in the middle."""

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.5)


def build(folder: str, kind: str, *callbacks: TrainerCallback) -> AlignedDistillationTrainer:
    return AlignedDistillationTrainer(
        tiny.bert(seed=2, dropout=0.1),
        tiny.arguments(folder, save_steps=1, num_train_epochs=3),
        teacher=tiny.bert(seed=1),
        alignment=AlignmentArguments(
            preset="paper",
            transfer=0.5,
            transfer_kinds=["splice", "drop", "replace"],
            weighting="softadapt",
            student_dropout=True,
        ),
        train_dataset=tiny.texts(32),
        callbacks=[*compression(kind), *callbacks],
    )


if __name__ == "__main__":
    build(sys.argv[1], sys.argv[2], Slow()).train()
