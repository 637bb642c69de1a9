"""Which function works with which type of model: docs/architectures.md, from tiny models with random weights.

python benchmarks/architectures.py [--types bert vit] [--page docs/architectures.md]

Without --types all of them, which takes some ten minutes on one core. A cell is "works" where the function's result was
checked, as the page says; "refused" where a ValueError or ImportError of hf_compalign says why; "untested" where there
was not enough time. Anything else "fails": it is a fault, is printed, and lets the script end with 1.
"""

import argparse
import contextlib
import copy
import io
import logging
import math
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tiny_models as tiny
import torch
import transformers
from datasets import Dataset, disable_progress_bars
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainingArguments

import hf_compalign
from hf_compalign import AlignedDistillationTrainer, export_onnx, load_compressed, predict, prune_, quantize_, shrink_
from hf_compalign.compress import prunable_weights
from hf_compalign.compress.export import onnx
from hf_compalign.compress.quantize import quantization_of
from hf_compalign.compress.shrink import mask_
from hf_compalign.measure.attribution import AttributionOptions, explain
from hf_compalign.measure.predictions import reader_of
from hf_compalign.models import default_collator, input_names, known_inputs

PAGE = Path("docs/architectures.md")
INTRODUCTION = """# Architectures

What works with which type of model, tried with {n} types that transformers has, each a tiny model with random weights
and a classification head ({versions}). `make architectures` writes this page. A cell says

- works: the function did what the table below says, and that was checked;
- refused: an error says why, and what to do instead;
- untested: there was not enough time.

Random weights show that a function computes what it says, not what it costs in answers: for that, `audit` your model.

| column | what was checked |
|---|---|"""
SECONDS = 60  # for each cell
ROUNDING = 1e-4  # of the largest logit
WORKS, REFUSED, UNTESTED, FAILS = "works", "refused", "untested", "fails"


class WrongError(Exception):
    """A function gave another result than it promises."""


def check(holds: Any, what: str) -> None:
    if not holds:
        raise WrongError(what)


@dataclass(frozen=True)
class Case:
    """A tiny model of a type, with rows."""

    kind: str

    def model(self, seed: int = 0) -> PreTrainedModel:
        """Built anew."""
        return tiny.build(self.kind, seed=seed)

    @property
    def processor(self) -> Any:
        """The tokenizer or image processor."""
        return tiny.processor(self.kind)

    @property
    def rows(self) -> Dataset:
        """Raw texts or images."""
        return tiny.rows(self.kind)

    def prepared(self, model: PreTrainedModel) -> Dataset:
        """The rows as the model reads them, labels too."""
        read = reader_of(model, self.rows, processing_class=self.processor).prepared(self.rows)
        known = input_names(model)
        inputs = ({name: value for name, value in row.items() if name in known} for row in read)
        return Dataset.from_list(list(inputs)).add_column("labels", self.rows["label"])

    def batches(self, model: PreTrainedModel) -> DataLoader:
        """The rows in batches, to calibrate with."""
        return DataLoader(self.prepared(model), 4, collate_fn=default_collator(self.processor))

    def logits(self, model: Any, batch_size: int = 12) -> np.ndarray:
        """What a model or file answers, checked."""
        found = predict(model, self.rows, processing_class=self.processor, batch_size=batch_size).logits
        check(found.shape == (len(self.rows), tiny.N_LABELS), f"logits of the shape {found.shape}")
        check(np.isfinite(found).all(), "logits that are not finite")
        return found


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def heads(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The matrices that make the logits."""
    return {
        name: value.clone()
        for name, value in model.named_parameters()
        if value.ndim > 1 and tiny.N_LABELS in value.shape
    }


def predicts(case: Case) -> None:
    """The logits are those of the model's own forward pass."""
    model = case.model()
    found = case.logits(model)
    batch = next(iter(DataLoader(case.prepared(model), 12, collate_fn=default_collator(case.processor))))
    with torch.no_grad():
        own = model(**known_inputs(model, batch)).logits
    check(apart(found, own.numpy()) < ROUNDING, "other logits than those of the model")


def aligns(case: Case) -> None:
    """Three steps of training with a teacher: losses are finite, and every layer that has a gradient moves."""
    model, teacher = case.model(), case.model(seed=1)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1, use_cpu=True
        )
        trainer = AlignedDistillationTrainer(
            model,
            args,
            teacher=teacher,
            train_dataset=case.prepared(model),
            eval_dataset=case.prepared(model),
            data_collator=default_collator(case.processor),
        )
        trainer.train()
        found = trainer.evaluate()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line] + [found["eval_loss"]]
    check(len(losses) == 4 and np.isfinite(losses).all(), f"losses of {losses}")
    check(0 <= found["eval_mismatch_rate"] <= 1, "no mismatch rate")
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    check({*heads(model)} <= moved and len(moved) > len(before) / 2, "weights that did not move")


