"""Datasets from files, their labels as a model's class ids, and unlabelled rows mixed in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError

from hf_compalign.columns import label_names
from hf_compalign.labels import IGNORED, label_order

BUILDERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
LABELS = "labels"


def load_file(path: str | Path) -> Dataset:
    """The rows of a parquet, csv or json file, or the images of a folder with one subfolder for each class.

    Raises:
        ValueError: there is nothing there, it is of another kind, or it holds no rows.
    """
    path = Path(path)
    builder = "imagefolder" if path.is_dir() else BUILDERS.get(path.suffix.lower())
    if builder is None or not path.exists():
        problem = "This is no data file" if path.exists() else "There is no such file"
        raise ValueError(f"{problem}: {str(path)!r}. Give a folder of images or a file: {', '.join(BUILDERS)}.")
    source = {"data_dir": str(path)} if path.is_dir() else {"data_files": str(path)}
    try:
        return load_dataset(builder, split="train", **source)
    except (ValueError, OSError, DatasetsError) as error:
        raise ValueError(f"No rows could be read from {str(path)!r}. Give it at least one. ({error})") from error


def sample(dataset: Dataset, most: int | None) -> Dataset:
    """At most so many rows, drawn at random but always the same ones, whatever the seed of the training."""
    if most is None or most >= len(dataset):
        return dataset
    return dataset.shuffle(seed=0).select(range(most))


def class_names(dataset: Dataset, column: str) -> tuple[str, ...]:
    """The classes of a label column: by name where it has names, else `LABEL_0` to the largest id.

    Raises:
        ValueError: the labels are neither names nor class ids.
    """
    names = label_names(dataset, column)
    if names is not None:
        return names
    values = _values(dataset, column)
    if values.dtype.kind in "OU":
        return tuple(sorted({str(value) for value in values}))
    return tuple(f"LABEL_{index}" for index in range(int(values.max()) + 1))


def label_ids(dataset: Dataset, column: str, names: Sequence[str]) -> np.ndarray:
    """int64 [N]: the labels as ids of a model with these label names, `IGNORED` where the label is not known.

    They are matched by name where both sides have names.

    Raises:
        ValueError: the labels are not those of the model, or neither names nor class ids.
    """
    values = _values(dataset, column)
    theirs = label_names(dataset, column)
    if values.dtype.kind in "OU":
        by_name = {name.casefold(): index for index, name in enumerate(names)}
        unknown = sorted({str(value) for value in values if str(value).casefold() not in by_name})
        if unknown:
            raise ValueError(
                f"The labels in column {column!r} must be names of the model's labels ({', '.join(names)}). "
                f"Got {', '.join(unknown[:5])}. Name another label column, or use the model for this task."
            )
        return np.array([by_name[str(value).casefold()] for value in values])
    if theirs is None:
        return values.astype(np.int64)
    order = label_order(names, theirs)
    moved = values if order is None else np.argsort(order)[values]
    return np.where(values < 0, IGNORED, moved)


def with_label_ids(dataset: Dataset, column: str, names: Sequence[str]) -> Dataset:
    """The dataset with `label_ids` as its column `labels` of plain integers, in place of the label column."""
    ids = label_ids(dataset, column, names)
    return dataset.remove_columns([column]).add_column(LABELS, ids.tolist())


def mix_unlabelled(dataset: Dataset, unlabelled: Dataset, *, seed: int) -> Dataset:
    """Both datasets' rows, shuffled; the rows of the second have the label `IGNORED`.

    A student learns its teacher's answers on them, and nothing from their labels.

    Args:
        dataset: input columns and the column `labels`.
        unlabelled: at least the same input columns; what else it has is dropped.
        seed: of the shuffling.

    Raises:
        ValueError: an input column is missing.
    """
    inputs = [name for name in dataset.column_names if name != LABELS]
    missing = [name for name in inputs if name not in unlabelled.column_names]
    if missing:
        raise ValueError(
            f"The unlabelled data must have the input columns of the labelled ones. Got "
            f"{', '.join(unlabelled.column_names)}; missing: {', '.join(missing)}. Rename its columns."
        )
    # A ClassLabel refuses -100.
    labelled = dataset.cast_column(LABELS, Value("int64"))
    features = labelled.features
    extra = unlabelled.select_columns(inputs).add_column(LABELS, [IGNORED] * len(unlabelled)).cast(features)
    return concatenate_datasets([labelled, extra]).shuffle(seed=seed)


def _values(dataset: Dataset, column: str) -> np.ndarray:
    values = np.asarray(dataset.select_columns([column]).with_format("numpy")[:][column])
    if values.dtype.kind not in "OUiu":
        raise ValueError(
            f"The labels in column {column!r} must be class ids or names. Got {values.dtype}. Name the label column; "
            "a regression is not supported."
        )
    return values
