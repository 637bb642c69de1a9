"""What compression does to groups: who mismatches, who loses accuracy, and what becomes of the fairness measures.

Groups may overlap: an item counts in each of its groups, and in none when it has none. Groups below a minimum size
are shown and marked, but nothing is concluded from them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_compalign._extras import needs_extra
from hf_compalign.measure.bootstrap import Estimate
from hf_compalign.measure.groups.gaps import PARITY, exact_p_values, parity, permutation_p_value, resampled_gaps
from hf_compalign.measure.groups.membership import Membership, normalized_groups
from hf_compalign.measure.groups.table import (
    CLASS_COUNTS,
    COUNTS,
    RATES,
    GroupTable,
    answer_flags,
    checked_answers,
    class_counts,
    divided,
    one_vs_rest,
)
from hf_compalign.measure.intervals import holm, rate, wilson_interval

Array = NDArray[Any]
_MODELS = ("reference", "candidate")


@dataclass(frozen=True)
class GroupRow:
    """The items of one group; mismatches out of all ``n``, what needs labels out of the ``n_labelled``.

    Attributes:
        small: whether there are fewer items than the minimum, so that nothing is concluded.
        mismatch_rate_interval: 95 % Wilson interval, as ``nfr_interval``.
        lost: items that only the reference has right; ``nfr`` is their share.
        accuracy_change: candidate - reference.
        p_value: that mismatches are as frequent inside the group as among all the other items, whether these are in
            a group or not: Fisher's exact test, two-sided.
        p_adjusted: by Holm's method, over the groups of the attribute that are not small; nan for a small one.
    """

    attribute: str
    group: str
    n: int
    n_labelled: int
    small: bool
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    lost: int
    nfr: float
    nfr_interval: tuple[float, float]
    accuracy_reference: float
    accuracy_candidate: float
    accuracy_change: float
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class GroupRates:
    """How a group's items are answered with one class against the rest.

    ``selection_rate`` is the share of all items that get the class; ``tpr`` the share of those labelled with it,
    and ``fpr`` of those labelled otherwise, that do.
    """

    attribute: str
    group: str
    label: int
    selection_rate_reference: float
    selection_rate_candidate: float
    tpr_reference: float
    tpr_candidate: float
    fpr_reference: float
    fpr_candidate: float


@dataclass(frozen=True)
class FairnessRow:
    """One fairness measure of both models over the groups that count, see `hf_compalign.measure.groups.gaps.parity`.

    ``label`` is the class against the rest, None for the worst over the classes. ``change`` is candidate -
    reference: above 0 is worse for a difference, below 0 for a ratio.
    """

    measure: str
    label: int | None
    reference: float
    candidate: float
    change: float


@dataclass(frozen=True)
class Gap:
    """How far the groups of one attribute lie apart. Small groups do not count.

    What needs labels counts the groups with at least the minimum of labelled items. A gap or a difference needs two
    groups, and is nan with fewer.

    Attributes:
        n_groups: groups that are not small.
        mismatch_gap: largest mismatch rate of a group - smallest. It is never negative and its interval hardly
            ever reaches 0: whether it is more than chance is told by ``p_value``.
        highest: the group with the largest mismatch rate; empty when there is none.
        lowest: the group with the smallest.
        p_value: permutation test of a gap as large, see `gaps.permutation_p_value`.
        upper_bound: of the mismatch gap, one-sided 95 %, see `gaps.resampled_gaps`.
        nfr_gap: largest negative flip rate - smallest.
        worst_group_accuracy_reference: accuracy of the reference in ``worst_group_reference``, where it is lowest.
        worst_group_accuracy_candidate: that of the candidate in ``worst_group_candidate``, where its is lowest.
        worst_group_accuracy_drop: the first - the second; above 0 is worse.
        drop_upper_bound: of the drop, one-sided 95 %.
        fairness: the measures, the worst over the classes first and then class by class.
    """

    attribute: str
    n_groups: int
    mismatch_gap: Estimate
    highest: str
    lowest: str
    p_value: float
    upper_bound: float
    nfr_gap: Estimate
    worst_group_accuracy_reference: float
    worst_group_reference: str
    worst_group_accuracy_candidate: float
    worst_group_candidate: str
    worst_group_accuracy_drop: Estimate
    drop_upper_bound: float
    fairness: tuple[FairnessRow, ...]


@dataclass(frozen=True)
class GroupAudit:
    """Every group, every class in it, and one `Gap` per attribute."""

    rows: tuple[GroupRow, ...]
    rates: tuple[GroupRates, ...]
    gaps: tuple[Gap, ...]
    min_group_size: int


@dataclass(frozen=True, eq=False)
class _Groups:
    """What is counted of one attribute: `COUNTS` -> [G], and per model the one-vs-rest rates by name, [G, C]."""

    attribute: str
    table: GroupTable
    counts: dict[str, Array]
    rates: dict[str, dict[str, Array]]


def audit_groups(
    reference: ArrayLike,
    candidate: ArrayLike,
    labels: ArrayLike,
    groups: Membership | Mapping[str, Membership],
    *,
    n_classes: int,
    min_group_size: int = 30,
    n_resamples: int = 1000,
    seed: int = 0,
) -> GroupAudit:
    """Compare two models' answers group by group.

    >>> groups, sizes = ["a", "a", "b", "b"], {"n_classes": 2, "min_group_size": 2}
    >>> found = audit_groups([0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], groups, **sizes)
    >>> [(row.group, row.mismatch_rate, row.nfr) for row in found.rows]
    [('a', 0.5, 0.5), ('b', 0.0, 0.0)]
    >>> found.gaps[0].mismatch_gap.value, found.gaps[0].highest
    (0.5, 'a')

    Args:
        reference: answers of the model to be preserved, int [N].
        candidate: answers of the model that should answer like it, int [N].
        labels: the right answers, -100 where unknown, int [N].
        groups: what `normalized_groups` takes: the groups of each item, for one or several attributes.
        n_classes: answers and labels are in [0, n_classes).
        min_group_size: nothing is concluded from a group of fewer items.
        n_resamples: draws for the intervals and bounds.
        seed: of the draws and the permutations, the same for every attribute.

    Raises:
        ValueError: not integers of one shape [N], an answer or a label that is no class, groups that
            `normalized_groups` refuses, or min_group_size or n_resamples below 1.
        ImportError: fairlearn is not installed.
    """
    for name, value in (("min_group_size", min_group_size), ("n_resamples", n_resamples)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1. Got {value}.")
    answers = checked_answers(reference, candidate, labels, n_classes)
    rows: list[GroupRow] = []
    rates: list[GroupRates] = []
    gaps = []
    for attribute, membership in normalized_groups(groups, len(answers[0])).items():
        table = GroupTable.of(answers, membership, n_classes=n_classes)
        found = _counted(attribute, table, n_classes)
        rows += _rows(found, min_group_size)
        rates += _class_rates(found)
        gaps.append(_gap(found, min_group_size, n_resamples, seed))
    return GroupAudit(tuple(rows), tuple(rates), tuple(gaps), min_group_size)


def _counted(attribute: str, table: GroupTable, n_classes: int) -> _Groups:
    with needs_extra("fairness", what="The audit of groups"):
        from fairlearn.metrics import MetricFrame

    cells = table.cells_of_groups(n_classes)
    sizes = (len(COUNTS), len(CLASS_COUNTS) * n_classes, len(CLASS_COUNTS) * n_classes)
    found = np.zeros((0, sum(sizes)))
    if len(cells.group):
        frame = MetricFrame(
            metrics={"counts": partial(_group_counts, n_classes=n_classes)},
            y_true=cells.labels,
            y_pred=cells.candidate,
            sensitive_features=cells.group.tolist(),  # an array of one entry is refused
            sample_params={"counts": {"reference": cells.reference, "weight": cells.count}},
        )
        found = np.stack(list(frame.by_group["counts"]))
    own, *by_class = np.split(found, np.cumsum(sizes)[:-1], axis=1)
    counts = dict(zip(COUNTS, own.T.astype(np.int64), strict=True))
    rates = {}
    for model, of_classes in zip(_MODELS, by_class, strict=True):
        blocks = of_classes.reshape(-1, len(CLASS_COUNTS), n_classes).swapaxes(0, 1)
        rates[model] = one_vs_rest(counts, dict(zip(CLASS_COUNTS, blocks, strict=True)))
    return _Groups(attribute, table, counts, rates)


def _group_counts(labels: Array, candidate: Array, *, reference: Array, weight: Array, n_classes: int) -> Array:
    """The items of one group in one row: `COUNTS`, the reference's `CLASS_COUNTS`, the candidate's."""
    flags = answer_flags(reference, candidate, labels)
    of_classes = (class_counts(labels, answered, weight, n_classes).ravel() for answered in (reference, candidate))
    return np.concatenate([weight @ flags, *of_classes])


def _rows(found: _Groups, min_group_size: int) -> list[GroupRow]:
    p_values = exact_p_values(found.table, found.counts)
    adjusted = holm(np.where(found.counts["n"] < min_group_size, np.nan, p_values))
    counts = zip(*(found.counts[name].tolist() for name in COUNTS), strict=True)
    both = zip(p_values.tolist(), adjusted.tolist(), strict=True)
    return [
        _row(found.attribute, group, dict(zip(COUNTS, own, strict=True)), min_group_size, p_values=pair)
        for group, own, pair in zip(found.table.names, counts, both, strict=True)
    ]


def _row(
    attribute: str, group: str, own: Mapping[str, int], min_group_size: int, *, p_values: tuple[float, float]
) -> GroupRow:
    n, n_labelled = own["n"], own["n_labelled"]
    return GroupRow(
        attribute=attribute,
        group=group,
        n=n,
        n_labelled=n_labelled,
        small=n < min_group_size,
        mismatches=own["mismatches"],
        mismatch_rate=rate(own["mismatches"], n),
        mismatch_rate_interval=wilson_interval(own["mismatches"], n),
        lost=own["lost"],
        nfr=rate(own["lost"], n_labelled),
        nfr_interval=wilson_interval(own["lost"], n_labelled),
        accuracy_reference=rate(own["right_reference"], n_labelled),
        accuracy_candidate=rate(own["right_candidate"], n_labelled),
        accuracy_change=rate(own["right_candidate"] - own["right_reference"], n_labelled),
        p_value=p_values[0],
        p_adjusted=p_values[1],
    )


def _class_rates(found: _Groups) -> list[GroupRates]:
    names = [f"{measure}_{model}" for measure in RATES for model in _MODELS]
    values = np.stack([found.rates[model][measure] for measure in RATES for model in _MODELS], axis=-1).tolist()
    return [
        GroupRates(found.attribute, group, label, **dict(zip(names, rates, strict=True)))
        for group, of_group in zip(found.table.names, values, strict=True)
        for label, rates in enumerate(of_group)
    ]


def _gap(found: _Groups, min_group_size: int, n_resamples: int, seed: int) -> Gap:
    judged = np.flatnonzero(found.counts["n"] >= min_group_size)
    labelled = np.flatnonzero(found.counts["n_labelled"] >= min_group_size)
    drawn = resampled_gaps(
        found.table, found.counts, judged=judged, labelled=labelled, n_resamples=n_resamples, seed=seed
    )
    names = np.array(found.table.names, dtype=object)
    mismatched = divided(found.counts["mismatches"], found.counts["n"])[judged]
    right = {model: divided(found.counts[f"right_{model}"], found.counts["n_labelled"])[labelled] for model in _MODELS}
    lowest = {model: _extreme(names[labelled], rates, np.argmin) for model, rates in right.items()}
    return Gap(
        attribute=found.attribute,
        n_groups=len(judged),
        mismatch_gap=drawn.mismatch_gap,
        highest=_extreme(names[judged], mismatched, np.argmax)[0],
        lowest=_extreme(names[judged], mismatched, np.argmin)[0],
        p_value=permutation_p_value(found.table, judged=judged, seed=seed),
        upper_bound=drawn.mismatch_bound,
        nfr_gap=drawn.nfr_gap,
        worst_group_accuracy_reference=lowest["reference"][1],
        worst_group_reference=lowest["reference"][0],
        worst_group_accuracy_candidate=lowest["candidate"][1],
        worst_group_candidate=lowest["candidate"][0],
        worst_group_accuracy_drop=drawn.accuracy_drop,
        drop_upper_bound=drawn.drop_bound,
        fairness=_fairness(found, judged, labelled),
    )


def _extreme(names: Array, values: Array, place: Callable[[Array], Any]) -> tuple[str, float]:
    """The name and the value at the first extreme; ("", nan) of nothing."""
    if not len(values):
        return "", np.nan
    where = int(place(values))
    return str(names[where]), float(values[where])


def _fairness(found: _Groups, judged: Array, labelled: Array) -> tuple[FairnessRow, ...]:
    reference, candidate = (parity(found.rates[model], judged=judged, labelled=labelled) for model in _MODELS)
    return tuple(
        FairnessRow(measure, label - 1 if label else None, of_reference, of_candidate, of_candidate - of_reference)
        for measure in PARITY
        for label, (of_reference, of_candidate) in enumerate(zip(reference[measure], candidate[measure], strict=True))
    )
