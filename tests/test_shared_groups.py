"""Groups of items that share examples: what is promised is promised of whole examples."""

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest

from hf_compalign.measure.groups import GroupOptions, audit_groups, dealing
from hf_compalign.measure.groups.gaps import BOUND_LEVEL, permutation_p_values
from hf_compalign.measure.groups.table import counted
from hf_compalign.measure.statistics import example_interval


@pytest.fixture
def few_permutations(monkeypatch):
    monkeypatch.setattr(dealing, "PERMUTATIONS", 400)


def texts(rates, *, each=6, alike=1.0, seed=0, sizes=(40, 40)):
    """Answers, labels and groups of the words of texts: those of a text are misread together, or each by itself."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    examples = np.repeat(np.arange(len(group)), each)
    chance = np.array(rates)[group]
    whole = (generator.random(len(group)) < chance)[examples]
    own = generator.random(len(examples)) < chance[examples]
    together = (generator.random(len(group)) < alike)[examples]
    changed = np.where(together, whole, own).astype(int)
    right = np.zeros_like(changed)
    return right, changed, right, [(f"g{place}",) for place in group[examples]], examples


def audited(reference, candidate, labels, groups, examples, **options):
    given = {"group": groups}
    return audit_groups(
        reference, candidate, labels, given, n_classes=2, options=GroupOptions(**options), examples=examples
    )


def gap_of(*inputs, **options):
    return audited(*inputs, **options).gaps[0]


def p_value(reference, candidate, labels, groups, examples):
    """Of all groups, without the rest of the audit."""
    table, *_ = counted((reference, candidate, labels), groups, n_classes=2, examples=examples)
    return permutation_p_values(table, judged=np.arange(2), seed=0)[0]


def test_values_are_of_items_and_intervals_of_examples():
    inputs = texts([0.1, 0.3])
    shared, alone = audited(*inputs), audited(*inputs[:-1], None)
    exact = ("n", "n_labeled", "mismatches", "mismatch_rate", "lost", "nfr", "accuracy_change", "small")
    for row, other in zip(shared.rows, alone.rows, strict=True):
        assert [getattr(row, name) for name in exact] == [getattr(other, name) for name in exact]
        inside = np.array([of == (row.group,) for of in inputs[3]])
        k = np.bincount(inputs[4][inside], weights=inputs[1][inside])
        m = np.bincount(inputs[4][inside])
        assert row.mismatch_rate_interval == row.nfr_interval == example_interval(k[m > 0], m[m > 0])
        low, high = other.mismatch_rate_interval
        assert row.mismatch_rate_interval[0] < low < high < row.mismatch_rate_interval[1]
    gap, narrow = shared.gaps[0], alone.gaps[0]
    assert gap.mismatch_gap == narrow.mismatch_gap
    assert gap.lower_bound <= narrow.lower_bound < gap.mismatch_gap < narrow.upper_bound < gap.upper_bound
    assert gap.p_value > narrow.p_value
    assert gap.drop_lower_bound < narrow.drop_lower_bound < narrow.drop_upper_bound < gap.drop_upper_bound
    for row, other in zip(gap.fairness, narrow.fairness, strict=True):
        assert (row.measure, row.label) == (other.measure, other.label)
        assert row.candidate == pytest.approx(other.candidate, nan_ok=True)
        if not math.isnan(other.upper_bound):
            assert row.lower_bound <= other.lower_bound <= other.upper_bound < row.upper_bound


def test_examples_of_one_item_each_are_items():
    reference, candidate, labels, groups, _ = texts([0.1, 0.3], each=1)
    alone = audited(reference, candidate, labels, groups, None)
    np.testing.assert_equal(asdict(audited(reference, candidate, labels, groups, np.arange(80) * 3)), asdict(alone))


def test_many_small_examples_are_nearly_items():
    """Of 2,000 texts of which two have two words: draws, bounds and tests are those of items, but for chance."""
    inputs = texts([0.05, 0.1], each=1, sizes=(1000, 1000))
    examples = inputs[4].copy()
    examples[[1, 1999]] = examples[[0, 1998]]
    shared, alone = gap_of(*inputs[:-1], examples), gap_of(*inputs[:-1], None)
    assert shared.upper_bound == pytest.approx(alone.upper_bound, abs=0.01)
    assert shared.p_value == pytest.approx(alone.p_value, abs=0.005)
    assert shared.range_p_value == pytest.approx(alone.range_p_value, abs=0.005)
    for row, other in zip(shared.fairness, alone.fairness, strict=True):
        assert row.upper_bound == pytest.approx(other.upper_bound, abs=0.01, nan_ok=True)


def brute_force(k, m, members, statistic):
    """Over every way to deal examples of k hits and m items among the places of groups, bool [E, G]."""
    orders = ([*order] for order in itertools.permutations(range(len(k))))
    dealt = np.array([statistic(k[order], m[order], members) for order in orders])
    return np.mean(dealt >= dealt[0] - 1e-9, axis=0)


def distances(k, m, members):
    """Squared difference of each group's rate to that of the rest, over its variance if items of a text are alike."""
    rate = k.sum() / m.sum()
    alike = 0
    if 0 < rate < 1:
        alike = (sum((k - rate * m) ** 2) / (rate * (1 - rate)) - sum(m)) / sum(m * (m - 1))
    variance = m * (1 + (m - 1) * min(max(alike, 0), 1))
    found = []
    for inside in members.T.astype(bool):
        inner, outer = m[inside].sum(), m[~inside].sum()
        difference = k[inside].sum() / inner - k[~inside].sum() / outer
        found.append(difference**2 / (variance[inside].sum() / inner**2 + variance[~inside].sum() / outer**2))
    return found


