"""hf-compalign demo."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hf_compalign._tables import Table, as_text
from hf_compalign.cli.options import Json
from hf_compalign.cli.screen import clear_errors, hush, print_json, progress_bars, stderr, stdout


def demo(
    output: Annotated[Path, typer.Option(help="Folder for models, audits and a README.md.")] = Path("demo-output"),
    seeds: Annotated[int, typer.Option(min=1, help="Run everything with this many seeds, and pool the results.")] = 1,
    sparsity: Annotated[float, typer.Option(help="Share of the weights to prune, between 0 and 1.")] = 0.8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Use a folder that holds other files too.")] = False,
    as_json: Json = False,
) -> None:
    """Prune a small model of handwritten digits twice, with and without alignment, and compare.

    Needs no network. Takes one to two minutes for each seed on a CPU.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=False)
        console.print("A small ViT for handwritten digits, pruned twice: 1 to 2 minutes a seed.")
        from hf_compalign.demo import Settings, run_demo

        with progress_bars(console) as show:
            results = run_demo(
                output, seeds=seeds, settings=Settings(sparsity=sparsity), overwrite=overwrite, progress=show
            )
    if as_json:
        print_json(results)
        return
    console = stdout()
    for part in (
        *(Text(as_text(Table("", header, rows))) for header, *rows in results["tables"]),
        Text(results["conclusion"], style="bold"),
        Text("\n".join(f"- {note}" for note in results["notes"]), style="dim"),
        Text(f"{results['seconds']:.0f} seconds. Everything is in {output}; begin with its README.md."),
    ):
        console.print()
        console.print(part)
