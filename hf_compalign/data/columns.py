"""Which columns of a dataset are the inputs and which is the label, and how they become model inputs."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, Value

LABEL_COLUMNS = ("labels", "label", "label_ids")
ID_COLUMNS = ("id", "idx", "guid")
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
TEXT_COLUMNS = ("text", "sentence", "review", "content", "question")


def find_label_column(dataset: Dataset, wanted: str | None = None) -> str | None:
    """The column with the labels: the one that is wanted, one with a usual name, or the only `ClassLabel`.

    Raises:
        ValueError: the wanted column is not there.
    """
    if wanted is not None:
        return existing_column(dataset.column_names, wanted)
    for name in LABEL_COLUMNS:
        if name in dataset.column_names:
            return name
    features = dataset.features or {}
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    return classes[0] if len(classes) == 1 else None


def find_text_columns(dataset: Dataset, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The one text column or the pair of them, by their usual names, or the only column of strings.

    Raises:
        ValueError: a wanted column is not there, or nothing tells which columns are the text.
    """
    if wanted:
        return tuple(existing_column(dataset.column_names, name) for name in wanted)
    names = set(dataset.column_names)
    for pair in TEXT_PAIRS:
        if names.issuperset(pair):
            return pair
    for name in TEXT_COLUMNS:
        if name in names:
            return (name,)
    strings = _columns_of(dataset.features, lambda feature: isinstance(feature, Value) and feature.dtype == "string")
    candidates = [name for name in strings if name not in (*LABEL_COLUMNS, *ID_COLUMNS)]
    if len(candidates) == 1:
        return (candidates[0],)
    raise ValueError(
        f"Cannot tell which columns hold the text. Got the columns {_listed(dataset.column_names)}. "
        "Name one or two of them as the text columns."
    )


def find_image_column(dataset: Dataset, wanted: str | None = None) -> str:
    """The column with the images: the wanted one, or the only one of type `Image`.

    Raises:
        ValueError: the wanted column is not there, or there is not exactly one column of images.
    """
    if wanted is not None:
        return existing_column(dataset.column_names, wanted)
    images = _columns_of(dataset.features, lambda feature: isinstance(feature, Image))
    if len(images) == 1:
        return images[0]
    raise ValueError(
        f"Cannot tell which column holds the images. Got the columns {_listed(dataset.column_names)}, of which "
        f"{len(images)} are of type Image. Name the image column."
    )


def label_names(dataset: Dataset, column: str | None) -> tuple[str, ...] | None:
    """The names of a label column's classes, when the dataset knows them."""
    feature = (dataset.features or {}).get(column)
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def tokenized(dataset: Dataset, tokenizer: Any, columns: Sequence[str]) -> Dataset:
    """The dataset with the tokenizer's columns added; truncated to the model's length, not yet padded."""

    def tokenize(batch: Mapping[str, list[Any]]) -> Any:
        return tokenizer(*(batch[column] for column in columns), truncation=True)

    return dataset.map(tokenize, batched=True, desc="Tokenizing")


def with_pixels(dataset: Dataset, processor: Any, column: str) -> Dataset:
    """The dataset with ``pixel_values`` in place of the image, made on access: nothing is stored twice."""

    def to_pixels(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        images = [image.convert("RGB") for image in batch.pop(column)]
        batch["pixel_values"] = list(processor(images, return_tensors="np")["pixel_values"])
        return batch

    return dataset.with_transform(to_pixels)


def existing_column(columns: Sequence[str], wanted: str) -> str:
    """The column, when there is one of that name.

    Raises:
        ValueError: there is none; perhaps another was meant.
    """
    if wanted in columns:
        return wanted
    close = difflib.get_close_matches(wanted, columns, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"There is no column {wanted!r}. The columns are {_listed(columns)}.{hint}")


def _columns_of(features: Features | None, wanted: Callable[[Any], bool]) -> list[str]:
    return [name for name, feature in (features or {}).items() if wanted(feature)]


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns))
