"""From a budget to a plan: counts worked out by hand, the kept units, FLOPs as torch counts them, injected costs."""

import copy

import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hf_compalign.compress.shrink import (
    Budget,
    CostTable,
    LayerScores,
    costs,
    cut_,
    flops_table,
    latency_table,
    layers_of,
    plan_for,
    unit_scores,
)
from hf_compalign.compress.shrink import budget as budgets


def importance(heads, neurons, layer=1.0):
    return LayerScores(torch.tensor(heads, dtype=torch.float), torch.tensor(neurons, dtype=torch.float), layer)


def random_importances(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        LayerScores(
            torch.rand(layer.n_heads, generator=generator), torch.rand(layer.n_neurons, generator=generator), 1.0
        )
        for layer in layers_of(model)
    ]


def widths(plan):
    return [(len(layer.heads), len(layer.neurons)) for layer in plan.layers]


# ---- shares ----


def test_heads_are_ranked_across_the_layers_by_hand():
    model = tiny.bert(num_attention_heads=4)
    importances = [importance([3, 0, 4, 1], [1] * 32), importance([1, 7, 5, 5], [1] * 32)]
    plan = plan_for(model, importances, Budget(heads=0.5))
    assert [layer.heads for layer in plan.layers] == [(2,), (1, 2, 3)]
    assert all(layer.neurons == tuple(range(32)) for layer in plan.layers)


def test_each_layer_keeps_a_head_and_a_neuron():
    model = tiny.bert(num_attention_heads=4)
    importances = [importance([1, 1, 1, 1], [1] * 32), importance([0, 0, 1e-9, 0], [0] * 31 + [1e-9])]
    plan = plan_for(model, importances, Budget(heads=0.75, ffn=0.96875))
    assert [layer.heads for layer in plan.layers] == [(0,), (2,)]
    assert [layer.neurons for layer in plan.layers] == [(0,), (31,)]


@pytest.mark.parametrize("kind", [tiny.bert, tiny.vit])
def test_uniform_removes_the_same_from_each_layer(kind):
    model = kind(num_attention_heads=4)
    importances = random_importances(model)
    plan = plan_for(model, importances, Budget(heads=0.25, ffn=0.5, uniform=True))
    assert widths(plan) == [(3, 16), (3, 16)]
    for layer, one in zip(plan.layers, importances, strict=True):
        assert set(layer.heads) == set(one.heads.topk(3).indices.tolist())
        assert set(layer.neurons) == set(one.neurons.topk(16).indices.tolist())


@pytest.mark.parametrize("uniform", [False, True])
def test_widths_are_multiples_of_8_and_the_share_is_met(uniform):
    model = tiny.bert(intermediate_size=100, num_hidden_layers=3)
    plan = plan_for(model, random_importances(model), Budget(ffn=0.4, uniform=uniform))
    kept = [len(layer.neurons) for layer in plan.layers]
    assert all(width % 8 == 0 for width in kept)
    assert abs(sum(kept) - 180) <= (12 if uniform else 4)  # half a step: of 8 neurons, in one or in all three layers
    assert len(set(kept)) == 1 or not uniform


def test_the_kept_units_of_a_layer_are_its_top():
    model = tiny.bert(intermediate_size=128)
    importances = random_importances(model)
    for layer, one in zip(plan_for(model, importances, Budget(ffn=0.6)).layers, importances, strict=True):
        assert set(layer.neurons) == set(one.neurons.topk(len(layer.neurons)).indices.tolist())


# ---- layers ----


def test_the_least_important_layers_go():
    model = tiny.bert(num_hidden_layers=4)
    importances = [importance([2, 1], [1] * 32, layer) for layer in (3.0, 1.0, 4.0, 2.0)]
    plan = plan_for(model, importances, Budget(n_layers=2))
    assert [layer.index for layer in plan.layers] == [0, 2]
    assert widths(plan) == [(2, 32), (2, 32)]
    plan = plan_for(model, importances, Budget(n_layers=1, heads=0.5, uniform=True))
    assert [(layer.index, layer.heads) for layer in plan.layers] == [(0, (0,)), (2, (0,)), (3, (0,))]


def test_a_layer_that_cannot_go_stays():
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    config = DebertaV2Config(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        conv_kernel_size=3,
    )  # fmt: skip
    model = DebertaV2ForSequenceClassification(config)  # its first layer feeds a convolution
    importances = [importance([1, 1], [1] * 32, layer) for layer in (1.0, 3.0, 2.0)]
    assert [layer.index for layer in plan_for(model, importances, Budget(n_layers=1)).layers] == [0, 1]
    assert [layer.index for layer in plan_for(model, importances, Budget(n_layers=2)).layers] == [0]


# ---- targets ----


def flops(model, inputs):
    # The fused kernel of CPUs is one that torch does not count.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops()


