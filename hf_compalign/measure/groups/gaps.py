"""How far groups lie apart, and how sure that is: gaps with bounds, permutation tests."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hf_compalign.measure.groups.table import COUNTS, MODELS, GroupTable
from hf_compalign.measure.statistics import Array, divided, estimate, exact_bounds

Counts = Mapping[str, Array]  # name of COUNTS -> [G], or [R, G] if drawn

BOUND_LEVEL = 0.95  # one-sided; the end of the two-sided interval of level 2 * 0.95 - 1
MOST_WEIGHTS = 5_000_000  # drawn at a time: 40 MB


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

    The lower bounds are not drawn, as percentiles of draws would lie too high: see `gap_lower_bound`. That on the drop
    is the lowest accuracy that any group of the reference may have - the lowest upper bound of the candidate's groups.

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
        "lower_bound": gap_lower_bound([(own["mismatches"], own["n"])]),
        "nfr_gap": _gap(own_known, "lost", "n_labeled"),
        "worst_group_accuracy_drop": drop,
        "drop_upper_bound": _drop_bound(drop, own_known, known, extra[:, inside]),
        "drop_lower_bound": _drop_lower_bound(own_known),
    }


def permutation_p_values(table: GroupTable, *, judged: Array, seed: int) -> tuple[float, float]:
    """How often mismatches that fall on any item by chance differ as much between groups; nan for one group.

    The first value is of all judged groups, each with the weight of its size: the sum over them of
    n_g (rate_g - rate)^2 with the rate of all their items. For groups that do not overlap it is Pearson's chi-squared,
    up to a factor that no permutation changes. The second is of the gap, the largest rate - the smallest. A small
    group, whose rate chance alone moves far, hides a difference between large groups from it, and not from the first.

    (1 + permutations with at least the observed value) / (1 + permutations). Each permutation deals the mismatches anew
    among the items of the judged groups. There are 10,000 permutations, or 1,000 where items are in more than 1,000
    different sets of groups.
    """
    if len(judged) < 2:
        return math.nan, math.nan
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
    sizes = n @ inside
    rates = np.vstack([k, dealt]) @ inside / sizes
    weighted = (rates - k.sum() / n.sum()) ** 2 @ sizes
    return _chance(weighted), _chance(rates.max(axis=1) - rates.min(axis=1))


def _chance(values: Array) -> float:
    """The share of values at least as large as the first, the observed one."""
    # By chance alone the observed deal is one more permutation. Without it p could be 0, which is too small. Equal
    # values may differ in their last bits.
    return float((values >= values[0] * (1 - 1e-9) - 1e-12).mean())


def exact_p_values(table: GroupTable, counts: Counts) -> NDArray[np.float64]:
    """Fisher's exact test of each group, two-sided [G]: mismatches inside against all the items outside."""
    from scipy import stats  # half a second, for this alone

    n_all, k_all = int(table.count.sum()), int(table.count[table.mismatched].sum())
    # Many small groups have the same few counts, and share a test.
    pairs, place = np.unique(np.stack([counts["mismatches"], counts["n"]]), axis=1, return_inverse=True)
    tables = ([[k, n - k], [k_all - k, n_all - n - k_all + k]] for k, n in pairs.T.tolist())
    return np.array([stats.fisher_exact(cells).pvalue for cells in tables], dtype=np.float64)[place.ravel()]


def gap_lower_bound(rates: Sequence[tuple[Array, Array]]) -> float:
    """One-sided 95 % lower bound of the largest gap of any of these sets of rates; nan without a set of two.

    Each set has a row of counts and one of how many they are out of, [G]. Every rate has an exact (Clopper-Pearson)
    interval, and all of them hold together in at least 95 % of the samples: each has its part of the 5 %. Then the gap
    of a set is at least its highest lower end - its lowest upper end.
    """
    sets = [counts for counts in rates if len(counts[0]) > 1]
    if not sets:
        return math.nan
    risk = (1 - BOUND_LEVEL) / 2 / sum(len(k) for k, _ in sets)
    ends = (exact_bounds(k, n, 1 - risk) for k, n in sets)
    return max(0.0, *(float(low.max() - high.min()) for low, high in ends))


def _drop_lower_bound(counts: Counts) -> float:
    if not len(counts["n_labeled"]):
        return math.nan
    level = 1 - (1 - BOUND_LEVEL) / 2 / len(counts["n_labeled"])
    before, after = (exact_bounds(counts[f"right_{model}"], counts["n_labeled"], level) for model in MODELS)
    return float(before[0].min() - after[1].min())


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
    step = max(1, MOST_WEIGHTS // max(1, len(count)))
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
    return max(value, estimate(value, high.max(axis=1) - low.min(axis=1), level=2 * BOUND_LEVEL - 1).high)


def _drop_bound(value: float, counts: Counts, drawn: Counts, extra: Array) -> float:
    """Not from draws of both minima: the noise of a draw pulls them down, and half of such bounds would fail."""
    if math.isnan(value):
        return math.nan
    missed = 0.01  # the risk of leaving out the candidate's worst group; the drop has the rest of the 5 %
    right, n = counts["right_candidate"], counts["n_labeled"]
    # A group whose accuracy is surely above the smallest upper bound is not the worst one. Half of the risk is that the
    # lower bound of the worst group fails. No other group matters, so each has that half in full. The other half is
    # that an upper bound fails. The smallest one holds for the worst accuracy if all hold, so the groups share it.
    lowest, _ = exact_bounds(right, n, 1 - missed / 2)
    highest = exact_bounds(right, n, 1 - missed / 2 / len(n))[1].min()
    # The extra item is one that the reference has right and the candidate wrong.
    drops = divided(drawn["right_reference"] + extra - drawn["right_candidate"], drawn["n_labeled"] + extra)
    largest = drops[:, lowest <= highest].max(axis=1)
    return max(value, estimate(value, largest, level=2 * (BOUND_LEVEL + missed) - 1).high)
