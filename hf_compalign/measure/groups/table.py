"""Items that agree in their groups, both answers and label, counted once: what statistics of groups are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from hf_compalign.labels import IGNORED
from hf_compalign.measure.comparison import Cells

Array = NDArray[Any]
COUNTS = ("n", "mismatches", "n_labelled", "lost", "right_reference", "right_candidate")
CLASS_COUNTS = ("selected", "positives", "true_positives", "false_positives")
RATES = ("selection_rate", "tpr", "fpr")


def checked_answers(
    reference: ArrayLike, candidate: ArrayLike, labels: ArrayLike, n_classes: int
) -> tuple[Array, Array, Array]:
    """Reference, candidate and labels as int64 [N], or a ValueError: not paired, or outside [0, n_classes)."""
    Cells.count(reference, candidate, labels)  # refuses what is not paired
    r, c, y = (np.asarray(array, dtype=np.int64) for array in (reference, candidate, labels))
    for what, values in (("answers of the reference", r), ("answers of the candidate", c), ("labels", y[y != IGNORED])):
        outside = values[(values < 0) | (values >= n_classes)]
        if outside.size:
            unknown = ", or -100 where unknown" if what == "labels" else ""
            raise ValueError(f"{what} must be in [0, n_classes) = [0, {n_classes}){unknown}. Got {outside[0]}.")
    return r, c, y


def answer_flags(reference: Array, candidate: Array, labels: Array) -> NDArray[np.bool_]:
    """Whether each item counts among each of `COUNTS`, bool [N, 6]; what needs a label is False without one."""
    known = labels != IGNORED
    right_reference, right_candidate = known & (reference == labels), known & (candidate == labels)
    columns: Mapping[str, Array] = {
        "n": np.ones(len(labels), dtype=bool),
        "mismatches": reference != candidate,
        "n_labelled": known,
        "lost": right_reference & ~right_candidate,
        "right_reference": right_reference,
        "right_candidate": right_candidate,
    }
    return np.stack([columns[name] for name in COUNTS], axis=1)


def class_counts(labels: Array, answered: Array, weight: Array, n_classes: int) -> NDArray[np.float64]:
    """One model's answers, each class against the rest: `CLASS_COUNTS` [4, C] of items that count ``weight`` [N]."""
    known, right = labels != IGNORED, answered == labels
    parts: Mapping[str, tuple[Array, Array]] = {
        "selected": (answered, np.ones_like(known)),
        "positives": (labels, known),
        "true_positives": (labels, right),
        "false_positives": (answered, known & ~right),
    }
    chosen = (parts[name] for name in CLASS_COUNTS)
    return np.stack([np.bincount(of[where], weights=weight[where], minlength=n_classes) for of, where in chosen])


def one_vs_rest(counts: Mapping[str, Array], classes: Mapping[str, Array]) -> dict[str, NDArray[np.float64]]:
    """Each of `RATES`, [G, C], of `COUNTS` [G] and one model's `CLASS_COUNTS` [G, C]."""
    n, n_labelled = (np.expand_dims(counts[name], 1) for name in ("n", "n_labelled"))
    return {
        "selection_rate": divided(classes["selected"], n),
        "tpr": divided(classes["true_positives"], classes["positives"]),
        "fpr": divided(classes["false_positives"], n_labelled - classes["positives"]),
    }


def divided(numerator: Array, denominator: Array) -> NDArray[np.float64]:
    """The quotient, of the numerator's shape; nan where the denominator is 0."""
    out = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) != 0)


@dataclass(frozen=True, eq=False)
class GroupCells:
    """How many items of a group have these answers and this label: five columns, int [T] each."""

    group: NDArray[np.int64]
    reference: NDArray[np.int64]
    candidate: NDArray[np.int64]
    labels: NDArray[np.int64]
    count: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GroupTable:
    """The items of one attribute in T rows, each with its count. Two items of a row differ in nothing that matters.

    Attributes:
        names: the G groups, in the order of their first item.
        members: of the P sets of groups that items are in, 0 or 1 [P, G].
        pattern: which of these sets, int [T].
        reference: the reference's answer, int [T].
        candidate: the candidate's answer, int [T].
        labels: the label, -100 where unknown, int [T].
        count: items, int [T].
    """

    names: tuple[str, ...]
    members: sparse.csr_array
    pattern: NDArray[np.int64]
    reference: NDArray[np.int64]
    candidate: NDArray[np.int64]
    labels: NDArray[np.int64]
    count: NDArray[np.int64]

    @classmethod
    def of(
        cls, answers: tuple[Array, Array, Array], groups: Sequence[tuple[str, ...]], *, n_classes: int
    ) -> "GroupTable":
        """Count the items of the answers (reference, candidate, labels), int [N] each, in [0, n_classes) or -100."""
        patterns: dict[tuple[str, ...], int] = {}
        pattern = np.array([patterns.setdefault(names, len(patterns)) for names in groups], dtype=np.int64)
        places = {name: place for place, name in enumerate(dict.fromkeys(chain.from_iterable(patterns)))}
        ends = np.cumsum([0, *(len(names) for names in patterns)])
        inside = np.array([places[name] for names in patterns for name in names], dtype=np.int64)
        shape = (len(patterns), len(places))
        (pattern, reference, candidate, labels), count = _distinct(pattern, *answers, n_classes=n_classes)
        return cls(
            names=tuple(places),
            members=sparse.csr_array((np.ones(len(inside)), inside, ends), shape=shape),
            pattern=pattern,
            reference=reference,
            candidate=candidate,
            labels=labels,
            count=count,
        )

    def cells_of_groups(self, n_classes: int) -> "GroupCells":
        """The items of each group, those of several groups in each of them."""
        pairs = self.members[self.pattern].tocoo()
        cells = (values[pairs.row] for values in (self.reference, self.candidate, self.labels))
        columns, count = _distinct(pairs.col, *cells, n_classes=n_classes, count=self.count[pairs.row])
        return GroupCells(*columns, count=count)


def _distinct(
    which: Array, reference: Array, candidate: Array, labels: Array, *, n_classes: int, count: Array | None = None
) -> tuple[tuple[Array, Array, Array, Array], NDArray[np.int64]]:
    """The distinct rows of four columns and how many there are of each, where each given row stands for ``count``."""
    # One number per row that tells all of it: sorting numbers is far cheaper than sorting rows.
    shape = (int(which.max(initial=0)) + 1, n_classes, n_classes, n_classes + 1)
    known = np.where(labels == IGNORED, n_classes, labels)
    keys, place = np.unique(np.ravel_multi_index((which, reference, candidate, known), shape), return_inverse=True)
    counted = np.bincount(place, weights=count, minlength=len(keys)).astype(np.int64)
    which, reference, candidate, known = np.unravel_index(keys, shape)
    return (which, reference, candidate, np.where(known == n_classes, IGNORED, known)), counted
