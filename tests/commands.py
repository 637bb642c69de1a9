"""The command line, called in this process."""

from typer.testing import CliRunner

from hf_compalign.cli import app


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def error_of(result):
    """The one red line that bad input gets."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]
