"""The command line: hf-compalign compress | recipes | audit | record | compare | plan | report | export | ..."""

import sys
import traceback
from typing import Annotated

import typer

from hf_compalign._extras import installed_versions
from hf_compalign.cli import audit, compare, compress, demo, env, export, plan, record, report

_FAILURE = 3
_PACKAGE = "hf_compalign"

app = typer.Typer(
    help="Compress a fine-tuned transformer, and prove, example by example, that it still answers like the original.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hf-compalign {installed_versions([_PACKAGE])[_PACKAGE]}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(demo.demo)
app.command()(compress.compress)
app.command()(compress.recipes)
app.command()(audit.audit)
app.command()(record.record)
app.command()(compare.compare)
app.command()(plan.plan)
app.command()(report.report)
app.command()(export.export)
app.command()(env.env)


def main() -> None:
    """Run the command line; a failure that no one expected must not look like a limit that is not kept."""
    try:
        app()
    except Exception:
        traceback.print_exc()
        sys.exit(_FAILURE)
