"""How far groups lie apart, and how sure that is: resampled gaps with upper bounds, a permutation test."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hf_compalign.measure.groups.table import COUNTS, MODELS, GroupTable
from hf_compalign.measure.statistics import Array, divided, estimate, upper_bound

Counts = Mapping[str, Array]  # name of COUNTS -> [G], or [R, G] if drawn

_BOUND_LEVEL = 0.95  # one-sided; the end of the two-sided interval of level 2 * 0.95 - 1
_MOST_WEIGHTS = 5_000_000  # drawn at a time: 40 MB


def resampled_gaps(
    table: GroupTable, counts: Counts, *, judged: Array, labeled: Array, n_resamples: int, seed: int
) -> dict[str, float]:
    """Fields of a `Gap`: over the judged groups, and over those with enough labels for what needs labels.

    The draws are those of the Bayesian bootstrap: each item gets a weight from the unit exponential, so no group
    is ever empty. An item of several groups has the same weight in each. There are no two-sided intervals: the largest
    of several noisy differences is too large in every sample and larger still in its draws, so percentiles of the draws
    would lie above the truth.

    For the upper bounds each group has one item more, which counts against the model. It mismatches in the group with
    the high rate, agrees in the one with the low rate, and is lost where accuracy drops. For the rate of one group that
    gives the exact (Clopper-Pearson) bound. Without it groups of 30 without a mismatch would certify that there is no
    gap, as no draw of their items shows one. The worst accuracy drops by no more than that of the candidate's worst
    group. So the bound on it is the largest drop of any group that may be the candidate's worst.

    ``counts`` is name of `COUNTS` -> [G]; ``judged`` and ``labeled``, some of them, are numbers of groups.
    """
    drawn, extra = _drawn(table, judged, n_resamples=n_resamples, seed=seed)
    inside = np.flatnonzero(np.isin(judged, labeled))
    known = {name: values[:, inside] for name, values in drawn.items()}
    own, own_known = ({name: values[places] for name, values in counts.items()} for places in (judged, labeled))
    gap, drop = _gap(own, "mismatches", "n"), _drop(own_known)
    return {
        "mismatch_gap": gap,
        "upper_bound": _gap_bound(gap, drawn, extra),
        "nfr_gap": _gap(own_known, "lost", "n_labeled"),
        "worst_group_accuracy_drop": drop,
        "drop_upper_bound": _drop_bound(drop, own_known, known, extra[:, inside]),
    }


def permutation_p_value(table: GroupTable, *, judged: Array, seed: int) -> float:
    """How often mismatches that fall on any item by chance give a gap as large; nan for one group.

    (1 + permutations with a gap of at least the observed one) / (1 + permutations). Each permutation deals the
    mismatches anew among the items of the judged groups. There are 10,000 permutations, or 1,000 where items are in
    more than 1,000 different sets of groups.
    """
    if len(judged) < 2:
        return math.nan
    # Items in the same groups are interchangeable. So a permutation of the mismatches draws, without replacement, how
    # many of them fall on each set of groups. n items are in each set, k of them mismatch.
    members = table.members[:, judged]
    concerned = np.flatnonzero(members.sum(axis=1))
    n_patterns = table.members.shape[0]
    n = np.bincount(table.pattern, weights=table.count, minlength=n_patterns)[concerned].astype(np.int64)
    k = np.bincount(table.pattern, weights=table.count * table.mismatched, minlength=n_patterns)[concerned]
    n_permutations = 10_000 if len(concerned) <= 1_000 else 1_000
    generator = np.random.default_rng(seed)
    few = int(min(k.sum(), n.sum() - k.sum())) < 20 * len(n)  # faster to deal one by one than set by set
    dealt = generator.multivariate_hypergeometric(
        n, int(k.sum()), size=n_permutations, method="count" if few else "marginals"
    )
    inside = members[concerned]
    rates = np.vstack([k, dealt]) @ inside / (n @ inside)
    gaps = rates.max(axis=1) - rates.min(axis=1)
    as_large = gaps[1:] >= gaps[0] - 1e-12  # equal rates may differ in their last bit
    # By chance alone the observed deal is one more permutation. Without it p could be 0, which is too small.
    return float((1 + as_large.sum()) / (1 + n_permutations))


def exact_p_values(table: GroupTable, counts: Counts) -> NDArray[np.float64]:
    """Fisher's exact test of each group, two-sided [G]: mismatches inside against all the items outside."""
    from scipy import stats  # half a second, for this alone

    n_all, k_all = int(table.count.sum()), int(table.count[table.mismatched].sum())
    # Many small groups have the same few counts, and share a test.
    pairs, place = np.unique(np.stack([counts["mismatches"], counts["n"]]), axis=1, return_inverse=True)
    tables = ([[k, n - k], [k_all - k, n_all - n - k_all + k]] for k, n in pairs.T.tolist())
    return np.array([stats.fisher_exact(cells).pvalue for cells in tables], dtype=np.float64)[place.ravel()]