def prunes(case: Case, **options: Any) -> None:
    """Half of the weights of the layers are 0, the head is as it was, and the answers are finite."""
    model = case.model()
    before = heads(model)
    summary = prune_(model, 0.5, **options)
    for name, value in before.items():
        check(torch.equal(value, model.get_parameter(name)), f"the head {name} was pruned")
    weights = prunable_weights(model)
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    share = zeros / sum(weight.numel() for weight in weights.values())
    check(abs(share - 0.5) < 0.02 and summary.sparsity == share, f"a sparsity of {share:.1%}")
    case.logits(model)


def prunes_obs(case: Case) -> None:
    """The same, with the remaining weights corrected."""
    prunes(case, score="obs", calibration=case.batches(case.model()))


def shrinks(case: Case) -> None:
    """Half of the heads and neurons are gone, and the model answers like the one with them masked; opened again too."""
    model = case.model()
    masked = copy.deepcopy(model)
    summary = shrink_(model, heads=0.5, ffn=0.5)
    mask_(masked, summary.plan)
    check(summary.parameters[1] < summary.parameters[0], "as many parameters as before")
    found = case.logits(model)
    check(apart(found, case.logits(masked)) < ROUNDING, "other answers than the masked model's")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        check(apart(case.logits(load_compressed(folder)), found) < ROUNDING, "other answers when opened again")


def simulated(case: Case) -> PreTrainedModel:
    model = case.model()
    quantize_(model, "onnxruntime-w8a8")
    return model


def quantizes(case: Case) -> None:
    """The logits are near those in float, and the head is not among the quantized layers."""
    model = simulated(case)
    layers = quantization_of(model).layers
    check(not {name.rpartition(".")[0] for name in heads(model)} & {*layers}, "a head that is quantized")
    distance = apart(case.logits(model), case.logits(case.model()))
    check(0 < distance < 0.3, f"logits {distance:.2g} of the largest away from float")


def exports(case: Case) -> None:
    """The ONNX file answers like the model, for other numbers and lengths of rows than it was traced with."""
    model = case.model()
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(model, Path(folder) / "onnx").path
        for size in (1, 5, 12):
            distance = apart(case.logits(path, size), case.logits(model, size))
            check(distance < ROUNDING, f"logits {distance:.2g} of the largest apart in batches of {size}")


def exports_int8(case: Case) -> None:
    """The INT8 file quantizes the layers of the simulation and answers like it: most rows ten times nearer than float.

    A number on the edge between two levels goes one way here and the other way there, and moves its row.
    """
    model = simulated(case)
    with tempfile.TemporaryDirectory() as folder:
        found = export_onnx(model, Path(folder) / "onnx", quantize="dynamic")
        file = case.logits(found.path)
    mine = case.logits(model)
    near, far = (np.abs(other - mine).max(1) for other in (file, case.logits(case.model())))
    check({*found.quantized_layers} == {*quantization_of(model).layers}, "other layers than those of the simulation")
    check(np.median(near / far) < 0.1, f"{np.median(near / far):.2g} times as far from the simulation as float is")


def attributes(case: Case) -> None:
    """Both models have a finite score for each word or cell, and not all are 0."""
    few = case.rows.select(range(4))
    options = AttributionOptions(n_steps=8, batch_size=4)
    found = explain(case.model(), case.model(seed=1), few, processing_class=case.processor, options=options)
    for row, one in zip(few, found, strict=True):
        n = len(row["text"].split()) if "text" in row else math.prod(one.shape)
        for scores in (one.reference, one.candidate):
            check(len(scores) == n and np.isfinite(scores).all() and np.any(scores), f"the scores {scores}")


