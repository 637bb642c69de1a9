"""Groups, gaps and fairness measures, against fairlearn's own functions, scipy, statsmodels and brute force."""

import json
import math
import sys
import warnings
from collections import Counter
from dataclasses import asdict
from itertools import combinations, compress

import fairlearn.metrics
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from hf_compalign.measure.groups import GroupAudit, GroupOptions, audit_groups, normalized_groups, number_bins
from hf_compalign.measure.statistics import Cells, upper_bound, wilson_interval

# items 0 to 3 are in a, 3 to 6 in b, 7 in neither
REFERENCE = [0, 0, 1, 1, 1, 0, 1, 0]
CANDIDATE = [0, 1, 1, 0, 1, 0, 1, 1]
LABELS = [0, 0, 1, 1, 0, 0, -100, 0]
GROUPS = [["a"], ["a"], ["a"], ["a", "b"], "b", ["b"], ["b"], None]


def audited(reference, candidate, labels, groups, *, n_classes, **options):
    """The audit of groups as a user may write them."""
    listed = normalized_groups(groups, len(labels))
    return audit_groups(reference, candidate, labels, listed, n_classes=n_classes, options=GroupOptions(**options))


def simulated(n=600, classes=2, *, seed=0, names="abcd", overlapping=False, unknown=0.0):
    """Answers with other error rates in other groups; fewest items in the last group."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    shares = np.linspace(2, 1, len(names)) / np.linspace(2, 1, len(names)).sum()
    if overlapping:
        groups = [tuple(compress(names, generator.random(len(names)) < shares)) for _ in range(n)]
    else:
        groups = [(names[place],) for place in generator.choice(len(names), n, p=shares)]
    noise = np.array([0.05 + 0.1 * sum(names.index(name) for name in of) for of in groups])
    reference = np.where(generator.random(n) < 0.2, generator.integers(0, classes, n), labels)
    candidate = np.where(generator.random(n) < noise, generator.integers(0, classes, n), reference)
    labels = np.where(generator.random(n) < unknown, -100, labels)
    return reference, candidate, labels, groups


def gap_of(*inputs, n_classes=2, **options):
    """The gap of the one attribute."""
    (gap,) = audited(*inputs, n_classes=n_classes, **options).gaps
    return gap


def exploded(groups):
    """(item, group) for every membership."""
    pairs = [(item, name) for item, names in enumerate(groups) for name in names]
    return np.array([item for item, _ in pairs], dtype=int), np.array([name for _, name in pairs])


def members(groups, name):
    return np.array([name in names for names in groups], dtype=bool)


def measures(gap, label):
    return {row.measure: row for row in gap.fairness if row.label == label}


def test_numbers_by_hand():
    found = audited(REFERENCE, CANDIDATE, LABELS, GROUPS, n_classes=2, min_group_size=4)
    a, b = found.rows
    assert (a.attribute, a.group, a.n, a.n_labeled, a.small) == ("group", "a", 4, 4, False)
    assert (a.mismatches, a.mismatch_rate, a.lost, a.nfr) == (2, 0.5, 2, 0.5)
    assert (a.accuracy_reference, a.accuracy_candidate, a.accuracy_change) == (1.0, 0.5, -0.5)
    assert (b.group, b.n, b.n_labeled, b.mismatches, b.lost) == ("b", 4, 3, 1, 1)
    assert (b.accuracy_reference, b.accuracy_candidate, b.nfr) == (2 / 3, 1 / 3, 1 / 3)
    rates = {(row.group, row.label): row for row in found.rates}
    assert (rates["a", 1].selection_rate_reference, rates["a", 1].selection_rate_candidate) == (0.5, 0.5)
    assert (rates["a", 1].tpr_reference, rates["a", 1].tpr_candidate) == (1.0, 0.5)
    assert (rates["a", 1].fpr_reference, rates["a", 1].fpr_candidate) == (0.0, 0.5)
    assert (rates["b", 1].selection_rate_reference, rates["b", 1].selection_rate_candidate) == (0.75, 0.5)
    assert (rates["b", 0].tpr_reference, rates["b", 0].fpr_candidate) == (0.5, 1.0)
    (gap,) = found.gaps
    assert (gap.attribute, gap.n_groups, gap.mismatch_gap) == ("group", 2, 0.25)
    assert (gap.highest, gap.lowest) == ("a", "b")
    # b has three labeled items only: what needs labels is told of a alone
    assert math.isnan(gap.nfr_gap)
    assert (gap.worst_group_accuracy_reference, gap.worst_group_reference) == (1.0, "a")
    assert (gap.worst_group_accuracy_candidate, gap.worst_group_candidate) == (0.5, "a")
    assert gap.worst_group_accuracy_drop == 0.5
    positive = measures(gap, 1)
    parity = positive["demographic_parity_difference"]
    assert (parity.reference, parity.change) == (0.25, -0.25)
    assert positive["demographic_parity_ratio"].candidate == 1.0
    assert math.isnan(positive["equalized_odds_difference"].reference)


def test_every_group_is_its_items_alone():
    reference, candidate, labels, groups = simulated(overlapping=True, classes=4, unknown=0.1)
    found = audited(reference, candidate, labels, groups, n_classes=4)
    assert sorted(row.group for row in found.rows) == list("abcd")
    for row in found.rows:
        own = members(groups, row.group)
        r, c, y = reference[own], candidate[own], labels[own]
        cells = Cells.count(r, c, y)
        assert (row.n, row.n_labeled, row.lost) == (own.sum(), cells.n, cells.lost)
        assert (row.mismatches, row.mismatch_rate) == ((r != c).sum(), (r != c).mean())
        assert row.mismatch_rate_interval == wilson_interval(row.mismatches, row.n)
        assert (row.nfr, row.nfr_interval) == (cells.nfr, wilson_interval(cells.lost, cells.n))
        assert (row.accuracy_reference, row.accuracy_candidate) == (cells.accuracy_reference, cells.accuracy_candidate)
        assert row.accuracy_change == cells.accuracy_change
    for row in found.rates:
        own = members(groups, row.group)
        known, positive = own & (labels != -100), own & (labels == row.label)
        for model, answers in (("reference", reference), ("candidate", candidate)):
            chosen = answers == row.label
            assert getattr(row, f"selection_rate_{model}") == pytest.approx(chosen[own].mean())
            assert getattr(row, f"tpr_{model}") == pytest.approx(chosen[positive].mean())
            assert getattr(row, f"fpr_{model}") == pytest.approx(chosen[known & ~positive].mean())


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_fairness_measures_are_those_of_fairlearn(classes, overlapping):
    reference, candidate, labels, groups = simulated(classes=classes, overlapping=overlapping)
    gap = gap_of(reference, candidate, labels, groups, n_classes=classes, min_group_size=1)
    items, sensitive = exploded(groups)
    by_measure = {}
    for label in range(classes):
        for measure, row in measures(gap, label).items():
            function = getattr(fairlearn.metrics, measure)
            for model, answers in (("reference", reference), ("candidate", candidate)):
                truth, answered = (labels == label)[items], (answers == label)[items]
                expected = function(truth, answered, sensitive_features=sensitive)
                assert getattr(row, model) == pytest.approx(expected), (measure, label, model)
                by_measure.setdefault((measure, model), []).append(expected)
            assert row.change == row.candidate - row.reference
    for (measure, model), values in by_measure.items():
        worst = min(values) if measure.endswith("ratio") else max(values)
        assert getattr(measures(gap, None)[measure], model) == pytest.approx(worst)


def test_groups_come_by_their_first_item_and_fairness_measures_worst_first_and_class_by_class():
    found = audited([0] * 5, [0] * 5, [0] * 5, ["z", ["b", "a"], "z", None, "b"], n_classes=1)
    assert [row.group for row in found.rows] == ["z", "b", "a"]
    gap = gap_of(*simulated(classes=3), n_classes=3)
    assert [row.label for row in gap.fairness] == [None, 0, 1, 2] * 5
    assert len({row.measure for row in gap.fairness}) == 5


def test_a_rate_without_items_is_left_out_of_a_difference():
    # c has no item of class 1, so its true positive rate is nothing; fairlearn's function takes it for 0
    groups, labels = ["a"] * 4 + ["b"] * 4 + ["c"] * 2, [1, 1, 0, 0] * 2 + [0, 0]
    answers = [1, 1, 0, 0, 1, 0, 0, 0, 0, 0]
    row = measures(gap_of(answers, answers, labels, groups, min_group_size=2), 1)["equal_opportunity_difference"]
    assert row.reference == 0.5
    assert fairlearn.metrics.equal_opportunity_difference(labels, answers, sensitive_features=groups) == 1.0
    assert row.n_skipped == 0


def zipf_halves(n=4000, classes=50):
    """Two random halves of items whose classes are ever rarer, and a model that errs alike on all of them."""
    generator = np.random.default_rng(0)
    shares = 1 / np.arange(1, classes + 1)
    labels = generator.choice(classes, n, p=shares / shares.sum())
    answers = np.where(generator.random(n) < 0.2, generator.integers(0, classes, n), labels)
    return answers, labels, generator.choice(["x", "y"], n).tolist()


def test_classes_with_too_few_positives_do_not_make_the_worst():
    answers, labels, groups = zipf_halves()
    gap = gap_of(answers, answers, labels, groups, n_classes=50)
    positives = np.stack([np.bincount(labels[np.array(groups) == name], minlength=50) for name in "xy"])
    enough = np.flatnonzero((positives >= 30).all(axis=0))
    assert 5 < len(enough) < 30
    worst, right, own = measures(gap, None), answers == labels, np.array(groups)
    rates = [[right[(labels == label) & (own == name)].mean() for name in "xy"] for label in enough]
    largest = np.abs(np.diff(rates)).max()
    assert worst["equal_opportunity_difference"].reference == pytest.approx(largest)
    assert largest < 0.2
    for measure in ("equal_opportunity_difference", "equalized_odds_ratio"):
        assert worst[measure].n_skipped == 50 - len(enough)
    assert worst["demographic_parity_difference"].n_skipped == 0
    for label in range(50):
        row = measures(gap, label)["equal_opportunity_difference"]
        assert math.isnan(row.reference) == (label not in enough) == row.n_skipped
    all_of_them = gap_of(answers, answers, labels, groups, n_classes=50, min_group_size=1)
    assert measures(all_of_them, None)["equal_opportunity_difference"].reference > 0.3


def test_negatives_are_counted_as_well():
    # a has 4 positives and 1 negative, b 4 and 4: nothing is said of false positives
    labels, groups = [1] * 4 + [0] + [1] * 4 + [0] * 4, ["a"] * 5 + ["b"] * 8
    rows = measures(gap_of(labels, labels, labels, groups, min_group_size=4), 1)
    assert rows["equal_opportunity_difference"].reference == 0
    assert math.isnan(rows["equalized_odds_difference"].reference)


def test_of_many_classes_only_the_worst_are_kept():
    answers, labels, groups = zipf_halves()
    inputs = (answers, np.where(np.arange(len(labels)) % 9, answers, 3), labels, groups)
    whole = gap_of(*inputs, n_classes=50, min_group_size=5)
    fewer = gap_of(*inputs, n_classes=50, min_group_size=5, most_classes=49)
    np.testing.assert_equal(asdict(fewer) | {"fairness": ()}, asdict(whole) | {"fairness": ()})
    for measure in {row.measure for row in whole.fairness}:
        before = [row for row in whole.fairness if row.measure == measure]
        after = [row for row in fewer.fairness if row.measure == measure]
        assert after[0] == before[0]
        assert after[0].label is None
        assert 1 <= len(after) - 1 <= 2
        assert set(after) < set(before)
        for model in ("reference", "candidate"):
            assert getattr(before[0], model) in [getattr(row, model) for row in after[1:]]


def test_classes_that_do_not_occur_are_left_out():
    found = audited([0, 0, 7], [0, 5, 7], [0, 0, -100], ["a", "a", "b"], n_classes=1000, min_group_size=1)
    assert [(row.group, row.label) for row in found.rates] == [("a", 0), ("a", 5), ("b", 7)]
    assert [row.label for row in found.gaps[0].fairness] == [None, 0, 5, 7] * 5


def test_p_values_are_those_of_scipy_and_statsmodels():
    reference, candidate, labels, groups = simulated(n=300, overlapping=True, names="abcdefgh")
    groups[0] = ("tiny",)
    rows = audited(reference, candidate, labels, groups, n_classes=2).rows
    assert {row.group for row in rows if row.small} == {row.group for row in rows if row.n < 30} >= {"tiny"}
    differs = reference != candidate
    for row in rows:
        own = members(groups, row.group)
        table = [[(differs & own).sum(), (~differs & own).sum()], [(differs & ~own).sum(), (~differs & ~own).sum()]]
        assert row.p_value == pytest.approx(scipy.stats.fisher_exact(table).pvalue)
    judged = [row for row in rows if not row.small]
    assert 2 < len(judged) < len(rows)
    adjusted = multipletests([row.p_value for row in judged], method="holm")[1]
    assert [row.p_adjusted for row in judged] == pytest.approx(list(adjusted))
    assert all(math.isnan(row.p_adjusted) for row in rows if row.small)


def brute_force_p_value(differs, groups, names, statistic):
    """Over every way to deal the mismatches to the items that are in a group."""
    inside = [item for item, of in enumerate(groups) if set(of) & set(names)]
    own = [[item for item in inside if name in groups[item]] for name in names]

    def value(mismatched):
        counts = np.array([[len(mismatched & set(items)), len(items)] for items in own])
        return statistic(*counts.T, len(mismatched) / len(inside))

    observed = value({item for item in inside if differs[item]})
    dealt = [value(set(some)) for some in combinations(inside, int(sum(differs[item] for item in inside)))]
    return np.mean([one >= observed - 1e-9 for one in dealt])


def pearson(k, n, rate):
    """Chi-squared of groups that do not overlap, by scipy."""
    return scipy.stats.chi2_contingency([k, n - k], correction=False).statistic if 0 < rate < 1 else 0.0


def weighted(k, n, rate):
    return sum(n * (k / n - rate) ** 2)


def spread(k, n, rate):
    return max(k / n) - min(k / n)


@pytest.mark.parametrize(
    ("groups", "statistic"),
    [
        ([("a",)] * 5 + [("b",)] * 7, pearson),
        ([("a",)] * 5 + [("b",)] * 4 + [("c",)] * 3, pearson),
        ([("a",)] * 4 + [("a", "b")] * 2 + [("b",)] * 3 + [("c",)] * 3, weighted),
        ([("a", "b")] * 3 + [("b", "a")] + [("b",)] * 3 + [()] * 2 + [("a", "tiny")] * 2 + [()], weighted),
    ],
)
def test_the_permutation_tests_are_those_of_brute_force(groups, statistic):
    reference = np.zeros(12, dtype=int)
    for mismatched in ([0, 1, 2], [0, 8], [4, 5, 6, 7], [11], []):
        candidate = np.isin(np.arange(12), mismatched).astype(int)
        gap = gap_of(reference, candidate, reference, groups, min_group_size=3, n_resamples=1)
        names = [name for name, n in Counter(name for of in groups for name in of).items() if n >= 3]
        expected = [brute_force_p_value(candidate, groups, names, one) for one in (statistic, spread)]
        assert [gap.p_value, gap.range_p_value] == pytest.approx(expected, abs=0.02)  # 4 standard errors of 10,000


def test_the_permutation_tests_of_two_large_groups_are_exact():
    # so many mismatches that they are dealt by group, not one by one
    n_a, n_b, k_a, k_b = 300, 200, 100, 50
    candidate = np.concatenate([np.arange(n_a) < k_a, np.arange(n_b) < k_b]).astype(int)
    reference = np.zeros_like(candidate)
    gap = gap_of(reference, candidate, reference, ["a"] * n_a + ["b"] * n_b, n_resamples=1)
    in_a = np.arange(k_a + k_b + 1)
    gaps = np.abs(in_a / n_a - (k_a + k_b - in_a) / n_b)
    chances = scipy.stats.hypergeom.pmf(in_a, n_a + n_b, k_a + k_b, n_a)
    assert gap.p_value == pytest.approx(chances[gaps >= gap.mismatch_gap - 1e-12].sum(), abs=0.01)
    assert gap.range_p_value == gap.p_value  # of two groups both are the same test


def test_a_small_group_does_not_hide_a_difference_between_large_ones():
    found = {"p_value": 0, "range_p_value": 0, "chi-squared": 0}
    generator, names = np.random.default_rng(0), np.repeat(["a", "b", "small"], [2000, 2000, 30])
    reference = np.zeros(len(names), dtype=int)
    for seed in range(20):
        candidate = (generator.random(len(names)) < np.repeat([0.03, 0.06, 0.045], [2000, 2000, 30])).astype(int)
        gap = gap_of(reference, candidate, reference, names.tolist(), n_resamples=1, seed=seed)
        counts = [[(candidate[names == name] == answer).sum() for name in ("a", "b", "small")] for answer in (0, 1)]
        found["chi-squared"] += scipy.stats.chi2_contingency(counts).pvalue < 0.05
        for name in ("p_value", "range_p_value"):
            found[name] += getattr(gap, name) < 0.05
    assert found["p_value"] >= 19
    assert abs(found["p_value"] - found["chi-squared"]) <= 1
    assert found["range_p_value"] <= 8  # which is why it is not the test of all groups


@pytest.mark.parametrize("overlapping", [False, True])
def test_intervals_are_those_of_a_bootstrap_of_the_items(overlapping):
    reference, candidate, labels, groups = simulated(n=2000, overlapping=overlapping)
    gap = gap_of(reference, candidate, labels, groups, n_resamples=2000)
    inside = np.stack([members(groups, name) for name in "abcd"], axis=1)
    weights = np.random.default_rng(1).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=2000)
    rates = weights @ (inside & (reference != candidate)[:, None]) / (weights @ inside)
    drawn = rates.max(axis=1) - rates.min(axis=1)
    # with so many items the one more in a bound is nothing
    assert gap.upper_bound == pytest.approx(np.quantile(drawn, 0.95), abs=0.02)


@pytest.mark.parametrize(("lost", "n"), [(0, 30), (2, 40), (9, 60)])
def test_the_bound_on_the_drop_of_one_group_is_the_exact_one(lost, n):
    labels = np.zeros(n, dtype=int)
    gap = gap_of(labels, (np.arange(n) < lost).astype(int), labels, ["a"] * n, n_resamples=40_000)
    assert gap.worst_group_accuracy_drop == pytest.approx(lost / n)
    # one in a hundred is kept for not knowing the worst group, of which there is no doubt here
    assert gap.drop_upper_bound == pytest.approx(upper_bound(lost, n, 0.96), rel=0.02)


def test_groups_without_a_mismatch_do_not_certify_that_there_is_no_gap():
    sizes = (30, 50)
    labels = np.zeros(sum(sizes), dtype=int)
    gap = gap_of(labels, labels, labels, ["a"] * sizes[0] + ["b"] * sizes[1], n_resamples=40_000)
    assert gap.mismatch_gap == 0
    # the bound x solves P(both rates below x) = 0.95 for rates that no mismatch leaves open: 1 - (1 - x)^n each
    assert np.prod([1 - (1 - gap.upper_bound) ** n for n in sizes]) == pytest.approx(0.95, abs=0.005)


def share_held(rates_lost, *, sizes, accuracy, truth, name, samples=60):
    """In how many samples a bound holds; groups of a reference with one accuracy lose right answers at these rates."""
    generator = np.random.default_rng(0)
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    rates = np.repeat(rates_lost, sizes)
    labels = np.zeros(len(groups), dtype=int)
    held = 0
    for _ in range(samples):
        reference = (generator.random(len(groups)) >= accuracy).astype(int)
        candidate = np.where(reference == 0, generator.random(len(groups)) < rates, reference).astype(int)
        held += getattr(gap_of(reference, candidate, labels, groups, n_resamples=200), name) >= truth
    return held / samples


def census(seed=0):
    """Answers like those on a census: two large groups, and three with ever fewer positives."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(["large", "other", "few yes", "no yes", "small"], [600, 400, 100, 50, 10])
    labels = (generator.random(len(groups)) < np.repeat([0.3, 0.2, 0.1, 0, 0.5], [600, 400, 100, 50, 10])).astype(int)
    reference = np.where(generator.random(len(groups)) < 0.2, 1 - labels, labels)
    candidate = np.where(generator.random(len(groups)) < 0.1, 1 - reference, reference)
    return reference, candidate, labels, groups.tolist()


