"""How long an audit takes: the predictions, and every statistic over a million items, with its seconds and memory.

python benchmarks/audit_speed.py predict --checkpoint FOLDER --data SST2 [--rounds 5]
python benchmarks/audit_speed.py compare [--items 1000000] [--classes 1000] [--resamples 1000] [--masked 0]

predict: the throughput of `predict` on the 872 sentences of SST-2, once tokenized before and once as texts, over that
of a bare forward loop on the same batches, collated beforehand; in turn, and the median of the rounds' ratios.

compare: two models' full logits (random, half floats, 2 GB each at a million items over a thousand classes) are
compared in memory: by one call of `audit` with limits, eight groups and a floor, and then statistic by statistic. The
making of the logits is not timed, but counts for the peak of memory; the re-run that is the floor has the candidate's,
so as not to need more. The library uses two threads; the seconds of the processors are those of all threads, which
other work on the machine hardly changes. --masked N masks the first N items out.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from hf_compalign import predict
from hf_compalign.data import load_file, tokenized
from hf_compalign.measure.audit import audit
from hf_compalign.measure.groups import GroupOptions, audit_groups
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import (
    Cells,
    ItemScores,
    calibration_shift,
    cie_ratio,
    class_bias,
    mismatches_by_margin,
    per_class,
    predicted_frequencies,
    proportions,
    seed_floor,
)

ROWS = 10_000  # made at a time
BATCH = 32


def random_logits(n: int, classes: int, labels: Any, noise: float) -> Any:
    """Half floats [n, classes] that favor the label; two calls differ by noise, more where it is larger."""
    found = np.empty((n, classes), dtype=np.float16)
    noises = np.random.default_rng(1 + int(100 * noise))
    for start in range(0, n, ROWS):
        here = slice(start, min(start + ROWS, n))
        shape = (here.stop - here.start, classes)
        logits = np.random.default_rng([0, start]).standard_normal(shape, dtype=np.float32)
        logits += noise * noises.standard_normal(shape, dtype=np.float32)
        logits[np.arange(len(logits)), labels[here]] += 3
        found[here] = logits
    return found


def peak_gigabytes() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Stopwatch:
    """Runs things by name and keeps how many seconds each took, by the clock and of the processors."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    def run(self, name: str, function: Callable[[], Any]) -> Any:
        """What the function returns."""
        began = time.perf_counter(), time.process_time()
        found = function()
        self.seconds[name] = time.perf_counter() - began[0], time.process_time() - began[1]
        return found


