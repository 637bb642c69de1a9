"""Removed units and layers: the cut model answers like the masked one, and nothing else is touched."""

import copy
import json

import pytest
import tiny
import torch
import transformers
import zoo
from torch.nn.utils import prune

from hf_compalign.compress.shrink import (
    LayerPlan,
    ShrinkPlan,
    cut_,
    droppable_layers,
    layers_of,
    mask_,
    zero_units_plan,
)

pytestmark = pytest.mark.numeric


def cut(model, plan):
    smaller = copy.deepcopy(model)
    cut_(smaller, plan)
    return smaller


def masked(model, plan):
    zeroed = copy.deepcopy(model)
    mask_(zeroed, plan)
    return zeroed


def skipping(model, dropped):
    """The model with some layers that return what they were given."""
    other = copy.deepcopy(model)
    layers = layers_of(other)
    for index in dropped:
        layers[index].module.register_forward_hook(
            lambda _, args, output: (args[0], *output[1:]) if isinstance(output, tuple) else args[0]
        )
    return other


def answers_like_the_masked(model, plan):
    batch = zoo.inputs(model)
    return tiny.distance(zoo.answer(cut(model, plan), batch), zoo.answer(masked(model, plan), batch)) < tiny.ROUNDING


def same_parameters(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


def narrow(model, units):
    """The plan that keeps of each layer what a function of it names: heads, neurons."""
    return ShrinkPlan(tuple(LayerPlan(one.index, *units(one)) for one in ShrinkPlan.whole(model).layers))


@pytest.fixture(params=zoo.KINDS)
def model(request):
    """One of every architecture."""
    return zoo.build(request.param)


# A plain one, two whose layers share a bias, and one whose projections are stacked.
SOME = pytest.mark.parametrize("model", ["bert", "mpnet", "modernbert", "beit-shared-bias"], indirect=True)


# ---- units ----


def test_the_cut_model_is_the_masked_one(model):
    batch, plan = zoo.inputs(model), zoo.random_plan(model)
    assert answers_like_the_masked(model, plan)
    assert not torch.allclose(zoo.answer(model, batch), zoo.answer(cut(model, plan), batch), atol=1e-2)


def wrong_head(model, plan):
    """Cut as planned, but for the first layer, which keeps another head."""
    first, *others = plan.layers
    (removed, *_) = {*range(layers_of(model)[0].n_heads)} - {*first.heads}
    return cut(model, ShrinkPlan((LayerPlan(0, (*first.heads[1:], removed), first.neurons), *others)))


def lost_bias(model, plan):
    smaller = cut(model, plan)
    with torch.no_grad():
        layers_of(smaller)[0].attention_out.bias.zero_()
    return smaller


def permuted_unit(model, plan):
    """Cut as planned, but that two neurons are read in each other's place."""
    smaller = cut(model, plan)
    with torch.no_grad():
        weight = layers_of(smaller)[0].ffn_out.weight
        weight[:, :2] = weight[:, :2].flip(1)
    return smaller


@SOME
@pytest.mark.parametrize("wrong", [wrong_head, lost_bias, permuted_unit])
def test_the_tolerance_is_far_from_what_a_wrong_cut_does(model, wrong):
    batch, plan = zoo.inputs(model), zoo.random_plan(model)
    distance = tiny.distance(zoo.answer(wrong(model, plan), batch), zoo.answer(masked(model, plan), batch))
    assert distance > 100 * tiny.ROUNDING


def test_the_units_are_really_gone(model):
    plan = zoo.random_plan(model)
    smaller = cut(model, plan)
    for before, after, kept in zip(layers_of(model), layers_of(smaller), plan.layers, strict=True):
        assert (after.n_heads, after.n_neurons) == (len(kept.heads), len(kept.neurons))
        assert after.head_dim == before.head_dim
        for linear in (module for module in after.module.modules() if isinstance(module, torch.nn.Linear)):
            assert linear.weight.shape == (linear.out_features, linear.in_features)
        # Every matrix of the attention and the feed-forward part shrinks in one direction, by the share that stays.
        share = {32: len(kept.heads) / 4, before.n_neurons: len(kept.neurons) / before.n_neurons}
        for path in (before.attention_out, before.ffn_out):
            twin = after.module.get_submodule(next(n for n, m in before.module.named_modules() if m is path))
            assert twin.weight.numel() == path.weight.numel() * share[path.in_features]
    sizes = [sum(p.numel() for layer in layers_of(one) for p in layer.module.parameters()) for one in (model, smaller)]
    assert sizes[1] < 0.8 * sizes[0]


@pytest.mark.parametrize("name", ["bert", "vit"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_implementations_of_attention(name, attention):
    model = zoo.build(name, attn_implementation=attention)
    assert model.config._attn_implementation == attention
    assert answers_like_the_masked(model, zoo.random_plan(model, seed=1))


SEGMENTATION = {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "pool_scales": [1], "auxiliary_channels": 8}
HEADS = [
    ("bert", "Model"),
    ("bert", "ForTokenClassification"),
    ("roberta", "ForQuestionAnswering"),
    ("distilbert", "ForMultipleChoice"),
    ("electra", "ForPreTraining"),
    ("mpnet", "ForMaskedLM"),
    ("deberta-v2", "ForMaskedLM"),
    ("modernbert", "ForMaskedLM"),
    ("vit", "ForMaskedImageModeling"),
    ("deit", "ForImageClassificationWithTeacher"),
    ("dinov2", "Backbone"),
    ("beit", "ForMaskedImageModeling"),
    ("beit", "ForSemanticSegmentation"),
]


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_every_task_head(name, head):
    changes = {"vitForMaskedImageModeling": {"encoder_stride": 4}, "beitForSemanticSegmentation": SEGMENTATION}
    model = zoo.build(name, head=head, **changes.get(name + head, {}))
    assert answers_like_the_masked(model, zoo.random_plan(model, seed=2))


def test_masking_touches_only_what_reads_the_removed_units():
    model = zoo.build("bert")
    plan = zoo.random_plan(model)
    zeroed = masked(model, plan)
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, zeroed.get_parameter(name))]
    parts = ("attention.output.dense.weight", "output.dense.weight")
    assert changed == [f"bert.encoder.layer.{index}.{part}" for index in range(3) for part in parts]
    for layer, kept in zip(layers_of(zeroed), plan.layers, strict=True):
        heads = layer.attention_out.weight.view(32, 4, 8).abs().sum((0, 2)).nonzero().flatten()
        assert heads.tolist() == list(kept.heads)
        assert layer.ffn_out.weight.abs().sum(0).nonzero().flatten().tolist() == list(kept.neurons)


def test_a_shared_bias_loses_the_columns_that_nothing_reads():
    model = zoo.build("mpnet")
    table = model.mpnet.encoder.relative_attention_bias.weight.clone()
    neurons = tuple(range(24))
    plan = ShrinkPlan(tuple(LayerPlan(i, heads, neurons) for i, heads in enumerate([(1,), (1, 3), (3,)])))
    cut_(model, plan)
    assert torch.equal(model.mpnet.encoder.relative_attention_bias.weight, table[:, [1, 3]])
    assert model.mpnet.encoder.relative_attention_bias.embedding_dim == 2
    assert [getattr(layer.module, "bias_heads", None) for layer in layers_of(model)] == [(0,), None, (1,)]


@pytest.mark.parametrize("name", ["mpnet", "beit-shared-bias"])
def test_a_shared_bias_learns_as_in_the_masked_model(name):
    model = zoo.build(name)
    plan, batch = zoo.random_plan(model), zoo.inputs(model)
    gradients = []
    for one in (masked(model, plan), cut(model, plan)):
        one(**batch).logits.pow(2).sum().backward()
        table = next(value for key, value in one.named_parameters() if "bias_table" in key or "attention_bias" in key)
        gradients.append(table.grad)
    read = gradients[0].abs().sum(0) > 0
    assert tiny.distance(gradients[1], gradients[0][:, read]) < tiny.ROUNDING


# ---- layers ----


FIRST_STAYS = ["deberta-v2-convolution", "modernbert"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [(name, kept) for name in zoo.KINDS for kept in [(0,), (1, 2)] if 0 in kept or name not in FIRST_STAYS],
)
def test_a_dropped_layer_is_a_skipped_one(name, kept):
    model = zoo.build(name)
    batch, whole = zoo.inputs(model), ShrinkPlan.whole(model)
    smaller = cut(model, ShrinkPlan(tuple(whole.layers[index] for index in kept)))
    expected = zoo.answer(skipping(model, {0, 1, 2} - set(kept)), batch)
    assert tiny.distance(zoo.answer(smaller, batch), expected) < tiny.ROUNDING
    assert len(layers_of(smaller)) == smaller.config.num_hidden_layers == len(kept)


def test_layers_and_units_together(model):
    batch, kept = zoo.inputs(model), (0, 2)
    smaller = cut(model, zoo.random_plan(model, layers=kept))
    other = skipping(masked(model, zoo.random_plan(model)), {1})
    assert tiny.distance(zoo.answer(smaller, batch), zoo.answer(other, batch)) < tiny.ROUNDING


def test_what_counts_layers_is_counted_again():
    model = zoo.build("modernbert")
    assert model.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    cut_(model, zoo.random_plan(model, layers=(0, 1)))
    cut_(model, zoo.random_plan(model, layers=(0, 1)))
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    assert [layer.module.attn.layer_idx for layer in layers_of(model)] == [0, 1]
    images = zoo.build("dinov2")
    cut_(images, zoo.random_plan(images, layers=(1, 2)))
    assert images.config.stage_names == ["stem", "stage1", "stage2"]
    assert (images.config.out_features, images.config.out_indices) == (["stage2"], [2])


@pytest.mark.parametrize("name", ["bert", "vit", "mpnet", "deberta-v2"])
def test_hidden_states_and_attentions_of_the_smaller_model(name):
    model = zoo.build(name, attn_implementation=None if name == "deberta-v2" else "eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    model(**zoo.inputs(model), **asked)  # transformers puts its hooks in place at the first of such calls
    cut_(model, zoo.random_plan(model, layers=(0, 2)))
    outputs = model(**zoo.inputs(model), **asked)
    assert len(outputs.hidden_states) == 3
    assert [attention.shape[1] for attention in outputs.attentions] == [3, 1]


# ---- twice, copies, training ----


def test_two_cuts_are_one(model):
    first = zoo.random_plan(model)
    twice = cut(model, first)
    second = ShrinkPlan(
        tuple(
            LayerPlan(index, tuple(range(layer.n_heads))[-2:], tuple(range(0, layer.n_neurons, 2)))
            for index, layer in enumerate(layers_of(twice))
            if index != 1
        )
    )
    cut_(twice, second)
    composed = ShrinkPlan(
        tuple(
            LayerPlan(
                kept.index,
                tuple(first.layers[kept.index].heads[head] for head in kept.heads),
                tuple(first.layers[kept.index].neurons[neuron] for neuron in kept.neurons),
            )
            for kept in second.layers
        )
    )
    once = cut(model, composed)
    assert same_parameters(once, twice)
    assert once.config.to_dict() == twice.config.to_dict()
    assert tiny.distance(*(zoo.answer(one, zoo.inputs(model)) for one in (once, twice))) < tiny.ROUNDING


@SOME
def test_a_copy_is_as_good(model):
    cut_(model, zoo.random_plan(model))
    copied, batch = copy.deepcopy(model), zoo.inputs(model)
    expected = zoo.answer(model, batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert tiny.distance(zoo.answer(copied, batch), expected) < tiny.ROUNDING


def test_the_smaller_model_trains(model):
    cut_(model, zoo.random_plan(model))
    zoo.answer(model, zoo.inputs(model))
    model.train()(**zoo.inputs(model)).logits.pow(2).sum().backward()
    for layer in layers_of(model):
        for key, parameter in layer.module.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


def test_a_plan_that_keeps_everything_changes_nothing():
    for name in ("bert", "mpnet", "modernbert"):
        model = zoo.build(name)
        before, settings = dict(model.named_parameters()), model.config.to_dict()
        cut_(model, ShrinkPlan.whole(model))
        assert all(value is before[key] for key, value in model.named_parameters())
        assert model.config.to_dict() == settings


def test_frozen_parameters_stay_frozen():
    model = zoo.build("bert")
    model.bert.encoder.layer[0].intermediate.dense.weight.requires_grad = False
    cut_(model, zoo.random_plan(model))
    frozen = [key for key, value in model.named_parameters() if not value.requires_grad]
    assert frozen == ["bert.encoder.layer.0.intermediate.dense.weight"]


def test_a_config_that_others_use_stays_as_it_is():
    config = zoo.build("bert").config
    teacher, student = (transformers.BertForSequenceClassification(config) for _ in range(2))
    cut_(student, zoo.random_plan(student, layers=(0,)))
    assert teacher.config is config
    assert config.num_hidden_layers == 3
    assert not hasattr(config, "compression")
    configs = {id(module.config) for module in student.modules() if hasattr(module, "config")}
    assert configs == {id(student.config)}


def test_no_random_number_is_drawn():
    model = zoo.build("bert")
    state = torch.get_rng_state()
    cut_(model, zoo.random_plan(model, uniform=True))
    assert torch.equal(torch.get_rng_state(), state)


# ---- the config ----


@SOME
def test_what_the_config_says_is_plain_json(model):
    plan = zoo.random_plan(model, layers=(0, 2))
    cut_(model, plan)
    compression = model.config.compression
    assert json.loads(json.dumps(compression)) == compression
    assert compression["version"] == 1
    widths = [(one["heads"], one["neurons"]) for one in compression["shrink"]["layers"]]
    assert widths == [(len(kept.heads), len(kept.neurons)) for kept in plan.layers]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("bert", {"intermediate_size": 12}),
        ("distilbert", {"hidden_dim": 12}),
        ("modernbert", {"intermediate_size": 12}),
        ("vit", {"intermediate_size": 12}),
        ("dinov2", {"mlp_ratio": 1}),
        ("dinov2-swiglu", {"mlp_ratio": 1}),
    ],
)
def test_equal_numbers_of_neurons_need_only_the_stock_key(name, keys):
    model = zoo.build(name)
    n = {"dinov2": 32, "dinov2-swiglu": 24}.get(name, 12)
    cut_(model, narrow(model, lambda one: (one.heads, range(one.index, one.index + n))))
    assert {key: getattr(model.config, key) for key in keys} == keys
    assert not hasattr(model.config, "compression")


@pytest.mark.parametrize("name", ["vit", "deit", "beit"])
def test_equal_numbers_of_heads_need_only_the_stock_keys_where_they_are_honored(name):
    model = zoo.build(name)
    cut_(model, narrow(model, lambda one: ((one.index, 3), one.neurons)))
    assert (model.config.num_attention_heads, model.config.head_dim) == (2, 8)
    assert not hasattr(model.config, "compression")


@pytest.mark.parametrize("name", ["bert", "distilbert", "deberta-v2", "mpnet", "modernbert"])
def test_where_they_are_not_honored_the_widths_are_written_down(name):
    model = zoo.build(name)
    cut_(model, narrow(model, lambda one: ((0, 3), one.neurons)))
    assert model.config.num_attention_heads == 4
    assert "head_dim" not in model.config.to_dict()
    assert [one["heads"] for one in model.config.compression["shrink"]["layers"]] == [2, 2, 2]


def test_other_compressions_in_the_config_are_kept():
    model = zoo.build("bert")
    model.config.compression = {"version": 1, "quantization": {"bits": 8}}
    smaller = cut(model, zoo.random_plan(model))
    assert set(smaller.config.compression) == {"version", "quantization", "shrink"}
    cut_(smaller, ShrinkPlan((LayerPlan(0, (0, 1, 2), tuple(range(19))),)))
    assert set(smaller.config.compression) == {"version", "quantization", "shrink"}
    cut_(model, ShrinkPlan(ShrinkPlan.whole(model).layers[:2]))
    assert model.config.compression == {"version": 1, "quantization": {"bits": 8}}


# ---- plans ----


def test_units_are_kept_in_rising_order():
    assert LayerPlan(0, heads=[3, 1], neurons=torch.tensor([5, 2])) == LayerPlan(0, (1, 3), (2, 5))


def test_a_plan_is_plain_json():
    plan = zoo.random_plan(zoo.build("bert"))
    assert ShrinkPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("values", [{}, {"layers": [{"index": 0}]}, {"layers": 3}, {"layers": [{"index": "a"}]}, []])
def test_what_is_no_plan_is_refused(values):
    with pytest.raises(ValueError, match="A plan is .*'layers'.* Got "):
        ShrinkPlan.from_dict(values)


def test_zero_units_are_found():
    model = zoo.build("bert")
    plan = zoo.random_plan(model)
    mask_(model, plan)
    assert zero_units_plan(model) == plan
    assert zero_units_plan(model, [1]).layers == (plan.layers[0], plan.layers[2])
    with torch.no_grad():
        layers_of(model)[1].attention_out.weight.zero_()
        layers_of(model)[1].ffn_out.weight.zero_()
    assert zero_units_plan(model).layers[1] == LayerPlan(1, (0,), (0,))
    with pytest.raises(ValueError, match=r"dropped_layers must be among 0 to 2. Got \[0, 3\]"):
        zero_units_plan(model, [3, 0])


N = tuple(range(24))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "drops all 3 layers. At least one must stay"),
        ([(0, (0,), N), (0, (0,), N)], r"named once each, in rising order. Got \[0, 0\]"),
        ([(1, (0,), N), (0, (0,), N)], r"named once each, in rising order. Got \[1, 0\]"),
        ([(3, (0,), N)], r"names the layers \[3\], and BertForSequenceClassification has 3 \(0 to 2\)"),
        ([(-1, (0,), N)], r"names the layers \[-1\]"),
        ([(0, (), N)], "would empty bert.encoder.layer.0: at least one of its heads must stay.*drop the layer"),
        ([(2, (0,), ())], "would empty bert.encoder.layer.2: at least one of its neurons"),
        ([(0, (1, 1), N)], "names heads of bert.encoder.layer.0 twice"),
        ([(0, (0, 4), N)], r"keeps heads 0 to 4 of bert.encoder.layer.0, which has 4 \(0 to 3\)"),
        ([(0, (-1,), N)], "keeps heads -1 to -1"),
        ([(0, (0,), (1, 24))], r"keeps neurons 1 to 24 of bert.encoder.layer.0, which has 24 \(0 to 23\)"),
    ],
)
@pytest.mark.parametrize("act", [cut_, mask_])
def test_a_plan_that_does_not_fit_leaves_the_model_as_it_was(act, layers, message):
    model = zoo.build("bert")
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        act(model, ShrinkPlan(tuple(LayerPlan(*one) for one in layers)))