def test_fairness_measures_name_whom_they_leave_out_and_give_the_value_over_all_groups():
    reference, candidate, labels, groups = census()
    gap = gap_of(reference, candidate, labels, groups)
    worst, of_yes = measures(gap, None), measures(gap, 1)
    own = np.array(groups)
    positives = {name: int(labels[own == name].sum()) for name in dict.fromkeys(groups)}
    assert 0 < positives["few yes"] < 30 == len(labels[own == "no yes"]) - 20
    assert worst["demographic_parity_difference"].left_out == of_yes["demographic_parity_ratio"].left_out == ("small",)
    few = ("few yes", "no yes", "small")
    for measure in ("equal_opportunity_difference", "equalized_odds_difference", "equalized_odds_ratio"):
        assert worst[measure].left_out == of_yes[measure].left_out == few
    row = of_yes["equal_opportunity_difference"]
    for model, answers in (("reference", reference), ("candidate", candidate)):
        tprs = {name: (answers[(labels == 1) & (own == name)] == 1).mean() for name, n in positives.items() if n}
        assert getattr(row, model) == pytest.approx(abs(tprs["large"] - tprs["other"]))
        assert getattr(row, f"{model}_all_groups") == pytest.approx(max(tprs.values()) - min(tprs.values()))
        assert getattr(row, model) < getattr(row, f"{model}_all_groups")
    for row in gap_of(*simulated(), min_group_size=1).fairness:  # no one is left out, so the values are the same
        assert (row.left_out, row.n_skipped) == ((), 0)
        assert (row.reference_all_groups, row.candidate_all_groups) == (row.reference, row.candidate)