INPUTS = {
    "bert": {"input_ids": torch.ones(2, 12, dtype=torch.long), "attention_mask": torch.ones(2, 12, dtype=torch.long)},
    "vit": {"pixel_values": torch.ones(2, 1, 8, 8)},
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("budget", [{}, {"uniform": True}, {"n_layers": 1}])
@pytest.mark.parametrize("target", [0.8, 0.5])
def test_the_cut_model_has_the_flops_that_were_asked_for(kind, budget, target):
    model = getattr(tiny, kind)(num_hidden_layers=4, num_attention_heads=4)
    plan = plan_for(model, random_importances(model), Budget(target_flops=target, **budget), inputs=INPUTS[kind])
    cut = copy.deepcopy(model)
    cut_(cut, plan)
    share = flops(cut, INPUTS[kind]) / flops(model, INPUTS[kind])
    assert share <= target
    # A head of each layer is a tenth of it all, so neurons are given back for it.
    assert share > target - 0.04 or widths(plan) == [(4, 32)] * 3
    if "uniform" in budget:
        assert len(set(widths(plan))) == 1


@pytest.mark.parametrize("kind", INPUTS)
def test_flops_are_a_sum_over_the_units(kind):
    model = getattr(tiny, kind)(num_hidden_layers=3, num_attention_heads=4)
    table = flops_table(model, INPUTS[kind])
    plan = plan_for(model, random_importances(model), Budget(heads=0.4, ffn=0.3, n_layers=1))
    cut_(model, plan)
    assert table.total(widths(plan)) == pytest.approx(flops(model, INPUTS[kind]), abs=0.5)
    # The table of a model whose layers differ is the same one.
    assert flops_table(model, INPUTS[kind]).total([(1, 5), (2, 9)]) == pytest.approx(table.total([(1, 5), (2, 9)]))


def test_what_matters_least_for_its_cost_goes_first():
    model = tiny.bert()
    importances = [importance([1, 2], [0.5] * 32)] * 2  # squared: 1 for a head, 0.25 for a neuron
    # A neuron costs 1. For 10 less, a head that costs 5 goes in each layer; where it costs 2, 10 neurons go.
    dear = CostTable(0.0, 18.0, heads=((1, 0.0), (2, 5.0)), neurons=((1, 0.0), (32, 31.0)))
    assert dear.total([(2, 32)] * 2) == 108
    assert widths(plan_for(model, importances, Budget(target_latency=98 / 108), costs=dear)) == [(1, 32), (1, 32)]
    cheap = CostTable(0.0, 18.0, heads=((1, 0.0), (2, 2.0)), neurons=((1, 0.0), (32, 31.0)))
    (one, two) = widths(plan_for(model, importances, Budget(target_latency=92 / 102), costs=cheap))
    assert one[0] == two[0] == 2
    assert one[1] + two[1] == 54


def test_what_the_last_step_makes_needless_is_given_back():
    model = tiny.bert()
    # The two neurons go first, at a price of 0 and 1; then a head, which alone would have saved enough.
    importances = [importance([2, 9], [0, 1] + [9] * 30), importance([9, 9], [9] * 32)]
    costs = CostTable(0.0, 14.0, heads=((1, 0.0), (2, 5.0)), neurons=((1, 0.0), (32, 31.0)))
    plan = plan_for(model, importances, Budget(target_latency=0.94), costs=costs)  # 6 of 100 must go
    assert widths(plan) == [(1, 31), (2, 32)]
    assert plan.layers[0].neurons == tuple(range(1, 32))


def test_units_that_save_no_time_stay():
    model = tiny.bert()
    table = CostTable(1.0, 1.0, heads=((1, 0.0), (2, 0.0)), neurons=((1, 0.0), (32, 31.0)))
    plan = plan_for(model, [importance([0, 0], [1] * 32)] * 2, Budget(target_latency=0.5), costs=table)
    assert [len(layer.heads) for layer in plan.layers] == [2, 2]
    assert table.total(widths(plan)) <= 0.5 * table.total([(2, 32)] * 2)


def test_a_latency_that_is_missed_is_aimed_at_again(monkeypatch, caplog):
    model = tiny.bert()
    importances = random_importances(model)
    table = CostTable(2.0, 1.0, heads=((1, 0.0), (2, 1.0)), neurons=((1, 0.0), (32, 31.0)))
    whole = table.total([(2, 32)] * 2)

    def slower(model, plan, inputs):
        """The table is wrong by a tenth of the dense model's time."""
        return table.total(widths(plan)) / whole + 0.1

    monkeypatch.setattr(budgets, "latency_table", lambda model, inputs: table)
    monkeypatch.setattr(budgets, "latency_share", slower)
    plan = plan_for(model, importances, Budget(target_latency=0.6), inputs=INPUTS["bert"])
    assert 0.55 < slower(model, plan, INPUTS["bert"]) <= 0.6
    assert not caplog.text
    monkeypatch.setattr(budgets, "latency_share", lambda model, plan, inputs: 0.65)
    plan_for(model, importances, Budget(target_latency=0.6), inputs=INPUTS["bert"])
    assert "The shrunk model takes 0.65 of the dense one's time, not 0.6" in caplog.text


def test_dropped_layers_count_towards_a_target():
    model = tiny.bert(num_hidden_layers=4)
    table = CostTable(0.0, 1.0, heads=((1, 0.0), (2, 1.0)), neurons=((1, 0.0), (32, 31.0)))
    plan = plan_for(model, random_importances(model), Budget(n_layers=2, target_latency=0.5), costs=table)
    assert widths(plan) == [(2, 32), (2, 32)]


def test_a_cut_model_and_the_dense_one_come_first_in_turn(monkeypatch):
    order = []

    class Timed:
        median = 1.0

        def __init__(self, name):
            self.name = name

        def timeit(self, _):
            order.append(self.name)
            return self

    names = iter(["cut", "dense"])
    monkeypatch.setattr(costs, "_timer", lambda model, inputs: Timed(next(names)))
    model = tiny.bert()
    plan = plan_for(model, random_importances(model), Budget(heads=0.5))
    assert costs.latency_share(model, plan, INPUTS["bert"]) == 1
    assert order[:6] == ["cut", "dense", "dense", "cut", "cut", "dense"]


def test_a_table_of_costs_rises_with_the_widths():
    table = latency_table(tiny.bert(num_attention_heads=4), INPUTS["bert"])
    assert [width for width, _ in table.heads] == [1, 2, 3, 4]
    assert [width for width, _ in table.neurons] == [1, 8, 16, 24, 32]
    for points in (table.heads, table.neurons):
        assert points[0][1] == 0
        assert [cost for _, cost in points] == sorted(cost for _, cost in points)


# ---- refusals ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 25}, r"heads must be a share in \[0, 1\). Got 25. Did you mean 0.25\?"),
        ({"ffn": 1.0}, r"ffn must be a share in \[0, 1\). Got 1.0\.$"),
        ({"ffn": -0.5}, r"Got -0.5\.$"),
        ({"heads": float("nan")}, "Got nan"),
        ({"n_layers": -1}, "n_layers must be a number of layers to drop, 0 or more. Got -1"),
        ({"n_layers": 0.5}, "Got 0.5"),
        (
            {"target_flops": 50},
            r"target_flops must be a share of the dense model in \(0, 1\]. Got 50. Did you mean 0.5",
        ),
        ({"target_latency": 0.0}, "target_latency must be .* Got 0.0"),
        ({"target_flops": 0.5, "target_latency": 0.5}, "target_flops or target_latency, not both"),
        ({"target_flops": 0.5, "ffn": 0.5}, "target_flops decides .* Got heads = 0.0 and ffn = 0.5"),
        ({}, "removes nothing. Set at least one of heads, ffn, n_layers, target_flops, target_latency"),
        ({"target_latency": 1.0}, "removes nothing"),
    ],
)
def test_bad_budgets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Budget(**arguments)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"n_layers": 2}, "n_layers must be less than the 2 layers that BertForSequenceClassification has. Got 2"),
        ({"heads": 0.9}, "would empty a layer: of 4 heads in 2 layers at most 2 can go, a share of 0.5"),
        ({"heads": 0.25, "uniform": True}, "of 4 heads in equally wide layers rounds to none, .* Use more than 0.25"),
        ({"heads": 0.1}, "heads=0.1 of 4 heads rounds to none, .* Use more than 0.125"),
        ({"ffn": 0.001}, "ffn=0.001 of 64 neurons rounds to none"),
        ({"target_flops": 0.01}, "target_flops=0.01 cannot be reached: .* in 2 layers, 0.306 remains. Drop layers"),
    ],
)
def test_a_budget_that_the_model_cannot_meet_is_refused(budget, message):
    model = tiny.bert()
    with pytest.raises(ValueError, match=message):
        plan_for(model, random_importances(model), Budget(**budget), inputs=INPUTS["bert"])


def test_what_does_not_fit_the_model_is_refused():
    model = tiny.bert()
    importances = random_importances(model)
    with pytest.raises(ValueError, match="target_flops needs inputs"):
        plan_for(model, importances, Budget(target_flops=0.5))
    with pytest.raises(ValueError, match=r"not of this model: .* \[\(2, 32\), \(2, 32\)\], the scores \[\(2, 32\)"):
        plan_for(model, importances[:1], Budget(ffn=0.5))
    cut_(model, plan_for(model, importances, Budget(ffn=0.3)))
    with pytest.raises(ValueError, match=r"uniform=True needs layers that are equally wide now. Got \[.*\] neurons"):
        plan_for(model, unit_scores(model, score="magnitude"), Budget(heads=0.5, uniform=True))
