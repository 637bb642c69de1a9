"""Which weights are pruned at all, and masks from scores by every pattern."""

import math

import pytest
import tiny
import torch
import zoo
from torch.nn.utils import prune

from hf_compalign.compress import prunable_weights, sparsity_of
from hf_compalign.compress.prune import check_pattern, check_shapes, compute_masks, kept_of, magnitude


def two_layers():
    generator = torch.Generator().manual_seed(0)
    return {"a": torch.randn(10, 8, generator=generator), "b": 3 * torch.randn(6, 5, generator=generator)}


def by_magnitude(weights, sparsity, pattern):
    return compute_masks({name: magnitude(weight) for name, weight in weights.items()}, sparsity, pattern=pattern)


# ---- patterns ----


def test_global_masks_are_those_of_torchs_global_pruning():
    weights = two_layers()
    layers = {name: torch.nn.Linear(*reversed(weight.shape)) for name, weight in weights.items()}
    for name, layer in layers.items():
        layer.weight.data = weights[name].clone()
    parameters = [(layer, "weight") for layer in layers.values()]
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=0.4)
    masks = by_magnitude(weights, 0.4, "global")
    for name, layer in layers.items():
        assert torch.equal(masks[name], layer.weight_mask.bool())


@pytest.mark.parametrize("sparsity", [0.1, 0.33, 0.5, 0.9])
def test_layer_masks_are_those_of_torchs_layer_pruning(sparsity):
    for name, weight in two_layers().items():
        layer = torch.nn.Linear(*reversed(weight.shape))
        layer.weight.data = weight.clone()
        prune.l1_unstructured(layer, "weight", amount=sparsity)
        assert torch.equal(by_magnitude({name: weight}, sparsity, "layer")[name], layer.weight_mask.bool())


def test_layer_masks_prune_every_layer_alike():
    weights = two_layers()
    masks = by_magnitude(weights, 0.3, "layer")
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == {"a": 24, "b": 9}
    kept, pruned = weights["a"][masks["a"]].abs(), weights["a"][~masks["a"]].abs()
    assert kept.min() > pruned.max()


def test_row_masks_prune_every_row_alike():
    weights = two_layers()
    masks = by_magnitude(weights, 0.4, "row")
    for name, n_pruned in (("a", 3), ("b", 2)):
        for row, kept in zip(weights[name].abs(), masks[name], strict=True):
            assert int((~kept).sum()) == n_pruned
            assert row[kept].min() > row[~kept].max()


def test_a_row_of_a_convolution_is_one_output_channel():
    scores = torch.arange(24.0).view(2, 3, 2, 2)
    mask = compute_masks({"": scores}, 0.25, pattern="row")[""]
    assert (~mask).flatten(1).nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize(
    ("pattern", "sparsity", "expected"),
    [
        ("2:4", 0.5, [0, 1, 0, 1, 1, 0, 1, 0]),
        ("1:4", 0.75, [0, 1, 0, 0, 0, 0, 1, 0]),
        ("3:4", 0.25, [0, 1, 1, 1, 1, 0, 1, 1]),
        ("4:8", 0.5, [0, 1, 1, 1, 0, 0, 1, 0]),
    ],
)
def test_n_of_m_consecutive_weights_stay(pattern, sparsity, expected):
    scores = torch.tensor([[1.0, 8.0, 5.0, 6.0, 3.0, 2.0, 7.0, 2.5]])
    check_pattern(pattern, sparsity)
    masks = compute_masks({"one": scores, "two": scores.repeat(2, 2)}, sparsity, pattern=pattern)
    assert masks["one"].int().tolist() == [expected]
    assert torch.equal(masks["two"], masks["one"].repeat(2, 2))


@pytest.mark.parametrize(("share", "n_pruned"), [(0.0, 0), (0.1, 0), (0.2, 1), (0.3, 1), (0.4, 2), (0.5, 2)])
def test_fewer_of_m_are_pruned_on_the_way(share, n_pruned):
    mask = by_magnitude({"a": two_layers()["a"]}, share, "2:4")["a"]
    assert set((~mask).view(-1, 4).sum(1).tolist()) == {n_pruned}


@pytest.mark.parametrize("pattern", ["layer", "row", "global", "2:4"])
def test_scores_of_either_sign_and_none_at_all(pattern):
    scores = torch.tensor([[-1.0, -math.inf, 0.5, -3.0]])
    mask = compute_masks({"": scores}, 0.5, pattern=pattern)[""]
    assert mask.tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("pattern", ["layer", "row", "global", "2:4"])
def test_equal_scores_are_pruned_by_number(pattern):
    mask = compute_masks({"": torch.zeros(3, 8)}, 0.5, pattern=pattern)[""]
    assert int(mask.sum()) == 12


