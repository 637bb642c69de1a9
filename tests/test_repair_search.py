"""The search for the layers to keep in float, against oracles whose answer is known."""

import itertools

import pytest

from hf_compalign.measure.audit import Verdict
from hf_compalign.measure.statistics import upper_bound
from hf_compalign.ship import Point, Sensitivity
from hf_compalign.ship.repair import search, sensitivity_shares, smallest_float_set

N = 1000
LIMIT = 0.02  # 12 mismatches are within it, 13 are not


class Oracle:
    """Layers of 100 bytes in float and 25 in INT8, each of which costs some mismatches while it is in INT8."""

    def __init__(self, harm, *, base=0, extra=lambda kept: 0):
        self.harm = harm
        self.base = base
        self.extra = extra
        self.measured = []
        self.probed = []

    def size(self, kept):
        return sum(100 if layer in kept else 25 for layer in self.harm)

    def mismatches(self, kept):
        return self.base + self.extra(kept) + sum(harm for layer, harm in self.harm.items() if layer not in kept)

    def measure(self, kept):
        self.measured.append(kept)
        k = self.mismatches(kept)
        bound = upper_bound(k, N)
        verdict = Verdict("mismatch_rate", LIMIT, k / N, bound, bound <= LIMIT)
        order = tuple(layer for layer in self.harm if layer in kept)
        return Point(order, N, k, k / N, (0.0, 1.0), (verdict,), self.size(kept))

    def probe(self, group):
        self.probed.append(group)
        harm = sum(self.harm[layer] for layer in group)
        kept = set(self.harm) - set(group)
        return Sensitivity(group, N, int(harm), harm / 1000, self.size(kept))

    def search(self, **options):
        return smallest_float_set(list(self.harm), self.measure, self.probe, **options)


def layers(*harms):
    return {f"layer.{index}": harm for index, harm in enumerate(harms)}


def within(oracle, kept):
    return upper_bound(oracle.mismatches(kept), N) <= LIMIT


def test_twelve_of_a_thousand_are_within_two_percent():
    assert upper_bound(12, N) <= LIMIT < upper_bound(13, N)


def test_a_file_within_the_limits_is_left_alone():
    oracle = Oracle(layers(3, 4, 5))
    found = oracle.search()
    assert found.best.kept == ()
    assert found.complete
    assert len(oracle.measured) == 1
    assert not oracle.probed


def test_the_one_layer_that_does_the_harm_is_found():
    oracle = Oracle(layers(1, 1, 40, 1, 1, 1, 1, 1))
    found = oracle.search()
    assert found.best.kept == ("layer.2",)
    assert found.best.passed
    assert found.sensitivities[0].layers == ("layer.2",)


@pytest.mark.parametrize("harms", [(9, 8, 7, 6, 5, 4, 3), (13, 13, 13), (2, 2, 2, 2, 2, 2, 2), (0, 0, 30, 0, 25)])
def test_harm_that_adds_up_gives_the_smallest_set_there_is(harms):
    oracle = Oracle(layers(*harms))
    found = oracle.search()
    sizes = range(len(harms) + 1)
    smallest = next(k for k in sizes if any(within(oracle, set(c)) for c in itertools.combinations(oracle.harm, k)))
    assert len(found.best.kept) == smallest
    assert within(oracle, set(found.best.kept))


def test_no_layer_of_the_result_can_be_given_back_even_where_harm_does_not_add_up():
    # In INT8 together, neighbors cancel: the order of single layers misleads.
    def extra(kept):
        return sum(-9 for a, b in (("layer.0", "layer.1"), ("layer.2", "layer.3")) if a not in kept and b not in kept)

    oracle = Oracle(layers(9, 9, 8, 8, 7, 6, 5), extra=extra)
    found = oracle.search()
    kept = set(found.best.kept)
    assert found.complete
    assert within(oracle, kept)
    assert kept
    assert not any(within(oracle, kept - {layer}) for layer in kept)
    assert all(kept - {layer} in oracle.measured for layer in kept)


def test_a_layer_is_given_back_when_another_makes_up_for_it():
    # The bisection goes down the order; only the pair (0, 2) is needed, and 1 was kept on the way.
    def extra(kept):
        return 0 if {"layer.0", "layer.2"} <= kept else 30

    found = Oracle(layers(9, 8, 7, 1, 1), extra=extra).search()
    assert found.best.kept == ("layer.0", "layer.2")


def test_nothing_is_measured_twice():
    oracle = Oracle(layers(9, 8, 7, 6, 5, 4, 3, 2, 1), extra=lambda kept: len(kept) % 3)
    oracle.search()
    assert len(oracle.measured) == len(set(oracle.measured))
    assert len(oracle.probed) == len(set(oracle.probed)) == 9


def test_a_layer_whose_sensitivity_is_known_is_not_tried_alone_again():
    oracle = Oracle(layers(9, 8, 7, 6))
    first = oracle.search()
    again = Oracle(oracle.harm)
    lines = []
    found = again.search(known=first.sensitivities[1:], report=lines.append)
    assert again.probed == [first.sensitivities[0].layers]
    assert again.measured == oracle.measured
    assert found.sensitivities == first.sensitivities
    assert found.n_measured == len(again.measured) + 1 == first.n_measured - 3
    assert any("takes 1 + 2 measurements" in line for line in lines)
    assert Oracle(oracle.harm).search(known=first.sensitivities, max_measurements=found.n_measured - 1).complete


def test_files_to_judge_are_those_within_the_limits_from_the_most_layers_in_float_on():
    found = Oracle(layers(9, 8, 7, 6, 5, 4, 3)).search()
    sizes = [len(point.kept) for point in found.candidates]
    assert {point.kept for point in found.candidates} == {point.kept for point in found.points if point.passed}
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 7
    assert found.candidates[-1] == found.best
    hopeless = Oracle(layers(5, 5, 5), base=50).search()
    assert hopeless.candidates == [hopeless.best]


