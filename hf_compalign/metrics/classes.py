"""Classes as a user gives them to a metric: whole numbers."""

from abc import ABC, abstractmethod
from typing import Any

import evaluate
import numpy as np

_ONE = {"prediction": "predictions", "reference": "references"}


# Abstract, so that evaluate.load does not take it for the metric of a script that imports it.
class ClassMetric(evaluate.Metric, ABC):
    """A metric of classes, which refuses 0.9 for one. evaluate would cut it to 0."""

    @abstractmethod
    def _compute(self, *args: Any, **inputs: Any) -> dict[str, Any]: ...

    def add_batch(self, **columns: Any) -> None:
        """Add examples."""
        for name, values in columns.items():
            self._check_whole(name, values)
        super().add_batch(**columns)

    def add(self, **values: Any) -> None:
        """Add one example."""
        for name, value in values.items():
            self._check_whole(_ONE.get(name, name), [value])
        super().add(**values)

    def _check_whole(self, name: str, values: Any) -> None:
        if getattr(self.features.get(name), "dtype", None) != "int64":
            return
        array = np.asarray(values)
        if array.dtype.kind != "f" or array.ndim != 1:
            return
        cut = array != np.trunc(array)
        if cut.any():
            raise ValueError(
                f"{name} must be classes, one whole number for each example. Got {array[cut.argmax()]:g} in row "
                f"{cut.argmax()}. Take the argmax of logits or probabilities first."
            )
