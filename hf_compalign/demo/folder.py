"""The whole demo: all runs, and the folder with its README.md that they leave behind."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hf_compalign._files import read_record, write_record
from hf_compalign._folders import staged_folder
from hf_compalign._records import built
from hf_compalign._tables import Table, as_markdown
from hf_compalign.demo.results import FORMAT_VERSION, KIND, summarize
from hf_compalign.demo.run import Progress, Settings, run_once

RESULTS = "results.json"
_INTRODUCTION = (
    "A small vision transformer learned scikit-learn's handwritten digits (the reference). It was pruned twice in the "
    "same way: once recovered with cross-entropy alone (CE), once with hf_compalign's default alignment."
)
_FILES = {
    "reference/, ce/, aligned/": "the three models with their image processor, for `from_pretrained`",
    "test.parquet": "the test images with their labels",
    "predictions/*.npz": "the logits of each model on the test images",
    "audits/*.json": "the full audit of each student against the reference",
}


def run_demo(
    output: str | Path,
    *,
    seeds: int = 1,
    settings: Settings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the demo, and put the models, predictions, audits, results.json and README.md into a folder.

    Nothing appears in the folder before all runs are done.

    Args:
        output: a new or empty folder, or that of a former demo, which is replaced.
        seeds: how often to run everything, the reference included, with the seeds 0, 1, ...
        settings: of every run.
        overwrite: use a folder with other files too; only files of the same names are replaced.
        progress: called with the stage, the steps done and their total.

    Returns:
        The contents of results.json.

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
    former = _former_entries(output)
    with staged_folder(output, overwrite=overwrite or bool(former), dropped=former) as work:
        runs = []
        for seed in range(seeds):
            folder = work if seeds == 1 else work / f"seed-{seed}"
            folder.mkdir(exist_ok=True)
            runs.append(run_once(folder, seed, settings, _prefixed(progress, "" if seeds == 1 else f"Seed {seed}: ")))
        results = summarize(runs, settings, seconds=time.perf_counter() - started)
        (work / "README.md").write_text(_readme(results, output), encoding="utf-8")
        results["files"] = sorted([*(entry.name for entry in work.iterdir()), RESULTS])
        write_record(work / RESULTS, results)
    return results


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


def _prefixed(progress: Progress | None, prefix: str) -> Progress:
    def show(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(prefix + stage, done, total)

    return show


def _readme(results: Mapping[str, Any], output: Path) -> str:
    seeds, sparsity = results["seeds"], results["settings"]["sparsity"]
    folder, where = ("", "") if len(seeds) == 1 else (f"seed-{seeds[0]}/", " In `seed-N/`, for each seed N:")
    options = {"--output": output, "--seeds": len(seeds), "--sparsity": sparsity}
    command = shlex.join(["hf-compalign", "demo", *(str(word) for option in options.items() for word in option)])
    again = f"hf-compalign audit {folder}reference {folder}aligned --dataset {folder}test.parquet"
    parts = [
        "# A pruned model, recovered with and without alignment",
        _INTRODUCTION,
        *(as_markdown(Table("", header, rows)) for header, *rows in results["tables"]),
        results["conclusion"],
        "\n".join(f"- {note}" for note in results["notes"]),
        f"## Files\n\n`results.json` has every number above.{where}",
        "\n".join(f"- `{name}`: {text}" for name, text in _FILES.items()),
        f"## Once more\n\nMade in {results['seconds']:.0f} seconds by\n\n```bash\n{command}\n```",
        f"Audit the models again, here in this folder:\n\n```bash\n{again}\n```",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"