def test_the_bounds_on_a_difference_are_those_of_its_rates():
    # selection rates 80 and 40 of 200 of two groups
    answers = np.repeat([1, 0, 1, 0], [80, 120, 40, 160])
    gap = gap_of(answers, answers, answers, ["a"] * 200 + ["b"] * 200, n_resamples=20_000)
    row = measures(gap, None)["demographic_parity_difference"]
    generator = np.random.default_rng(3)
    high, low = generator.beta(81, 120, 200_000), generator.beta(40, 161, 200_000)
    expected = np.quantile(high - low, 0.95)
    assert expected - 0.003 <= row.upper_bound <= expected + 0.02  # the other class is the same difference
    risk = 0.05 / 2 / 4  # two ends of two rates of two classes
    ends = [scipy.stats.beta.ppf(at, *of) for at, of in ((risk, (80, 121)), (1 - risk, (41, 160)))]
    assert row.lower_bound == pytest.approx(ends[0] - ends[1])
    assert math.isnan(measures(gap, 1)["demographic_parity_difference"].upper_bound)
    assert math.isnan(measures(gap, None)["demographic_parity_ratio"].upper_bound)
    assert gap.lower_bound == 0 == gap.mismatch_gap


def test_bounds_of_fairness_differences_hold_in_at_least_so_many_samples():
    generator, names = np.random.default_rng(0), ["a"] * 80 + ["b"] * 60 + ["c"] * 60
    rates = {"a": 0.9, "b": 0.7, "c": 0.8}
    held = {"upper": 0, "lower": 0}
    for seed in range(40):
        labels = np.arange(200) % 2
        right = generator.random(200) < np.array([rates[name] for name in names])
        answers = np.where(right, labels, 1 - labels)
        row = measures(gap_of(answers, answers, labels, names, n_resamples=200, seed=seed), None)
        held["upper"] += row["equal_opportunity_difference"].upper_bound >= 0.2
        held["lower"] += row["equal_opportunity_difference"].lower_bound <= 0.2
    assert min(held.values()) >= 36


