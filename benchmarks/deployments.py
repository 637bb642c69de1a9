"""Which file to deploy: what each changes of a model's answers, how much faster it is, and what deferral gives.

python benchmarks/deployments.py run --checkpoint MINILM --data DATA --output OUT [--settings sst2 ...] [--runs 40]
python benchmarks/deployments.py lengths --checkpoint MINILM --data DATA --output OUT
python benchmarks/deployments.py report --output OUT --page docs/results.md

For each setting: the fine-tuned original as it is, in PyTorch; its files for ONNX Runtime and OpenVINO in float32,
bfloat16 and INT8; and those of the original with neurons and heads cut, corrected by least squares without training.
Calibration is of training rows. The rows that no training saw are dealt in two: on the first half the thresholds of
deferral are fitted, on the second everything is measured. The original's answers count; a deferring pair is a small
file with the bfloat16 file behind it, and `fit_deferral` holds the pair to a budget against the original.

Rules, written before the runs. Reached: a file (no pair) is at least 4 times as fast as PyTorch in float32 in batches
of 8 and 3 times in batches of 1, with at most 2 % of the answers changed; with deferral the exact 95 % bound on the
second half is at most 1 % at 3.5 times or more; a cut file in INT8 with deferral is 5 times as fast in batches of 8
with that bound. The guarantee: over 100 random halvings, how often does the share of the second half that a fitted
threshold answers otherwise exceed the budget; at most 5 may. Added after the first results: thresholds fitted on rows
drawn from all, and judged on all, since another half of few rows has chance of its own, and the guarantee is about the
population.

`lengths` times texts of 16, 128 and 512 tokens in batches of 1, 8 and 32. `run` skips what is there. Where a GPU is,
it measures instead what PyTorch has for that: half precision, torch.compile, 2:4 sparse kernels.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import deployments_report
import numpy as np
import torch
from deployments_models import DEFERRING, FALLBACK, FORMS, ON_GPU, PLANS, Models
from tables import random_tokens
from transformers.utils import logging

from hf_compalign import (
    Deferral,
    DeferringModel,
    DeploymentOptions,
    Deployments,
    Predictions,
    compare_deployments,
    fit_deferral,
)
from hf_compalign.measure.footprint import interleaved_latency_ms
from hf_compalign.report.plots import plot_deployments
from hf_compalign.ship.deferral import sureness

# At 1 % a fitting half of RTE is too small for any threshold, which `fit_deferral` says.
BUDGETS = {"rte": 0.03}
BUDGET = 0.01
SPLITS = 100
LENGTHS, BATCHES = (16, 128, 512), (1, 8, 32)
PADDED, PADDED_ROWS = "sst2", 400


def run(options: argparse.Namespace) -> None:
    """Measure the settings that are not measured yet."""
    for name in options.settings:
        path = options.output / "deployments" / f"{name}.json"
        if not path.is_file():
            models = Models(name, options)
            print(f"== {name}", flush=True)
            (_measure_on_gpu if torch.cuda.is_available() else _measure)(models, options, path)


def _measure_on_gpu(models: Models, options: argparse.Namespace, path: Path) -> None:
    """What PyTorch itself has for a GPU."""
    candidates = {name: models.on_gpu(name) for name in ON_GPU}
    found = compare_deployments(candidates["PyTorch"], candidates, models.measured_on(), options=_how(models, options))
    print(found, flush=True)
    plot_deployments(found.rows).savefig(path.with_name(f"{models.name}-gpu.svg"))
    found.save(path.with_name(f"{models.name}-gpu-rows.json"))


def _how(models: Models, options: argparse.Namespace) -> DeploymentOptions:
    tokenizer = getattr(models.collator, "tokenizer", None)
    return DeploymentOptions(
        processing_class=tokenizer, n_runs=options.runs, timed_batch_sizes=(1, 8), memory=models.name == PADDED
    )


def _measure(models: Models, options: argparse.Namespace, path: Path) -> None:
    budget = BUDGETS.get(models.name, BUDGET)
    deferrals, refused = {}, {}
    for name in DEFERRING:
        try:
            sides = [models.answers(one)[0] for one in ("PyTorch", name, FALLBACK)]
            deferrals[name] = fit_deferral(*sides[:2], fallback=sides[2], budget=budget)
        except ValueError as error:
            refused[name] = str(error)
    if not options.untimed:
        _compare(models, deferrals, options, path)
    about = {"budget": budget, "refused": refused, "fitted": {name: str(one) for name, one in deferrals.items()}}
    about["splits"] = {name: _broken(models, name, budget) for name in DEFERRING}
    path.write_text(json.dumps(about, indent=1), encoding="utf-8")


def _compare(models: Models, deferrals: Mapping[str, Deferral], options: argparse.Namespace, path: Path) -> None:
    candidates = {name: models.opened(name) for name in FORMS}
    fallback = candidates[FALLBACK]
    candidates |= {
        f"{name}, deferring": DeferringModel(candidates[name], fallback, deferral)
        for name, deferral in deferrals.items()
    }
    found = compare_deployments(
        candidates["PyTorch"],
        candidates,
        models.measured_on(),
        options=_how(models, options),
        progress=lambda line: print(line, flush=True),
    )
    print(found, flush=True)
    plot_deployments(found.rows, limit=BUDGET).savefig(path.with_suffix(".svg"))
    found.save(path.with_name(f"{models.name}-rows.json"))
    if models.name == PADDED:
        _padded(models, candidates, options).save(path.with_name(f"{PADDED}-128-rows.json"))


def _padded(models: Models, candidates: Mapping[str, Any], options: argparse.Namespace) -> Deployments:
    """The same on some rows that are padded to 128 tokens, as a server with fixed shapes does."""
    rows = models.halves[1].select(range(PADDED_ROWS))
    tokenizer = models.collator.tokenizer
    padded = rows.map(lambda row: tokenizer.pad(row, padding="max_length", max_length=128))
    how = replace(_how(models, options), memory=False, n_runs=options.runs // 2)
    found = compare_deployments(candidates["PyTorch"], candidates, padded, options=how)
    print(found, flush=True)
    return found


def _broken(models: Models, name: str, budget: float) -> dict[str, Any]:
    """Over random halvings of all rows, and over draws from all rows as the population: what a threshold lets pass."""
    reference, candidate, fallback = (_joined(models.answers(one)) for one in ("PyTorch", name, FALLBACK))
    differ = candidate.predicted != reference.predicted
    behind = fallback.predicted != reference.predicted
    found: dict[str, Any] = {"n": len(reference), "mismatches": int(differ.sum())}
    found |= {"behind": int(behind.sum()), "pairs": [], "answered": [], "population": []}
    rng = np.random.default_rng(0)
    for _ in range(SPLITS):
        order = rng.permutation(len(reference))
        fitting, rest = order[: len(order) // 2], order[len(order) // 2 :]
        sure = _sure(reference, candidate, fallback, fitting, budget)
        if sure is not None:
            found["pairs"].append(float(np.where(sure, differ, behind)[rest].mean()))
            found["answered"].append(float(sure[rest].mean()))
        sure = _sure(reference, candidate, fallback, rng.integers(len(order), size=len(fitting)), budget)
        if sure is not None:
            found["population"].append(float(np.where(sure, differ, behind).mean()))
    return found


def _sure(
    reference: Predictions, candidate: Predictions, fallback: Predictions, rows: np.ndarray, budget: float
) -> np.ndarray | None:
    """Which of all rows the candidate answers itself, by a threshold fitted on some; None where there is none."""
    try:
        sides = [_rows(one, rows) for one in (reference, candidate, fallback)]
        rule = fit_deferral(*sides[:2], fallback=sides[2], budget=budget)
    except ValueError:
        return None
    threshold = -np.inf if rule.threshold is None else rule.threshold
    return sureness(candidate.logits, rule.score) > threshold


def _joined(halves: tuple[Predictions, Predictions]) -> Predictions:
    first, second = halves
    joined = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("logits", "labels")}
    n = len(joined["labels"])
    return replace(first, **joined, ids=np.arange(n).astype(str), mask=np.ones(n, dtype=bool))


def _rows(one: Predictions, rows: np.ndarray) -> Predictions:
    arrays = {name: getattr(one, name)[rows] for name in ("logits", "labels", "mask")}
    return replace(one, **arrays, ids=np.arange(len(rows)).astype(str))


def lengths(options: argparse.Namespace) -> None:
    """Time texts of several lengths."""
    models = Models("sst2", options)
    candidates = {name: models.opened(name) for name in FORMS if "quarter" not in name}
    found: dict[str, Any] = {}
    for size in BATCHES:
        for length in LENGTHS:
            batch = random_tokens(size, length)
            n_runs = 7 if size * length > 4096 else 20
            times = interleaved_latency_ms({name: (one, batch) for name, one in candidates.items()}, n_runs=n_runs)
            found[f"{size} x {length}"] = {
                name: [one.median_ms, one.low_ms, one.high_ms] for name, one in times.items()
            }
            print(size, length, {name: round(one.median_ms, 2) for name, one in times.items()}, flush=True)
    (options.output / "deployments" / "lengths.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def report(options: argparse.Namespace) -> None:
    """Write the page."""
    deployments_report.write_page(options.page, options.output / "deployments")


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    shared: Mapping[str, Callable[[argparse.Namespace], None]] = {"run": run, "lengths": lengths}
    for name, command in shared.items():
        made = commands.add_parser(name)
        made.set_defaults(command=command)
        made.add_argument("--checkpoint", required=True, help="the pretrained encoder of the texts")
        made.add_argument("--data", type=Path, required=True, help="folder of the data sets")
        made.add_argument("--threads", type=int, default=2, help="of all runtimes")
        made.add_argument("--settings", nargs="+", default=[*PLANS], choices=[*PLANS])
        made.add_argument(
            "--untimed", action="store_true", help="only deferral, of saved answers: the machine need not be quiet"
        )
        made.add_argument("--runs", type=int, default=40, help="timed passes of each")
        made.add_argument("--output", type=Path, required=True, help="where models and results are; the study's may be")
    page = commands.add_parser("report")
    page.set_defaults(command=report)
    page.add_argument("--output", type=Path, required=True)
    page.add_argument("--page", type=Path, required=True, help="a Markdown file with the marks of this benchmark")
    options = parser.parse_args()
    if hasattr(options, "threads"):
        torch.set_num_threads(options.threads)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        warnings.simplefilter("ignore")
    options.command(options)


if __name__ == "__main__":
    main()