def spreads(k, m, members):
    outside = 1 - m @ members / m.sum()
    rates = (k @ members) / (m @ members)
    return sum(outside * distances(k, m, members)), max(rates) - min(rates)


def test_the_permutation_tests_are_those_of_brute_force():
    m = np.array([1, 2, 3, 1, 2, 1, 2])
    members = np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 1], [0, 1], [0, 0]])
    names = [tuple(name for name, there in zip("ab", of, strict=True) if there) for of in members]
    for k in np.array([[1, 2, 0, 0, 0, 0, 0], [0, 1, 3, 0, 0, 1, 1], [0, 0, 0, 1, 2, 0, 2], [0] * 7]):
        changed = np.concatenate([np.arange(size) < hits for hits, size in zip(k, m, strict=True)]).astype(int)
        examples = np.repeat(np.arange(7), m)
        right = np.zeros_like(changed)
        found = audited(right, changed, right, [names[row] for row in examples], examples, min_group_size=1)
        assert [row.p_value for row in found.rows] == pytest.approx(brute_force(k, m, members, distances), abs=0.02)
        inside = members.any(axis=1)
        expected = brute_force(k[inside], m[inside], members[inside], spreads)
        assert [found.gaps[0].p_value, found.gaps[0].range_p_value] == pytest.approx(expected, abs=0.02)


@pytest.mark.usefixtures("few_permutations")
def test_texts_misread_whole_are_no_evidence_that_words_would_be():
    """Where groups are alike, one in twenty is told apart; the tests of words tell half of them apart."""
    found = {"shared": 0, "alone": 0}
    for seed in range(60):
        inputs = texts([0.1, 0.1], seed=seed)
        found["shared"] += p_value(*inputs) < 0.05
        found["alone"] += p_value(*inputs[:-1], None) < 0.05
    assert found["shared"] <= 8
    assert found["alone"] >= 15


@pytest.mark.usefixtures("few_permutations")
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("long", [60, 240])
def test_texts_of_other_lengths_are_not_told_apart_by_their_lengths(long, alike):
    """Few long texts against many short ones, with one rate."""
    rejected = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        sizes = np.repeat([12, 2], [long, 120])
        examples = np.repeat(np.arange(long + 120), sizes)
        together = (generator.random(len(sizes)) < alike)[examples]
        whole, own = (generator.random(len(of)) < 0.1 for of in (sizes, examples))
        changed = np.where(together, whole[examples], own).astype(int)
        right, groups = np.zeros_like(changed), [("long",) if example < long else ("short",) for example in examples]
        rejected += p_value(right, changed, right, groups, examples) < 0.05
    assert rejected <= 24  # 12 %


@pytest.mark.usefixtures("few_permutations")
@pytest.mark.parametrize("alike", [0.0, 1.0])
def test_a_group_that_changes_more_is_found(alike):
    found = sum(p_value(*texts([0.05, 0.4], alike=alike, seed=seed, sizes=(200, 30))) < 0.05 for seed in range(40))
    assert found >= 36


@pytest.mark.usefixtures("few_permutations")
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_bounds_hold_in_at_least_so_many_samples(alike):
    held = dict.fromkeys(("upper_bound", "drop_upper_bound", "lower_bound", "drop_lower_bound", "fairness"), 0)
    for seed in range(40):
        gap = gap_of(*texts([0.02, 0.1], alike=alike, seed=seed, sizes=(60, 80)), n_resamples=200)
        for name in ("upper_bound", "drop_upper_bound"):
            held[name] += getattr(gap, name) >= (0.08 if name == "upper_bound" else 0.1)
        held["lower_bound"] += gap.lower_bound <= 0.08
        held["drop_lower_bound"] += gap.drop_lower_bound <= 0.1
        worst = gap.fairness[0]
        assert (worst.measure, worst.label) == ("demographic_parity_difference", None)
        held["fairness"] += worst.lower_bound <= 0.08 <= worst.upper_bound
    assert min(held.values()) >= 35


def test_groups_without_a_mismatch_do_not_certify_that_there_is_no_gap():
    reference, candidate, labels, groups, examples = texts([0, 0])
    gap = gap_of(reference, candidate, labels, groups, examples, n_resamples=20_000)
    assert gap.mismatch_gap == gap.lower_bound == 0
    # As of 40 items each: the bound x solves P(both rates below x) = 0.95, with 1 - (1 - x)^40 for either.
    assert gap.upper_bound == pytest.approx(1 - (1 - BOUND_LEVEL**0.5) ** (1 / 40), abs=0.003)


def test_words_of_one_text_in_different_groups_have_bounds_and_no_tests():
    reference, candidate, labels, _, examples = texts([0.1, 0.1])
    groups = [("noun",) if item % 2 else ("verb",) for item in range(len(reference))]
    groups = [(*of, "text 0") if item < 6 else of for item, of in enumerate(groups)]
    found = audited(reference, candidate, labels, groups, examples)
    assert [math.isnan(row.p_value) for row in found.rows] == [True, False, True]
    gap = found.gaps[0]
    assert math.isnan(gap.p_value)
    assert math.isnan(gap.range_p_value)
    assert gap.mismatch_gap == 0  # each text is misread whole, so nouns are as often as verbs
    assert 0 < gap.upper_bound < gap_of(*texts([0.1, 0.1])).upper_bound
