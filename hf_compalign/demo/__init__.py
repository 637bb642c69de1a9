"""The demo: a real data set, a small model, one pruning recovered in two ways, everything kept in a folder."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_compalign._files import write_text_atomic
from hf_compalign.demo.readme import command_of, readme
from hf_compalign.demo.results import KIND, summarise
from hf_compalign.demo.run import Progress, Settings, run_once

RESULTS = "results.json"
_UNFINISHED = ".unfinished-demo-"


def run_demo(
    output: str | Path,
    *,
    seeds: int = 1,
    settings: Settings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the demo, and put the models, predictions, audits, results.json and README.md into a folder.

    Nothing appears in the folder under its final name before all runs are done, and results.json comes last.

    Args:
        output: the folder: a new one, an empty one, or that of a former demo, which is replaced.
        seeds: how often to run everything, the reference included, with the seeds 0, 1, ...
        settings: what to run with.
        overwrite: use a folder with other files too; only those named like the demo's are replaced.
        progress: called with what happens now, how far it is, and how far it goes.

    Returns:
        What results.json holds.

    Raises:
        ValueError: the folder holds something else, or an option is out of range.
        ImportError: scikit-learn or Pillow is not installed.
    """
    started = time.perf_counter()
    settings = settings or Settings()
    if seeds < 1:
        raise ValueError(f"seeds must be 1 or more. Got {seeds}.")
    if not 0 < settings.sparsity < 1:
        hint = f" Did you mean {settings.sparsity / 100:g}?" if 1 < settings.sparsity < 100 else ""
        raise ValueError(f"sparsity must be between 0 and 1. Got {settings.sparsity}.{hint}")
    output = Path(output)
    former = _former_files(output, overwrite=overwrite)
    with _unfinished(output) as work:
        runs = []
        for seed in range(seeds):
            folder = work if seeds == 1 else work / f"seed-{seed}"
            folder.mkdir(exist_ok=True)
            prefix = "" if seeds == 1 else f"Seed {seed}: "
            runs.append(run_once(folder, seed, settings, _prefixed(progress, prefix)))
        results = summarise(runs, settings, seconds=time.perf_counter() - started)
        command = command_of(str(output), seeds=seeds, sparsity=settings.sparsity)
        write_text_atomic(work / "README.md", readme(results, command))
        results["files"] = sorted([*(entry.name for entry in work.iterdir()), RESULTS])
        write_text_atomic(work / RESULTS, json.dumps(results, indent=2, allow_nan=False) + "\n")
        _publish(work, output, former)
    return results


def _former_files(output: Path, *, overwrite: bool) -> list[str]:
    """What a former demo left in the folder; a folder that holds anything else is refused."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file. Give a folder with --output.")
    try:
        found = json.loads((output / RESULTS).read_text(encoding="utf-8"))
        if found["kind"] == KIND:
            # Plain names only: nothing outside the folder is ever removed.
            return [name for name in found["files"] if Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    others = [entry.name for entry in output.glob("*") if not entry.name.startswith(_UNFINISHED)]
    if others and not overwrite:
        raise ValueError(
            f"The folder {output} is not empty and not from a former demo. Got {', '.join(sorted(others)[:3])}. "
            "Give another folder with --output, or use it anyway with --overwrite."
        )
    return []


@contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """A folder inside the output folder to work in; one that a killed demo left behind is removed."""
    output.mkdir(parents=True, exist_ok=True)
    for left in output.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left)
    work = Path(tempfile.mkdtemp(dir=output, prefix=_UNFINISHED))
    try:
        yield work
    finally:
        shutil.rmtree(work)


def _publish(work: Path, output: Path, former: list[str]) -> None:
    """Put the finished files in place of the former ones: first results.json away, at last the new one there."""
    made = [entry.name for entry in work.iterdir() if entry.name != RESULTS]
    for name in dict.fromkeys([RESULTS, *former, *made]):
        _remove(output / name)
    for name in [*made, RESULTS]:
        os.replace(work / name, output / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _prefixed(progress: Progress | None, prefix: str) -> Progress:
    def show(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(prefix + stage, done, total)

    return show
