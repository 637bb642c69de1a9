"""hf-compalign compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from hf_compalign.cli import options
from hf_compalign.cli.auditing import audit_on_rows, check_file, checked_limits, finish, write_files
from hf_compalign.cli.screen import clear_errors, hush, stderr
from hf_compalign.labels import are_placeholders

if TYPE_CHECKING:
    from hf_compalign.measure.audit import Audit


def compare(  # noqa: PLR0913, PLR0917 - the options of a command are its arguments
    ctx: typer.Context,
    baseline: Annotated[Path, typer.Argument(help="What hf-compalign record wrote of the original, an .npz file.")],
    model: Annotated[str, typer.Argument(help="The new model: a folder, a Hub id, or an exported file.")],
    dataset: options.GivenDataset,
    config: options.ConfigName = None,
    split: options.Split = None,
    text_column: options.TextColumn = None,
    image_column: options.ImageColumn = None,
    audio_column: options.AudioColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    pixels_per_image: options.PixelsPerImage = None,
    groups: options.Groups = None,
    bins: options.Bins = None,
    min_group_size: options.MinGroupSize = None,
    limit: options.Limits = None,
    batch_size: options.BatchSize = None,
    max_samples: options.MaxSamples = None,
    summary: Annotated[
        Path | None, typer.Option(help="Write this Markdown file: limits, worst groups, first changed items by id.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(help="Write this JUnit XML file: one test case per limit and slice.")
    ] = None,
    output: options.Output = None,
    report: options.Report = None,
    no_contents: options.NoContents = False,
    slices: Annotated[
        Path | None, typer.Option(help="Check the slices in this file of --find-slices: fail where one is worse.")
    ] = None,
    find_slices: options.FindSlices = None,
    as_json: options.Json = False,
) -> None:
    """Compare a new model with the recorded answers of the original, which need not be at hand.

    The rows must be those that were recorded: the same --dataset, --split and --max-samples. Items are paired by their
    ids and labels by their names. The limits are those of `hf-compalign audit`, each judged on its upper bound of 95 %
    confidence. The exit code is 0 within all limits, 1 beyond a limit or with a slice that is worse, 2 for bad input,
    and 3 for a failure of the program. --summary and --junit hold names of groups and slices, and no other text of the
    dataset.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=console.is_terminal)
        limits = checked_limits(ctx.params)
        if not limits and slices is None:
            options.refuse_ignored("There is no --limit and no --slices", ctx.params, ["junit"])
        options.check_targets(summary, junit)
        _check(baseline, model)
        found = audit_on_rows(str(baseline), model, ctx.params, console, limits=limits)
        _say_order(found, console)
        write_files(found, console, ctx.params)
        if summary is not None or junit is not None:
            from hf_compalign.report.gate import write_junit, write_summary

            for path, write in ((summary, write_summary), (junit, write_junit)):
                if path is not None:
                    write(path, found)
    finish(found, as_json=as_json)


def _check(baseline: Path, model: str) -> None:
    if baseline.suffix != ".npz":
        raise ValueError(f"The baseline must be the .npz file that hf-compalign record wrote. Got {baseline}.")
    check_file(baseline)
    if model.endswith(".npz"):
        raise ValueError(
            f"compare asks a model. Got the answers {model}. Give the model, or both files to hf-compalign audit."
        )


def _say_order(found: "Audit", console: Console) -> None:
    """Labels in another order are no difference, and worth a line; without names on one side only the order is left."""
    ours, theirs = found.label_names, found.predictions["candidate"].label_names
    if ours != theirs:
        how = (
            "their order, as only one side has names" if are_placeholders(ours) != are_placeholders(theirs) else "name"
        )
        lists = f"{', '.join(ours)} in the baseline, {', '.join(theirs)} in the model"
        console.print(Text(f"Labels are matched by {how}: {lists}."))
