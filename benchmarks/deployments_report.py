"""The page of the deployments benchmark: tables, sentences and pictures, all of them from the records."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tables import head, row

from hf_compalign import Deployments
from hf_compalign._files import read_text, write_text_atomic
from hf_compalign._formats import count, percent
from hf_compalign._tables import as_markdown
from hf_compalign.ship.deployments import Deployment

BEGIN, END = "<!-- deployments -->", "<!-- /deployments -->"
LEAD = """A file changes some answers and saves some time; which to deploy is a choice between the two. All numbers are
of rows that nothing was trained, calibrated, chosen or fitted on. "At most" is the one-sided exact 95 % bound of the
share of changed answers. Times are of one pass over real rows, other ones in each: of all models in turn ("ms"), which
finds the caches filled by others, and of each some in a row ("alone"), as of a model that has the machine for itself;
"times faster" compares the total times of the latter with those of PyTorch in float32. Memory is the growth of a
process that opens and runs the file. Threads idle without spinning. Cut models had no training: neurons and heads are
cut and the rest is corrected by least squares. Deferring pairs have the OpenVINO bf16 file behind them, and their
bytes are those of both files; the thresholds were fitted on the other half of the rows, to hold the pair to its budget.

    python benchmarks/deployments.py run --checkpoint MINILM --data DATA --output OUT
    python benchmarks/deployments.py lengths --checkpoint MINILM --data DATA --output OUT
    python benchmarks/deployments.py report --output OUT --page docs/results.md"""
ORDER = ("sst2", "cifar10", "banking77", "hatexplain", "rte")


def write_page(page: Path, output: Path) -> None:
    """Replace what stands between the marks of the page, and copy the pictures into the folder assets beside it.

    Raises:
        ValueError: the page has no such marks, or there are no records.
    """
    before, begin, rest = read_text(page).partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{page} has no lines {BEGIN} and {END}, one after the other. Add them where the tables go.")
    names = [name for name in ORDER if (output / f"{name}.json").is_file()]
    if not names:
        raise ValueError(f"There are no records in {output}. Make them with: deployments.py run")
    records = {name: _Record(name, output) for name in names}
    lines = [LEAD, "", *_summary(records)]
    for name, record in records.items():
        if record.rows is not None:
            picture = page.parent / "assets" / f"deployments-{name}.svg"
            picture.parent.mkdir(exist_ok=True)
            shutil.copyfile(output / f"{name}.svg", picture)
            lines += ["", f"### {name}", "", f"![Mismatches and speed on {name}](assets/{picture.name})", ""]
            lines += [as_markdown(record.rows.table()), "", f"On {record.rows.machine}."]
        if record.padded is not None:
            lines += ["", f"{record.padded.rows[0].n} of these rows, padded to 128 tokens:", ""]
            lines += [as_markdown(record.padded.table())]
    lines += ["", "### The guarantee", "", *_splits(records)]
    if (output / "lengths.json").is_file():
        lines += ["", "### Where which runtime wins", "", *_lengths(json.loads(read_text(output / "lengths.json")))]
    write_text_atomic(page, "\n".join([before + begin, "", *lines, "", end + after]))


class _Record:
    def __init__(self, name: str, output: Path) -> None:
        self.rows = self._loaded(output / f"{name}-rows.json")
        self.about: Mapping[str, Any] = json.loads(read_text(output / f"{name}.json"))
        self.budget: float = self.about["budget"]
        self.padded = self._loaded(output / f"{name}-128-rows.json")

    @staticmethod
    def _loaded(path: Path) -> Deployments | None:
        return Deployments.load(path) if path.is_file() else None


def _summary(records: Mapping[str, _Record]) -> Iterator[str]:
    for name, record in records.items():
        if record.rows is None:
            continue
        rows, budget = record.rows.rows, f"{100 * record.budget:g} %"
        kept = [one.name for one in rows if _is_pair(one) and one.mismatch_rate_bound <= record.budget]
        wanted = {
            "the fastest file with at most 2 % changed": [
                one.name for one in rows if not _is_pair(one) and one.mismatch_rate <= 0.02
            ],
            f"the fastest pair whose bound is within {budget}": kept,
            f"the fastest pair of a cut INT8 file within {budget}": [
                one for one in kept if "cut" in one and "INT8" in one
            ],
        }
        # Few rows are padded: which file keeps what is judged on all of them.
        for found, where in ((record.rows, name), (record.padded, f"{name}, padded to 128 tokens")):
            for what, names in wanted.items() if found is not None else ():
                yield f"- {where}: {_best(what, [found[one] for one in names])}"


def _is_pair(one: Deployment) -> bool:
    return one.name.endswith("deferring")


def _best(what: str, rows: list[Deployment]) -> str:
    if not rows:
        return f"{what}: there is none."
    best = max(rows, key=lambda one: one.speedup[8].value)
    speeds = " and ".join(f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})" for one in best.speedup.values())
    itself = "" if best.answered_rate == 1 else f", {percent(best.answered_rate, digits=1)} answered by the small file"
    return (
        f"{what} is {best.name}: {speeds} times faster in batches of {' and '.join(map(str, best.speedup))}, "
        f"{best.mismatches} of {count(best.n)} changed (at most {percent(best.mismatch_rate_bound)}){itself}."
    )


def _splits(records: Mapping[str, _Record]) -> Iterator[str]:
    yield (
        "100 thresholds for each file. Broken, population: fitted on as many rows as half of them, drawn with "
        "replacement from all, and judged on all: how often the pair answers a larger share otherwise than the "
        "original than the budget, which is what the guarantee is about; at most 5 may. Broken, other half: "
        "fitted on a random half, judged on the other. That is harder: the other half has chance of its own, and "
        "the more differing rows, the fewer the first had."
    )
    yield ""
    titles = ("budget", "rows", "changed by the small file", "by the one behind", "fitted")
    measured = ("broken, population", "broken, other half", "changed, mean", "answers itself, mean")
    yield head("set", "file", *titles, *measured)
    for name, record in records.items():
        for file, found in record.about["splits"].items():
            counts = [found["n"], found["mismatches"], found["behind"], len(found["pairs"])]
            broken = [f"{_above(found[key], record.budget)} of {len(found[key])}" for key in ("population", "pairs")]
            means = [percent(float(np.mean(found[key]))) if found[key] else "-" for key in ("pairs", "answered")]
            yield row(name, file, f"{100 * record.budget:g} %", *counts, *broken, *means)


def _above(shares: list[float], budget: float) -> int:
    return sum(one > budget for one in shares)


def _lengths(found: Mapping[str, Mapping[str, list[float]]]) -> Iterator[str]:
    names = [*next(iter(found.values()))]
    yield "Milliseconds of PyTorch in float32 (medians, all in turn), and how many times faster the others are:"
    yield ""
    yield head("batch x tokens", *(f"{name}, ms" if name == names[0] else name for name in names))
    for shape, times in found.items():
        first, best = times[names[0]][0], min(time[0] for time in times.values())
        cells = [f"{first / times[name][0]:.2f}" for name in names[1:]]
        cells = [f"**{cell}**" if times[name][0] == best else cell for cell, name in zip(cells, names[1:], strict=True)]
        yield row(shape, f"{first:.1f}", *cells)
