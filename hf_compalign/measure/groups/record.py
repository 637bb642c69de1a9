"""What compression does to groups, as plain data: groups, their classes, and the gaps between them."""

from dataclasses import dataclass

MIN_GROUP_SIZE = 30


@dataclass(frozen=True)
class GroupRow:
    """The items of one group: mismatches out of all ``n``, what needs labels out of the ``n_labeled``.

    Attributes:
        small: fewer items than the minimum, so nothing is concluded.
        mismatch_rate_interval: 95 % interval, as ``nfr_interval``: Wilson's, or a bootstrap where items share examples.
        lost: items that only the reference has right; ``nfr`` is their share.
        p_value: two-sided, that mismatches are as frequent in the group as among all other items: Fisher's exact test,
            or a permutation of examples, see `hf_compalign.measure.groups.gaps.group_p_values`.
        p_adjusted: by Holm's method, over the groups of the attribute that are not small; nan for a small one.
    """

    attribute: str
    group: str
    n: int
    n_labeled: int
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
    """How often a group gets one class, of those among its answers and labels.

    ``selection_rate`` is the share of all items that get the class, ``tpr`` of those labeled with it, ``fpr`` of those
    labeled otherwise.
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
    """One fairness measure of both models, see `hf_compalign.measure.statistics.parity`.

    A group takes part with each rate out of at least the minimum of items: a selection rate of all its items, a true
    positive rate of those of the class, a false positive rate of those of other classes. A class with fewer than two
    such groups is left out.

    Attributes:
        label: the class against the rest; None for the worst over the classes.
        reference: nan where the class is left out, as ``candidate``.
        change: candidate - reference: above 0 is worse for a difference, below 0 for a ratio.
        n_skipped: how many classes are left out, of those that occur.
        left_out: the groups that take no part, for want of items behind a rate; of the worst, for any class.
        reference_all_groups: the measure over all groups, however few items are behind a rate; as
            ``candidate_all_groups``.
        lower_bound: of the candidate's worst difference, one-sided 95 %, see
            `hf_compalign.measure.groups.gaps.gap_lower_bound`; nan of a ratio or a class, as ``upper_bound``.
        upper_bound: the same from draws, see `hf_compalign.measure.groups.gaps.resampled_gaps`.
    """

    measure: str
    label: int | None
    reference: float
    candidate: float
    change: float
    n_skipped: int
    left_out: tuple[str, ...]
    reference_all_groups: float
    candidate_all_groups: float
    lower_bound: float
    upper_bound: float


@dataclass(frozen=True)
class Gap:
    """How far the groups of one attribute lie apart. Small groups do not count.

    What needs labels counts the groups with at least the minimum of labeled items. A gap needs two groups, and is nan
    with fewer.

    Attributes:
        n_groups: groups that are not small.
        n_ungrouped: items in no group.
        in_order: whether the groups are bins of a number, which come in the order of their values.
        mismatch_gap: largest mismatch rate of a group - smallest. As the largest of several differences it is too
            large on average, and has no interval: the p-values tell whether it is more than chance, the bounds how
            large it may be.
        highest: the group with the largest mismatch rate, ``lowest`` with the smallest; empty when there is none.
        p_value: permutation test of equal mismatch rates, each group with the weight of its size, see
            `hf_compalign.measure.groups.gaps.permutation_p_values`.
        range_p_value: that of a gap as large, which a small group makes blind to all others.
        lower_bound: of the mismatch gap, one-sided 95 %, see `hf_compalign.measure.groups.gaps.gap_lower_bound`.
        upper_bound: the same from draws, see `hf_compalign.measure.groups.gaps.resampled_gaps`.
        worst_group_accuracy_reference: accuracy in ``worst_group_reference``, where it is lowest.
        worst_group_accuracy_drop: that of the reference - that of the candidate; above 0 is worse.
        drop_lower_bound: of the drop, one-sided 95 %, as ``drop_upper_bound``.
        fairness: of each measure the worst over the classes, and then class by class those that occur as an answer or
            a label. Of more than 100 (see ``GroupOptions``) only the reference's worst and the candidate's.
    """

    attribute: str
    n_groups: int
    n_ungrouped: int
    in_order: bool
    mismatch_gap: float
    highest: str
    lowest: str
    p_value: float
    range_p_value: float
    lower_bound: float
    upper_bound: float
    nfr_gap: float
    worst_group_accuracy_reference: float
    worst_group_reference: str
    worst_group_accuracy_candidate: float
    worst_group_candidate: str
    worst_group_accuracy_drop: float
    drop_lower_bound: float
    drop_upper_bound: float
    fairness: tuple[FairnessRow, ...]


@dataclass(frozen=True)
class GroupAudit:
    """Every group, every class in it, and one `Gap` per attribute."""

    rows: tuple[GroupRow, ...]
    rates: tuple[GroupRates, ...]
    gaps: tuple[Gap, ...]
    min_group_size: int
