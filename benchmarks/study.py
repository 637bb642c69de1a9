"""The study: one declarative grid of settings, compressions and arms; one run each; one page of results.

TQDM_DISABLE=1 python benchmarks/study.py run --preset cpu --checkpoint MINILM --data DATA --output OUT [--worker 0/2]
    [--settings digits sst2] [--compressions obs-50 int8] [--arms ce logits] [--seeds 0 1 2]
python benchmarks/study.py report --output OUT --page docs/results.md

`run` goes through the cells of the preset and skips what is done; it can be stopped at any time. Start it several
times at once, and the processes share the work: each takes what no other is at. On several GPUs, start some for each,
with CUDA_VISIBLE_DEVICES; where they cannot see each other's files, --worker 0/2 takes every second cell. `report`
writes the tables, the sentences and the plots between the marks of the page from the runs that there are.

All arms of a cell start from the same compressed model, and see the same rows in the same order for as many steps; the
zeros, the cuts or the rounding are held. Each arm has its own best learning rate. The rule, set before any run: an arm
chooses from the preset's list, once for a setting and kind of compression, by the fewest mismatches on the validation
part with seed 0; at 50 % for magnitude and for obs. Ties go to the lower KL divergence, then to the lower rate. Test
parts are for the report alone.
"""

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import study_records
import study_report
import torch
from study_grid import ARMS, COMPRESSIONS, PRESETS, Cell, Plan, cells
from study_records import Busy
from study_runs import Bench, Place
from study_settings import SETTINGS, Sources
from transformers.utils import logging

PAUSE = 2.0  # seconds, while other processes make all that is left


def plans_of(options: argparse.Namespace) -> dict[str, Plan]:
    """The preset's plans, narrowed to what was asked for.

    Raises:
        ValueError: a name that there is not, or a setting that lacks an option.
    """
    known = {"settings": SETTINGS, "compressions": COMPRESSIONS, "arms": ARMS}
    (preset,) = _checked("preset", [options.preset], PRESETS)
    wanted = {name: _checked(name, getattr(options, name), allowed) for name, allowed in known.items()}
    plans = PRESETS[preset]
    plans = {name: plans[name] for name in _checked("settings", wanted["settings"] or plans, plans)}
    for name in plans:
        missing = [f"--{need}" for need in SETTINGS[name].needs if getattr(options, need) is None]
        if missing:
            raise ValueError(f"The setting {name} needs {' and '.join(missing)}. Give it, or choose other --settings.")
    narrowed = {name: tuple(wanted[name]) for name in ("compressions", "arms") if wanted[name]}
    if narrowed:  # what was asked for is run everywhere
        narrowed |= {"further": (), "few": ()}
    return {name: replace(plan, **narrowed) for name, plan in plans.items()}


def _checked(option: str, wanted: Sequence[str] | None, allowed: Sequence[str]) -> Sequence[str]:
    unknown = [name for name in wanted or () if name not in allowed]
    if unknown:
        raise ValueError(f"--{option} must be of {', '.join(allowed)}. Got {', '.join(unknown)}.")
    return wanted or ()


def worker_of(text: str) -> slice:
    """Which cells a worker takes, from "i/n".

    Raises:
        ValueError: there is no such worker.
    """
    first, _, n = text.partition("/")
    if not (first.isdecimal() and n.isdecimal() and int(first) < int(n)):
        raise ValueError(f"--worker must be i/n with 0 <= i < n, such as 0/2 and 1/2. Got {text!r}.")
    return slice(int(first), None, int(n))


