"""hf-compalign audit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from hf_compalign.cli.options import (
    BEYOND_A_LIMIT,
    BatchSize,
    ConfigName,
    DatasetName,
    IdColumn,
    ImageColumn,
    Json,
    LabelColumn,
    Limits,
    MaxSamples,
    Split,
    TextColumn,
    parsed_limits,
    refuse_ignored,
    refuse_ignored_without,
)
from hf_compalign.cli.rows import load_rows
from hf_compalign.screen import clear_errors, hush, print_json, stderr, stdout

if TYPE_CHECKING:
    from hf_compalign.measure.attribution.agreement import AttributionOptions
    from hf_compalign.measure.audit_record import Audit
    from hf_compalign.measure.predictions import Predictions


def audit(  # noqa: PLR0913, PLR0917 - the options of a command are its arguments
    reference: Annotated[
        str, typer.Argument(help="The original: a model folder, a Hub id, an .onnx file, or an .npz file.")
    ],
    candidate: Annotated[str, typer.Argument(help="The compressed model: the same.")],
    dataset: DatasetName = None,
    config: ConfigName = None,
    split: Split = None,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    id_column: IdColumn = None,
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
    limit: Limits = None,
    floor: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Another uncompressed training, to show how much two of them differ."),
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
        int | None, typer.Option(min=1, help="On so many rows, drawn at random. Default: 200.")
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Also time both models, side by side.")] = False,
    batch_size: BatchSize = None,
    max_samples: MaxSamples = None,
    output: Annotated[Path | None, typer.Option(help="Save the audit as this JSON file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the audit as this HTML page.")] = None,
    no_contents: Annotated[
        bool, typer.Option("--no-contents", help="Keep the texts and images of the dataset out of both.")
    ] = False,
    save_predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save reference.npz and candidate.npz there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a compressed model with its original, item by item.

    Give two models and a --dataset, or two .npz files of Predictions. Columns are found by their types and usual
    names. Limits: mismatch_rate, nfr, pfr, flip_rate; with groups group_mismatch_gap, worst_group_accuracy_drop. Each
    is judged on its upper bound of 95 % confidence. The texts or thumbnails of the changed items go into --output and
    --report, unless --no-contents is given.
    The exit code is 0 within all limits, 1 beyond a limit, 2 for bad input, and 3 for a failure of the program.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=console.is_terminal)
        from hf_compalign.measure.audit import audit as compare
        from hf_compalign.measure.audit import checked_limits

        limits = checked_limits(parsed_limits(limit or []), grouped=bool(groups or bins))
        refuse_ignored_without("--attribution", attribution, {"--attribution-items": attribution_items})
        refuse_ignored_without("--groups or --bins", groups or bins, {"--min-group-size": min_group_size})
        refuse_ignored_without("--output or --report", output or report, {"--no-contents": no_contents})
        about_data = {
            "--dataset": dataset,
            "--config": config,
            "--split": split,
            "--text-column": text_column,
            "--image-column": image_column,
            "--label-column": label_column,
            "--id-column": id_column,
            "--groups": groups,
            "--bins": bins,
            "--latency": latency,
            "--max-samples": max_samples,
            "--batch-size": batch_size,
            "--no-contents": no_contents,
            "--save-predictions": save_predictions,
        }
        if _are_files(reference, candidate, floor):
            if attribution:
                raise ValueError(
                    "Attributions need the models: .npz files hold only their answers. Give two models and a --dataset."
                )
            refuse_ignored("Files of predictions hold all that an audit needs", about_data)
            found = compare(
                *_loaded_predictions(reference, candidate),
                limits=limits,
                floor=None if floor is None else _loaded_predictions(floor)[0],
            )
        else:
            if dataset is None:
                raise ValueError(
                    "Two models are compared on a dataset. Name one with --dataset, or give two .npz files."
                )
            from hf_compalign.cli.auditing import Job, audited
            from hf_compalign.data import sample
            from hf_compalign.measure.audit import MIN_GROUP_SIZE
            from hf_compalign.measure.predict import Columns

            rows = sample(load_rows(dataset, config, split), max_samples)
            console.print(f"{len(rows):,} rows of {dataset}, columns {', '.join(rows.column_names)}")
            found, answers = audited(
                Job(
                    reference=reference,
                    candidate=candidate,
                    floor=floor,
                    rows=rows,
                    columns=Columns(text=text_column or None, image=image_column, label=label_column, id=id_column),
                    groups=groups or [],
                    bins=bins or [],
                    limits=limits,
                    min_group_size=min_group_size or MIN_GROUP_SIZE,
                    attribution=_attribution(attribution, attribution_items),
                    latency=latency,
                    contents=bool(output or report) and not no_contents,
                    batch_size=batch_size or 32,
                )
            )
            if save_predictions is not None:
                for name, predictions in answers.items():
                    predictions.save(save_predictions / f"{name}.npz")
        if output is not None:
            found.save(output)
        if report is not None:
            from hf_compalign.report.page import write_report

            write_report(report, [found])
            console.print(f"The report is in {report}")
    if as_json:
        print_json(found.to_dict())
    else:
        print_audit(found)
    raise typer.Exit(0 if found.passed else BEYOND_A_LIMIT)


def _attribution(method: str | None, n_items: int | None) -> "AttributionOptions | None":
    """As many mismatches as items at large: they are what a report shows one by one."""
    if method is None:
        return None
    from hf_compalign.measure.attribution.agreement import AttributionOptions

    items = n_items or AttributionOptions.n_items
    return AttributionOptions(method=None if method == "default" else method, n_items=items, n_mismatches=items)


def print_audit(found: "Audit") -> None:
    """An audit on stdout, its verdict in colour."""
    report = Text(str(found))
    report.highlight_regex(r"(?m)^PASSED.*$", "bold green")
    report.highlight_regex(r"(?m)^NOT PASSED.*$", "bold red")
    stdout().print(report)


def _are_files(*names: str | None) -> bool:
    files = [name.endswith(".npz") for name in names if name is not None]
    if any(files) and not all(files):
        raise ValueError(
            f"Give models or .npz files, not some of each. Got {', '.join(name for name in names if name)}. "
            "--save-predictions writes such files from models."
        )
    return all(files)


def _loaded_predictions(*paths: str) -> list["Predictions"]:
    from hf_compalign.measure.predictions import Predictions

    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"There is no file {path}.")
    return [Predictions.load(path) for path in paths]
