"""The whole demo: all runs, and the folder with its README.md that they leave behind."""

import math
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from hf_compalign._extras import needs_extra
from hf_compalign._files import read_record, write_record
from hf_compalign._folders import staged_folder
from hf_compalign._records import built
from hf_compalign._tables import as_markdown
from hf_compalign.demo import words
from hf_compalign.demo.recipes import Settings, level_name
from hf_compalign.demo.results import FORMAT_VERSION, KIND, summarize
from hf_compalign.demo.training import Run, TrainReference, stages
from hf_compalign.demo.workers import do_all
from hf_compalign.measure.statistics import Estimate
from hf_compalign.report.plots import plot_strengths

RESULTS, PICTURE = "results.json", "curve.png"
# (stage, steps done, steps in all)
Progress = Callable[[str, int, int], None]
_PACKAGES = ("PIL", "matplotlib", "sklearn")
_MOST_PROCESSES = 4  # each takes some 600 MB
_INTRODUCTION = (
    "A small vision transformer learned scikit-learn's handwritten digits (the reference). Copies of it were pruned in "
    "two ways: by magnitude, and by second-order pruning that corrects what remains (obs). Each was then trained twice "
    "from the same weights: with the labels' cross-entropy (CE), as people do, and aligned with the reference."
)
_FILES = {
    "reference/": "the original with its image processor, for `from_pretrained`",
    "S/ce/, S/aligned/, S/obs_ce/, S/obs_aligned/": "the four students of the sparsity S, as above",
    "test.parquet": "the test images with their labels",
    "predictions/": "the logits of all models on the test images, of `start` and `obs_start` before any training too",
    "audits/": "the full audit of each student against the reference",
}


