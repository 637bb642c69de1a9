"""Options that several commands share, and how they are read."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

BEYOND_A_LIMIT = 1

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else there.")]
DatasetName = Annotated[
    str | None,
    typer.Option(
        "--dataset", help="A parquet, csv, json or jsonl file, a saved dataset, a folder of images, or a Hub name."
    ),
]
ConfigName = Annotated[str | None, typer.Option("--config", help="The dataset's configuration on the Hub.")]
ConfigOfAll = Annotated[
    str | None,
    typer.Option("--config", help="Of --dataset on the Hub, and of other rows where they are named the same."),
]
Split = Annotated[str | None, typer.Option(help="Default: test, else validation, else the only one.")]
TextColumn = Annotated[list[str] | None, typer.Option(help="The text; given twice, a pair of texts.")]
ImageColumn = Annotated[str | None, typer.Option(help="The images.")]
AudioColumn = Annotated[str | None, typer.Option(help="The sounds: WAV files, paths, or lists of floats.")]
LabelColumn = Annotated[str | None, typer.Option(help="The right answers.")]
IdColumn = Annotated[str | None, typer.Option(help="A name for each row.")]
PixelsPerImage = Annotated[
    int | None, typer.Option(min=1, help="Of segmentation: how many pixels of each image to compare. Default: 256.")
]
Groups = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN", help="Also compare within each group; two columns with a comma are crossed. Repeatable."
    ),
]
Bins = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN", help="The same for bins of a number; 'words' is the length of the text. Repeatable."
    ),
]
MinGroupSize = Annotated[int | None, typer.Option(min=1, help="Smaller groups are shown, but not judged. Default: 30.")]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=VALUE", help="Such as mismatch_rate=0.02. Exit with 1 unless it is kept."),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Rows at a time. Default: 32.")]
GivenDataset = Annotated[
    str,
    typer.Option(
        "--dataset", help="What the model is asked: a file, a saved dataset, a folder of images, or a Hub name."
    ),
]
MaxSamples = Annotated[int | None, typer.Option(min=1, help="At most this many rows, drawn at random.")]
Output = Annotated[Path | None, typer.Option(help="Save the audit as this JSON file.")]
Report = Annotated[Path | None, typer.Option(help="Write the audit as this HTML page.")]
FindSlices = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Look for parts of the data where answers change more than elsewhere; save them as this JSON file.",
    ),
]
NoContents = Annotated[
    bool, typer.Option("--no-contents", help="Keep the texts, tokens and images of the dataset out of both.")
]


def parsed_limits(texts: Sequence[str]) -> dict[str, float]:
    """The limits of a command line: name -> value."""
    limits: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            limit = float(value)
        except ValueError:
            raise ValueError(
                f"--limit must be a name and a number, such as mismatch_rate=0.02. Got {text!r}."
            ) from None
        name = name.strip()
        if name in limits:
            raise ValueError(f"--limit names {name} twice, as {limits[name]:g} and {limit:g}. Leave one out.")
        limits[name] = limit
    return limits


def check_targets(*files: str | Path | None, folder: Path | None = None) -> None:
    """Refuse files and a folder that cannot be written, before anything is computed for them."""
    # The parameters of a context are texts in older versions of typer.
    paths = [Path(file) for file in files if file is not None]
    for file in paths:
        if file.is_dir():
            raise ValueError(f"{file} is a folder. Give the path of a file.")
    for home in (*(file.parent for file in paths), *filter(None, [folder])):
        there = next(one for one in (home, *home.parents) if one.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise ValueError(f"{there} is no folder that can be written into. Give another path.")


def refuse_ignored(because: str, given: Mapping[str, Any], names: Sequence[str] | None = None) -> None:
    """Refuse those parameters of a command that were given and would have no effect; by default all of them."""
    idle = [f"--{name.replace('_', '-')}" for name in (given if names is None else names) if given[name]]
    if idle:
        raise ValueError(f"{because}, so {', '.join(idle)} would be ignored. Leave it out.")
