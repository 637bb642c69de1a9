"""Which function works with which type of model: docs/architectures.md, from tiny models with random weights.

python benchmarks/architectures.py [--types bert vit] [--page docs/architectures.md]

Without --types all of them, which takes some ten minutes on one core. A cell is "works" where the function's result was
checked, as the page says; "refused" where a ValueError or ImportError of hf_compalign says why; "untested" where there
was not enough time. Anything else "fails": it is a fault, is printed, and lets the script end with 1.
"""

import argparse
import contextlib
import io
import logging
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import tiny_models as tiny
import torch
import transformers
from architecture_checks import COLUMNS, Case
from datasets import disable_progress_bars

import hf_compalign
from hf_compalign.compress.export import onnx

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
WORKS, REFUSED, UNTESTED, FAILS = "works", "refused", "untested", "fails"


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
