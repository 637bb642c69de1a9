"""hf-compalign audit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hf_compalign.cli import options
from hf_compalign.cli.rows import audited_rows
from hf_compalign.cli.screen import clear_errors, hush, hush_loading, print_json, stderr, stdout

if TYPE_CHECKING:
    from hf_compalign.measure.attribution import AttributionOptions
    from hf_compalign.measure.audit import Audit

# Options about models or rows.
_ABOUT_DATA = ["dataset", "config", "split", "text_column", "image_column", "label_column", "id_column", "groups"]
_ABOUT_DATA += ["bins", "latency", "max_samples", "batch_size", "no_contents", "save_predictions"]


def audit(  # noqa: PLR0913, PLR0917 - the options of a command are its arguments
    ctx: typer.Context,
    reference: Annotated[
        str, typer.Argument(help="The original: a model folder, a Hub id, an .onnx file, or an .npz file.")
    ],
    candidate: Annotated[str, typer.Argument(help="The compressed model: the same.")],
    dataset: options.DatasetName = None,
    config: options.ConfigName = None,
    split: options.Split = None,
    text_column: options.TextColumn = None,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    groups: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Also compare within each group; two columns with a comma are crossed. Repeatable."
        ),
    ] = None,
    bins: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="The same for bins of a number; 'words' is the length of the text. Repeatable."
        ),
    ] = None,
    min_group_size: Annotated[
        int | None, typer.Option(min=1, help="Smaller groups are shown, but not judged. Default: 30.")
    ] = None,
    limit: options.Limits = None,
    floor: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Another uncompressed training, which shows how much two of them differ."),
    ] = None,
    attribution: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Also compare what both models look at: 'default', layer_integrated_gradients, integrated_gradients, "
            "saliency, input_x_gradient or occlusion.",
        ),
    ] = None,
    attribution_items: Annotated[
        int | None, typer.Option(min=1, help="On how many rows, drawn at random. Default: 200.")
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Also time both models, side by side.")] = False,
    batch_size: options.BatchSize = None,
    max_samples: options.MaxSamples = None,
    output: Annotated[Path | None, typer.Option(help="Save the audit as this JSON file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the audit as this HTML page.")] = None,
    no_contents: Annotated[
        bool, typer.Option("--no-contents", help="Keep the texts, tokens and images of the dataset out of both.")
    ] = False,
    save_predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save reference.npz and candidate.npz there.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare a compressed model with its original, item by item.

    Give two models and a --dataset, or two .npz files of Predictions. Columns are found by their types and usual
    names. Limits: mismatch_rate, nfr, pfr, flip_rate; with groups group_mismatch_gap, worst_group_accuracy_drop,
    demographic_parity_difference, equal_opportunity_difference, equalized_odds_difference. Each is judged on its upper
    bound of 95 % confidence. --output and --report hold the texts or thumbnails of the changed items, and with
    --attribution what both models look at in them, unless --no-contents is given. The exit code is 0 within all limits,
    1 beyond a limit, 2 for bad input, and 3 for a failure of the program.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=console.is_terminal)
        limits = _checked_limits(limit or [], ctx.params)
        options.check_targets(output, report, folder=save_predictions)
        if _are_files(reference, candidate, floor, dataset=dataset):
            found = _audit_of_files(reference, candidate, floor=floor, limits=limits, given=ctx.params)
        else:
            from hf_compalign.measure.audit import AuditOptions
            from hf_compalign.measure.audit import audit as compare
            from hf_compalign.measure.groups import MIN_GROUP_SIZE
            from hf_compalign.measure.predictions import Columns

            rows = audited_rows(ctx.params, console)
            hush_loading()
            found = compare(
                reference,
                candidate,
                rows,
                groups=_columns(groups) if groups else None,
                limits=limits,
                floor=floor,
                attribution=_attribution(attribution, attribution_items),
                options=AuditOptions(
                    columns=Columns(text=text_column or None, image=image_column, label=label_column, id=id_column),
                    batch_size=batch_size,
                    bins=bins or [],
                    min_group_size=min_group_size or MIN_GROUP_SIZE,
                    contents=bool(output or report) and not no_contents,
                    latency=latency,
                ),
            )
        _write(found, console, output=output, report=report, predictions=save_predictions)
    if as_json:
        print_json(found.to_dict())
    else:
        print_audit(found)
    raise typer.Exit(0 if found.passed else options.BEYOND_A_LIMIT)


def _checked_limits(limit: Sequence[str], given: Mapping[str, Any]) -> dict[str, float]:
    """The limits, after refusing options that would have no effect."""
    from hf_compalign.measure.audit import checked_limits

    grouped = given["groups"] or given["bins"]
    limits = checked_limits(options.parsed_limits(limit), grouped=bool(grouped))
    for needed, there, idle in (
        ("--attribution", given["attribution"], "attribution_items"),
        ("--groups or --bins", grouped, "min_group_size"),
        ("--output or --report", given["output"] or given["report"], "no_contents"),
    ):
        if not there:
            options.refuse_ignored(f"There is no {needed}", given, [idle])
    return limits


def _audit_of_files(
    reference: str, candidate: str, *, floor: str | None, limits: Mapping[str, float], given: Mapping[str, Any]
) -> "Audit":
    from hf_compalign.measure.audit import audit as compare

    if given["attribution"]:
        raise ValueError(
            "Attributions need the models: .npz files hold only their answers. Give two models and a --dataset."
        )
    options.refuse_ignored("Files of predictions hold all that an audit needs", given, _ABOUT_DATA)
    for path in filter(None, (reference, candidate, floor)):
        if not Path(path).is_file():
            raise ValueError(f"There is no file {path}.")
    return compare(reference, candidate, limits=limits, floor=floor)


def _write(
    found: "Audit", console: Console, *, output: Path | None, report: Path | None, predictions: Path | None
) -> None:
    if predictions is not None:
        for name, answers in found.predictions.items():
            answers.save(predictions / f"{name}.npz")
    if output is not None:
        found.save(output)
    if report is not None:
        from hf_compalign.report.page import write_report

        write_report(report, [found])
        console.print(f"The report is in {report}")


def _columns(groups: Sequence[str]) -> list[str | tuple[str, ...]]:
    """The columns of --groups; those with a comma between them are crossed."""
    named = [tuple(name.strip() for name in columns.split(",")) for columns in groups]
    return [columns if len(columns) > 1 else columns[0] for columns in named]


def _attribution(method: str | None, n_items: int | None) -> "AttributionOptions | None":
    """As many mismatches as items at large, since a report shows them one by one."""
    if method is None:
        return None
    from hf_compalign.measure.attribution import AttributionOptions

    items = n_items or AttributionOptions.n_items
    return AttributionOptions(method=None if method == "default" else method, n_items=items, n_mismatches=items)


def print_audit(found: "Audit") -> None:
    """Print an audit to stdout, its verdict in color."""
    happened, verdict, *tables = str(found).split("\n")
    style = "" if not found.limits else "bold green" if found.passed else "bold red"
    stdout().print(Text("\n").join([Text(happened), Text(verdict, style), *map(Text, tables)]))


def _are_files(*names: str | None, dataset: str | None) -> bool:
    """Whether these are files of predictions; models need a dataset."""
    files = [name.endswith(".npz") for name in names if name is not None]
    if any(files) and not all(files):
        raise ValueError(
            f"Give models or .npz files, not some of each. Got {', '.join(name for name in names if name)}. "
            "--save-predictions writes such files from models."
        )
    if dataset is None and not any(files):
        raise ValueError("Two models need a dataset. Name one with --dataset, or give two .npz files.")
    return all(files)
