"""The README.md that the demo leaves beside its results."""

import shlex
from collections.abc import Mapping
from typing import Any

from hf_compalign.demo.results import Rows, model_rows, notes, seed_rows

_FILES = {
    "reference/, ce/, aligned/": "the three models with their image processor, for `from_pretrained`",
    "test.parquet": "the test images with their labels",
    "predictions/*.npz": "the logits of each model on the test images",
    "audits/*.json": "the full audit of each student against the reference",
}


def readme(results: Mapping[str, Any], command: str) -> str:
    """The text of the page.

    Args:
        results: as made by `summarise`.
        command: what was called.
    """
    many = len(results["seeds"]) > 1
    folder = f"seed-{results['seeds'][0]}/" if many else ""
    call = f"hf-compalign audit {folder}reference {folder}aligned --dataset {folder}test.parquet"
    where = " In `seed-N/`, for each seed N:" if many else ""
    parts = [
        "# A pruned model, recovered with and without alignment",
        "A small vision transformer learned scikit-learn's handwritten digits (the reference). It was pruned twice in "
        "the same way: once recovered with cross-entropy alone (CE), once with hf_compalign's default alignment.",
        _markdown(model_rows(results)),
        results["conclusion"],
        *([_markdown(seed_rows(results))] if many else []),
        "\n".join(f"- {note}" for note in notes(results)),
        f"## Files\n\n`results.json` has every number above.{where}",
        "\n".join(f"- `{name}`: {text}" for name, text in _FILES.items()),
        "## Once more",
        f"Made in {results['seconds']:.0f} seconds by\n\n```bash\n{command}\n```",
        f"Audit the models again, here in this folder:\n\n```bash\n{call}\n```",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def command_of(output: str, *, seeds: int, sparsity: float) -> str:
    """The command that makes such a folder."""
    return shlex.join(["hf-compalign", "demo", "--output", output, "--seeds", str(seeds), "--sparsity", str(sparsity)])


def _markdown(rows: Rows) -> str:
    header, *body = rows
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
