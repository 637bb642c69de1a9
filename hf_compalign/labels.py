"""Match labels by name: those of two models, and those of a dataset with a model's."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_compalign._formats import first_of

IGNORED = -100  # an unknown label, as in torch and transformers

_UNKNOWN = (IGNORED, -1)  # -1 as in datasets
_PLACEHOLDER = re.compile(r"LABEL_\d+")

logger = logging.getLogger(__name__)

_shown = partial(first_of, most=8)


def names_of(id2label: Mapping[int, str]) -> tuple[str, ...]:
    """The label names of a config's ``id2label``, in the order of the logits' columns.

    >>> names_of({1: "positive", 0: "negative"})
    ('negative', 'positive')
    """
    return tuple(str(id2label[index]) for index in sorted(id2label))


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether the names are the ``LABEL_0``, ``LABEL_1`` ... of a config that was never given any.

    >>> are_placeholders(["LABEL_0", "LABEL_1"])
    True
    """
    return all(_PLACEHOLDER.fullmatch(name) for name in names)


def places(names: Sequence[str], among: Sequence[str]) -> list[int | None]:
    """Where each name stands among others: the very same one, or else the only one that differs in case alone.

    Several spellings of one name, on either side, are several names, and then only the very same one will do.

    >>> places(["Positive", "neutral"], ["negative", "positive"])
    [1, None]
    """
    spellings = Counter(name.casefold() for name in set(names))
    same, folded = _unique(among), _unique([name.casefold() for name in among])
    alike = {name: folded.get(fold) for name in names if spellings[fold := name.casefold()] == 1}
    return [same.get(name, alike.get(name)) for name in names]


def label_order(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, ...] | None:
    """The position of each of our labels in theirs, or None if nothing needs to move.

    ``their_logits[..., order]`` has our column order. Names are matched as in `places`. If one side has only
    placeholder names, the positions are trusted (None), and callers should tell the user; see `are_placeholders`.

    >>> label_order(["negative", "positive"], ["Positive", "Negative"])
    (1, 0)
    >>> label_order(["a", "b"], ["a", "b"]) is None
    True

    Raises:
        ValueError: the numbers of labels or their names differ.
    """
    if len(ours) != len(theirs):
        raise ValueError(
            f"The two models must answer with the same labels. Got {len(ours)} labels ({_shown(ours)}) "
            f"against {len(theirs)} ({_shown(theirs)}). Use a model fine-tuned for the same task."
        )
    order = tuple(place for place in places(ours, theirs) if place is not None)
    if len(set(order)) < len(ours):
        if are_placeholders(ours) or are_placeholders(theirs):
            return None
        raise ValueError(
            f"The two models must answer with the same labels. Got {_shown(ours)} against {_shown(theirs)}. "
            "If they mean the same, give both configs the same id2label."
        )
    return None if order == tuple(range(len(order))) else order


def plain_labels(labels: Iterable[Any], *, column: str) -> list[Any]:
    """The labels of a column as whole numbers or texts, None where unknown.

    Floats without a fraction and bools are whole numbers, since pandas makes them of class ids. None, nan, -1 and -100
    mean unknown.

    Raises:
        ValueError: the labels are neither class ids nor names.
    """
    found = [_plain(label) for label in labels]
    kinds = {type(label) for label in found if label is not None}
    if kinds not in (set(), {int}, {str}):
        several = " Of several labels in each row, set config.problem_type to 'multi_label_classification'."
        raise ValueError(
            f"The labels in column {column!r} must be class ids or names. Got "
            f"{', '.join(sorted(kind.__name__ for kind in kinds))}. Name the label column; a regression is not "
            f"supported.{several if list in kinds else ''}"
        )
    return [None if label in _UNKNOWN else label for label in found]


