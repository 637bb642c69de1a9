"""How far groups lie apart, and how sure that is: gaps with bounds, permutation tests."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hf_compalign.measure.groups.dealing import Examples, chance, spread
from hf_compalign.measure.groups.sharing import CountedRates
from hf_compalign.measure.groups.table import COUNTS, MODELS, GroupTable
from hf_compalign.measure.statistics import Array, divided, estimate

Counts = Mapping[str, Array]  # name of COUNTS -> [G], or [R, G] if drawn

MOST_WEIGHTS = 5_000_000  # drawn at a time: 40 MB
BOUND_LEVEL = 0.95  # one-sided; the end of the two-sided interval of level 2 * 0.95 - 1


def resampled_gaps(
    table: GroupTable, counts: Counts, *, judged: Array, labeled: Array, n_resamples: int, seed: int
) -> dict[str, float]:
    """Fields of a `Gap`: over the judged groups, and over those with enough labels for what needs labels.

    The draws are those of the Bayesian bootstrap: each item gets a weight from the unit exponential, so no group
    is ever empty. An item of several groups has the same weight in each, and items that share an example have one
    weight. There are no two-sided intervals: the largest of several noisy differences is too large in every sample and
    larger still in its draws, so percentiles of the draws would lie above the truth.

    For the upper bounds each group has one item more, which counts against the model; or one example more, as large as
    the largest. It mismatches in the group with the high rate, agrees in the one with the low rate, and is lost where
    accuracy drops. For the rate of one group of items that is the exact (Clopper-Pearson) bound. Without it groups of
    30 without a mismatch would certify that there is no gap, as no draw of their items shows one. The worst accuracy
    drops by no more than that of the candidate's worst group. So the bound on it is the largest drop of any group that
    may be the candidate's worst.

    The lower bounds are not drawn, as percentiles of draws would lie too high: see `gap_lower_bound`. That on the drop
    is the lowest accuracy that any group of the reference may have - the lowest upper bound of the candidate's groups.

    ``counts`` is name of `COUNTS` -> [G]; ``judged`` and ``labeled``, some of them, are numbers of groups.
    """
    drawn, extra = _drawn(table, judged, n_resamples=n_resamples, seed=seed)
    inside = np.flatnonzero(np.isin(judged, labeled))
    known = {name: values[:, inside] for name, values in drawn.items()}
    right = [table.rates(f"right_{model}", "n_labeled", labeled) for model in MODELS]
    own, own_known = ({name: values[places] for name, values in counts.items()} for places in (judged, labeled))
    gap, drop = _gap(own, "mismatches", "n"), _drop(own_known)
    return {
        "mismatch_gap": gap,
        "upper_bound": _gap_bound(gap, drawn, extra * table.largest("n", judged)),
        "lower_bound": gap_lower_bound([table.rates("mismatches", "n", judged)]),
        "nfr_gap": _gap(own_known, "lost", "n_labeled"),
        "worst_group_accuracy_drop": drop,
        "drop_upper_bound": _drop_bound(drop, right[1], known, extra[:, inside] * table.largest("n_labeled", labeled)),
        "drop_lower_bound": _drop_lower_bound(right),
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

    Where items share examples, these are dealt with all their items, see `Examples`; nan where only some items of an
    example are in a judged group.
    """
    if len(judged) < 2:
        return math.nan, math.nan
    if table.kinds.contents is not None:
        examples = Examples.of(table.kinds, table.mismatched).among(judged)
        if examples.cut.any():
            return math.nan, math.nan
        found = (examples.chances(of, np.random.default_rng(seed)) for of in (examples.apart, spread))
        by_size, of_gap = map(float, found)
        return by_size, of_gap
    # Items in the same groups are interchangeable. So a permutation of the mismatches draws, without replacement, how
    # many of them fall on each set of groups. n items are in each set, k of them mismatch.
    members, count = table.kinds.members[:, judged], table.kinds.count
    inside = members.sum(axis=1) > 0
    _, first, pattern = np.unique(table.pattern[inside], return_index=True, return_inverse=True)
    n = np.bincount(pattern, weights=count[inside]).astype(np.int64)
    k = np.bincount(pattern, weights=(count * table.mismatched)[inside])
    n_permutations = 10_000 if len(n) <= 1_000 else 1_000
    generator = np.random.default_rng(seed)
    few = int(min(k.sum(), n.sum() - k.sum())) < 20 * len(n)  # faster to deal one by one than set by set
    dealt = generator.multivariate_hypergeometric(
        n, int(k.sum()), size=n_permutations, method="count" if few else "marginals"
    )
    of_patterns = members[inside][first]
    hits, sizes = np.vstack([k, dealt]) @ of_patterns, n @ of_patterns
    weighted = (hits / sizes - k.sum() / n.sum()) ** 2 @ sizes
    return float(chance(weighted)), float(chance(spread(hits, sizes)))


