"""Bring several models' predictions to the same items, classes and labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from hf_compalign.labels import IGNORED
from hf_compalign.measure.predictions.predictions import Predictions


@dataclass(frozen=True, eq=False)
class SameItems:
    """Predictions of several models, in the order of the first one's items and classes."""

    models: tuple[Predictions, ...]  # the reference first
    counted: NDArray[np.int64]  # positions of the items that no model masks out
    labels: NDArray[np.int64]  # [N], from whichever model knows them


def same_items(reference: Predictions, others: Iterable[Predictions]) -> SameItems:
    """Align all predictions with the reference, and find the items that count for all.

    Raises:
        ValueError: items, labels or inputs differ from the reference's, or every item is masked out.
    """
    models, mask = [reference], reference.mask
    for other in others:
        moved = asked_the_same(reference, other)
        labels = np.where(reference.labels == IGNORED, moved.labels, reference.labels)
        if not np.array_equal(labels, reference.labels):
            reference = replace(reference, labels=labels)  # the next model is checked against these too
        models.append(moved)
        mask = mask & moved.mask
    if not mask.any():
        raise ValueError(f"There is nothing to compare: all {len(reference)} items are masked out.")
    return SameItems(models=tuple(models), counted=np.flatnonzero(mask), labels=reference.labels)


def asked_the_same(reference: Predictions, other: Predictions) -> Predictions:
    """Align the other predictions with the reference; refuse other items, inputs or labels."""
    other = other.aligned_to(reference)
    ours, theirs = reference.data_fingerprint, other.data_fingerprint
    if ours and theirs and ours != theirs:
        raise ValueError(
            f"Both models must be asked the same inputs. The ids match, but the data differ: {ours} against {theirs}. "
            "Predict again with both models on the same dataset."
        )
    return other


def rows_of_items(items: Sequence[str], names: Sequence[str], examples: Iterable[int] | None = None) -> list[int]:
    """The row of each item.

    Args:
        items: ids of predictions.
        names: of the rows of a dataset, as `ids_of` gives them.
        examples: the example of each item, where items are parts of rows, ``<row>/<item>``. All of an example are of
            one row: the longest name that all of them begin with.

    Raises:
        ValueError: an item is none of the rows, nor a part of one.
    """
    place = {name: row for row, name in enumerate(names)}
    if examples is not None:
        place = _rows_of_parts(items, [*examples], place)
    if unknown := [name for name in items if name not in place]:
        raise ValueError(
            f"The dataset must hold the rows that the predictions are of. {len(unknown)} of their {len(items)} items "
            f"are not among them, such as {unknown[0]!r}. Give the dataset of the predictions, or predict on this one."
        )
    return [place[name] for name in items]


def _rows_of_parts(items: Sequence[str], examples: Sequence[int], rows: Mapping[str, int]) -> dict[str, int]:
    """The row of each item ``<row>/<item>``: that with the longest name which all items of its example begin with."""
    shared: dict[int, list[str]] = {}
    for name, example in zip(items, examples, strict=True):
        pieces = name.split("/")[:-1]
        both = zip(shared.get(example, pieces), pieces, strict=False)
        shared[example] = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
    found = {
        example: next((start for end in range(len(one), 0, -1) if (start := "/".join(one[:end])) in rows), None)
        for example, one in shared.items()
    }
    starts = {name: found[example] for name, example in zip(items, examples, strict=True)}
    return {name: rows[start] for name, start in starts.items() if start is not None}