class LabelReader:
    """Reads the labels of a dataset as ids of a model: the one rule for training, calibrating, predicting and audits.

    Names are matched as in `places`, so a dataset may have some of the model's classes only. If one side has only
    placeholder names, the positions are trusted, with a warning.

    Args:
        names: the model's label names.
        classes: the names that the dataset's ids stand for; None where its ids are the model's.
        column: what the labels are called, for messages.

    Raises:
        ValueError: a class is not the model's.

    >>> LabelReader(["negative", "positive"], ["Positive", "Negative"]).ids([0, 1, None])
    array([   1,    0, -100])
    """

    def __init__(self, names: Sequence[str], classes: Sequence[str] | None = None, *, column: str = "labels") -> None:
        self.names, self.column = tuple(names), column
        self._order: Sequence[int] = range(len(names)) if classes is None else self._order_of(tuple(classes))

    def ids(self, labels: Iterable[Any]) -> NDArray[np.int64]:
        """The model's ids, int64 [N], `IGNORED` where unknown.

        Args:
            labels: class ids or names, [N]; see `plain_labels`.

        Raises:
            ValueError: they are neither, or not the model's.
        """
        found = plain_labels(labels, column=self.column)
        known = list(dict.fromkeys(label for label in found if label is not None))
        ids = self._ids_of_names(known) if known and isinstance(known[0], str) else self._ids_of_numbers(known)
        return np.array([IGNORED if label is None else ids[label] for label in found], dtype=np.int64)

    def ids_of_lists(self, lists: Iterable[Any]) -> list[NDArray[np.int64]]:
        """The same for each of several lists of labels, such as those of the tokens of a text.

        Raises:
            ValueError: a row holds no list, or its labels are not the model's.
        """
        found = []
        for given in lists:
            labels = given.tolist() if hasattr(given, "tolist") else given
            if not isinstance(labels, list | tuple):
                raise ValueError(
                    f"The column {self.column!r} must hold a list of labels in each row, one for each token. Got "
                    f"{labels!r:.80}. Name the column with the labels of the tokens."
                )
            found.append(self.ids(labels))
        return found

    def _order_of(self, classes: tuple[str, ...]) -> list[int]:
        found = places(classes, self.names)
        order = [place for place in found if place is not None]
        if len(order) == len(classes):
            return order
        if len(classes) <= len(self.names) and (are_placeholders(classes) or are_placeholders(self.names)):
            _say_trusted(self.names, classes)
            return list(range(len(classes)))
        raise ValueError(
            f"The classes of column {self.column!r} must be the model's labels. Got {_shown(classes)} against the "
            f"model's {_shown(self.names)}. Name another label column. Or, if they mean the same, rename the classes "
            "of the dataset or the model's id2label."
        )

    def _ids_of_names(self, known: Sequence[str]) -> dict[str, int]:
        found = dict(zip(known, places(known, self.names), strict=True))
        if foreign := sorted(name for name, place in found.items() if place is None):
            raise ValueError(
                f"The labels in column {self.column!r} must be names of the model's labels ({_shown(self.names)}). Got "
                f"{_shown(foreign)}. Name another label column, or use a model for this task."
            )
        return {name: place for name, place in found.items() if place is not None}

    def _ids_of_numbers(self, known: Sequence[int]) -> dict[int, int]:
        n = len(self._order)
        if outside := [label for label in known if not 0 <= label < n]:
            raise ValueError(
                f"Labels must lie in [0, {n}), or be {IGNORED} or -1 where unknown. Got {outside[0]} in column "
                f"{self.column!r}. Set num_labels= when loading the model, or fix the column."
            )
        return {label: self._order[label] for label in known}


def _plain(label: Any) -> Any:
    if hasattr(label, "tolist"):  # of numpy or torch
        label = label.tolist()
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if isinstance(label, float):
        return None if math.isnan(label) else int(label) if label.is_integer() else label
    return int(label) if isinstance(label, bool) else label


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Where each name stands that is there once."""
    counts = Counter(names)
    return {name: place for place, name in enumerate(names) if counts[name] == 1}


@cache
def _say_trusted(names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    logger.warning(
        "Only one of the model and the dataset has names for its labels, so they are matched by position: model %s, "
        "dataset %s.",
        _shown(names),
        _shown(classes),
    )
