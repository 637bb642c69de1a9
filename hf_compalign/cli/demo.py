"""hf-compalign demo."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hf_compalign._tables import as_text
from hf_compalign.cli.options import Json
from hf_compalign.cli.screen import clear_errors, hush, print_json, progress_bars, stderr, stdout


def demo(
    output: Annotated[Path, typer.Option(help="Folder for models, audits and a README.md.")] = Path("demo-output"),
    seeds: Annotated[int, typer.Option(min=1, help="Run everything with this many seeds, and pool the results.")] = 1,
    sparsities: Annotated[
        str, typer.Option(metavar="S,S,...", help="Shares of the weights to prune, between 0 and 1.")
    ] = "0.5,0.7,0.8",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Use a folder that holds other files too.")] = False,
    as_json: Json = False,
) -> None:
    """Prune a small model of handwritten digits, recover it in four ways, and compare what it still answers alike.

    Needs no network. Takes two minutes on two CPU cores, and less than two for each further seed.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=False)
        levels = _parsed(sparsities)
        console.print("A small ViT for handwritten digits, pruned and trained: 2 minutes on 2 cores.")
        from hf_compalign.demo import Settings, run_demo

        with progress_bars(console) as show:
            results = run_demo(
                output,
                seeds=seeds,
                settings=Settings(sparsities=levels),
                overwrite=overwrite,
                prepare=partial(hush, bars=False),
                progress=show,
            )
    if as_json:
        print_json(results)
        return
    from hf_compalign.demo import bars, conclusion, main_table, notes

    console = stdout()
    for part in (
        Text(as_text(main_table(results))),
        Text(bars(results)),
        Text(conclusion(results), style="bold"),
        Text("\n".join(f"- {note}" for note in notes(results)), style="dim"),
        Text(f"{results['seconds']:.0f} seconds. Everything is in {output}; begin with its README.md."),
    ):
        console.print()
        console.print(part)


def _parsed(sparsities: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, sparsities.replace(",", " ").split()))
    except ValueError:
        raise ValueError(
            f"--sparsities must be numbers with commas between them, such as 0.5,0.7. Got {sparsities!r}."
        ) from None
