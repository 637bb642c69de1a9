"""Several models' predictions brought to the same items, classes and labels, before they are compared."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hf_compalign.labels import IGNORED
from hf_compalign.measure.predictions.predictions import Predictions


@dataclass(frozen=True, eq=False)
class SameItems:
    """Predictions of several models, in the order of the first one's items and classes.

    Attributes:
        models: the reference and the others, all of the same N items.
        counted: int, the items that no model masks out.
        labels: int [N], from whichever model knows them.
    """

    models: tuple[Predictions, ...]
    counted: NDArray[np.int64]
    labels: NDArray[np.int64]


def same_items(reference: Predictions, others: Iterable[Predictions]) -> SameItems:
    """Bring all predictions to the reference's items and classes, and find the items that count for all.

    Raises:
        ValueError: other items, labels or inputs than the reference's, or every item is masked out.
    """
    models, mask = [reference], reference.mask
    for other in others:
        moved = asked_the_same(reference, other)
        labels = np.where(reference.labels == IGNORED, moved.labels, reference.labels)
        if not np.array_equal(labels, reference.labels):
            reference = replace(reference, labels=labels)  # so that the next one's are checked against these as well
        models.append(moved)
        mask = mask & moved.mask
    if not mask.any():
        raise ValueError(f"There is nothing to compare: all {len(reference)} items are masked out.")
    return SameItems(models=tuple(models), counted=np.flatnonzero(mask), labels=reference.labels)


def asked_the_same(reference: Predictions, other: Predictions) -> Predictions:
    """The other model's predictions in the order of the reference's items and classes.

    Raises:
        ValueError: it was asked other items or other inputs, or has other labels.
    """
    other = other.aligned_to(reference)
    ours, theirs = reference.data_fingerprint, other.data_fingerprint
    if ours and theirs and ours != theirs:
        raise ValueError(
            f"Both models must be asked the same inputs. The ids match, but the data do not: {ours} against "
            f"{theirs}. Predict again with both models on the same dataset."
        )
    return other
