"""What rows hold, whatever they are called: what a model reads of each, and the right answers."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, Value

from hf_compalign.data import (
    DIGITS,
    MAP_COLUMNS,
    find_label_column,
    find_map_column,
    image_files,
    label_names,
    row_fingerprint,
)
from hf_compalign.measure.predictions.columns import Columns
from hf_compalign.measure.predictions.predicting import asked_of
from hf_compalign.measure.predictions.reader import Reader, is_raw
from hf_compalign.models import input_names

_AT_ONCE = 1_000  # rows


def content_fingerprint(reader: Reader, dataset: Dataset, columns: Columns) -> str:
    """16 hex digits of all rows, in their order: of what the model reads of each, and of the right answers.

    Ids and all other columns do not count, nor where files lie.
    """
    digest = hashlib.blake2b(digest_size=DIGITS // 2)
    of_rows = _of_raw_rows if is_raw(dataset, reader.task) else _of_prepared_rows
    for mark in of_rows(reader, dataset, columns):
        digest.update(mark.encode())
    return digest.hexdigest()


def row_contents(reader: Reader, dataset: Dataset, columns: Columns) -> Iterator[str]:
    """A hash of the text, image or sound in each row, or of the main input where rows are prepared.

    It tells whether two rows ask the same, whatever their columns and files are called.
    """
    task = reader.task
    if not is_raw(dataset, task):
        return (row_fingerprint({"": row[task.model_input]}) for row in dataset)
    of_files = task.model_input == "pixel_values" or task.reads_sounds
    return (
        row_fingerprint({str(place): _held(value, of_files) for place, value in enumerate(row.values())})
        for row in asked_of(dataset, task, columns)
    )


def _held(value: Any, of_files: bool) -> Any:
    """The bytes of a file, where that is what is asked."""
    return Path(value).read_bytes() if of_files and isinstance(value, str) and Path(value).is_file() else value


def _of_raw_rows(reader: Reader, dataset: Dataset, columns: Columns) -> Iterator[str]:
    yield from row_contents(reader, dataset, columns)
    has_maps = reader.task.has_maps
    column = (find_map_column if has_maps else find_label_column)(dataset, columns.label)
    if column is None:
        return
    yield row_fingerprint({"names": label_names(dataset, column)})
    for answer in _values(dataset, column, of_maps=has_maps):
        yield row_fingerprint({"": answer})


def _values(dataset: Dataset, column: str, *, of_maps: bool) -> Iterator[Any]:
    """What a column holds, row by row; of files of label maps their bytes."""
    rows = dataset.with_format(None).select_columns([column])
    of_files = of_maps and isinstance(rows.features[column], Image | Value)
    for batch in (image_files(rows, column) if of_files else rows).iter(_AT_ONCE):
        for value in batch[column]:
            yield _held(value["bytes"] or value["path"], of_files) if of_files else value


def _of_prepared_rows(reader: Reader, dataset: Dataset, columns: Columns) -> Iterator[str]:
    """A transform makes columns on access, so that only rows tell which there are."""
    answers: tuple[str | None, ...] = (find_label_column(dataset, columns.label),)
    if columns.label is None and reader.task.has_maps:
        answers = MAP_COLUMNS
    names = {*input_names(reader.network), *answers}
    yield row_fingerprint({"names": [label_names(dataset, name) for name in answers]})
    for row in dataset:
        yield row_fingerprint({name: value for name, value in row.items() if name in names})
