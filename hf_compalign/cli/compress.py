"""hf-compalign compress, and the recipes that ship."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hf_compalign._records import plain
from hf_compalign.cli import options
from hf_compalign.cli.auditing import data_columns
from hf_compalign.cli.rows import audited_rows, rows_to_make_with
from hf_compalign.cli.screen import clear_errors, hush, hush_loading, print_json, stderr, stdout

if TYPE_CHECKING:
    from hf_compalign.search import Recipe

# Parameters that are no keys of a recipe, or are said there in another way.
_NOT_KEYS = ("recipe", "limit", "dry_run", "overwrite", "as_json")


def compress(  # noqa: PLR0913, PLR0917 - the options of a command are its arguments
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(help="The original: a model folder or a Hub id.")] = None,
    dataset: options.DatasetName = None,
    limit: options.Limits = None,
    output: Annotated[str | None, typer.Option(help="A new folder for what ships.")] = None,
    objective: Annotated[
        str | None, typer.Option("--for", metavar="latency|bytes", help="What is to be small. Default: latency.")
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Also train cut models on these rows, to answer like the original."),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Rows for INT8 and cuts. Default: of --train, else of --dataset."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Take what is not given from this recipe; see `recipes`.")
    ] = None,
    config: options.ConfigOfAll = None,
    split: options.Split = None,
    text_column: options.TextColumn = None,
    image_column: options.ImageColumn = None,
    audio_column: options.AudioColumn = None,
    label_column: options.LabelColumn = None,
    pixels_per_image: options.PixelsPerImage = None,
    max_samples: options.MaxSamples = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows in a timed batch. Default: 8.")] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", metavar="openvino|onnx", help="Repeatable. Default: as installed.")
    ] = None,
    int8: Annotated[bool | None, typer.Option("--int8/--no-int8", help="Try INT8. Default: yes.")] = None,
    cuts: Annotated[
        list[float] | None,
        typer.Option("--cut", metavar="SHARE", help="Remove this share of heads and neurons. Default: 0.25 and 0.5."),
    ] = None,
    deferral: Annotated[
        bool | None,
        typer.Option("--deferral/--no-deferral", help="Let the original answer what a file is not sure of."),
    ] = None,
    repair_measurements: Annotated[
        int | None, typer.Option(min=0, help="Files that a repair of INT8 may measure; 0: none. Default: 16.")
    ] = None,
    search_share: Annotated[
        float | None, typer.Option(help="The share of the rows to choose on; the others prove. Default: 0.5.")
    ] = None,
    calibration_rows: Annotated[int | None, typer.Option(min=1, help="Default: 512.")] = None,
    train_steps: Annotated[int | None, typer.Option(min=1, help="Of each cut model. Default: 400.")] = None,
    train_batch_size: Annotated[int | None, typer.Option(min=1, help="Default: 32.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the training. Default: 1e-4.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the training. Default: 0.")] = None,
    n_runs: Annotated[int | None, typer.Option(min=1, help="Timed passes of each file. Default: 20.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be tried, and about how long.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier search wrote there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Find the fastest file of a model that keeps a limit on changed answers, prove it, and write it as it ships.

    Half of the rows choose, the others prove. Tried are bfloat16, INT8, cut heads and neurons, INT8 with some layers in
    float, with --train also cut models that are trained, and each with the original behind it for what it is not sure
    of. A search that is killed goes on when the same command is given again. The exit code is 0 if a file keeps all
    limits, 1 if none does, 2 for bad input, and 3 for a failure of the program.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=False)
        from hf_compalign.search import SearchOptions, compress_model, plan_of, recipe_of

        # Of an option that may be repeated, none is an empty list.
        given = {name: value for name, value in ctx.params.items() if name not in _NOT_KEYS and value not in ([], ())}
        said = recipe_of(given | {"limits": options.parsed_limits(limit) if limit else None}, recipe)
        _refuse_idle(given, said)
        hush_loading()
        rows: dict[str, Any] = {
            "dataset": audited_rows(vars(said), console),
            "calibration": rows_to_make_with(said.calibration, vars(said)),
            "train": rows_to_make_with(said.train, vars(said)),
            "limits": said.limits,
            "options": SearchOptions(**said.options, columns=data_columns(vars(said)), overwrite=overwrite),
        }
        if dry_run:
            plan = plan_of(said.model, **rows)
            print_json(plain(plan)) if as_json else stdout().print(Text(str(plan)))
            raise typer.Exit
        done = compress_model(
            said.model, output=said.output, **rows, progress=partial(console.print, soft_wrap=True, markup=False)
        )
        if done.passed:
            said.save(Path(said.output) / "recipe.yaml")
    if as_json:
        print_json({"passed": done.passed, "sentence": done.sentence} | done.to_dict())
    else:
        *table, sentence = str(done).split("\n")
        stdout().print(Text("\n".join(table)))
        stdout().print(Text(sentence, "bold green" if done.passed else "bold red"))
    raise typer.Exit(0 if done.passed else options.BEYOND_A_LIMIT)


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this one, to make your own of it.")] = None,
) -> None:
    """List the recipes that ship, or print one of them."""
    with clear_errors(stderr()):
        from hf_compalign.search import recipe_text, shipped_recipes

        if name is not None:
            typer.echo(recipe_text(name), nl=False)
            return
        shipped = shipped_recipes()
        width = max(map(len, shipped))
        for one, words in shipped.items():
            typer.echo(f"{one:<{width}}  {words}")


def _refuse_idle(given: Mapping[str, Any], said: "Recipe") -> None:
    """Refuse the options that would have no effect."""
    from hf_compalign.search import OF_TRAINING

    if said.train is None:
        options.refuse_ignored("There is no --train", {name: given[name] is not None for name in OF_TRAINING})
    if not said.int8:
        options.refuse_ignored("Only INT8 is repaired", given, ["repair_measurements"])
    if said.objective == "bytes":
        options.refuse_ignored("With --for bytes there is nothing behind a file", given, ["deferral"])
