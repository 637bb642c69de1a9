"""hf-compalign audit."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_compalign.cli import options
from hf_compalign.cli.auditing import audit_on_rows, check_file, checked_limits, finish, write_files
from hf_compalign.cli.screen import clear_errors, hush, stderr

if TYPE_CHECKING:
    from hf_compalign.measure.audit import Audit

# Options about models or rows.
_ABOUT_DATA = [
    "dataset",
    "config",
    "split",
    "text_column",
    "image_column",
    "audio_column",
    "label_column",
    "id_column",
    "pixels_per_image",
    "groups",
    "bins",
    "latency",
    "max_samples",
    "batch_size",
    "no_contents",
    "find_slices",
    "save_predictions",
]


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
    audio_column: options.AudioColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    pixels_per_image: options.PixelsPerImage = None,
    groups: options.Groups = None,
    bins: options.Bins = None,
    min_group_size: options.MinGroupSize = None,
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
    output: options.Output = None,
    report: options.Report = None,
    no_contents: options.NoContents = False,
    find_slices: options.FindSlices = None,
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
        limits = checked_limits(ctx.params)
        options.check_targets(folder=save_predictions)
        if _are_files(reference, candidate, floor, dataset=dataset):
            found = _audit_of_files(reference, candidate, floor=floor, limits=limits, given=ctx.params)
        else:
            found = audit_on_rows(reference, candidate, ctx.params, console, limits=limits)
        if save_predictions is not None:
            for name, answers in found.predictions.items():
                answers.save(save_predictions / f"{name}.npz")
        write_files(found, console, ctx.params)
    finish(found, as_json=as_json)


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
        check_file(path)
    return compare(reference, candidate, limits=limits, floor=floor)


def _are_files(*names: str | None, dataset: str | None) -> bool:
    """Whether these are files of predictions; models need a dataset."""
    files = [name.endswith(".npz") for name in names if name is not None]
    if any(files) and not all(files):
        raise ValueError(
            f"Give models or .npz files, not some of each. Got {', '.join(name for name in names if name)}. "
            "--save-predictions writes such files from models; hf-compalign compare holds a model against such a file."
        )
    if dataset is None and not any(files):
        raise ValueError("Two models need a dataset. Name one with --dataset, or give two .npz files.")
    return all(files)