@pytest.mark.parametrize("overlapping", [False, True])
def test_lower_bounds_are_below_the_values(overlapping):
    reference, candidate, labels, groups = simulated(n=2000, overlapping=overlapping)
    gap = gap_of(reference, candidate, labels, groups)
    assert 0 < gap.lower_bound < gap.mismatch_gap < gap.upper_bound
    assert gap.drop_lower_bound < gap.worst_group_accuracy_drop < gap.drop_upper_bound
    for row in gap.fairness:
        if row.label is None and row.measure.endswith("difference"):
            assert 0 <= row.lower_bound <= row.candidate <= row.upper_bound


def test_items_in_no_group_are_counted_and_bins_come_in_the_order_of_their_numbers():
    lengths = [12.5, 3, 30, 100, 2, None, 40]
    answers = [0] * len(lengths)
    found = audited(answers, answers, answers, number_bins(lengths, edges=[5, 20, 50]), n_classes=1)
    assert [row.group for row in found.rows] == ["below 5", "5 to below 20", "20 to below 50", "50 or more"]
    assert (found.gaps[0].n_ungrouped, found.gaps[0].in_order) == (1, True)
    assert {type(row.group) for row in found.rows} == {str}
    plain = audited(answers, answers, answers, [None, "b", "a", "b", [], None, "a"], n_classes=1)
    assert [row.group for row in plain.rows] == ["b", "a"]
    assert (plain.gaps[0].n_ungrouped, plain.gaps[0].in_order) == (3, False)


