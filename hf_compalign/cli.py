"""The command line: hf-compalign demo | audit | env."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hf_compalign.screen import clear_errors, hush, print_json, progress_bars, stderr, stdout, table

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_compalign.measure.audit import Audit
    from hf_compalign.measure.predict import Columns
    from hf_compalign.measure.predictions import Predictions

app = typer.Typer(
    help="Compress a fine-tuned transformer, and prove, example by example, that it still answers like the original.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

BEYOND_A_LIMIT = 1

_SAVED_DATASET = ("dataset_dict.json", "state.json")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else there.")]


def main() -> None:
    """Run the command line."""
    app()


# ---- demo ----


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for models, audits and a README.md.")] = Path("demo-output"),
    seeds: Annotated[int, typer.Option(min=1, help="Run everything with so many seeds, and pool the results.")] = 1,
    sparsity: Annotated[float, typer.Option(help="Share of the weights that is pruned, between 0 and 1.")] = 0.8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Use a folder that holds other files too.")] = False,
    as_json: Json = False,
) -> None:
    """Prune a small model of handwritten digits twice, with and without alignment, and compare.

    Needs no network. Takes one to two minutes for each seed on a CPU.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=False)
        console.print("A small ViT for handwritten digits, pruned twice: 1 to 2 minutes a seed.")
        from hf_compalign.demo import run_demo
        from hf_compalign.demo.run import Settings

        with progress_bars(console) as show:
            results = run_demo(
                output, seeds=seeds, settings=Settings(sparsity=sparsity), overwrite=overwrite, progress=show
            )
    if as_json:
        print_json(results)
    else:
        _print_demo(results, output)


def _print_demo(results: Mapping[str, Any], output: Path) -> None:
    from hf_compalign.demo.results import model_rows, notes, seed_rows

    console = stdout()
    console.print()
    console.print(table(model_rows(results), console))
    console.print()
    if len(results["seeds"]) > 1:
        console.print(table(seed_rows(results), console))
        console.print()
    console.print(Text(results["conclusion"], style="bold"))
    console.print()
    for note in notes(results):
        console.print(Text(f"- {note}", style="dim"))
    console.print()
    console.print(Text(f"{results['seconds']:.0f} seconds. Everything is in {output}; begin with its README.md."))


# ---- audit ----