COLUMNS: dict[str, Callable[[Case], None]] = {
    "predict": predicts,
    "align": aligns,
    "prune": prunes,
    "prune, obs": prunes_obs,
    "shrink": shrinks,
    "INT8, simulated": quantizes,
    "ONNX": exports,
    "ONNX, INT8": exports_int8,
    "attribution": attributes,
}


@dataclass(frozen=True)
class Cell:
    """What came of a function and a type, and why."""

    status: str
    why: str = ""


def tried(function: Callable[[Case], None], case: Case) -> Cell:
    """What comes of a function."""
    try:
        with limited(SECONDS):
            function(case)
    except TimeoutError:
        return Cell(UNTESTED, f"It took more than {SECONDS} s.")
    except Exception as error:
        refused = isinstance(error, (ValueError, ImportError)) and _is_ours(error)
        why = " ".join(str(error).split())
        return Cell(REFUSED, why) if refused else Cell(FAILS, f"{type(error).__name__}: {why}")
    return Cell(WORKS)


def _is_ours(error: BaseException) -> bool:
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return raised_in.is_relative_to(Path(hf_compalign.__file__).parent)


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise a TimeoutError after so many seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


@contextlib.contextmanager
def traced_once() -> Iterator[None]:
    """Trace a model for the float file and keep the graph for INT8, which starts from it: it takes most of the time."""
    trace, kept = onnx.export_graph, []

    def export_graph(model: Any, target: Path) -> None:
        if not kept:
            trace(model, target)
            kept.append(target.read_bytes())
        target.write_bytes(kept[0])

    with mock.patch.object(onnx, "export_graph", export_graph):
        yield


def row_of(kind: str) -> dict[str, Cell]:
    """Column -> what came of it."""
    with traced_once():
        return {column: tried(function, Case(kind)) for column, function in COLUMNS.items()}


def page(table: Mapping[str, Mapping[str, Cell]]) -> str:
    """The page, in Markdown."""
    versions = ", ".join(f"{package.__name__} {package.__version__}" for package in (torch, transformers))
    lines = [INTRODUCTION.format(n=len(table), versions=versions.replace("+cpu", ""))]
    lines += [f"| {column} | {(function.__doc__ or '').splitlines()[0]} |" for column, function in COLUMNS.items()]
    for title, kinds in (("Texts", tiny.TEXT), ("Images", tiny.IMAGE)):
        lines += ["", f"## {title}", "", f"| type | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
        rows = ((kind, table[kind]) for kind in kinds if kind in table)
        lines += [f"| `{kind}` | {' | '.join(row[column].status for column in COLUMNS)} |" for kind, row in rows]
    lines += ["", "## Why", ""]
    for column in COLUMNS:
        reasons: dict[str, list[str]] = {}
        for kind, row in table.items():
            if row[column].status != WORKS:
                reasons.setdefault(_reason(row[column].why), []).append(f"`{kind}`")
        lines += [f"- **{column}** of {', '.join(who)}: {why}" for why, who in reasons.items()]
    return "\n".join([*lines, ""])


def _reason(why: str) -> str:
    """The first sentence of a message, as it is for any class of model, without a list of layers."""
    general = re.sub(r"\w+For(Sequence|Image)Classification\w*", "the model", why)
    general = re.sub(r" \(model type '.*?'\)", "", general)
    first = re.split(r"\. (?=[A-Z])|\.$", general)[0]
    first = re.sub(r" the layers [\w.]+(, [\w.]+)*(?=, but)", " some layers", first)
    first = re.sub(r": [\w.]+(, [\w.]+)*$", "", first)[:300]
    return re.sub(r"[*_`<>|]", lambda sign: f"\\{sign[0]}", first) + "."


def main() -> int:
    """Try everything, write the page, say what fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", default=[*tiny.TEXT, *tiny.IMAGE])
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    disable_progress_bars()
    table = {}
    for kind in options.types:
        started = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            row = table[kind] = row_of(kind)
        print(
            f"{kind}, {time.monotonic() - started:.0f} s: {', '.join(cell.status for cell in row.values())}", flush=True
        )
    options.page.write_text(page(table), encoding="utf-8")
    failed = [
        f"{kind}, {column}: {cell.why}"
        for kind, row in table.items()
        for column, cell in row.items()
        if cell.status == FAILS
    ]
    print("\n".join(failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
