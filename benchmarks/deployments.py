"""Which file to deploy: what each changes of a model's answers, how much faster it is, and what deferral gives.

python benchmarks/deployments.py run --checkpoint MINILM --data DATA --output OUT [--settings sst2 ...] [--runs 40]
python benchmarks/deployments.py lengths --checkpoint MINILM --data DATA --output OUT
python benchmarks/deployments.py report --output OUT --page docs/results.md

For each setting: the fine-tuned original as it is, in PyTorch; its files for ONNX Runtime and OpenVINO in float32,
bfloat16 and INT8; and those of the original with neurons and heads cut, corrected by least squares without training.
Calibration is of training rows. The rows that no training saw are dealt in two: on the first half the thresholds of
deferral are fitted, on the second everything is measured. The original's answers count; a deferring pair is a small
file with the bfloat16 file behind it, and `fit_deferral` holds the small one to a budget against the original.

Rules, written before the runs. Reached: a file (no pair) is at least 4 times as fast as PyTorch in float32 in batches
of 8 and 3 times in batches of 1, with at most 2 % of the answers changed; with deferral the exact 95 % bound on the
second half is at most 1 % at 3.5 times or more; a cut file in INT8 with deferral is 5 times as fast in batches of 8
with that bound. The guarantee: over 100 random halvings, how often does the share of the second half that a fitted
threshold answers otherwise exceed the budget; at most 5 may.

`lengths` times texts of 16, 128 and 512 tokens in batches of 1, 8 and 32. `run` skips what is there. Where a GPU is,
it measures instead what PyTorch has for that: half precision, torch.compile, 2:4 sparse kernels.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import deployments_report
import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from study_grid import PRESETS, Plan, Training
from study_runs import Bench, Place
from study_settings import Sources
from tables import random_tokens
from torch import nn
from torch.sparse import to_sparse_semi_structured
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from hf_compalign import (
    Deferral,
    DeferringModel,
    DeploymentOptions,
    Deployments,
    Predictions,
    compare_deployments,
    export_onnx,
    export_openvino,
    fit_deferral,
    predict,
    prune_,
    shrink_,
)
from hf_compalign.measure.footprint import interleaved_latency_ms
from hf_compalign.opening import load_model
from hf_compalign.report.plots import plot_deployments
from hf_compalign.ship.deferral import sureness

# What the study has no small plan for.
_SHORT = {"rte": Training(210, 5e-5, 32), "hatexplain": Training(430, 5e-5, 32)}
PLANS: dict[str, Plan] = {name: PRESETS["cpu"][name] for name in ("sst2", "cifar10", "banking77")}
PLANS |= {name: replace(PRESETS["gpu"][name], reference=how) for name, how in _SHORT.items()}
# At 1 % a fitting half of RTE is too small for any threshold, which `fit_deferral` says.
BUDGETS = {"rte": 0.03}
BUDGET = 0.01
CALIBRATION_ROWS = 512
CUTS = {"a quarter cut": {"ffn": 0.25, "heads": 0.25}, "half cut": {"ffn": 0.5, "heads": 0.5}}
SPLITS = 100
FALLBACK = "OpenVINO bf16"
LENGTHS, BATCHES = (16, 128, 512), (1, 8, 32)
PADDED, PADDED_ROWS = "sst2", 400
IMAGES = 2000


@dataclass(frozen=True)
class Form:
    """A form of the model: which cut, and what writes the file; None: none, it runs in PyTorch."""

    cut: str = ""
    export: Callable[..., Any] | None = None
    options: tuple[tuple[str, Any], ...] = ()
    calibrated: bool = False


def _openvino(cut: str = "", *, precision: str = "bf16", int8: bool = False) -> Form:
    options = (("precision", precision), *((("quantize", "static"),) if int8 else ()))
    return Form(cut, export_openvino, options, calibrated=int8)


FORMS = {
    "PyTorch": Form(),
    "PyTorch bf16": Form(),
    "ONNX Runtime": Form(export=export_onnx),
    "ONNX Runtime INT8 dynamic": Form(export=export_onnx, options=(("quantize", "dynamic"),)),
    "ONNX Runtime INT8": Form(export=export_onnx, options=(("quantize", "static"),), calibrated=True),
    "OpenVINO": _openvino(precision="f32"),
    FALLBACK: _openvino(),
    "OpenVINO INT8 f32": _openvino(precision="f32", int8=True),
    "OpenVINO INT8 bf16": _openvino(int8=True),
} | {
    f"{cut}, OpenVINO {name}": _openvino(cut, int8=int8)
    for cut in CUTS
    for name, int8 in (("bf16", False), ("INT8 bf16", True))
}
# The small files that get the fallback behind them.
DEFERRING = ("ONNX Runtime INT8", "OpenVINO INT8 bf16", *(name for name in FORMS if "cut" in name))


# What there is instead where a GPU is: form -> (precision, compiled, 2:4 sparse).
ON_GPU = {
    "PyTorch": (torch.float32, False, False),
    "PyTorch bf16": (torch.bfloat16, False, False),
    "PyTorch fp16": (torch.float16, False, False),
    "PyTorch bf16, compiled": (torch.bfloat16, True, False),
    "PyTorch fp16, 2:4": (torch.float16, False, True),
}


class Models:
    """One setting: its original, its rows, and the files, each made once and kept."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        sources = Sources(options.checkpoint, options.data, PLANS[name].train_rows)
        self.name, self.folder = name, options.output / "deployments" / name
        self._bench = Bench(Place(options.output, sources, "deployments"), name, PLANS[name], 0)
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def collator(self) -> Any:
        """Rows -> a batch."""
        return self._bench.data.collator

    @cached_property
    def halves(self) -> tuple[Dataset, Dataset]:
        """The rows that no training saw, dealt in two: to fit on, and to measure on."""
        data = self._bench.data
        # Of SST-2 the unseen phrases alone: the sentences of its test part are other data.
        parts = [data.tests["unseen"]] if "unseen" in data.tests else [data.validation, *data.tests.values()]
        rows = concatenate_datasets(parts).shuffle(seed=0)
        return rows.select(range(len(rows) // 2)), rows.select(range(len(rows) // 2, len(rows)))

    def measured_on(self) -> Dataset:
        """The second half, as any collator takes it: the pixels of images are flat in the study's rows."""
        rows = self.halves[1]
        if "pixel_values" not in rows.column_names:
            return rows
        return rows.select(range(IMAGES)).with_transform(_shaped)

    def original(self) -> PreTrainedModel:
        """A fresh copy."""
        kind = AutoModelForImageClassification if self.name == "cifar10" else AutoModelForSequenceClassification
        return kind.from_pretrained(self._bench.reference).eval()

    def opened(self, name: str) -> Any:
        """A form as a model."""
        form = FORMS[name]
        if form.export is None:
            return self.original().bfloat16() if name.endswith("bf16") else self.original()
        folder = self.folder / name.replace(", ", "-").replace(" ", "-")
        if not folder.is_dir():
            more = {"calibration": self._calibration()} if form.calibrated else {}
            print(form.export(self._cut(form.cut), folder, **dict(form.options), **more), flush=True)
        return load_model(next(file for file in folder.iterdir() if file.suffix in (".onnx", ".xml")))

    def on_gpu(self, name: str) -> PreTrainedModel:
        """One of `ON_GPU`."""
        precision, is_compiled, is_sparse = ON_GPU[name]
        model = self.original()
        if is_sparse:
            prune_(model, 0.5, score="obs", pattern="2:4", calibration=self._calibration())
        model = model.to("cuda", precision)
        if is_sparse:
            for layer in (one for one in model.modules() if isinstance(one, nn.Linear) and min(one.weight.shape) >= 32):
                layer.weight = nn.Parameter(to_sparse_semi_structured(layer.weight), requires_grad=False)
        if is_compiled:
            model.compile()
        return model

    def _calibration(self) -> list[dict[str, torch.Tensor]]:
        return [*self._bench.data.calibration(CALIBRATION_ROWS, seed=0)]

    def _cut(self, cut: str) -> PreTrainedModel:
        model = self.original()
        if cut:
            shrink_(model, **CUTS[cut], calibration=self._calibration())
        return model

    def answers(self, name: str) -> tuple[Predictions, Predictions]:
        """Of a form, on both halves; kept."""
        found = []
        for half, rows in enumerate(self.halves):
            path = self.folder / "answers" / f"{name}-{half}.npz"
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                predict(self.opened(name), rows, data_collator=self.collator, batch_size=32).save(path)
            found.append(Predictions.load(path))
        return found[0], found[1]


def _shaped(batch: dict[str, Any]) -> dict[str, Any]:
    pixels = torch.as_tensor(np.stack(batch["pixel_values"]), dtype=torch.float32)
    return {"pixel_values": [*pixels.view(-1, 3, 32, 32)], "labels": [int(label) for label in batch["labels"]]}


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
            deferrals[name] = fit_deferral(models.answers("PyTorch")[0], models.answers(name)[0], budget=budget)
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
    found: dict[str, Any] = {
        "n": len(reference),
        "mismatches": int(differ.sum()),
        "shares": [],
        "pairs": [],
        "answered": [],
        "population": [],
    }
    rng = np.random.default_rng(0)
    for _ in range(SPLITS):
        order = rng.permutation(len(reference))
        fitting, rest = order[: len(order) // 2], order[len(order) // 2 :]
        sure = _sure(reference, candidate, fitting, budget)
        if sure is not None:
            found["shares"].append(float((sure & differ)[rest].mean()))
            found["pairs"].append(float(np.where(sure, differ, behind)[rest].mean()))
            found["answered"].append(float(sure[rest].mean()))
        sure = _sure(reference, candidate, rng.integers(len(order), size=len(fitting)), budget)
        if sure is not None:
            found["population"].append(float((sure & differ).mean()))
    return found


def _sure(reference: Predictions, candidate: Predictions, rows: np.ndarray, budget: float) -> np.ndarray | None:
    """Which of all rows the candidate answers itself, by a threshold fitted on some; None where there is none."""
    try:
        rule = fit_deferral(_rows(reference, rows), _rows(candidate, rows), budget=budget)
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
