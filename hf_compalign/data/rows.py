"""Datasets from files, their labels as a model's class ids, and unlabeled rows mixed in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError

from hf_compalign.data.columns import label_names
from hf_compalign.labels import IGNORED, LabelReader, plain_labels

BUILDERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
LABELS = "labels"
# A column of the first fields of a csv file, where there are more of them than names.
_MADE_BY_PANDAS = "__index_level_0__"


def load_file(path: str | Path) -> Dataset:
    """The rows of a parquet, csv or json file, or the images of a folder with one subfolder per class.

    Raises:
        ValueError: there is no such file, it is of another kind, or it has no rows.
    """
    path = Path(path)
    builder = "imagefolder" if path.is_dir() else BUILDERS.get(path.suffix.lower())
    if builder is None or not path.exists():
        problem = "This is no data file" if path.exists() else "There is no such file"
        raise ValueError(f"{problem}: {str(path)!r}. Give a folder of images or a file: {', '.join(BUILDERS)}.")
    source = {"data_dir": str(path)} if path.is_dir() else {"data_files": str(path)}
    try:
        rows = load_dataset(builder, split="train", **source)
    except (ValueError, OSError, DatasetsError) as error:
        why = error.__cause__ or error
        raise ValueError(f"No rows could be read from {str(path)!r}. Give it at least one. ({why})") from error
    if builder == "csv" and _MADE_BY_PANDAS in rows.column_names:
        raise ValueError(
            f"The rows of {str(path)!r} have more fields than its first line has names. Put quotes around texts with "
            "commas."
        )
    return rows


def sample(dataset: Dataset, most: int | None) -> Dataset:
    """At most so many rows, drawn at random but always the same ones, for any seed of the training."""
    if most is None or most >= len(dataset):
        return dataset
    return dataset.shuffle(seed=0).select(range(most))


def class_names(dataset: Dataset, column: str) -> tuple[str, ...]:
    """The class names of a label column, or else `LABEL_0` up to the largest id.

    Raises:
        ValueError: the labels are neither names nor class ids, or none is known.
    """
    names = label_names(dataset, column)
    if names is not None:
        return names
    known = {label for label in plain_labels(_values(dataset, column), column=column) if label is not None}
    if not known:
        raise ValueError(f"The column {column!r} holds no known label, so it names no classes. Name another column.")
    if any(isinstance(label, str) for label in known):
        return tuple(sorted(known))
    return tuple(f"LABEL_{index}" for index in range(max(known) + 1))


def label_ids(dataset: Dataset, column: str, names: Sequence[str]) -> np.ndarray:
    """The labels as ids of a model with these label names, int64 [N], `IGNORED` where unknown; see `LabelReader`.

    Raises:
        ValueError: the labels are not the model's, or neither names nor class ids.
    """
    return LabelReader(names, label_names(dataset, column), column=column).ids(_values(dataset, column))


def token_label_ids(dataset: Dataset, column: str, names: Sequence[str]) -> list[np.ndarray]:
    """The same of a column of lists of labels: int64 [tokens] for each row.

    Raises:
        ValueError: a row holds no list, or the labels are not the model's, or neither names nor class ids.
    """
    return LabelReader(names, label_names(dataset, column), column=column).ids_of_lists(_values(dataset, column))


def with_label_ids(dataset: Dataset, column: str, names: Sequence[str]) -> Dataset:
    """Replace the label column by `label_ids`, as a column `labels` of plain integers."""
    ids = label_ids(dataset, column, names)
    return dataset.remove_columns([column]).add_column(LABELS, ids.tolist())


def mix_unlabeled(dataset: Dataset, unlabeled: Dataset, *, seed: int, share: float | None = None) -> Dataset:
    """Both datasets' rows, shuffled. Rows of the second get the label `IGNORED`: there, only the teacher teaches.

    Args:
        dataset: input columns and the column `labels` of the model's ids, as by `with_label_ids`; or of numbers, beside
            which the unlabeled rows get nan.
        unlabeled: at least the same input columns; the others are dropped.
        seed: of the shuffle, and of which unlabeled rows are taken.
        share: of the mixed rows that are unlabeled ones, in (0, 1); None takes all of them.

    Raises:
        ValueError: an input column is missing, or there are too few unlabeled rows for the share.
    """
    if share is not None:
        unlabeled = _for_share(share, len(dataset), unlabeled, seed)
    inputs = [name for name in dataset.column_names if name != LABELS]
    missing = [name for name in inputs if name not in unlabeled.column_names]
    if missing:
        raise ValueError(
            "The unlabeled data must have the input columns of the labeled data. Got "
            f"{', '.join(unlabeled.column_names)}; missing: {', '.join(missing)}. Rename its columns."
        )
    numbers = getattr(dataset.features[LABELS], "dtype", "").startswith("float")
    # A ClassLabel refuses -100, and among the values of a regression it would be one of them.
    labeled = dataset if numbers else dataset.cast_column(LABELS, Value("int64"))
    label = np.nan if numbers else IGNORED
    extra = unlabeled.select_columns(inputs).add_column(LABELS, [label] * len(unlabeled)).cast(labeled.features)
    return concatenate_datasets([labeled, extra]).shuffle(seed=seed)


def _for_share(share: float, n_labeled: int, unlabeled: Dataset, seed: int) -> Dataset:
    """So many rows, drawn at random, that they are this share of all."""
    if not 0 < share < 1:
        hint = f" Did you mean {share / 100:g}?" if 1 < share < 100 else ""
        raise ValueError(
            f"share must be in (0, 1), of the mixed rows. Got {share}.{hint} None takes all unlabeled rows."
        )
    wanted = round(n_labeled * share / (1 - share))
    if wanted > len(unlabeled):
        most = len(unlabeled) / (len(unlabeled) + n_labeled)
        raise ValueError(
            f"share={share} of rows that are mixed with {n_labeled} labeled ones needs {wanted} unlabeled rows. Got "
            f"{len(unlabeled)}. Give more of them, or at most share={most:.2g}; None takes all."
        )
    return unlabeled.shuffle(seed=seed).select(range(wanted))


def _values(dataset: Dataset, column: str) -> list[Any]:
    return list(dataset.with_format(None).select_columns([column])[:][column])
