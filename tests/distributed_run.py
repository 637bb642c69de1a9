"""What test_distributed.py runs in one process and in two: several trainings, their results written by rank 0."""

import json
import sys
from pathlib import Path
from typing import Any

import tiny
import torch
from datasets import Dataset

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, PruningCallback

PROCESSES = 2
EVALUATED = 23  # not a multiple of any batch: the last one is filled up with duplicates


def partly_labelled(n: int) -> Dataset:
    """Unevenly spread over the processes, so that their terms have different counts."""
    labels = [label if i % 4 else -100 for i, label in enumerate(tiny.texts(n)["labels"])]
    return tiny.texts(n, labels=False).add_column("labels", labels)


def run(folder: Path, weighting: str) -> dict[str, Any]:
    launched = torch.distributed.is_torchelastic_launched()
    trainer = AlignedDistillationTrainer(
        tiny.bert(seed=2),
        tiny.arguments(
            folder,
            per_device_train_batch_size=8 // PROCESSES if launched else 8,
            per_device_eval_batch_size=3,
            optim="sgd",
            learning_rate=0.05,
            logging_strategy="steps",
            logging_steps=2,
            save_strategy="steps",
            save_steps=4,
            ddp_backend="gloo" if launched else None,
        ),
        teacher=tiny.bert(seed=1),
        alignment=AlignmentArguments(weighting=weighting, kl_weight=0.5),
        train_dataset=partly_labelled(40),
        eval_dataset=tiny.texts(EVALUATED, seed=5),
        callbacks=[PruningCallback(0.5, every=1)],
    )
    trainer.train()
    metrics = {k: v for k, v in trainer.evaluate().items() if not k.endswith(("runtime", "second"))}
    logs = [
        {k: v for k, v in log.items() if k.endswith(("loss", "weight", "sparsity"))}
        for log in trainer.state.log_history
    ]
    return {
        "parameters": tiny.flat(trainer.model).tolist(),
        "weights": trainer.weighting.weights().tolist(),
        "metrics": metrics,
        "logs": [log for log in logs if "task_loss" in log],
        "processes": trainer.accelerator.num_processes,
        "writes": trainer.args.should_save,
    }


if __name__ == "__main__":
    output = Path(sys.argv[1])
    results = {weighting: run(output / weighting, weighting) for weighting in ("fixed", "softadapt", "uncertainty")}
    if results["fixed"]["writes"]:
        (output / "results.json").write_text(json.dumps(results))