def test_layers_cannot_be_masked():
    model, message = zoo.build("bert"), r"drops the layers \[1\], and a layer cannot be masked.* Use cut_"
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        mask_(model, zoo.random_plan(model, layers=(0, 2)))


@pytest.mark.parametrize("name", FIRST_STAYS)
def test_a_first_layer_that_differs_stays(name):
    model = zoo.build(name)
    assert droppable_layers(model) == (1, 2)
    message = r"drops the layers \[0\] of .*, which is built so that some must stay.* Of its layers, \[1, 2\] can be"
    with pytest.raises(ValueError, match=message):
        cut_(model, zoo.random_plan(model, layers=(1, 2)))


@pytest.mark.parametrize(
    ("name", "head", "changes"),
    [("dinov2", "Backbone", {}), ("beit", "Backbone", {}), ("beit", "ForSemanticSegmentation", SEGMENTATION)],
)
def test_layers_that_are_read_by_number_stay(name, head, changes):
    model = zoo.build(name, head=head, **changes)
    assert droppable_layers(model) == ()
    message = f"of {type(model).__name__}, which is built so.* Remove heads and neurons only"
    with pytest.raises(ValueError, match=message):
        cut_(model, zoo.random_plan(model, layers=(0, 2)))


@pytest.mark.parametrize("act", [cut_, mask_])
def test_reparametrized_weights_are_refused(act):
    model = zoo.build("bert")
    prune.l1_unstructured(model.bert.encoder.layer[0].attention.self.key, "weight", amount=3)
    message = "bert.encoder.layer.0.attention.self.key is not an ordinary.*prune.remove"
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        act(model, zoo.random_plan(model))


def test_heads_that_see_each_other_stay():
    model = zoo.build("deberta", talking_head=True)
    with pytest.raises(ValueError, match=r"heads of deberta.encoder.layer.0 see each other.*neurons and layers only"):
        cut_(model, zoo.random_plan(model))
    plan = ShrinkPlan(tuple(LayerPlan(index, (0, 1, 2, 3), (1, 2, 9)) for index in (0, 2)))
    zeros = ShrinkPlan((plan.layers[0], LayerPlan(1, (0, 1, 2, 3), N), plan.layers[1]))
    batch = zoo.inputs(model)
    expected = zoo.answer(skipping(masked(model, zeros), {1}), batch)
    assert tiny.distance(zoo.answer(cut(model, plan), batch), expected) < tiny.ROUNDING
