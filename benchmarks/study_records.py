"""The records of the study: one JSON file for each run, whole or not there, and what is chosen by them."""

import fcntl
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from study_grid import COMPRESSIONS, Cell

from hf_compalign._files import read_record, write_text_atomic

KIND = "hf_compalign.study_run"
FORMAT_VERSION = 1
_LEFTOVER = re.compile(r"\..*\.tmp$")


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of one part of the data.

    Attributes:
        predicted: int [N], a class for each item.
        metrics: against the labels and the reference: accuracy, ece; mismatch_rate, cie, cie_u, agreement, kl.
    """

    predicted: np.ndarray
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Answers":
        """From a record."""
        return cls(np.array(stored["predicted"], dtype=np.int64), stored["metrics"])


@dataclass(frozen=True, eq=False)
class Run:
    """A run that is done.

    Attributes:
        recipe: everything that makes it the run it is.
        about: what else is to know: preset, command, versions, seconds, device.
        parts: the answers by part: validation, test, unseen.
    """

    recipe: Mapping[str, Any]
    about: Mapping[str, Any]
    parts: Mapping[str, Answers]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Run":
        """From a record; a ValueError if something is missing."""
        try:
            parts = {name: Answers.of(part) for name, part in stored["parts"].items()}
            return cls(stored["recipe"], stored["about"], parts)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"It is no whole run: {error!r}.") from error


def path_of(folder: Path, cell: Cell) -> Path:
    """Where the record of a run with a fixed learning rate goes."""
    rate = "" if cell.learning_rate is None else f"-{cell.learning_rate:g}"
    return folder / "runs" / cell.setting / cell.compression / f"{cell.arm}{rate}-seed{cell.seed}.json"


def write(path: Path, recipe: Mapping[str, Any], about: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Write a record; a killed process leaves none."""
    record = {"kind": KIND, "format_version": FORMAT_VERSION, "recipe": recipe, "about": about, "parts": parts}
    write_text_atomic(path, json.dumps(record, separators=(",", ":")) + "\n")


def read(path: Path) -> Run:
    """A record; a ValueError that says what to do if it is damaged."""
    try:
        return read_record(path, Run.of, kind=KIND, version=FORMAT_VERSION, writer="benchmarks/study.py run")
    except ValueError as error:
        raise ValueError(f"{error} Remove {path} to have the run made again.") from error


def done(path: Path, recipe: Mapping[str, Any]) -> Run | None:
    """The run of this recipe; None if it has not been made.

    Raises:
        ValueError: the record is damaged, or that of another recipe.
    """
    if not path.is_file():
        return None
    found = read(path)
    wanted = json.loads(json.dumps(recipe))
    differing = sorted(name for name in {*wanted, *found.recipe} if wanted.get(name) != found.recipe.get(name))
    if differing:
        told = "; ".join(f"{name} is {found.recipe.get(name)}, here {wanted.get(name)}" for name in differing)
        raise ValueError(f"{path} is a run of another recipe: {told}. Give another --output, or remove the file.")
    return found


def read_all(folder: Path) -> Iterator[Run]:
    """All runs of an output folder."""
    for path in sorted((folder / "runs").rglob("*.json")):
        if not _LEFTOVER.match(path.name):
            yield read(path)


def best(runs: Iterable[Run]) -> Run:
    """The run whose learning rate is taken: fewest mismatches on validation, then the lower KL, then the lower rate."""

    def order(run: Run) -> tuple[float, float, float]:
        metrics = run.parts["validation"].metrics
        return metrics["cie"], metrics["kl"], run.recipe["learning_rate"]

    return min(runs, key=order)


def chosen_rates(runs: Iterable[Run]) -> dict[tuple[str, str, str], float]:
    """(setting, kind of compression, arm) -> the learning rate, by the runs of seed 0 on which it is chosen."""
    candidates: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        setting, compression, arm, seed = (run.recipe[name] for name in ("setting", "compression", "arm", "seed"))
        found = COMPRESSIONS[compression]
        if compression == found.chosen_on and seed == 0 and run.recipe["learning_rate"] is not None:
            candidates.setdefault((setting, found.kind, arm), []).append(run)
    return {key: best(found).recipe["learning_rate"] for key, found in candidates.items()}


class Busy(Exception):  # noqa: N818 - no error: another process will have made it soon
    """Another process is making what is needed."""


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """What lies at the path is this process's to make: until the end of the block, or of the process.

    Raises:
        Busy: another process is at it.
    """
    lock = path.with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy from error
        yield
