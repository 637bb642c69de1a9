"""What compression does to groups: who mismatches, who loses accuracy, and what becomes of the fairness measures.

Groups may overlap: an item counts in each of its groups. Nothing is concluded from groups below a minimum size.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_compalign._extras import needs_extra
from hf_compalign.measure.groups.fairness import fairness
from hf_compalign.measure.groups.gaps import group_p_values, permutation_p_values, resampled_gaps
from hf_compalign.measure.groups.options import GroupOptions
from hf_compalign.measure.groups.record import Gap, GroupAudit, GroupRates, GroupRow
from hf_compalign.measure.groups.table import (
    COUNTS,
    MODELS,
    AnswerTable,
    ClassMargins,
    CountedGroups,
    GroupTable,
    counted,
)
from hf_compalign.measure.statistics import (
    CLASS_COUNTS,
    RATES,
    Array,
    check_classes,
    divided,
    holm,
    one_vs_rest,
    paired,
    rate,
    rate_sizes,
)

_BY_CLASS = tuple(f"{name}_{model}" for model in MODELS for name in CLASS_COUNTS)


def audit_groups(
    reference: ArrayLike,
    candidate: ArrayLike,
    labels: ArrayLike,
    groups: Mapping[str, Sequence[tuple[str, ...]]],
    *,
    n_classes: int,
    options: GroupOptions | None = None,
    examples: ArrayLike | None = None,
) -> GroupAudit:
    """Compare two models' answers group by group.

    >>> groups, options = {"half": [("a",), ("a",), ("b",), ("b",)]}, GroupOptions(min_group_size=2)
    >>> found = audit_groups([0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], groups, n_classes=2, options=options)
    >>> [(row.group, row.mismatch_rate, row.nfr) for row in found.rows]
    [('a', 0.5, 0.5), ('b', 0.0, 0.0)]
    >>> found.gaps[0].mismatch_gap, found.gaps[0].highest
    (0.5, 'a')

    Answers and labels are int [N], in [0, n_classes), a label also -100 where it is unknown. ``groups`` is attribute ->
    the groups of each item, as `normalized_groups` gives them. Where items share ``examples``, int [N], intervals,
    bounds and tests are over these.

    Raises:
        ValueError: not integers of one shape [N], or an answer or a label that is no class.
        ImportError: fairlearn is not installed.
    """
    chosen = options or GroupOptions()
    r, c, y = paired(reference, candidate, labels)
    check_classes(n_classes, reference=r, candidate=c, labels=y)
    shared = None if examples is None else np.unique(paired(r, examples)[1], return_inverse=True)[1]
    if shared is not None and len(shared) == shared.max(initial=-1) + 1:
        shared = None
    found = [
        _by_group(attribute, *counted((r, c, y), membership, n_classes=n_classes, examples=shared), n_classes)
        for attribute, membership in groups.items()
    ]
    return GroupAudit(
        rows=tuple(row for one in found for row in _rows(one, chosen)),
        rates=tuple(rates for one in found for rates in _class_rates(one)),
        gaps=tuple(_gap(one, chosen) for one in found),
        min_group_size=chosen.min_group_size,
    )


def _by_group(
    attribute: str, table: GroupTable, answers: AnswerTable, margins: ClassMargins, n_classes: int
) -> CountedGroups:
    with needs_extra("fairness", what="The audit of groups"):
        from fairlearn.metrics import MetricFrame

    sizes = (len(COUNTS), len(_BY_CLASS) * n_classes)
    found = np.zeros((0, sum(sizes)), dtype=np.int64)
    if len(margins.group):
        # A row per group and class, already counted: of single items fairlearn makes lists of Python numbers.
        frame = MetricFrame(
            metrics={"counts": partial(_group_counts, n_classes=n_classes)},
            y_true=margins.label,
            y_pred=margins.label,
            sensitive_features=margins.group.tolist(),  # an array of one entry is refused
            sample_params={"counts": margins.columns},
        )
        found = np.stack(list(frame.by_group["counts"]))
    own, of_classes = np.split(found, [sizes[0]], axis=1)
    blocks = dict(zip(_BY_CLASS, of_classes.reshape(-1, len(_BY_CLASS), n_classes).swapaxes(0, 1), strict=True))
    counts = dict(zip(COUNTS, own.T, strict=True))
    sized = counts["n"], counts["n_labeled"]
    rates = {model: one_vs_rest(*sized, {name: blocks[f"{name}_{model}"] for name in CLASS_COUNTS}) for model in MODELS}
    out_of = rate_sizes(*sized, blocks["positives_reference"])
    occurs = blocks["positives_reference"] + blocks["selected_reference"] + blocks["selected_candidate"] > 0
    return CountedGroups(attribute, table, answers, counts, rates, out_of, occurs)


def _group_counts(labels: ArrayLike, _: ArrayLike, *, n_classes: int, **columns: ArrayLike) -> Array:
    """The items of one group in one row: `COUNTS`, then the counts by class."""
    by_class = np.zeros((len(_BY_CLASS), n_classes + 1), dtype=np.int64)
    for place, name in enumerate(_BY_CLASS):
        by_class[place, np.asarray(labels)] = columns[name]
    return np.concatenate([[np.sum(columns[name]) for name in COUNTS], by_class[:, :n_classes].ravel()])


def _rows(found: CountedGroups, options: GroupOptions) -> list[GroupRow]:
    p_values = group_p_values(found.table, found.counts, seed=options.seed)
    adjusted = holm(np.where(found.counts["n"] < options.min_group_size, np.nan, p_values))
    counts = np.stack([found.counts[name] for name in COUNTS], axis=1).tolist()
    everyone = np.arange(len(found.table.names))
    kinds = (("mismatches", "n"), ("lost", "n_labeled"))
    intervals = (found.table.rates(*kind, everyone).intervals() for kind in kinds)
    return [
        GroupRow(
            attribute=found.attribute,
            group=group,
            n=n,
            n_labeled=n_labeled,
            small=n < options.min_group_size,
            mismatches=mismatches,
            mismatch_rate=rate(mismatches, n),
            mismatch_rate_interval=changed,
            lost=lost,
            nfr=rate(lost, n_labeled),
            nfr_interval=flipped,
            accuracy_reference=rate(before, n_labeled),
            accuracy_candidate=rate(after, n_labeled),
            accuracy_change=rate(after - before, n_labeled),
            p_value=p_value,
            p_adjusted=p_adjusted,
        )
        for group, (n, mismatches, n_labeled, lost, before, after), changed, flipped, p_value, p_adjusted in zip(
            found.table.names, counts, *intervals, p_values.tolist(), adjusted.tolist(), strict=True
        )
    ]


def _class_rates(found: CountedGroups) -> list[GroupRates]:
    names = [f"{measure}_{model}" for measure in RATES for model in MODELS]
    values = np.stack([found.rates[model][measure] for measure in RATES for model in MODELS], axis=-1)
    places = zip(*(place.tolist() for place in np.nonzero(found.occurs)), strict=True)
    return [
        GroupRates(found.attribute, found.table.names[group], label, **dict(zip(names, rates, strict=True)))
        for (group, label), rates in zip(places, values[found.occurs].tolist(), strict=True)
    ]


def _gap(found: CountedGroups, options: GroupOptions) -> Gap:
    table, counts, seed = found.table, found.counts, options.seed
    judged = np.flatnonzero(counts["n"] >= options.min_group_size)
    labeled = np.flatnonzero(counts["n_labeled"] >= options.min_group_size)
    drawn = resampled_gaps(table, counts, judged=judged, labeled=labeled, n_resamples=options.n_resamples, seed=seed)
    names = np.array(table.names, dtype=object)
    mismatched = divided(counts["mismatches"], counts["n"])[judged]
    right = {model: divided(counts[f"right_{model}"], counts["n_labeled"])[labeled] for model in MODELS}
    lowest = {model: _extreme(names[labeled], rates, np.argmin) for model, rates in right.items()}
    p_value, range_p_value = permutation_p_values(table, judged=judged, seed=seed)
    return Gap(
        attribute=found.attribute,
        n_groups=len(judged),
        n_ungrouped=table.n_ungrouped,
        in_order=table.in_order,
        highest=_extreme(names[judged], mismatched, np.argmax)[0],
        lowest=_extreme(names[judged], mismatched, np.argmin)[0],
        p_value=p_value,
        range_p_value=range_p_value,
        worst_group_accuracy_reference=lowest["reference"][1],
        worst_group_reference=lowest["reference"][0],
        worst_group_accuracy_candidate=lowest["candidate"][1],
        worst_group_candidate=lowest["candidate"][0],
        fairness=fairness(found, options),
        **drawn,
    )


def _extreme(names: Array, values: Array, place: Callable[[Array], Any]) -> tuple[str, float]:
    """The name and the value at the first extreme; ("", nan) of nothing."""
    if not len(values):
        return "", np.nan
    where = int(place(values))
    return str(names[where]), float(values[where])