def test_bounds_hold_in_at_least_so_many_samples():
    # 95 % of all samples: fewer than 90 % of 60 are a matter of 3 in 100
    gap = share_held([0.02, 0.1], sizes=[40, 80], accuracy=1, truth=0.08, name="upper_bound")
    # the reference is equally good in all groups, where draws of its worst accuracy are all too low
    drop = share_held([0.1] + [0] * 7, sizes=[60] * 8, accuracy=0.8, truth=0.08, name="drop_upper_bound")
    assert min(gap, drop) >= 0.9


def test_a_group_that_cannot_be_the_worst_does_not_count_for_the_bound_on_the_drop():
    labels, item = np.zeros(600, dtype=int), np.arange(300)
    reference = np.concatenate([item < 150, item < 3])  # half wrong in a, hardly any in b
    candidate = np.concatenate([item < 153, item < 60])  # b loses far more, and is far from the worst
    gap = gap_of(reference.astype(int), candidate.astype(int), labels, ["a"] * 300 + ["b"] * 300)
    assert gap.worst_group_candidate == "a"
    assert gap.worst_group_accuracy_drop == pytest.approx(0.01)
    assert 0.01 < gap.drop_upper_bound < 0.04


def test_worst_groups_are_those_of_fairlearn():
    reference, candidate, labels, groups = simulated(classes=3)
    gap = gap_of(reference, candidate, labels, groups, n_classes=3)
    items, sensitive = exploded(groups)
    for model, answers in (("reference", reference), ("candidate", candidate)):
        lowest = fairlearn.metrics.accuracy_score_group_min(labels[items], answers[items], sensitive_features=sensitive)
        assert getattr(gap, f"worst_group_accuracy_{model}") == pytest.approx(lowest)
        own = members(groups, getattr(gap, f"worst_group_{model}"))
        assert (answers == labels)[own].mean() == pytest.approx(lowest)
    drop = gap.worst_group_accuracy_reference - gap.worst_group_accuracy_candidate
    assert gap.worst_group_accuracy_drop == pytest.approx(drop)