def run_demo(
    output: str | Path,
    *,
    seeds: int = 1,
    settings: Settings | None = None,
    overwrite: bool = False,
    processes: int | None = None,
    prepare: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the demo, and put the models, predictions, audits, results.json and README.md into a folder.

    Nothing appears in the folder before all runs are done.

    Args:
        output: a new or empty folder, or that of a former demo, which is replaced.
        seeds: how often to run everything, the reference included, with the seeds 0, 1, ...
        settings: of every run.
        overwrite: use a folder with other files too; only files of the same names are replaced.
        processes: how many train at once; by default as many as torch would use threads, at most four, and one where
            there is a GPU. The results are the same.
        prepare: called first in every further process.
        progress: called with the stage, the steps done and their total.

    Returns:
        The contents of results.json.

    Raises:
        ValueError: the folder holds something else, or an option is out of range.
        ImportError: scikit-learn, Pillow or matplotlib is not installed.
        ChildProcessError: a process that trains ended by itself.
    """
    started = time.perf_counter()
    settings = settings or Settings()
    _check(seeds, settings)
    with needs_extra("demo", what="The demo"):
        for package in _PACKAGES:
            import_module(package)
    output = Path(output)
    former = _former_entries(output)
    with staged_folder(output, overwrite=overwrite or bool(former), dropped=former) as work:
        runs = [Run(work if seeds == 1 else work / f"seed-{seed}", seed, settings) for seed in range(seeds)]
        tick = _counting(stages(settings, seeds), progress)
        n_processes = _processes() if processes is None else processes
        do_all(map(TrainReference, runs), tick, processes=n_processes, prepare=prepare)
        results = summarize(runs, settings, seconds=time.perf_counter() - started)
        _draw(results, work / PICTURE)
        (work / "README.md").write_text(_readme(results, output), encoding="utf-8")
        results["files"] = sorted([*(entry.name for entry in work.iterdir()), RESULTS])
        write_record(work / RESULTS, results)
    return results


def _check(seeds: int, settings: Settings) -> None:
    if seeds < 1:
        raise ValueError(f"seeds must be 1 or more. Got {seeds}.")
    if not settings.sparsities:
        raise ValueError("There is no sparsity. Give at least one, such as 0.5.")
    for sparsity in settings.sparsities:
        if not 0 < sparsity < 1:
            hint = f" Did you mean {sparsity / 100:g}?" if 1 < sparsity < 100 else ""
            raise ValueError(f"Each sparsity must be between 0 and 1. Got {sparsity}.{hint}")
    names = [level_name(sparsity) for sparsity in settings.sparsities]
    if len(set(names)) < len(names):
        raise ValueError(f"The sparsities must differ. Got {', '.join(names)}.")


def _processes() -> int:
    return 1 if torch.accelerator.is_available() else min(torch.get_num_threads(), _MOST_PROCESSES)


def _counting(steps: Mapping[str, int], progress: Progress | None) -> Callable[[str], None]:
    done: Counter[str] = Counter()

    def tick(stage: str) -> None:
        done[stage] += 1
        if progress is not None:
            progress(stage, done[stage], steps[stage])

    return tick


@dataclass(frozen=True)
class _Former:
    """What a folder's results.json says of the demo that wrote it."""

    files: tuple[str, ...]


def _former_entries(output: Path) -> tuple[str, ...]:
    """The names of what a former demo left in the folder."""
    try:
        found = read_record(
            output / RESULTS, partial(built, _Former), kind=KIND, version=FORMAT_VERSION, writer="hf-compalign demo"
        )
    except (OSError, ValueError):
        return ()
    return found.files


def _draw(results: Mapping[str, Any], path: Path) -> None:
    rates: dict[str, dict[float, Estimate]] = {title: {} for title in words.TITLES.values()}
    ratios: dict[str, dict[float, Estimate]] = {words.TITLES[name]: {} for name in words.AGAINST_BASELINE}
    for level, models in results["by_sparsity"].items():
        for name, title in words.TITLES.items():
            model = models[name]
            rates[title][float(level)] = Estimate(model["mismatch_rate"], *model["mismatch_rate_interval"])
        for name, key in words.AGAINST_BASELINE.items():
            low, high = models[f"{key}_interval"]
            ratios[words.TITLES[name]][float(level)] = Estimate(
                math.inf if models[key] is None else models[key], low, math.inf if high is None else high
            )
    baseline = words.TITLES[words.BASELINE]
    figure = plot_strengths(rates, ratios, n_items=results["n"], strength="pruned weights", baseline=baseline)
    figure.savefig(path, dpi=150)


def _readme(results: Mapping[str, Any], output: Path) -> str:
    seeds, sparsities = results["seeds"], results["by_sparsity"]
    folder, where = ("", "") if len(seeds) == 1 else (f"seed-{seeds[0]}/", " In `seed-N/`, for each seed N:")
    options = {"--output": output, "--seeds": len(seeds), "--sparsities": ",".join(sparsities)}
    command = shlex.join(["hf-compalign", "demo", *(str(word) for option in options.items() for word in option)])
    student = f"{folder}{next(iter(sparsities))}/obs_aligned"
    again = f"hf-compalign audit {folder}reference {student} --dataset {folder}test.parquet"
    parts = [
        "# Pruned models, trained with and without alignment",
        _INTRODUCTION,
        as_markdown(words.main_table(results)),
        f"![Mismatches and their ratios against sparsity]({PICTURE})",
        words.conclusion(results),
        "\n".join(f"- {note}" for note in words.notes(results)),
        "## Before any training",
        as_markdown(words.start_table(results)),
        *(["## Seed by seed", as_markdown(words.seed_table(results))] if len(seeds) > 1 else []),
        f"## Files\n\n`{RESULTS}` has every number above.{where}",
        "\n".join(f"- `{name}`: {text}" for name, text in _FILES.items()),
        f"## Once more\n\nMade in {results['seconds']:.0f} seconds by\n\n```bash\n{command}\n```",
        f"Audit a model again, here in this folder:\n\n```bash\n{again}\n```",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"
