"""What a regression answered: a number for each item."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Values:
    """One model's values of N items, ready to pair with another model's.

    >>> Values([0.5, 2.0], ["a", "b"]).labels
    array([nan, nan])

    Attributes:
        values: float64 [N], in the unit of the labels, finite.
        ids: str [N], all different. They pair the values of two models.
        labels: float64 [N], nan where unknown, which is the default.
        examples: int64 [N], which example each item belongs to, where a model gives several numbers; None where each
            item is an example of its own.
        model: where the model came from, for people.
        data_fingerprint: of the inputs, in any order; empty when unknown.

    Raises:
        ValueError: anything above does not hold.
    """

    values: NDArray[np.float64]
    ids: NDArray[np.str_]
    labels: NDArray[np.float64] = None  # type: ignore[assignment]  # __post_init__ makes it an array
    examples: NDArray[np.int64] | None = None
    model: str = ""
    data_fingerprint: str = ""

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        unknown = np.full(values.shape, np.nan)
        converted = {
            "values": values,
            "ids": np.asarray(self.ids).astype(np.str_, copy=False),
            "labels": unknown if self.labels is None else np.asarray(self.labels, dtype=np.float64),
            "examples": None if self.examples is None else np.asarray(self.examples, dtype=np.int64),
        }
        for name, array in converted.items():
            object.__setattr__(self, name, array)
            if array is not None and array.shape != (values.size,):
                raise ValueError(f"{name} must be one number for each of {values.size} items. Got {list(array.shape)}.")
        if not values.size:
            raise ValueError("There are no values. Give a dataset that is not empty.")
        if not np.isfinite(values).all():
            first = str(self.ids[~np.isfinite(values)][0])
            raise ValueError(f"values must be finite. Got NaN or infinity at id {first!r}. Check the model's weights.")
        if len(np.unique(self.ids)) < values.size:
            raise ValueError("ids must differ from each other, since they pair the items. Name each row once.")

    def __len__(self) -> int:
        return len(self.values)

    def aligned_to(self, reference: "Values") -> "Values":
        """The same in the order of the reference's items.

        Raises:
            ValueError: the items, inputs or known labels of the two differ.
        """
        place = {name: row for row, name in enumerate(self.ids.tolist())}
        missing = [name for name in reference.ids.tolist() if name not in place]
        if missing or len(self) != len(reference):
            raise ValueError(
                f"Both models must be asked the same items. {len(missing)} of the reference's {len(reference)} are "
                f"missing among the {len(self)} of the candidate. Predict both on the same dataset."
            )
        ours, theirs = self.data_fingerprint, reference.data_fingerprint
        if ours and theirs and ours != theirs:
            raise ValueError(
                f"Both models must be asked the same inputs. The ids match, but the data differ: {theirs} against "
                f"{ours}. Predict again with both models on the same dataset."
            )
        rows = np.array([place[name] for name in reference.ids.tolist()])
        labels = self.labels[rows]
        if (np.abs(labels - reference.labels) > 0).any():
            raise ValueError("The same item must have the same label on both sides. Predict both on the same dataset.")
        examples = None if self.examples is None else self.examples[rows]
        return Values(self.values[rows], self.ids[rows], labels, examples, self.model, self.data_fingerprint)


def values_of(
    answers: Sequence[NDArray[np.float32]],
    row_ids: NDArray[np.str_],
    labels: Sequence[Any] | None,
    names: Sequence[str],
    *,
    model: str,
    data_fingerprint: str,
) -> Values:
    """The values of R rows with one number for each name; items are called ``<row>/<name>`` where there are several."""
    found = np.stack(answers).astype(np.float64)
    several, n = len(names) > 1, len(found)
    ids = np.array([f"{row}/{name}" for row in row_ids.tolist() for name in names]) if several else row_ids
    truth = np.full(found.size, np.nan) if labels is None else np.array(labels, dtype=np.float64).reshape(-1)
    examples = np.repeat(np.arange(n), len(names)) if several else None
    return Values(found.reshape(-1), ids, truth, examples, model, data_fingerprint)