def test_small_groups_are_shown_and_left_out_of_every_verdict():
    reference, candidate, labels, groups = simulated()
    before = audited(reference, candidate, labels, groups, n_classes=2)
    more = [(*names, "tiny") if item < 29 else names for item, names in enumerate(groups)]
    after = audited(reference, candidate, labels, more, n_classes=2)
    assert [row for row in after.rows if row.group != "tiny"] == list(before.rows)
    assert [row.small for row in after.rows if row.group == "tiny"] == [True]
    # draws are dealt to other sets of groups, everything else that is judged is the same
    judged = ("measure", "label", "reference", "candidate", "change", "n_skipped")
    rows = [[[getattr(row, name) for name in judged] for row in one.gaps[0].fairness] for one in (before, after)]
    assert rows[0] == rows[1]
    assert {row.left_out for row in after.gaps[0].fairness} == {("tiny",)}
    same = ("n_groups", "mismatch_gap", "highest", "lowest", "worst_group_accuracy_candidate", "worst_group_reference")
    for name in same:
        assert getattr(after.gaps[0], name) == getattr(before.gaps[0], name)
    assert after.gaps[0].upper_bound == pytest.approx(before.gaps[0].upper_bound, abs=0.02)
    assert gap_of(reference, candidate, labels, more, min_group_size=29).n_groups == before.gaps[0].n_groups + 1