def test_amounts_do_not_compound():
    weights = two_layers()
    first = by_magnitude(weights, 0.3, "global")
    pruned = {name: weight * first[name] for name, weight in weights.items()}
    second = by_magnitude(pruned, 0.5, "global")
    assert sum(int((~mask).sum()) for mask in second.values()) == 55  # of 110
    for name, mask in second.items():
        assert not (mask & ~first[name]).any()  # nothing that was pruned comes back
    assert sparsity_of({name: pruned[name] * second[name] for name in weights}) == 0.5


# ---- refusals ----


@pytest.mark.parametrize("pattern", ["rows", "4:2", "0:4", "4:4", "2:", ":4", "2:4:8", "-1:4", "2.0:4", ""])
def test_unknown_patterns_are_refused(pattern):
    message = rf"pattern must be one of layer, row, global, or N:M with 0 < N < M.* Got '{pattern}'"
    with pytest.raises(ValueError, match=message):
        check_pattern(pattern, 0.5)
    with pytest.raises(ValueError, match="pattern must be one of"):
        kept_of(pattern)


def test_a_pattern_has_its_own_sparsity():
    with pytest.raises(ValueError, match=r"pattern 2:4 has the sparsity 0.5. Got 0.6. Give sparsity=0.5, or another"):
        check_pattern("2:4", 0.6)
    with pytest.raises(ValueError, match=r"pattern 1:3 has the sparsity 0.666667. Got 0.6. Give sparsity=0.666667"):
        check_pattern("1:3", 0.6)
    check_pattern("1:3", 0.666667)  # what the message says
    check_pattern("1:3", 2 / 3)


def test_rows_that_a_pattern_does_not_divide_are_refused():
    weights = {"a.weight": torch.zeros(2, 8), "b.weight": torch.zeros(4, 6), "c.weight": torch.zeros(2, 1, 3, 3)}
    with pytest.raises(
        ValueError, match=r"rows of a multiple of 4 weights. b.weight has 6, c.weight has 9. .*=\['b', 'c'\]"
    ):
        check_shapes(weights, "2:4")
    with pytest.raises(ValueError, match=r"c.weight has 9"):
        check_shapes({name: weights[name] for name in ("a.weight", "c.weight")}, "1:2")
    check_shapes(weights, "row")


# ---- the weights ----


def test_embeddings_and_the_classifier_stay_out():
    names = set(prunable_weights(tiny.bert()))
    assert len(names) == 12
    assert "bert.encoder.layer.0.attention.self.query.weight" in names
    assert not [name for name in names if "embeddings" in name or "classifier" in name or "pooler" in name]
    assert not [name for name in prunable_weights(tiny.vit()) if "embeddings" in name or "classifier" in name]


# Each has a head by other names.
@pytest.mark.parametrize("name", ["distilbert", "electra", "deberta-v2-convolution", "modernbert", "beit"])
def test_only_the_encoder_is_pruned(name):
    model = zoo.build(name)
    names = [weight.removesuffix(".weight") for weight in prunable_weights(model)]
    inside = [
        f"{prefix}.{inner}"
        for prefix, layers in model.named_modules()
        if isinstance(layers, torch.nn.ModuleList) and len(layers) == model.config.num_hidden_layers
        for inner, module in layers.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    assert set(inside) <= set(names)
    # DeBERTa's convolution stands beside its layers, and reads what they read.
    assert {layer for layer in names if ".conv." not in layer} == set(inside)


@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert"])
def test_embeddings_by_another_name_stay_out(name):
    model = zoo.build(name, head="ForMaskedLM")
    embeddings, decoder = model.get_input_embeddings().weight, model.get_output_embeddings()
    assert decoder.weight is embeddings
    assert not any(weight is embeddings for weight in prunable_weights(model).values())
    (layer,) = (layer for layer, module in model.named_modules() if module is decoder)
    assert next(iter(prunable_weights(model, include=[layer]).values())) is embeddings  # asked for by name


def test_patterns_choose_layers():
    model = tiny.bert()
    attention = prunable_weights(model, include=["*.attention.*"], exclude=["*.layer.1.*"])
    assert len(attention) == 4
    assert set(prunable_weights(model, include=["classifier"])) == {"classifier.weight"}


def test_a_shared_weight_is_pruned_once():
    model = tiny.bert()
    layers = model.bert.encoder.layer
    layers[1].output.dense.weight = layers[0].output.dense.weight
    assert len(prunable_weights(model)) == 11


def test_patterns_that_match_nothing_are_refused():
    model = tiny.bert()
    with pytest.raises(ValueError, match=r"'\*.mlp' matches no linear .* named like: bert.encoder.layer.0.attention"):
        prunable_weights(model, exclude=["*.mlp"])
    with pytest.raises(ValueError, match=r"No layer of BertForSequenceClassification is left to prune with include="):
        prunable_weights(model, include=["classifier"], exclude=["class*"])