def test_all_points_are_reported_in_the_order_of_measuring():
    oracle = Oracle(layers(9, 8, 7, 6))
    lines = []
    found = oracle.search(report=lines.append)
    assert [frozenset(point.kept) for point in found.points] == oracle.measured
    first, _, _, cost = lines[:4]
    assert first == (
        "   1  all 4 layers in INT8: 30 of 1000 differ, mismatch_rate 3.00 %, bound 4.05 % (beyond 2 %), 0.00 MB"
    )
    assert "takes 4 + 2 measurements (each layer alone, on a sample; a bisection), about" in cost
    numbered = [line for line in lines if line[:4].strip()]
    assert [int(line[:4]) for line in numbered] == list(range(1, len(oracle.measured) + len(oracle.probed) + 1))
    assert any("only layer.0 in INT8: 9 of 1000 answers flip, squared logit error 0.009" in line for line in lines)
    assert any("the 2 most sensitive of 4 layers in float" in line for line in lines)
    assert any("layer.1 back to INT8, 2 in float" in line for line in lines)


def test_when_even_float_is_beyond_the_limit_nothing_more_is_tried():
    oracle = Oracle(layers(5, 5, 5), base=50)
    found = oracle.search()
    assert found.complete
    assert not found.best.passed
    assert found.best.kept == tuple(oracle.harm)
    assert len(oracle.measured) == 2
    assert not oracle.probed


def test_of_files_that_are_all_beyond_the_small_one_is_best_among_equals():
    assert Oracle(layers(0, 0), base=50).search().best.kept == ()


@pytest.mark.parametrize(("budget", "kept"), [(1, 0), (2, 6), (4, 5), (5, 3), (8, 4), (9, 3)])
def test_a_spent_budget_leaves_the_best_so_far(budget, kept):
    oracle = Oracle(layers(9, 8, 7, 6, 5, 1))
    lines = []
    found = oracle.search(max_measurements=budget, report=lines.append)
    assert not found.complete
    assert len(oracle.measured) + len(oracle.probed) == budget
    assert len(found.points) + len(found.sensitivities) == budget
    assert len(found.best.kept) == kept
    assert found.best.passed == (kept > 0)
    assert lines[-1] == f"      The budget of {budget} measurements is spent."


@pytest.mark.parametrize(("budget", "in_float"), [(8, 10), (16, 4), (24, 2), (None, 1)])
def test_a_small_budget_tries_larger_groups(budget, in_float):
    """Of 40 layers one does the harm: with few measurements its neighbors stay in float too, but not all layers."""
    oracle = Oracle(layers(*[0.01] * 17, 40, *[0.01] * 22))
    found = oracle.search(max_measurements=budget)
    assert found.best.passed
    assert "layer.17" in found.best.kept
    assert len(found.best.kept) <= in_float
    again = Oracle(oracle.harm)
    again.search(max_measurements=budget, known=found.sensitivities)
    assert not again.probed


def test_a_single_layer_is_kept_without_being_tried_alone():
    oracle = Oracle(layers(40))
    found = oracle.search()
    assert found.best.kept == ("layer.0",)
    assert found.complete
    assert not oracle.probed


def test_many_layers_are_tried_in_groups_and_given_back_one_by_one(monkeypatch):
    monkeypatch.setattr(search, "MOST_GROUPS", 4)
    oracle = Oracle(layers(*[0.5] * 5, 40, *[0.5] * 4))
    found = oracle.search()
    assert oracle.probed == [
        ("layer.0", "layer.1", "layer.2"),
        ("layer.3", "layer.4", "layer.5"),
        ("layer.6", "layer.7", "layer.8"),
        ("layer.9",),
    ]
    assert found.best.kept == ("layer.5",)


def test_what_saves_most_for_the_least_sensitivity_is_given_back_first():
    oracle = Oracle(layers(13, 13, 13, 0))
    large = {"layer.1"}
    oracle.size = lambda kept: sum(
        (4 if layer in kept else 1) * (100 if layer in large else 1) for layer in oracle.harm
    )
    found = oracle.search()
    assert found.best.kept == ("layer.0", "layer.1", "layer.2")
    assert oracle.measured[-2:] == [{"layer.0", "layer.2"}, {"layer.1", "layer.2"}]


def test_shares_of_flips_and_of_logit_error_count_alike():
    rows = [Sensitivity((name,), 10, flips, error, 0) for name, flips, error in (("a", 3, 0.0), ("b", 1, 1.0))]
    assert sensitivity_shares(rows) == [0.75, 1.25]
    silent = [Sensitivity((name,), 10, 0, error, 0) for name, error in (("a", 0.1), ("b", 0.3))]
    assert sensitivity_shares(silent) == pytest.approx([0.25, 0.75])
    assert sensitivity_shares([Sensitivity(("a",), 10, 0, 0.0, 0)]) == [0.0]


@pytest.mark.parametrize(
    ("harms", "options", "message"),
    [
        ((), {}, "There is no layer that can be INT8"),
        ((1,), {"max_measurements": 0}, "max_measurements must be 1 or more, or None for no limit. Got 0."),
        (
            (1, 2),
            {"known": [Sensitivity(("layer.0",), 9, 0, 0.0, 0), Sensitivity(("pooler",), 9, 0, 0.0, 0)]},
            "sensitivities must be of the layers of this model.* 1 of 2 are of others, such as pooler. Give those of",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(harms, options, message):
    oracle = Oracle(layers(*harms))
    with pytest.raises(ValueError, match=message):
        oracle.search(**options)
    assert not oracle.measured