def test_attributes_do_not_touch_each_other():
    reference, candidate, labels, first = simulated()
    second = [("x",) if item % 3 else ("y",) for item in range(len(labels))]
    both = audited(reference, candidate, labels, {"first": first, "second": second}, n_classes=2)
    assert [gap.attribute for gap in both.gaps] == ["first", "second"]
    for gap, (attribute, groups) in zip(both.gaps, (("first", first), ("second", second)), strict=True):
        alone = audited(reference, candidate, labels, {attribute: groups}, n_classes=2)
        assert alone.gaps == (gap,)
        assert alone.rows == tuple(row for row in both.rows if row.attribute == attribute)
    assert audited(reference, candidate, labels, {}, n_classes=2) == GroupAudit((), (), (), 30)


def test_the_seed_decides_the_draws():
    reference, _, labels, groups = simulated(n=120, overlapping=True)
    candidate = np.arange(120) % 2  # whatever the groups are
    inputs = (reference, candidate, labels, groups)
    first, again, other = (gap_of(*inputs, min_group_size=9, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.mismatch_gap == other.mismatch_gap
    assert first.upper_bound != other.upper_bound
    assert first.p_value != other.p_value


def test_draws_in_blocks_are_the_draws(monkeypatch):
    inputs = simulated(overlapping=True, unknown=0.1)
    whole = audited(*inputs, n_classes=2, n_resamples=100)
    monkeypatch.setattr("hf_compalign.measure.groups.gaps.MOST_WEIGHTS", 200)
    np.testing.assert_equal(asdict(audited(*inputs, n_classes=2, n_resamples=100)), asdict(whole))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_identities(data):
    n, classes = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    draw = st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)
    reference, candidate = data.draw(draw), data.draw(draw)
    labels = data.draw(st.lists(st.sampled_from([-100, *range(classes)]), min_size=n, max_size=n))
    groups = data.draw(st.lists(st.lists(st.sampled_from("abc"), unique=True), min_size=n, max_size=n))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = audited(reference, candidate, labels, groups, n_classes=classes, min_group_size=3, n_resamples=50)
    json.dumps(asdict(found))  # plain numbers and texts
    assert sum(row.n for row in found.rows) == sum(map(len, groups))
    occurring = {
        (name, label)
        for of, *three in zip(groups, reference, candidate, labels, strict=True)
        for name in of
        for label in three
        if label != -100
    }
    assert {(row.group, row.label) for row in found.rates} == occurring
    assert len(found.rates) == len(occurring)
    (gap,) = found.gaps
    judged = [row for row in found.rows if not row.small]
    labeled = [row for row in judged if row.n_labeled >= 3]
    assert gap.n_groups == len(judged)
    mismatch_rates, nfrs = [row.mismatch_rate for row in judged], [row.nfr for row in labeled]
    for found_gap, rates in ((gap.mismatch_gap, mismatch_rates), (gap.nfr_gap, nfrs)):
        if len(rates) < 2:
            assert math.isnan(found_gap)
        else:
            assert found_gap == pytest.approx(max(rates) - min(rates))
    assert math.isnan(gap.p_value) == math.isnan(gap.range_p_value) == math.isnan(gap.upper_bound) == (len(judged) < 2)
    assert gap.n_ungrouped == sum(not of for of in groups)
    assert math.isnan(gap.drop_upper_bound) == (not labeled)
    assert (gap.worst_group_reference == "") == (not labeled)
    for row in gap.fairness:
        values = [value for value in (row.reference, row.candidate) if not math.isnan(value)]
        assert all(0 <= value <= 1 for value in values)
        if reference == candidate:
            assert row.change == 0 or math.isnan(row.change)
    sizes = {row.group: row.n for row in found.rows}
    for label in range(classes):
        selected = sum(row.selection_rate_candidate * sizes[row.group] for row in found.rates if row.label == label)
        expected = sum(len(of) for of, answer in zip(groups, candidate, strict=True) if answer == label)
        assert selected == pytest.approx(expected)


def test_a_model_against_itself():
    reference, _, labels, groups = simulated(classes=3)
    found = audited(reference, reference, labels, groups, n_classes=3)
    assert {row.mismatches for row in found.rows} == {row.lost for row in found.rows} == {0}
    assert {row.p_value for row in found.rows} == {row.p_adjusted for row in found.rows} == {1.0}
    (gap,) = found.gaps
    assert (gap.mismatch_gap, gap.p_value, gap.nfr_gap, gap.worst_group_accuracy_drop) == (0, 1, 0, 0)
    assert {row.change for row in gap.fairness} == {0}
    assert 0 < gap.upper_bound < 0.1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("reference", "candidate", "labels", "groups"),
    [
        ([0] * 8, [0] * 8, [0] * 8, ["a", "b"] * 4),  # one class
        ([0] * 8, [1] * 8, [2] * 8, ["a", "b"] * 4),  # all wrong
        ([0] * 8, [1] * 8, [0] * 8, ["a", "b"] * 4),  # all lost
        ([0, 1] * 4, [1, 1] * 4, [-100] * 8, ["a", "a", "b", "b"] * 2),  # no labels
        ([0, 1] * 4, [1, 1] * 4, [0] * 8, [None] * 8),  # no groups
        ([0, 1] * 4, [1, 1] * 4, [0] * 8, list("abcdefgh")),  # all groups small
        ([0, 1] * 4, [1, 1] * 4, [0] * 8, ["a"] * 8),  # one group
        ([0, 1] * 4, [1, 1] * 4, [0] * 8, [["a", "b"]] * 8),  # the same group twice
        ([1], [0], [1], ["a"]),  # a single item
        ([], [], [], []),  # none
    ],
)
def test_degenerate_inputs_are_defined_or_nan(reference, candidate, labels, groups):
    found = audited(reference, candidate, labels, groups, n_classes=3, min_group_size=2)
    (gap,) = found.gaps
    assert len(found.rows) == len({name for of in groups if of for name in of})
    n_judged = sum(row.n >= 2 for row in found.rows)
    n_labeled = sum(row.n_labeled >= 2 for row in found.rows)
    assert gap.n_groups == n_judged
    assert math.isnan(gap.mismatch_gap) == math.isnan(gap.upper_bound) == (n_judged < 2)
    assert math.isnan(gap.nfr_gap) == (n_labeled < 2)
    assert math.isnan(gap.worst_group_accuracy_drop) == math.isnan(gap.drop_upper_bound) == (n_labeled < 1)
    assert all(row.p_value == 1 for row in found.rows if row.n == len(labels))
    if n_judged == 2:
        assert (gap.mismatch_gap, gap.p_value) == (0, 1)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (([0, 1, 0], [0, 1, 0], [0, 2, -100]), r"^labels must be in \[0, 2\), or -100 where unknown. Got 2.$"),
        (([0, 5, 0], [0, 1, 0], [0, 1, 0]), r"^reference must be in \[0, 2\), one number per class. Got 5"),
        (([0, 1, 0], [0, -100, 0], [0, 1, 0]), r"^candidate must be in \[0, 2\), one number per class. Got -100"),
        (([0, 1, 0], [0, 1], [0, 1, 0]), "Both models must answer the same items. Got 3, 2, 3"),
        (([0.5, 1, 0], [0, 1, 0], [0, 1, 0]), r"must be integers of shape \[N\]"),
    ],
)
def test_bad_answers_are_refused(answers, message):
    with pytest.raises(ValueError, match=message):
        audited(*answers, ["a"] * 3, n_classes=2)


@pytest.mark.parametrize("name", ["min_group_size", "n_resamples"])
def test_bad_options_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1. Got 0."):
        GroupOptions(**{name: 0})


def test_without_fairlearn_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fairlearn.metrics", None)
    with pytest.raises(ImportError, match=r"The audit of groups needs .* pip install 'hf-compalign\[fairness\]'"):
        audited([0], [0], [0], ["a"], n_classes=1)