class Runner:
    """Makes the runs of cells."""

    def __init__(self, options: argparse.Namespace, plans: dict[str, Plan]) -> None:
        self.options, self.plans = options, plans
        self._benches: dict[tuple[str, int], Bench] = {}

    def bench(self, setting: str, seed: int) -> Bench:
        """Where the runs of a setting and a seed are made."""
        plan = self.plans[setting]
        key = (setting, seed if plan.own_references else 0)
        if key not in self._benches:
            sources = Sources(self.options.checkpoint, self.options.data, plan.train_rows, plan.test_rows)
            place = Place(self.options.output, sources, self.options.preset)
            self._benches[key] = Bench(place, setting, plan, key[1])
        return self._benches[key]

    def all(self, wanted: Sequence[Cell]) -> None:
        """Make the runs of the cells; what another process is at comes later, or is found done then."""
        while wanted:
            postponed = []
            for cell in wanted:
                try:
                    self.run(cell)
                except Busy:
                    postponed.append(cell)
            if len(postponed) == len(wanted):
                time.sleep(PAUSE)
            wanted = postponed

    def run(self, cell: Cell) -> None:
        """Make a run unless it is there.

        Raises:
            Busy: another process makes it, or what it needs.
        """
        if ARMS[cell.arm].trainer is not None and cell.learning_rate is None:
            cell = replace(cell, learning_rate=self.rate(cell))
        there = study_records.path_of(self.options.output, cell).is_file()
        found = self.bench(cell.setting, cell.seed).run(cell)
        if there:
            return
        metrics = next(reversed(found.parts.values())).metrics
        rate = "" if cell.learning_rate is None else f", {cell.learning_rate:g}"
        told = f"{cell.setting}, seed {cell.seed}, {cell.compression}, {cell.arm}{rate}"
        print(f"{told}: {metrics['cie']:.0f} mismatches, {found.about['seconds']:.0f} s", flush=True)

    def rate(self, cell: Cell) -> float:
        """The learning rate of an arm: what the rule chooses, once the runs are there that it takes."""
        compression = COMPRESSIONS[cell.compression]
        rates = self.plans[cell.setting].rates_of(compression.kind)
        tries = [Cell(cell.setting, 0, compression.chosen_on, cell.arm, rate) for rate in rates]
        runs = [self.bench(cell.setting, 0).run(one) for one in tries]
        return study_records.best(runs).recipe["learning_rate"]


def run(options: argparse.Namespace) -> None:
    """Make the runs that are missing."""
    plans = plans_of(options)
    mine = worker_of(options.worker)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    wanted = [*cells(plans, options.seeds)]
    for name in {cell.arm for cell in wanted if _lacks(cell.arm)}:
        print(f"The arm {name} is left out: {ARMS[name].package} is not installed.")
    Runner(options, plans).all([cell for cell in wanted if not _lacks(cell.arm)][mine])


def _lacks(arm: str) -> bool:
    package = ARMS[arm].package
    return bool(package) and importlib.util.find_spec(package) is None


def report(options: argparse.Namespace) -> None:
    """Write the page."""
    study_report.write_page(options.page, options.output)


def parser() -> argparse.ArgumentParser:
    """The two commands."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = found.add_subparsers(required=True)
    make = commands.add_parser("run", help="make the runs that are missing")
    make.set_defaults(command=run)
    make.add_argument("--preset", default="cpu", help=", ".join(PRESETS))
    make.add_argument("--checkpoint", help="the pretrained encoder of the texts: a folder or a Hub id")
    make.add_argument("--data", type=Path, help="folder of the data sets, each a folder of parquet files")
    make.add_argument("--settings", nargs="+", help=", ".join(SETTINGS))
    make.add_argument("--compressions", nargs="+", help=", ".join(COMPRESSIONS))
    make.add_argument("--arms", nargs="+", help=", ".join(ARMS))
    make.add_argument("--seeds", type=int, nargs="+", help="by default 0, 1, ... as many as the preset has")
    make.add_argument("--worker", default="0/1", help="i/n: take every n-th cell from the i-th on")
    make.add_argument("--threads", type=int, default=1, help="of torch")
    make.add_argument("--output", type=Path, required=True, help="where models and runs are")
    page = commands.add_parser("report", help="write the page from the runs that there are")
    page.set_defaults(command=report)
    page.add_argument("--output", type=Path, required=True, help="where the runs are")
    page.add_argument("--page", type=Path, required=True, help="a Markdown file with the marks of the study")
    return found


def main() -> None:
    """Run one of the commands; an error of the user's is told in a line."""
    options = parser().parse_args()
    try:
        options.command(options)
    except ValueError as error:
        sys.exit(f"study.py: {error}")


if __name__ == "__main__":
    main()