def _drawn(
    table: GroupTable, columns: Array, *, n_resamples: int, seed: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Name of `COUNTS` -> weights of the groups' items [R, G], and the weight of one item more per group [R, G]."""
    members = table.members[:, columns][table.pattern]
    rows = np.flatnonzero(members.sum(axis=1))
    inside, flags, count = members[rows], table.flags[rows], table.count[rows]
    generator = np.random.default_rng(seed)
    extra = generator.standard_exponential((n_resamples, len(columns)))
    sums: dict[str, list[Array]] = {name: [] for name in COUNTS}
    step = max(1, _MOST_WEIGHTS // max(1, len(count)))
    for start in range(0, n_resamples, step):
        # Of the exponential weights of a row's n items only the sum matters, and that is Gamma(n).
        weights = generator.standard_gamma(count, size=(min(step, n_resamples - start), len(count)))
        for place, name in enumerate(COUNTS):
            sums[name].append((weights * flags[:, place]) @ inside)
    return {name: np.concatenate(parts) for name, parts in sums.items()}, extra


def _gap(counts: Counts, numerator: str, denominator: str) -> float:
    """Largest rate of a group - smallest; nan with fewer than two groups."""
    rates = divided(counts[numerator], counts[denominator])
    return float(rates.max() - rates.min()) if len(rates) > 1 else math.nan


def _drop(counts: Counts) -> float:
    """Accuracy of the reference in its worst group - that of the candidate in its own; nan without groups."""
    reference, candidate = (divided(counts[f"right_{model}"], counts["n_labeled"]) for model in MODELS)
    return float(reference.min() - candidate.min()) if len(reference) else math.nan


def _gap_bound(value: float, drawn: Counts, extra: Array) -> float:
    if math.isnan(value):
        return math.nan
    # Of k mismatches among n items these are draws from Beta(k + 1, n - k) and Beta(k, n - k + 1). Their percentiles
    # are the Clopper-Pearson bounds of one rate.
    high = divided(drawn["mismatches"] + extra, drawn["n"] + extra)
    low = divided(drawn["mismatches"], drawn["n"] + extra)
    return max(value, estimate(value, high.max(axis=1) - low.min(axis=1), level=2 * _BOUND_LEVEL - 1).high)


def _drop_bound(value: float, counts: Counts, drawn: Counts, extra: Array) -> float:
    """Not from draws of both minima: the noise of a draw pulls them down, and half of such bounds would fail."""
    if math.isnan(value):
        return math.nan
    missed = 0.01  # the risk of leaving out the candidate's worst group; the drop has the rest of the 5 %
    right, n = counts["right_candidate"].tolist(), counts["n_labeled"].tolist()
    # A group whose accuracy is surely above the smallest upper bound is not the worst one. Half of the risk is that the
    # lower bound of the worst group fails. No other group matters, so each has that half in full. The other half is
    # that an upper bound fails. The smallest one holds for the worst accuracy if all hold, so the groups share it.
    lowest = np.array([1 - upper_bound(of - k, of, 1 - missed / 2) for k, of in zip(right, n, strict=True)])
    highest = min(upper_bound(k, of, 1 - missed / 2 / len(n)) for k, of in zip(right, n, strict=True))
    # The extra item is one that the reference has right and the candidate wrong.
    drops = divided(drawn["right_reference"] + extra - drawn["right_candidate"], drawn["n_labeled"] + extra)
    largest = drops[:, lowest <= highest].max(axis=1)
    return max(value, estimate(value, largest, level=2 * (_BOUND_LEVEL + missed) - 1).high)
