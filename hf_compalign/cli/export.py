"""hf-compalign export."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hf_compalign._tables import as_text
from hf_compalign.cli import options
from hf_compalign.cli.auditing import data_columns, print_audit
from hf_compalign.cli.rows import are_audited, audited_rows, rows_to_make_with
from hf_compalign.cli.screen import clear_errors, hush, print_json, stderr, stdout

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_compalign.ship import AuditedExport


def export(  # noqa: PLR0913, PLR0917 - the options of a command are its arguments
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model folder or a Hub id.")],
    output: Annotated[
        Path | None, typer.Argument(help="A new folder. Default: the model's name and -onnx (or -openvino), here.")
    ] = None,
    file_format: Annotated[str, typer.Option("--format", metavar="onnx|openvino", help="What runs the file.")] = "onnx",
    quantize: Annotated[
        str | None,
        typer.Option(metavar="dynamic|static", help="Write INT8 instead of float; OpenVINO has static only."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="bf16|f16|f32", help="What OpenVINO computes in where not in INT8. Default: bf16."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Data for the ranges of --quantize static; not those audited.")
    ] = None,
    calibration_rows: Annotated[
        int | None, typer.Option(min=1, help="How many of its rows, drawn at random. Default: 256.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers that stay in float, such as `*.pooler.*`.")
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="7-bit weights in INT8, right on CPUs without VNNI too; for ONNX.")
    ] = False,
    limit: options.Limits = None,
    max_measurements: Annotated[
        int | None, typer.Option(min=1, help="Measure at most this many files to keep the limit.")
    ] = None,
    dataset: options.DatasetName = None,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare with this model. Default: the model itself.")
    ] = None,
    config: options.ConfigOfAll = None,
    split: options.Split = None,
    text_column: options.TextColumn = None,
    image_column: options.ImageColumn = None,
    audio_column: options.AudioColumn = None,
    label_column: options.LabelColumn = None,
    pixels_per_image: options.PixelsPerImage = None,
    batch_size: options.BatchSize = None,
    max_samples: options.MaxSamples = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same names.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model as ONNX or OpenVINO, in float or INT8, and prove on data that the file answers like the model.

    --dataset audits the file. With a --limit too, an INT8 file beyond it is repaired: as few layers as it takes stay in
    float. Half of the rows are searched on and the other half judge, and all measurements are saved as frontier.json
    and frontier.png. The exit code is 0 within all limits, 1 beyond a limit, 2 for bad input, and 3 for a failure of
    the program.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=console.is_terminal)
        limits = options.parsed_limits(limit or [])
        _check(file_format, quantize, calibration=calibration, dataset=dataset, limited=bool(limits))
        _refuse_idle(ctx.params)
        if calibration is not None and are_audited(calibration, ctx.params):
            raise ValueError(
                "--calibration and --dataset are the same data, so the audit would judge the file on what made it. "
                "Calibrate on other data, such as the training data."
            )
        from hf_compalign.ship import ExportOptions, export_audited

        rows = None if dataset is None else audited_rows(ctx.params, console)
        how = ExportOptions(
            quantize=quantize,
            precision=precision,
            calibration=_calibration(ctx.params),
            exclude=exclude or None,
            portable=portable,
            columns=data_columns(ctx.params),
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
            options=how,
            progress=partial(console.print, soft_wrap=True, markup=False),
        )
    _print_done(done, as_json=as_json)
    raise typer.Exit(0 if done.passed else options.BEYOND_A_LIMIT)


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
    """Refuse what the export would refuse too, in the words of the command line and before loading anything."""
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
        options.refuse_ignored("Only --quantize static is calibrated", {"calibration": calibration})
    elif calibration is None:
        raise ValueError(
            "--quantize static fixes the ranges of the activations beforehand, on some rows of data. Name them with "
            "--calibration, such as the training data; or use --quantize dynamic, which needs none."
        )
    if limited and dataset is None:
        raise ValueError("A limit is measured on data. Name them with --dataset.")


def _refuse_idle(given: Mapping[str, Any]) -> None:
    """Refuse the options that would have no effect."""
    quantize = given["quantize"]
    if given["dataset"] is None:
        idle = ["reference", "config", "split", "label_column", "pixels_per_image", "batch_size", "max_samples"]
        idle += [] if given["calibration"] else ["text_column", "image_column", "audio_column"]
        options.refuse_ignored("There is no --dataset", given, idle)
    if quantize is None:
        options.refuse_ignored("Without --quantize every layer is in float", given, ["exclude", "portable"])
    if quantize != "static":
        options.refuse_ignored("Only --quantize static is calibrated", given, ["calibration_rows"])
    if given["file_format"] != "openvino":
        options.refuse_ignored("Only --format openvino has a choice of precision", given, ["precision"])
    if given["file_format"] != "onnx":
        options.refuse_ignored("Only ONNX Runtime's products can saturate", given, ["portable"])
    if quantize is None or not given["limit"]:
        options.refuse_ignored("Nothing is repaired without --quantize and --limit", given, ["max_measurements"])


def _calibration(given: Mapping[str, Any]) -> "Dataset | None":
    from hf_compalign.data import sample

    rows = rows_to_make_with(given["calibration"], given)
    return None if rows is None else sample(rows, given["calibration_rows"] or 256)


def _print_done(done: "AuditedExport", *, as_json: bool) -> None:
    if as_json:
        print_json(done.to_dict())
        return
    from hf_compalign.measure.footprint import wide_spread

    console = stdout()
    console.print(Text(str(done.export)))
    console.print()
    console.print(Text(as_text(done.table())))
    console.print(Text(f"Medians and quartiles of times side by side on {done.machine}", style="dim"))
    timed = {f"{name}, batch {size}": one for name, times in done.latency.items() for size, one in times.items()}
    if spread := wide_spread(timed):
        console.print(Text(spread, style="bold"))
    console.print()
    if done.frontier is not None:
        console.print(Text(done.frontier.verdict, style="bold green" if done.passed else "bold red"))
        written = sorted(path.name for path in done.export.path.parent.iterdir())
        console.print(Text(f"In {done.export.path.parent}: {', '.join(written)}", style="dim"))
    elif done.audit is not None:
        print_audit(done.audit)
