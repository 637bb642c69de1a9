"""Bring several models' predictions to the same items, classes and labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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


def rows_of_items(items: Sequence[str], names: Sequence[str], *, parts: bool = False) -> list[int]:
    """The row of each item.

    Args:
        items: ids of predictions.
        names: of the rows of a dataset, as `ids_of` gives them.
        parts: whether items may be parts of rows, ``<row>/<item>``; the longest name that fits is the row's.

    Raises:
        ValueError: an item is none of the rows, nor a part of one.
    """
    place = {name: row for row, name in enumerate(names)}
    if parts:
        for name in items:
            pieces = [] if name in place else name.split("/")
            starts = ("/".join(pieces[:end]) for end in range(len(pieces) - 1, 0, -1))
            if (row := next((place[start] for start in starts if start in place), None)) is not None:
                place[name] = row
    if unknown := [name for name in items if name not in place]:
        raise ValueError(
            f"The dataset must hold the rows that the predictions are of. {len(unknown)} of their {len(items)} items "
            f"are not among them, such as {unknown[0]!r}. Give the dataset of the predictions, or predict on this one."
        )
    return [place[name] for name in items]
