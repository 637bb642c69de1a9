"""What test_distributed.py runs in one process and in two: several trainings, their results written by rank 0."""

import json
import sys
from pathlib import Path
from typing import Any

import tiny
import torch
import torch.distributed as dist
from every_task import CASES, padded, rows
from processes import leave_group
from transformers import TrainingArguments

from hf_compalign import (
    AlignedDistillationTrainer,
    AlignmentArguments,
    AuditCallback,
    PruningCallback,
    WeightAveragingCallback,
    suggest_learning_rate,
)
from hf_compalign.compress.callbacks import QuantizationCallback

PROCESSES = 2
WEIGHTINGS = ("fixed", "softadapt", "uncertainty")
SCHEMES = ("onnxruntime-w8a8", "torchao-w4", "quanto-w8a8")
INSIDE: dict[str, tuple[int, dict[str, Any]]] = {
    "projection": (24, {"hidden_weight": 1.0, "hidden_projection": True, "attention_weight": 1.0}),
    "gradients": (16, {"attribution_weight": 1.0, "task_weight": 1.0, "weighting": "uncertainty"}),
}
EVALUATED = 23  # not a multiple of any batch: the last one is filled up with duplicates


def arguments(folder: Path, *, batch: int, **settings: Any) -> TrainingArguments:
    """Batches of so many rows over all processes."""
    launched = dist.is_torchelastic_launched()
    settings |= {"per_device_train_batch_size": batch // PROCESSES if launched else batch, "optim": "sgd"}
    return tiny.arguments(folder, ddp_backend="gloo" if launched else None, **settings)


def run(folder: Path, weighting: str) -> dict[str, Any]:
    trainer = AlignedDistillationTrainer(
        tiny.bert(seed=2),
        arguments(
            folder,
            batch=8,
            per_device_eval_batch_size=3,
            learning_rate=0.05,
            logging_steps=2,
            save_steps=4,
        ),
        teacher=tiny.bert(seed=1),
        alignment=AlignmentArguments(
            preset="paper",
            kl_weight=0.5,
            hidden_weight=0.5,
            transfer=0.4,
            transfer_kinds=["splice", "drop", "replace"],
            weighting=weighting,
        ),
        train_dataset=tiny.texts(40, unknown=4),  # so that the terms of the processes have different counts
        eval_dataset=tiny.texts(EVALUATED, seed=5),
        callbacks=[
            PruningCallback(0.5, every=1),
            AuditCallback(tiny.bert(seed=1), tiny.texts(EVALUATED, seed=5)),
            WeightAveragingCallback(),
        ],
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
        "averaging": trainer.state.log_history[-2],  # before the evaluation
        "processes": trainer.accelerator.num_processes,
        "writes": trainer.args.should_save,
    }


def every_task(folder: Path, name: str) -> dict[str, Any]:
    """What a short training of a task ends with, and how many answers it then finds changed."""
    trainer = AlignedDistillationTrainer(
        CASES[name].model(2),
        arguments(
            folder,
            batch=8,
            per_device_eval_batch_size=3,
            learning_rate=0.01,
            num_train_epochs=1,
        ),
        teacher=CASES[name].model(1),
        alignment=AlignmentArguments(preset="logits", task_weight=1.0),
        train_dataset=rows(name, 16),
        eval_dataset=rows(name, 7, seed=5),
        data_collator=padded,
    )
    trainer.train()
    found = trainer.evaluate()
    distances = {one: found[f"eval_{one}"] for one in ("cie", "kl", "rms_shift") if f"eval_{one}" in found}
    return {"parameters": tiny.flat(trainer.model).tolist(), "distances": distances}


def about_the_inside(folder: Path, name: str) -> list[float]:
    """What is learned by terms about the inside of the models, a projection included."""
    width, alignment = INSIDE[name]
    trainer = AlignedDistillationTrainer(
        tiny.bert(seed=2, attn_implementation="eager"),
        arguments(
            folder,
            batch=4,
            gradient_accumulation_steps=2,
            learning_rate=0.01,
            num_train_epochs=1,
        ),
        teacher=tiny.bert(seed=1, hidden_size=width, num_hidden_layers=4, attn_implementation="eager"),
        alignment=AlignmentArguments(preset="logits", **alignment),
        train_dataset=tiny.texts(24, unknown=4),
    )
    trainer.train()
    return torch.cat([tiny.flat(trainer.model), *(one.detach().flatten() for one in trainer._learned)]).tolist()


def quantized(folder: Path, scheme: str | None) -> list[dict[str, Any]]:
    """What quantization-aware training ends with, in each process: the weights, and the record of what is rounded."""
    launched = dist.is_torchelastic_launched()
    trainer = AlignedDistillationTrainer(
        tiny.bert(seed=2, hidden_size=32),
        arguments(
            folder,
            batch=8,
            learning_rate=0.05,
            save_steps=10,
        ),
        teacher=tiny.bert(seed=1),
        train_dataset=tiny.texts(40),
        callbacks=[] if scheme is None else [QuantizationCallback(scheme, begin=0.3)],
    )
    weights = dict(trainer.model.named_parameters())
    trainer.train()
    end = {
        "weights": torch.cat([weight.detach().reshape(-1) for weight in weights.values()]).tolist(),
        "record": getattr(trainer.model.config, "compression", None),
    }
    gathered = [end] * PROCESSES
    if launched:
        dist.all_gather_object(gathered, end)
    return gathered


def from_its_start(folder: Path) -> dict[str, Any]:
    """What a start that is pruned at once is measured to be, what some rates make of it, and what is kept of both."""
    trainer = AlignedDistillationTrainer(
        tiny.bert(seed=1),
        arguments(
            folder,
            batch=8,
            per_device_eval_batch_size=3,
            learning_rate=1.0,  # it undoes the start
            eval_steps=5,
            save_steps=5,
            load_best_model_at_end=True,
        ),
        teacher=tiny.bert(seed=1),
        train_dataset=tiny.texts(40),
        eval_dataset=tiny.texts(EVALUATED, seed=5),
        callbacks=[PruningCallback(0.5, schedule="constant")],
    )
    found = suggest_learning_rate(trainer, rates=[0.01, 0.1], steps=3)
    trainer.train()
    return {
        "compared": [(trial.mismatches, trial.n) for trial in (found.start, *found.trials)],
        "errors": [trial.logit_error for trial in (found.start, *found.trials)],
        "best": [trainer.state.best_global_step, trainer.state.best_metric],
        "parameters": tiny.flat(trainer.model).tolist(),
    }


if __name__ == "__main__":
    output = Path(sys.argv[1])
    results = {
        "aligned": {weighting: run(output / weighting, weighting) for weighting in WEIGHTINGS},
        "from its start": from_its_start(output / "start"),
        "inside": {name: about_the_inside(output / name, name) for name in INSIDE},
        "every task": {name: every_task(output / name, name) for name in CASES},
        "quantized": {scheme: quantized(output / scheme, scheme) for scheme in SCHEMES},
    }
    if results["aligned"]["fixed"]["writes"]:
        (output / "results.json").write_text(json.dumps(results))
    leave_group()
