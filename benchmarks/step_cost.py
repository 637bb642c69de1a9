"""What alignment costs: median time of an optimizer step against the stock Trainer's, side by side in one run.

python benchmarks/step_cost.py [--dropout 0.0] [--rounds 6] [--steps 12] [--batch_size 16] [--length 64] [--layers 6]

The trainings take turns, round after round, on the same batches and from the same weights, so that whatever
else the machine does hits all of them alike. The model is the shape of MiniLM-L6 (22.7 M parameters) with random
weights: how long a step takes does not depend on them. Dropout is 0 for all, so that the ratios are the cost of
alignment alone; attention maps also cost the slower attention that returns them. With --dropout 0.1 the stock Trainer
pays for it and the aligned one, which switches it off, does not.
"""

import argparse
import copy
import statistics
import tempfile
import time
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_compalign import (
    AlignedDistillationTrainer,
    AlignmentArguments,
    WeightAveragingCallback,
    cache_teacher_logits,
    suggest_learning_rate,
)

EAGER = "live teacher, attention maps, both eager"
SKIPPED = 2  # the first steps of a round warm the caches up


class StepTimes(TrainerCallback):
    """Seconds of every optimizer step, from the end of the one before: its batches are made, the weights updated."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._synchronize()
        self._began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it, and start it again."""
        self._synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._began)
        self._began = now

    def _synchronize(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def build_model(dropout: float, layers: int = 6, attention: str = "sdpa") -> BertForSequenceClassification:
    """A model of MiniLM-L6's shape."""
    torch.manual_seed(0)
    shape = {"hidden_size": 384, "num_hidden_layers": layers, "num_attention_heads": 12, "intermediate_size": 1536}
    drops = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    return BertForSequenceClassification(BertConfig(**shape, **drops, attn_implementation=attention))


def rows(n: int, length: int, vocabulary: int) -> Dataset:
    """Random token ids, all of one length."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, vocabulary, size=(n, length))
    columns = {"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()}
    return Dataset.from_dict(columns | {"labels": rng.integers(0, 2, size=n).tolist()})


def timed(make: Any, model: Any, steps: int, batch_size: int, folder: str) -> list[float]:
    """Train a copy of the model for some steps; the seconds of each but the first."""
    times = StepTimes()
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        bf16=torch.cuda.is_available(),
    )
    trainer = make(copy.deepcopy(model), arguments)
    trainer.add_callback(times)
    trainer.train()
    return times.seconds[SKIPPED:]


def after_every_step() -> WeightAveragingCallback:
    """The average that costs most."""
    return WeightAveragingCallback("ema", begin=0.0)


def suggestion(make: Any, model: Any, options: argparse.Namespace, step: float) -> str:
    """What `suggest_learning_rate` costs, in steps of the training that it is for, each of so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(copy.deepcopy(model), TrainingArguments(folder, per_device_train_batch_size=options.batch_size))
        trainer.eval_dataset = trainer.train_dataset
        began = time.perf_counter()
        found = suggest_learning_rate(trainer, steps=options.steps)
        seconds = time.perf_counter() - began
    return (
        f"suggest_learning_rate with {options.steps} steps at each of {len(found.trials)} rates, and "
        f"{len(trainer.eval_dataset)} rows to evaluate on: as long as {seconds / step:.0f} steps"
    )


def median_of_all(rounds: list[list[float]]) -> float:
    """The median step over all rounds."""
    return statistics.median(chain.from_iterable(rounds))


def main() -> None:
    """Time, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dropout", type=float, default=0.0)
    for name, default in (("rounds", 6), ("steps", 12), ("batch_size", 16), ("length", 64), ("layers", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()

    model, teacher = (build_model(options.dropout, options.layers) for _ in range(2))
    eager, eager_teacher = (build_model(options.dropout, options.layers, "eager") for _ in range(2))
    dataset = rows(options.steps * options.batch_size, options.length, model.config.vocab_size)
    cached = cache_teacher_logits(dataset, teacher, batch_size=options.batch_size)
    aligned = {
        "cached teacher": {"train_dataset": cached},
        "live teacher, logits alone": {"teacher": teacher, "alignment": AlignmentArguments(preset="logits")},
        "live teacher": {"teacher": teacher},
        "two live teachers": {"teacher": [teacher, build_model(options.dropout, options.layers)]},
        "live teacher, input gradients": {"teacher": teacher, "alignment": AlignmentArguments(attribution_weight=1.0)},
        EAGER: {"teacher": eager_teacher, "alignment": AlignmentArguments(attention_weight=1.0)},
        "live teacher, transfer 0.5": {"teacher": teacher, "alignment": AlignmentArguments(transfer=0.5)},
        "live teacher, averaged": {"teacher": teacher, "callbacks": [after_every_step()]},
    }
    kinds: dict[str, Any] = {"stock Trainer": partial(Trainer, train_dataset=dataset)}
    for name, more in aligned.items():
        kinds[f"aligned, {name}"] = partial(AlignedDistillationTrainer, **({"train_dataset": dataset} | more))
    times: dict[str, list[list[float]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            order = list(kinds) if turn % 2 == 0 else list(reversed(kinds))
            for name in order:
                own = eager if name == f"aligned, {EAGER}" else model
                times[name].append(timed(kinds[name], own, options.steps, options.batch_size, folder))

    stock = times["stock Trainer"]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    size = f"batch {options.batch_size} x {options.length} tokens, dropout {options.dropout}"
    title = f"{size}, {options.rounds} rounds of {options.steps} steps, {device}"
    table = Table("training", "median step", "ratio", "lowest and highest round", title=title)
    for name, rounds in times.items():
        ratios = [statistics.median(r) / statistics.median(s) for r, s in zip(rounds, stock, strict=True)]
        overall = median_of_all(rounds) / median_of_all(stock)
        row = f"{1000 * median_of_all(rounds):.1f} ms", f"{overall:.3f}", f"{min(ratios):.3f} to {max(ratios):.3f}"
        table.add_row(name, *row)
    console = Console()
    console.print(table)
    console.print(
        suggestion(kinds["aligned, live teacher"], model, options, median_of_all(times["aligned, live teacher"]))
    )


if __name__ == "__main__":
    main()
