"""Batches whose labels are the model's ids, from the rows of any dataset."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader

from hf_compalign.data import LABEL_COLUMNS, label_names
from hf_compalign.labels import IGNORED, LabelReader
from hf_compalign.models.modes import random_state_kept
from hf_compalign.models.running import Collator
from hf_compalign.tasks import task_of


@dataclass(frozen=True)
class LabeledCollator:
    """A collator that gets rows with the model's ids in place of their labels.

    Attributes:
        collate: rows -> a batch.
        columns: the names of a label column. The first that a row has is read, and any usual one beside it gets the
            same ids: collators differ in which of them they take.
        reader: what reads it.
        reads_names: whether labels may be names; else rows with names are passed on as they are.
        depth: 0 where a row has one label, 1 where it has a list of them.
    """

    collate: Collator
    columns: tuple[str, ...]
    reader: LabelReader
    reads_names: bool
    depth: int = 0

    def __call__(self, rows: list[dict[str, Any]]) -> Mapping[str, Any]:
        """The batch of some rows."""
        first = rows[0] if rows and isinstance(rows[0], Mapping) else {}
        column = next((name for name in self.columns if name in first), None)
        if column is None or (isinstance(first[column], str) and not self.reads_names):
            return self.collate(rows)
        ids = _ids(self.reader, [row[column] for row in rows], self.depth)
        filled = [name for name in LABEL_COLUMNS if column in LABEL_COLUMNS and name in first] or [column]
        return self.collate([row | dict.fromkeys(filled, label) for row, label in zip(rows, ids, strict=True)])


def labeled_collator(collate: Collator, dataset: Any, model: Any, *, column: str = "labels") -> Collator:
    """The collator for the rows of a dataset, whose labels become the model's ids; see `LabelReader`.

    Where labels are no classes of the model, as those of a language model, it is the given one.

    Args:
        collate: rows -> a batch.
        dataset: of any kind. Only that of `datasets` says which names its ids stand for.
        model: a model of one of the tasks.
        column: what the label column is called, if not as usual.

    Raises:
        ValueError: the dataset's classes are not the model's.
    """
    task = task_of(model)
    if task.label_depth is None:
        return collate
    names, depth = task.class_names(model.config), task.label_depth
    columns = tuple(dict.fromkeys([column, *LABEL_COLUMNS]))
    if not isinstance(dataset, Dataset | IterableDataset):
        return LabeledCollator(collate, columns, LabelReader(names), reads_names=False, depth=depth)
    named = any(label_names(dataset, name) for name in columns)
    # A transform makes the rows, perhaps with labels of its own.
    transformed = named and isinstance(dataset, Dataset) and dataset.format["type"] == "custom" and len(dataset) > 0
    given = _row(dataset, 0) if transformed else dataset.column_names or ()
    found = next((name for name in columns if name in given), column)
    reader = LabelReader(names, label_names(dataset, found), column=found)
    if transformed and _renumbers(dataset, found, reader, depth):
        reader = LabelReader(names, column=found)
    return LabeledCollator(collate, columns, reader, reads_names=True, depth=depth)


def labeled_loader(loader: DataLoader[Any], model: Any) -> DataLoader[Any]:
    """The same batches with the model's ids for labels, if these are its classes and the dataset one of `datasets`.

    Raises:
        ValueError: the dataset's classes are not the model's.
    """
    # What accelerate has prepared leaves the batches to the loader inside.
    loader = getattr(loader, "base_dataloader", loader)
    if isinstance(loader.collate_fn, LabeledCollator) or not isinstance(loader.dataset, Dataset | IterableDataset):
        return loader
    try:
        task_of(model)
    except ValueError:
        return loader  # of a head that is no task: its labels are left alone
    labeled = copy.copy(loader)
    labeled.collate_fn = labeled_collator(loader.collate_fn, loader.dataset, model)
    return labeled


def _ids(reader: LabelReader, labels: Sequence[Any], depth: int) -> list[Any]:
    return [ids.tolist() for ids in reader.ids_of_lists(labels)] if depth else reader.ids(labels).tolist()


def _renumbers(dataset: Dataset, column: str, reader: LabelReader, depth: int) -> bool:
    """Whether the dataset's transform makes the labels, as far as a row tells that the reader would change."""
    if label_names(dataset, column) is None:
        return False
    labels = dataset.with_format(None).select_columns([column])[:][column]
    pairs = enumerate(zip(labels, _ids(reader, labels, depth), strict=True))
    moved = next((index for index, (label, own) in pairs if own not in (IGNORED, label)), None)
    return moved is not None and _row(dataset, moved)[column] != labels[moved]


def _row(dataset: Dataset, index: int) -> dict[str, Any]:
    # The training draws the same random numbers as without this look.
    with random_state_kept():
        row: dict[str, Any] = dataset[index]
    return row
