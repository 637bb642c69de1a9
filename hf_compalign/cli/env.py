"""hf-compalign env."""

import typer

from hf_compalign.cli.options import Json
from hf_compalign.cli.screen import clear_errors, hush, print_json, stderr


def env(as_json: Json = False) -> None:
    """Print the versions of everything involved, to paste into a bug report."""
    with clear_errors(stderr()):
        hush(bars=False)
        from hf_compalign.cli.environment import environment

        found = environment()
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"- {name}: {value}")
