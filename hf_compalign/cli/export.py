"""hf-compalign export."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hf_compalign.cli.audit import print_audit
from hf_compalign.cli.options import (
    BEYOND_A_LIMIT,
    BatchSize,
    ConfigName,
    DatasetName,
    ImageColumn,
    Json,
    LabelColumn,
    Limits,
    MaxSamples,
    Split,
    TextColumn,
    parsed_limits,
    refuse_ignored,
)
from hf_compalign.cli.rows import load_rows
from hf_compalign.cli.screen import clear_errors, hush, print_json, stderr, stdout, table

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_compalign.ship import AuditedExport

_CALIBRATION_ROWS = 256


def export(  # noqa: PLR0913, PLR0917 - the options of a command are its arguments
    model: Annotated[str, typer.Argument(help="A model folder or a Hub id.")],
    output: Annotated[
        Path | None,
        typer.Argument(help="A new folder. Default: the model's name and -onnx (or -openvino), here."),
    ] = None,
    file_format: Annotated[str, typer.Option("--format", metavar="onnx|openvino", help="What runs the file.")] = "onnx",
    quantize: Annotated[
        str | None,
        typer.Option(metavar="dynamic|static", help="Write INT8 instead of float32; OpenVINO has static only."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Data for the ranges of --quantize static; not those audited.")
    ] = None,
    calibration_rows: Annotated[
        int | None, typer.Option(min=1, help="So many of them, drawn at random. Default: 256.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers that stay in float, such as `*.pooler.*`.")
    ] = None,
    limit: Limits = None,
    max_measurements: Annotated[
        int | None, typer.Option(min=1, help="Measure no more files than that to keep the limit.")
    ] = None,
    dataset: DatasetName = None,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare with this model. Default: the model itself.")
    ] = None,
    config: ConfigName = None,
    split: Split = None,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    batch_size: BatchSize = None,
    max_samples: MaxSamples = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same names.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model as ONNX or OpenVINO, in float or INT8, and prove on data that the file answers like the model.

    With --dataset the file is audited. With a --limit too, an INT8 file of ONNX that is beyond it is repaired: the
    fewest layers that it takes are kept in float, and what was measured is saved as frontier.json and frontier.png.
    The exit code is 0 within all limits, 1 beyond a limit, 2 for bad input, and 3 for a failure of the program.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=console.is_terminal)
        from hf_compalign.measure.predictions import Columns

        limits = parsed_limits(limit or [])
        _check(file_format, quantize, calibration=calibration, dataset=dataset, limited=bool(limits))
        if dataset is None:
            data = {"--reference": reference, "--config": config, "--split": split, "--label-column": label_column}
            about_rows = {**data, "--batch-size": batch_size, "--max-samples": max_samples}
            about_columns = {} if calibration else {"--text-column": text_column, "--image-column": image_column}
            refuse_ignored("There is no --dataset", about_rows | about_columns)
        given = {"--exclude": exclude, "--calibration-rows": calibration_rows, "--max-measurements": max_measurements}
        _refuse_idle(file_format, quantize, given, limited=bool(limits))
        from hf_compalign.ship import ExportOptions, export_audited

        rows = _sample(dataset, max_samples, config=config, split=split)
        if rows is not None:
            console.print(f"{len(rows):,} rows of {dataset}, columns {', '.join(rows.column_names)}")
        options = ExportOptions(
            quantize=quantize,
            calibration=_sample(calibration, calibration_rows or _CALIBRATION_ROWS, usual=("train", "validation")),
            exclude=exclude or None,
            columns=Columns(text=text_column or None, image=image_column, label=label_column),
            batch_size=batch_size or 32,
            max_measurements=max_measurements,
            overwrite=overwrite,
        )
        done = export_audited(
            model,
            output or default_output(model, file_format),
            rows,
            file_format=file_format,
            limits=limits,
            reference=reference,
            options=options,
            progress=partial(console.print, soft_wrap=True, markup=False),
        )
    _print_done(done, as_json=as_json)
    raise typer.Exit(0 if done.passed else BEYOND_A_LIMIT)


def default_output(model: str, file_format: str = "onnx") -> Path:
    """The model's own name and its format, in the working directory.

    >>> str(default_output("google-bert/bert-base-uncased"))
    'bert-base-uncased-onnx'
    """
    name = Path(model).resolve().name if Path(model).exists() else model.rpartition("/")[2]
    return Path(f"{name}-{file_format}")


def _check(
    file_format: str, quantize: str | None, *, calibration: str | None, dataset: str | None, limited: bool
) -> None:
    """What the export would refuse too, but in the words of the command line and before anything is loaded."""
    if file_format not in ("onnx", "openvino"):
        raise ValueError(f"--format must be onnx or openvino. Got {file_format!r}.")
    if file_format == "openvino" and quantize == "dynamic":
        raise ValueError(
            "--quantize dynamic is for ONNX: OpenVINO would compute such layers in float, and slower than without. Use "
            "--quantize static with --calibration, or --format onnx."
        )
    if quantize not in (None, "dynamic", "static"):
        raise ValueError(f"--quantize must be dynamic or static; without it the file is float32. Got {quantize!r}.")
    if quantize != "static":
        refuse_ignored("Only --quantize static is calibrated", {"--calibration": calibration})
    elif calibration is None:
        raise ValueError(
            "--quantize static fixes the ranges of the activations beforehand, on some rows of data. Name them with "
            "--calibration, such as the training data; or use --quantize dynamic, which needs none."
        )
    elif calibration == dataset:
        raise ValueError(
            "--calibration and --dataset are the same data, so that the file would be judged on what it was made with. "
            "Calibrate on other data, such as those of the training."
        )
    if limited and dataset is None:
        raise ValueError("A limit is measured on data. Name them with --dataset.")


def _refuse_idle(file_format: str, quantize: str | None, options: dict[str, Any], *, limited: bool) -> None:
    """Refuse the options of an INT8 file that would be ignored."""

    def refuse(why: str, name: str) -> None:
        refuse_ignored(why, {name: options[name]})

    if quantize is None:
        refuse("Without --quantize every layer is in float", "--exclude")
    if quantize != "static":
        refuse("Only --quantize static is calibrated", "--calibration-rows")
    if file_format != "onnx":
        refuse("Only --format onnx is repaired", "--max-measurements")
    elif quantize is None or not limited:
        refuse("Nothing is repaired without --quantize and --limit", "--max-measurements")


def _sample(name: str | None, most: int | None, **source: Any) -> "Dataset | None":
    from hf_compalign.data import sample

    return None if name is None else sample(load_rows(name, **source), most)


def _print_done(done: "AuditedExport", *, as_json: bool) -> None:
    if as_json:
        print_json(done.to_dict())
        return
    console = stdout()
    console.print(Text(str(done.export)))
    console.print()
    console.print(table(done.rows(), console))
    console.print(Text(f"Median times side by side on {done.machine}", style="dim"))
    console.print()
    if done.frontier is not None:
        console.print(Text(done.frontier.verdict, style="bold green" if done.passed else "bold red"))
        if len(done.frontier.points) > 1:
            note = "The file was chosen by its answers on these rows: audit it on others before you rely on the bound."
            console.print(Text(note, style="dim"))
        written = sorted(path.name for path in done.export.path.parent.iterdir())
        console.print(Text(f"In {done.export.path.parent}: {', '.join(written)}", style="dim"))
    elif done.audit is not None:
        print_audit(done.audit)
