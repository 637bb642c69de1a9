"""hf-compalign report."""

from pathlib import Path
from typing import Annotated

import typer

from hf_compalign.cli.options import check_targets
from hf_compalign.cli.screen import clear_errors, hush, stderr, stdout


def report(
    audits: Annotated[
        list[Path],
        typer.Argument(
            metavar="AUDIT...", help="What audit --output wrote: the first in detail, the others set beside it."
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="The page. Default: beside the first file, as .html.")] = None,
    frontier: Annotated[
        Path | None, typer.Option(help="What a repair wrote as frontier.json: its files are drawn too.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Its heading. Default: the names of both models.")] = None,
) -> None:
    """Write audits as one HTML page: verdict, charts, and every item that changed.

    The page opens from disk, in a Space or in a mail, and loads nothing. It holds the texts and thumbnails that the
    audit holds: audit --no-contents keeps them out.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=False)
        from hf_compalign.measure.audit import Audit
        from hf_compalign.report.page import write_report
        from hf_compalign.ship import Frontier

        page = audits[0].with_suffix(".html") if output is None else output
        if page.resolve() in {path.resolve() for path in audits}:
            raise ValueError(f"The page would replace the audit {page}. Name another file with --output.")
        check_targets(page)
        measured = None if frontier is None else Frontier.load(frontier)
        write_report(
            page,
            [Audit.load(path) for path in audits],
            title=title,
            frontier=None if measured is None else measured.points,
            chosen=None if measured is None else measured.chosen,
            judged=None if measured is None else measured.n_judged,
        )
    stdout().print(str(page), markup=False)