@app.command()
def audit(  # noqa: PLR0913, PLR0917 - the options of a command are its arguments
    reference: Annotated[str, typer.Argument(help="The original: a model folder, a Hub id, or an .npz file.")],
    candidate: Annotated[str, typer.Argument(help="The compressed model: the same.")],
    dataset: Annotated[
        str | None,
        typer.Option(help="A parquet, csv, json or jsonl file, a saved dataset, a folder of images, or a Hub name."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="The dataset's configuration on the Hub.")] = None,
    split: Annotated[str | None, typer.Option(help="Default: test, else validation, else the only one.")] = None,
    text_column: Annotated[list[str] | None, typer.Option(help="The text; given twice, a pair of texts.")] = None,
    image_column: Annotated[str | None, typer.Option(help="The images.")] = None,
    label_column: Annotated[str | None, typer.Option(help="The right answers.")] = None,
    id_column: Annotated[str | None, typer.Option(help="A name for each row.")] = None,
    groups: Annotated[str | None, typer.Option(metavar="COLUMN", help="Also compare within each group.")] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Say so, and exit with 1, unless mismatch_rate=0.02, say, is kept."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at a time. Default: 32.")] = None,
    max_samples: Annotated[int | None, typer.Option(min=1, help="Only so many rows, drawn at random.")] = None,
    output: Annotated[Path | None, typer.Option(help="Save the audit as this JSON file.")] = None,
    save_predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save reference.npz and candidate.npz there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a compressed model with its original, item by item.

    Give two models and a --dataset, or two .npz files of Predictions. Columns are found by their types and usual
    names. Limits: mismatch_rate, nfr, pfr, flip_rate; each is judged on the upper bound of its 95 % interval.
    The exit code is 0 within all limits, 1 beyond a limit, and 2 for bad input.
    """
    console = stderr()
    with clear_errors(console):
        hush(bars=console.is_terminal)
        from hf_compalign.measure.audit import audit as compare
        from hf_compalign.measure.audit import checked_limits

        limits = checked_limits(_parsed_limits(limit or []))
        group_names = None
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
            _refuse_ignored("Two .npz files hold all that an audit needs", about_data)
            both = _loaded_predictions(reference, candidate)
        else:
            if dataset is None:
                raise ValueError(
                    "Two models are compared on a dataset. Name one with --dataset, or give two .npz files."
                )
            from hf_compalign.data import sample
            from hf_compalign.measure.predict import Columns

            rows = sample(_load_dataset(dataset, config, split), max_samples)
            console.print(f"{len(rows):,} rows of {dataset}, columns {', '.join(rows.column_names)}")
            group_names = None if groups is None else _group_names(rows, groups)
            columns = Columns(text=text_column or None, image=image_column, label=label_column, id=id_column)
            both = _predicted((reference, candidate), rows, columns, batch_size or 32)
        found = compare(*both, groups=group_names, limits=limits)
        if save_predictions is not None:
            for name, answers in zip(("reference", "candidate"), both, strict=True):
                answers.save(save_predictions / f"{name}.npz")
        if output is not None:
            found.save(output)
    if as_json:
        print_json(found.to_dict())
    else:
        _print_audit(found)
    raise typer.Exit(0 if found.passed else BEYOND_A_LIMIT)


def _parsed_limits(texts: Sequence[str]) -> dict[str, float]:
    limits = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            limits[name.strip()] = float(value)
        except ValueError:
            raise ValueError(
                f"--limit must be a name and a number, such as mismatch_rate=0.02. Got {text!r}."
            ) from None
    return limits


def _are_files(reference: str, candidate: str) -> bool:
    files = [name.endswith(".npz") for name in (reference, candidate)]
    if any(files) and not all(files):
        raise ValueError(
            f"Give two models or two .npz files, not one of each. Got {reference} and {candidate}. "
            "--save-predictions writes both files from two models."
        )
    return all(files)


def _refuse_ignored(because: str, options: Mapping[str, Any]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise ValueError(f"{because}, so {', '.join(given)} would be ignored. Leave it out.")


def _loaded_predictions(*paths: str) -> list["Predictions"]:
    from hf_compalign.measure.predictions import Predictions

    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"There is no file {path}.")
    return [Predictions.load(path) for path in paths]


def _predicted(paths: Sequence[str], rows: "Dataset", columns: "Columns", batch_size: int) -> list["Predictions"]:
    import torch
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    from hf_compalign.inference import load_model
    from hf_compalign.labels import label_order, names_of
    from hf_compalign.measure.predict import predict

    # No bar for reading a file, which is a matter of seconds; but one for a download.
    disable_progress_bar()
    enable_progress_bars()
    # Both, before one of them is run in vain.
    models = [load_model(path) for path in paths]
    label_order(*(names_of(model.config.id2label) for model in models))
    device = "cuda" if torch.cuda.is_available() else None
    return [predict(model, rows, columns=columns, batch_size=batch_size, device=device) for model in models]


def _load_dataset(where: str, config: str | None, split: str | None) -> "Dataset":
    import datasets
    from datasets.exceptions import DatasetsError

    from hf_compalign.data import BUILDERS, load_file

    path = Path(where)
    try:
        if path.is_file() or path.suffix in BUILDERS:
            _refuse_ignored(f"{path.name} is a single file", {"--config": config, "--split": split})
            return load_file(path)
        if any((path / name).is_file() for name in _SAVED_DATASET):
            _refuse_ignored(f"{path} is a saved dataset", {"--config": config})
            saved = datasets.load_from_disk(where)
            if isinstance(saved, dict):
                return saved[_choose(list(saved), split)]
            _refuse_ignored(f"{path} holds a single split", {"--split": split})
            return saved
        splits = datasets.get_dataset_split_names(where, config)
        return datasets.load_dataset(where, config, split=_choose(splits, split))
    except (OSError, DatasetsError) as error:
        raise ValueError(
            f"No dataset could be loaded from {where!r}: it must be a file ({', '.join(BUILDERS)}), a folder, or the "
            f"name of a dataset on the Hub. ({error})"
        ) from error


def _choose(splits: Sequence[str], wanted: str | None) -> str:
    for name in (wanted,) if wanted else ("test", "validation"):
        if name in splits:
            return name
    if wanted or len(splits) > 1:
        got = f"There is no split {wanted!r}" if wanted else "It is not clear which split to use"
        raise ValueError(f"{got}. The dataset has {', '.join(splits)}. Name one of them with --split.")
    return splits[0]


def _group_names(rows: "Dataset", column: str) -> list[str | None]:
    from hf_compalign.columns import label_names

    if column not in rows.column_names:
        raise ValueError(
            f"There is no column {column!r} for the groups. The columns are {', '.join(rows.column_names)}."
        )
    values = rows.select_columns([column])[:][column]
    names = label_names(rows, column)
    if names is not None:
        values = [None if value is None or value < 0 else names[value] for value in values]
    return [None if value is None else str(value) for value in values]


def _print_audit(found: "Audit") -> None:
    report = Text(str(found))
    report.highlight_regex(r"(?m)^PASSED.*$", "bold green")
    report.highlight_regex(r"(?m)^NOT PASSED.*$", "bold red")
    stdout().print(report)


# ---- env ----


@app.command()
def env(as_json: Json = False) -> None:
    """Print the versions of everything involved, to paste into a bug report."""
    with clear_errors(stderr()):
        hush(bars=False)
        from hf_compalign.environment import environment

        found = environment()
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"- {name}: {value}")
