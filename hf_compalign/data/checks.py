"""What is given as a dataset."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

_TABLES = ("arrow", "pandas", "polars")
# What else holds rows, by the name of its type -> how to make a dataset of it.
_OTHERS = {
    "list": "Dataset.from_list(rows)",
    "dict": "Dataset.from_dict(columns)",
    "DataFrame": "Dataset.from_pandas(frame, preserve_index=False)",
    "IterableDataset": "Dataset.from_list(list(stream.take(1000)))",
    "str": "Dataset.from_parquet(path), Dataset.from_csv(path) or datasets.load_dataset(name, split='test')",
}


def check_rows(dataset: Any) -> None:
    """Raise a ValueError unless it is a dataset with rows."""
    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        if isinstance(dataset, Mapping) and all(isinstance(split, Dataset) for split in dataset.values()):
            splits = ", ".join(map(repr, dataset))
            advice = f"It has the splits {splits}: give one of them, such as dataset[{next(iter(dataset), '')!r}]."
        else:
            advice = f"Make one: {_OTHERS[kind]}." if kind in _OTHERS else "Give one."
        raise ValueError(f"The dataset must be a datasets.Dataset. Got {kind}. {advice}")
    if len(dataset) == 0:
        raise ValueError("The dataset is empty. Give it at least one row.")
    if dataset.format["type"] in _TABLES:
        raise ValueError(
            f"The rows of the dataset are formatted as {dataset.format['type']}. Give dataset.with_format(None)."
        )