def group_p_values(table: GroupTable, counts: Counts, *, seed: int) -> NDArray[np.float64]:
    """A test of each group, two-sided [G]: mismatches inside against all the items outside.

    It is Fisher's exact test. Where items share examples, these are dealt anew with all their items, see `Examples`;
    nan for a group that only some items of an example are in.
    """
    if table.kinds.contents is not None:
        examples = Examples.of(table.kinds, table.mismatched)
        found = examples.chances(examples.distances, np.random.default_rng(seed))
        return np.where(examples.cut, np.nan, found)
    from scipy import stats  # half a second, for this alone

    count = table.kinds.count
    n_all, k_all = int(count.sum()), int(count[table.mismatched].sum())
    # Many small groups have the same few counts, and share a test.
    pairs, place = np.unique(np.stack([counts["mismatches"], counts["n"]]), axis=1, return_inverse=True)
    tables = ([[k, n - k], [k_all - k, n_all - n - k_all + k]] for k, n in pairs.T.tolist())
    return np.array([stats.fisher_exact(cells).pvalue for cells in tables], dtype=np.float64)[place.ravel()]


def gap_lower_bound(rates: Sequence[CountedRates]) -> float:
    """One-sided 95 % lower bound of the largest gap of any of these sets of rates; nan without a set of two.

    Every rate has an interval, exact (Clopper-Pearson) or `cluster_bound`, and all of them hold together in at least
    95 % of the samples: each has its part of the 5 %. Then the gap of a set is at least its highest lower end - its
    lowest upper end.
    """
    sets = [of for of in rates if len(of.hits) > 1]
    if not sets:
        return math.nan
    risk = (1 - BOUND_LEVEL) / 2 / sum(len(of.hits) for of in sets)
    ends = (of.ends(1 - risk) for of in sets)
    return max(0.0, *(float(low.max() - high.min()) for low, high in ends))


def _drop_lower_bound(right: Sequence[CountedRates]) -> float:
    """From the accuracies of the reference and the candidate."""
    n_groups = len(right[0].hits)
    if not n_groups:
        return math.nan
    before, after = (of.ends(1 - (1 - BOUND_LEVEL) / 2 / n_groups) for of in right)
    return float(before[0].min() - after[1].min())


def _drawn(
    table: GroupTable, columns: Array, *, n_resamples: int, seed: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Name of `COUNTS` -> weights of the groups' items [R, G], and the weight of one item more per group [R, G]."""
    rows = np.flatnonzero(table.kinds.members[:, columns].sum(axis=1))
    kinds, flags = table.kinds.inside(columns), table.flags[rows]
    generator = np.random.default_rng(seed)
    extra = generator.standard_exponential((n_resamples, len(columns)))
    sums: dict[str, list[Array]] = {name: [] for name in COUNTS}
    step = max(1, MOST_WEIGHTS // max(1, kinds.n_drawn))
    for start in range(0, n_resamples, step):
        weights = kinds.weights(min(step, n_resamples - start), generator)
        for place, name in enumerate(COUNTS):
            sums[name].append((weights * flags[:, place]) @ kinds.members)
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


def _drop_bound(value: float, right: CountedRates, drawn: Counts, extra: Array) -> float:
    """Not from draws of both minima: the noise of a draw pulls them down, and half of such bounds would fail."""
    if math.isnan(value):
        return math.nan
    missed = 0.01  # the risk of leaving out the candidate's worst group; the drop has the rest of the 5 %
    # A group whose accuracy is surely above the smallest upper bound is not the worst one. Half of the risk is that the
    # lower bound of the worst group fails. No other group matters, so each has that half in full. The other half is
    # that an upper bound fails. The smallest one holds for the worst accuracy if all hold, so the groups share it.
    lowest, _ = right.ends(1 - missed / 2)
    highest = right.ends(1 - missed / 2 / len(right.hits))[1].min()
    # The extra item is one that the reference has right and the candidate wrong.
    drops = divided(drawn["right_reference"] + extra - drawn["right_candidate"], drawn["n_labeled"] + extra)
    largest = drops[:, lowest <= highest].max(axis=1)
    return max(value, estimate(value, largest, level=2 * (BOUND_LEVEL + missed) - 1).high)
