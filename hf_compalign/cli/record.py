"""hf-compalign record."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hf_compalign._formats import count
from hf_compalign.cli import options
from hf_compalign.cli.auditing import data_columns
from hf_compalign.cli.rows import audited_rows
from hf_compalign.cli.screen import clear_errors, hush, hush_loading, stderr, stdout


def record(  # noqa: PLR0913, PLR0917 - the options of a command are its arguments
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="The original: a model folder, a Hub id, or an exported file.")],
    dataset: options.GivenDataset,
    output: Annotated[Path, typer.Option(help="The file of the answers, such as baseline.npz.")],
    config: options.ConfigName = None,
    split: options.Split = None,
    text_column: options.TextColumn = None,
    image_column: options.ImageColumn = None,
    audio_column: options.AudioColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    pixels_per_image: options.PixelsPerImage = None,
    batch_size: options.BatchSize = None,
    max_samples: options.MaxSamples = None,
) -> None:
    """Ask a model all rows of a dataset, and keep its answers for `hf-compalign compare`.

    The file holds the logits, the labels, the name of each row (a column of ids, or else a hash), the names of the
    labels, and fingerprints of model and data. It holds no text and no image.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=console.is_terminal)
        if output.suffix != ".npz":
            raise ValueError(f"Answers are kept as .npz. Got --output {output}. Use that suffix.")
        options.check_targets(output)
        rows = audited_rows(ctx.params, console)
        hush_loading()
        from hf_compalign.measure.predictions import predict

        answers = predict(model, rows, columns=data_columns(ctx.params), batch_size=batch_size or 32)
        answers.save(output)
    size = f"{count(output.stat().st_size)} bytes"
    stdout().print(Text(f"{count(len(answers))} answers of {model} are in {output} ({size}); no texts, no images"))
