"""What is known of each row beside the models' answers to it: words, columns, image statistics, and the reference's."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value
from numpy.typing import NDArray

from hf_compalign._checks import check_name
from hf_compalign.data import ID_COLUMNS, existing_column, find_image_column, image_files, image_of
from hf_compalign.measure.groups import group_membership, text_length
from hf_compalign.measure.predictions import Columns, is_raw
from hf_compalign.measure.slices.record import Condition
from hf_compalign.tasks import Task

Mask = NDArray[np.bool_]

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_MOST_VALUES = 20  # whole numbers of more values than that are compared, not named
_QUANTILES = np.arange(1, 10) / 10


@dataclass(frozen=True, eq=False)
class Features:
    """The rows of N items, and the reference's answers to them.

    Attributes:
        answers: the two likeliest classes of each [N, 2].
        label_names: of the classes.
    """

    rows: Dataset
    task: Task
    columns: Columns
    answers: NDArray[np.int64]
    label_names: Sequence[str]

    @cached_property
    def words(self) -> Mapping[str, NDArray[np.int64]]:
        """Word -> the rows whose text contains it; empty without raw texts."""
        found: dict[str, list[int]] = {}
        for row, texts in enumerate(zip(*(self.rows[name] for name in self._texts), strict=True)):
            # In the order of the text: that of a set differs from process to process, and decides between equal slices.
            for word in dict.fromkeys(word.lower() for text in texts for word in _WORD.findall(text or "")):
                found.setdefault(word, []).append(row)
        return {word: np.array(rows) for word, rows in found.items()}

    @cached_property
    def lengths(self) -> NDArray[np.float64]:
        """The number of words of each text [N]; empty without raw texts."""
        return text_length(self.rows, self._texts).astype(np.float64) if self._texts else np.zeros(0)

    @cached_property
    def image_statistics(self) -> Mapping[str, NDArray[np.float64]]:
        """Name of a statistic -> its value for each image [N], in [0, 1]; empty without raw images."""
        if not self._image:
            return {}
        images = image_files(self.rows.select_columns([self._image]), self._image)
        pictures = (np.asarray(image_of(row[self._image]), dtype=np.float64) for row in images)
        found = [_statistics(pixels / 255) for pixels in pictures]
        return {name: np.array([one[name] for one in found]) for name in found[0]}

    @cached_property
    def values(self) -> Mapping[str, Sequence[tuple[str, ...]]]:
        """Column -> the names in each row [N], of the columns that name something."""
        return {name: group_membership(self.rows, name) for name in self._others if _kind(self.rows, name) == "value"}

    @cached_property
    def numbers(self) -> Mapping[str, NDArray[np.float64]]:
        """Column -> its numbers [N], nan where there is none."""
        names = [name for name in self._others if _kind(self.rows, name) == "number"]
        return {name: np.array(self.rows[name], dtype=np.float64) for name in names}

    @property
    def _texts(self) -> tuple[str, ...]:
        of_texts = self.task.model_input == "input_ids" and is_raw(self.rows, self.task)
        return self.columns.texts_in(self.rows) if of_texts else ()

    @property
    def _image(self) -> str:
        of_images = self.task.model_input == "pixel_values" and is_raw(self.rows, self.task)
        return find_image_column(self.rows, self.columns.image, labels=self.columns.label) if of_images else ""

    @property
    def _others(self) -> list[str]:
        inputs = {*self._texts, self._image, *ID_COLUMNS, self.columns.id}
        return [name for name in self.rows.column_names if name not in inputs]

    def conditions(self, least: int) -> Iterator[Condition]:
        """Every condition that may name a slice, of those that at least so many rows meet."""
        yield from (Condition("word", value=word) for word, rows in self.words.items() if len(rows) >= least)
        yield from _cuts("words", "", self.lengths)
        for column, rows in self.values.items():
            counts = Counter(value for row in rows for value in row)
            yield from (Condition("value", column, value) for value, count in counts.items() if count >= least)
        for column, numbers in self.numbers.items():
            yield from _cuts("number", column, numbers)
        for name, numbers in self.image_statistics.items():
            yield from _cuts("image", name, numbers)
        names = self.label_names
        for n_answers in (1, 2) if len(names) > 2 else (1,):
            found, sizes = np.unique(self.answers[:, :n_answers], axis=0, return_counts=True)
            for answers in found[sizes >= least].tolist():
                yield Condition(
                    "answers", **dict(zip(("value", "second"), (names[one] for one in answers), strict=False))
                )

    def members(self, condition: Condition) -> Mask:
        """Which rows meet a condition [N].

        Raises:
            ValueError: there is no such column, text, image or label.
        """
        if condition.kind == "word":
            self._check("texts", self._texts)
            found = np.zeros(len(self.rows), dtype=bool)
            found[self.words.get(condition.value, [])] = True
            return found
        if condition.kind == "value":
            # Not by its kind here: of other rows a column may hold more values.
            column = existing_column(self.rows.column_names, condition.column)
            values = self.values.get(column) or group_membership(self.rows, column)
            return np.array([condition.value in row for row in values])
        if condition.kind == "answers":
            names, asked = self.label_names, [condition.value, *filter(None, [condition.second])]
            for name in asked:
                check_name("label", name, names)
            wanted = [names.index(name) for name in asked]
            return np.asarray((self.answers[:, : len(wanted)] == wanted).all(axis=1))
        numbers = self._numbers_of(condition)
        return np.asarray(numbers > condition.threshold if condition.above else numbers <= condition.threshold)

    def _numbers_of(self, condition: Condition) -> NDArray[np.float64]:
        if condition.kind == "words":
            self._check("texts", self._texts)
            return self.lengths
        if condition.kind == "image":
            self._check("images", self._image)
            check_name("statistic of images", condition.column, [*self.image_statistics])
            return self.image_statistics[condition.column]
        column = existing_column(self.rows.column_names, condition.column)
        if not _holds_numbers(self.rows.features[column]):
            raise ValueError(
                f"A slice is told by the numbers of {column!r}, and it holds none. Give a dataset like the one that it "
                "was found on."
            )
        return self.numbers[column] if column in self.numbers else np.array(self.rows[column], dtype=np.float64)

    def _check(self, what: str, there: object) -> None:
        if not there:
            raise ValueError(f"A slice is told by raw {what}, and the dataset has none. Give a dataset with them.")


def _cuts(kind: str, column: str, numbers: NDArray[np.float64]) -> Iterator[Condition]:
    """Conditions that part the rows at every tenth of them."""
    known = numbers[~np.isnan(numbers)]
    if known.size:
        for cut in np.unique(np.quantile(known, _QUANTILES, method="inverted_cdf")).tolist():
            yield from (Condition(kind, column, threshold=cut, above=above) for above in (False, True))


def _kind(rows: Dataset, name: str) -> str:
    """Whether a column names something ("value"), holds numbers ("number"), or is neither (empty)."""
    feature = rows.features[name]
    inner = getattr(feature, "feature", feature)
    dtype = str(getattr(inner, "dtype", ""))
    if isinstance(inner, ClassLabel) or dtype in ("string", "large_string", "bool"):
        return "value"
    if not _holds_numbers(feature):  # lists of numbers are a model's inputs
        return ""
    few = len(set(rows[name])) <= _MOST_VALUES
    return "value" if few and not dtype.startswith("float") else "number"


def _holds_numbers(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "float"))


def _statistics(pixels: NDArray[np.float64]) -> dict[str, float]:
    """Of an RGB image [H, W, 3] in [0, 1]."""
    grey = pixels.mean(axis=2)
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "saturation": float((pixels.max(axis=2) - pixels.min(axis=2)).mean()),
    }
