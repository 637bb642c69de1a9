"""hf-compalign audit."""

from collections.abc import Sequence
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
)
from hf_compalign.cli.rows import group_names, load_rows
from hf_compalign.screen import clear_errors, hush, print_json, stderr, stdout

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_compalign.measure.audit import Audit
    from hf_compalign.measure.predict import Columns
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
    groups: Annotated[str | None, typer.Option(metavar="COLUMN", help="Also compare within each group.")] = None,
    limit: Limits = None,
    batch_size: BatchSize = None,
    max_samples: MaxSamples = None,
    output: Annotated[Path | None, typer.Option(help="Save the audit as this JSON file.")] = None,
    save_predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save reference.npz and candidate.npz there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a compressed model with its original, item by item.

    Give two models and a --dataset, or two .npz files of Predictions. Columns are found by their types and usual
    names. Limits: mismatch_rate, nfr, pfr, flip_rate; each is judged on the upper bound of its 95 % interval.
    The exit code is 0 within all limits, 1 beyond a limit, 2 for bad input, and 3 for a failure of the program.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=console.is_terminal)
        from hf_compalign.measure.audit import audit as compare
        from hf_compalign.measure.audit import checked_limits

        limits = checked_limits(parsed_limits(limit or []))
        names_of_groups = None
        about_data = {
            "--dataset": dataset,
            "--config": config,
            "--split": split,
            "--text-column": text_column,
            "--image-column": image_column,
            "--label-column": label_column,
            "--id-column": id_column,
            "--groups": groups,
            "--max-samples": max_samples,
            "--batch-size": batch_size,
            "--save-predictions": save_predictions,
        }
        if _are_files(reference, candidate):
            refuse_ignored("Two .npz files hold all that an audit needs", about_data)
            both = _loaded_predictions(reference, candidate)
        else:
            if dataset is None:
                raise ValueError(
                    "Two models are compared on a dataset. Name one with --dataset, or give two .npz files."
                )
            from hf_compalign.data import sample
            from hf_compalign.measure.predict import Columns

            rows = sample(load_rows(dataset, config, split), max_samples)
            console.print(f"{len(rows):,} rows of {dataset}, columns {', '.join(rows.column_names)}")
            names_of_groups = None if groups is None else group_names(rows, groups)
            columns = Columns(text=text_column or None, image=image_column, label=label_column, id=id_column)
            both = _predicted((reference, candidate), rows, columns, batch_size or 32)
        found = compare(*both, groups=names_of_groups, limits=limits)
        if save_predictions is not None:
            for name, answers in zip(("reference", "candidate"), both, strict=True):
                answers.save(save_predictions / f"{name}.npz")
        if output is not None:
            found.save(output)
    if as_json:
        print_json(found.to_dict())
    else:
        print_audit(found)
    raise typer.Exit(0 if found.passed else BEYOND_A_LIMIT)


def print_audit(found: "Audit") -> None:
    """An audit on stdout, its verdict in colour."""
    report = Text(str(found))
    report.highlight_regex(r"(?m)^PASSED.*$", "bold green")
    report.highlight_regex(r"(?m)^NOT PASSED.*$", "bold red")
    stdout().print(report)


def _are_files(reference: str, candidate: str) -> bool:
    files = [name.endswith(".npz") for name in (reference, candidate)]
    if any(files) and not all(files):
        raise ValueError(
            f"Give two models or two .npz files, not one of each. Got {reference} and {candidate}. "
            "--save-predictions writes both files from two models."
        )
    return all(files)


def _loaded_predictions(*paths: str) -> list["Predictions"]:
    from hf_compalign.measure.predictions import Predictions

    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"There is no file {path}.")
    return [Predictions.load(path) for path in paths]


def _predicted(paths: Sequence[str], rows: "Dataset", columns: "Columns", batch_size: int) -> list["Predictions"]:
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    from hf_compalign.inference import default_device, load_model
    from hf_compalign.labels import label_order, names_of
    from hf_compalign.measure.predict import predict

    # No bar for reading a file, which is a matter of seconds; but one for a download.
    disable_progress_bar()
    enable_progress_bars()
    # Both, before one of them is run in vain.
    models = [load_model(path) for path in paths]
    label_order(*(names_of(model.config.id2label) for model in models))
    return [
        predict(model, rows, columns=columns, batch_size=batch_size, device=default_device(model)) for model in models
    ]
