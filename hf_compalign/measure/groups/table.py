"""Items with the same groups and the same outcome are of one kind: what the statistics of groups read."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from hf_compalign.labels import IGNORED
from hf_compalign.measure.groups.membership import Bin
from hf_compalign.measure.groups.sharing import CountedRates, Kinds
from hf_compalign.measure.statistics import Array, class_counts

COUNTS = ("n", "mismatches", "n_labeled", "lost", "right_reference", "right_candidate")
MODELS = ("reference", "candidate")
_BITS = 1 << np.arange(len(COUNTS))


def _answer_flags(reference: Array, candidate: Array, labels: Array) -> NDArray[np.bool_]:
    """Whether each item counts among each of `COUNTS`, bool [N, 6]; what needs a label is False without one."""
    known = labels != IGNORED
    before, after = known & (reference == labels), known & (candidate == labels)
    return np.stack([np.ones_like(known), reference != candidate, known, before & ~after, before, after], axis=1)


@dataclass(frozen=True, eq=False)
class GroupTable:
    """The items of one attribute by T kinds."""

    names: tuple[str, ...]  # the G groups, in the order of their first item, or bins in that of their values
    in_order: bool  # whether they are bins
    kinds: Kinds
    pattern: NDArray[np.int64]  # which set of groups each kind is in [T]
    flags: NDArray[np.bool_]  # `_answer_flags` [T, 6]

    @property
    def n_ungrouped(self) -> int:
        """Items in no group."""
        return int(self.kinds.count[self.kinds.members.sum(axis=1) == 0].sum())

    @property
    def mismatched(self) -> NDArray[np.bool_]:
        """Whether the answers of a kind differ, bool [T]."""
        return self._flag("mismatches")

    def rates(self, hits: str, among: str, groups: ArrayLike) -> CountedRates:
        """The rates of these groups, from two of `COUNTS`."""
        return self.kinds.rates(self._flag(hits), self._flag(among), groups)

    def largest(self, name: str, groups: ArrayLike) -> NDArray[np.float64]:
        """The most items of one example that count among one of `COUNTS`, in these groups [G]."""
        return self.kinds.largest(self.kinds.members[:, groups].multiply(self._flag(name)[:, np.newaxis]).tocsr())

    def _flag(self, name: str) -> NDArray[np.bool_]:
        return np.asarray(self.flags[:, COUNTS.index(name)])


@dataclass(frozen=True, eq=False)
class AnswerTable:
    """The items by their set of groups, label and the candidate's answer: T kinds."""

    kinds: Kinds
    label: NDArray[np.int64]  # n_classes where unknown
    answer: NDArray[np.int64]
    labeled: NDArray[np.bool_]

    def rates(self, measure: str, label: int, groups: ArrayLike) -> CountedRates:
        """One of `RATES` of the candidate for one class against the rest, of these groups."""
        own = self.label == label
        among = {"selection_rate": np.ones_like(own), "tpr": own, "fpr": self.labeled & ~own}[measure]
        return self.kinds.rates(self.answer == label, among, groups)


class ClassMargins(NamedTuple):
    """Counts of the items of each group and class, in a row for each of the M pairs that occur."""

    group: NDArray[np.int64]
    label: NDArray[np.int64]  # n_classes for the items without a label
    columns: dict[str, NDArray[np.int64]]  # of the items with this label `COUNTS`; for each model also `CLASS_COUNTS`


@dataclass(frozen=True, eq=False)
class CountedGroups:
    """What is counted of one attribute."""

    attribute: str
    table: GroupTable
    answers: AnswerTable
    counts: dict[str, Array]  # name of `COUNTS` -> [G]
    rates: dict[str, dict[str, Array]]  # model -> one-vs-rest rate -> [G, C]
    out_of: dict[str, Array]  # rate -> items behind it [G, C]
    occurs: NDArray[np.bool_]  # which classes occur in which group [G, C]


def counted(
    answers: tuple[Array, Array, Array],
    groups: Sequence[tuple[str, ...]],
    *,
    n_classes: int,
    examples: Array | None = None,
) -> tuple[GroupTable, AnswerTable, ClassMargins]:
    """Count the items of the answers (reference, candidate, labels), int [N] each, in [0, n_classes) or -100.

    ``examples``, int [N] in [0, E), are those of the items if some share one.
    """
    patterns: dict[tuple[str, ...], int] = {}
    pattern = np.array([patterns.setdefault(names, len(patterns)) for names in groups], dtype=np.int64)
    names = [*dict.fromkeys(chain.from_iterable(patterns))]
    in_order = bool(names) and all(isinstance(name, Bin) for name in names)
    if in_order:
        names.sort(key=attrgetter("place"))
    places = {name: place for place, name in enumerate(names)}
    ends = np.cumsum([0, *(len(names) for names in patterns)])
    inside = np.array([places[name] for names in patterns for name in names], dtype=np.int64)
    members = sparse.csr_array((np.ones(len(inside)), inside, ends), shape=(len(patterns), len(places)))
    flags = _answer_flags(*answers)
    # One number tells all of a row: sorting numbers is far cheaper than sorting rows.
    keys, kinds = np.unique(pattern * (1 << len(COUNTS)) + flags @ _BITS, return_inverse=True)
    which, codes = np.divmod(keys, 1 << len(COUNTS))
    flagged = (codes[:, np.newaxis] & _BITS) > 0
    of_flags = Kinds.of(kinds, members[which], examples)
    table = GroupTable(tuple(map(str, names)), in_order, of_flags, which, flagged)
    label = np.where(answers[2] == IGNORED, n_classes, answers[2])
    keys, kinds = np.unique((pattern * (n_classes + 1) + label) * n_classes + answers[1], return_inverse=True)
    rest, answer = np.divmod(keys, n_classes)
    which, label = np.divmod(rest, n_classes + 1)
    answered = AnswerTable(Kinds.of(kinds, members[which], examples), label, answer, label < n_classes)
    pairs = members[pattern].tocoo()
    own = tuple(values[pairs.row] for values in answers)
    margins = _margins(own, flags[pairs.row], pairs.col.astype(np.int64), shape=(len(places), n_classes + 1))
    return table, answered, margins


def _margins(
    answers: tuple[Array, Array, Array], flags: NDArray[np.bool_], groups: Array, *, shape: tuple[int, int]
) -> ClassMargins:
    """From the answers and labels, flags and group of each membership of an item; shape is (G, C + 1)."""
    n_groups, n_classes = shape
    labels = answers[2]
    cells = groups * n_classes + np.where(labels == IGNORED, n_classes - 1, labels)
    size = n_groups * n_classes
    columns = {name: np.bincount(cells[flag], minlength=size) for name, flag in zip(COUNTS, flags.T, strict=True)}
    for model, answered in zip(MODELS, answers[:2], strict=True):
        found = class_counts(labels, answered, n_classes, groups=groups, n_groups=n_groups)
        columns |= {f"{name}_{model}": counts.ravel() for name, counts in found.items()}
    occurring = np.flatnonzero(np.any([values > 0 for values in columns.values()], axis=0))
    group, label = np.divmod(occurring, n_classes)
    return ClassMargins(group, label, {name: values[occurring] for name, values in columns.items()})