def statistics(
    reference: Predictions, candidate: Predictions, groups: list[tuple[str, ...]], options: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every statistic of an audit over the two, by name."""
    classes, often = options.classes, {"n_resamples": options.resamples}
    drawn = GroupOptions(n_resamples=options.resamples)
    found: dict[str, Any] = {}

    def answers() -> None:
        moved = candidate.aligned_to(reference)
        found["answers"] = (reference.predicted, moved.predicted, reference.labels)

    def scores() -> None:
        found["scores"] = ItemScores.of(reference.logits, candidate.logits, reference.labels)

    yield "pair items, find answers", answers
    first, second, labels = found["answers"]
    yield "cells and rates", lambda: (Cells.count(first, second, labels), proportions(first, second, labels))
    yield "rates per class", lambda: per_class(first, second, labels, classes)
    yield "scores per item: KL, JS, NLL, Brier, margins", scores
    at = found["scores"]
    yield "calibration, resampled", lambda: calibration_shift(first, second, labels, at, **often)
    yield "mismatches by margin", lambda: mismatches_by_margin(first, second, at.reference_margin)
    yield "class frequencies and their tests", lambda: predicted_frequencies(first, second, classes)
    yield "class bias", lambda: class_bias(first, second, labels, classes)
    yield "floor, resampled", lambda: seed_floor(first, second, np.roll(second, 1), **often)
    yield "CIE ratio, resampled", lambda: cie_ratio(first, np.roll(second, 1), second, **often)
    of = {"group": groups}
    yield "8 groups, resampled", lambda: audit_groups(first, second, labels, of, n_classes=classes, options=drawn)


def compare(options: argparse.Namespace) -> Table:
    """Time the audit and every statistic over random logits."""
    n, classes, watch = options.items, options.classes, Stopwatch()
    labels = np.random.default_rng(0).integers(0, classes, size=n)
    logits = [random_logits(n, classes, labels, noise) for noise in (0.0, 0.2)]
    ids, names = np.arange(n).astype(str), tuple(f"class {label}" for label in range(classes))
    groups = [(f"group {group}",) for group in np.random.default_rng(9).integers(0, 8, size=n).tolist()]
    mask = np.arange(n) >= options.masked
    made = peak_gigabytes()

    def checked() -> list[Predictions]:
        return [Predictions(one, labels, ids, names, mask) for one in logits]

    reference, candidate = watch.run("check both models' predictions", checked)
    whole, rerun = Stopwatch(), Predictions(logits[1], labels, ids, names, mask)
    limits = {"mismatch_rate": 0.5, "group_mismatch_gap": 0.5}
    whole.run(
        "one call of audit, with groups and a floor",
        lambda: audit(reference, candidate, groups=groups, limits=limits, floor=rerun),
    )
    peak = peak_gigabytes()
    for name, function in statistics(*checked(), groups, options):
        watch.run(name, function)
    title = f"{n:,} items, {classes:,} classes, {options.resamples:,} resamples, {os.cpu_count()} cores"
    caption = f"peak memory {peak:.2f} GiB, {made:.2f} GiB of it to make and hold the logits"
    table = Table("statistic", "seconds", "of processors", title=title, caption=caption)
    for name, (seconds, busy) in watch.seconds.items():
        table.add_row(name, f"{seconds:.2f}", f"{busy:.2f}")
    table.add_section()
    table.add_row("in all", *(f"{sum(column):.1f}" for column in zip(*watch.seconds.values(), strict=True)))
    for name, (seconds, busy) in whole.seconds.items():
        table.add_row(name, f"{seconds:.1f}", f"{busy:.1f}")
    return table


def predictions(options: argparse.Namespace) -> Table:
    """Time `predict` and a bare loop, in turn."""
    model = AutoModelForSequenceClassification.from_pretrained(options.checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    texts = load_file(options.data / "validation.parquet").select_columns(["sentence", "label"])
    rows = tokenized(texts, tokenizer, ("sentence",)).remove_columns("sentence")
    collator = DataCollatorWithPadding(tokenizer)
    features = [{name: row[name] for name in row if name != "label"} for row in rows]
    batches = [collator(features[start : start + BATCH]) for start in range(0, len(features), BATCH)]

    def bare() -> Any:
        with torch.no_grad():
            return torch.cat([model(**batch).logits for batch in batches]).numpy()

    runs = {
        "bare loop": bare,
        "predict, tokenized": lambda: predict(model, rows, processing_class=tokenizer, batch_size=BATCH).logits,
        "predict, texts": lambda: predict(model, texts, processing_class=tokenizer, batch_size=BATCH).logits,
    }
    wanted = bare()
    for name, run in runs.items():
        if not np.array_equal(run(), wanted):
            raise RuntimeError(f"{name} gives other logits.")
    watches = [Stopwatch() for _ in range(options.rounds)]
    for watch in watches:
        for name, run in runs.items():
            watch.run(name, run)
    seconds = {name: np.array([watch.seconds[name][0] for watch in watches]) for name in runs}
    title = f"{len(rows)} rows, batches of {BATCH}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    table = Table("", "seconds", "throughput / bare loop", "lowest and highest", title=title)
    for name, found in seconds.items():
        ratios = seconds["bare loop"] / found
        ends = f"{ratios.min():.3f} to {ratios.max():.3f}"
        table.add_row(name, f"{np.median(found):.2f}", f"{np.median(ratios):.3f}", ends)
    return table


PARTS = {"compare": compare, "predict": predictions}


def main() -> None:
    """Time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    for name, default in (("items", 1_000_000), ("classes", 1000), ("resamples", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--masked", type=int, default=0, help="compare: how many items are masked out")
    parser.add_argument("--checkpoint", help="predict: a fine-tuned classifier of two classes")
    parser.add_argument("--data", type=Path, help="predict: the folder of validation.parquet")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    Console().print(PARTS[options.part](options))


if __name__ == "__main__":
    main()
