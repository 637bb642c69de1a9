"""What was asked: the texts and thumbnails of an audit's changed items, from the dataset."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np
from datasets import Audio, Dataset, Image

from hf_compalign.data import (
    find_audio_column,
    find_image_column,
    find_word_column,
    image_files,
    image_of,
)
from hf_compalign.measure.attribution import AttributionAgreement, Explanation
from hf_compalign.measure.audit.record import Audit
from hf_compalign.measure.predictions import Columns, rows_of_items
from hf_compalign.tasks import Task

THUMBNAIL_PIXELS = 96
MOST_THUMBNAILS = 500  # of up to some 15 kB each
MOST_CHARACTERS = 2_000


def with_contents(
    found: Audit, dataset: Dataset, *, ids: Sequence[str], task: Task, columns: Columns | None = None
) -> Audit:
    """The audit with the texts or thumbnails of its changed items: it is then as private as the dataset.

    The audit is one of predictions on this raw dataset, and ``ids`` are the names of its rows in them. The first
    `MOST_THUMBNAILS` images get a thumbnail, and all images and sounds the name of their file, if the dataset knows it.

    Raises:
        ValueError: other rows, or a column that is not there.
    """
    columns = Columns.of(columns)
    if len(ids) != len(dataset):
        raise ValueError(f"ids must name the rows of the dataset: {len(dataset)} of them. Got {len(ids)}.")
    place = _rows_of(found, ids)
    names = _asked_columns(dataset, task, columns)
    if task.reads_sounds:
        return replace(found, items=_with_files(found, dataset, names[0], place))
    of_images = task.model_input == "pixel_values"
    shown = found.items[: MOST_THUMBNAILS if of_images else None]
    # Other columns may be large, or hold images that would be decoded.
    rows = dataset.select_columns(list(names)).select([place[item.id] for item in shown])
    rows = image_files(rows, *names) if of_images else rows
    filled = []
    for item, row in zip(shown, rows, strict=True):
        asked = [row[name] for name in names]
        kept = {"image": _thumbnail(*asked)} if of_images else {"texts": tuple(map(_shortened, asked))}
        filled.append(replace(item, **kept))
    found = replace(found, items=(*filled, *found.items[len(filled) :]))
    return replace(found, items=_with_files(found, dataset, names[0], place)) if of_images else found


def _rows_of(found: Audit, ids: Sequence[str]) -> dict[str, int]:
    """The row of each item that changed, by all items of its example where they are known."""
    items = [item.id for item in found.items]
    examples: Sequence[int] | None = None if found.n_examples is None else range(len(items))
    asked = found.predictions.get("reference")
    if asked is not None and asked.examples is not None:
        beside = np.isin(asked.examples, asked.examples[np.isin(asked.ids, items)])
        items, examples = asked.ids[beside].tolist(), asked.examples[beside].tolist()
    return dict(zip(items, rows_of_items(items, ids, examples), strict=True))


def _with_files(found: Audit, dataset: Dataset, column: str, place: Mapping[str, int]) -> tuple[Any, ...]:
    """The changed items with the names of their files."""
    files = _file_names(dataset, column)
    return tuple(replace(item, name=files[place[item.id]]) for item in found.items)


def _asked_columns(dataset: Dataset, task: Task, columns: Columns) -> tuple[str, ...]:
    """The columns of what was asked: an image, a sound, one or two texts, or the words of one."""
    if task.reads_sounds:
        return (find_audio_column(dataset, columns.audio),)
    if task.model_input == "pixel_values":
        return (find_image_column(dataset, columns.image, labels=columns.label),)
    words = find_word_column(dataset, columns.text) if task.label_depth == 1 else None
    return (words,) if words else columns.texts_in(dataset)


def with_attribution(found: Audit, agreement: AttributionAgreement, explanations: Mapping[str, Explanation]) -> Audit:
    """The audit with what `attribution_agreement` returned for its two models: as private as the dataset for texts.

    It keeps the explanations, by id, of its changed items. Without any, it holds nothing more of the dataset.
    """
    items = tuple(replace(item, explanation=explanations.get(item.id)) for item in found.items)
    return replace(found, attribution=agreement, items=items)


def _shortened(given: str | list[str] | None) -> str:
    text = given or "" if isinstance(given, str | None) else " ".join(given)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."


def _file_names(dataset: Dataset, column: str) -> list[str]:
    """The file of each image or sound, within the folder of all; empty where the dataset does not know it."""
    kind = type(dataset.features[column])
    if kind not in (Image, Audio):
        return [""] * len(dataset)
    rows = dataset.select_columns([column]).cast_column(column, kind(decode=False))
    files = [PurePath((row[column] or {}).get("path") or "") for row in rows]
    folders = [file.parent for file in files if file.is_absolute()]
    common = os.path.commonpath(folders) if folders else ""
    within = [file.relative_to(common) if file.is_absolute() else file for file in files]
    return [file.as_posix() if file.name else "" for file in within]


def _thumbnail(image: Any) -> str:
    small = image_of(image)
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
