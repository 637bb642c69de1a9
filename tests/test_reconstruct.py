"""Second-order pruning and correction: against the textbook, by identities, and on models of several kinds."""

import logging
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
import zoo

from hf_compalign.compress import (
    InputStatistics,
    in_order,
    prunable_weights,
    reconstruct_,
    reconstruction,
    rows_into,
    sparsity_of,
)
from hf_compalign.compress.prune import compute_masks, magnitude, prune_second_order_, second_order

pytestmark = pytest.mark.numeric


def correlated(n, *, seed=0):
    """A Hessian [n, n] of inputs that depend on each other."""
    rows = np.random.default_rng(seed).normal(size=(4 * n, n)) @ np.random.default_rng(seed + 1).normal(size=(n, n))
    return torch.from_numpy(rows.T @ rows / len(rows) + 0.1 * np.eye(n))


def matrix(*shape, seed=2):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def error(weight, target, hessian):
    """[out]: the mean squared change of each output."""
    change = weight - target
    return ((change @ hessian) * change).sum(1)


def never(weight):
    return torch.zeros_like(weight, dtype=torch.bool)


def batches_for(model, *, n_batches=3, n=16):
    return [zoo.inputs(model, n=n if model.main_input_name == "pixel_values" else 9, seed=s) for s in range(n_batches)]


def built(**options):
    model = zoo.build("bert")
    return model, batches_for(model, **options)


def values(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def masks_for(weights, sparsity):
    return compute_masks({name: magnitude(weight) for name, weight in weights.items()}, sparsity, pattern="layer")


def zeroed(model, masks):
    for name, mask in masks.items():
        model.get_parameter(name).data.mul_(mask)
    return model


def lost(dense, candidate, *, seeds=(100,)):
    """How far the answers to unseen batches are from those of the dense model."""
    unseen = [zoo.inputs(dense, n=9, seed=seed) for seed in seeds]
    return sum((zoo.answer(candidate, batch) - zoo.answer(dense, batch)).square().sum() for batch in unseen)


def exact(target, mask, hessian):
    """Row by row: the normal equations of the weights that remain."""
    fitted = np.zeros(target.shape)
    for row, kept in enumerate(mask.numpy()):
        right = (target[row] @ hessian).numpy()[kept]
        fitted[row, kept] = np.linalg.solve(hessian.numpy()[np.ix_(kept, kept)], right)
    return torch.from_numpy(fitted)


def test_the_fit_converges_to_the_normal_equations(monkeypatch):
    monkeypatch.setattr(reconstruction, "ITERATIONS", 200)
    target, hessian = matrix(6, 20), correlated(20)
    mask = matrix(6, 20, seed=5) > 0
    mask[0], mask[1] = False, True
    fitted = reconstruction.fitted(target, target * mask, mask, hessian)
    torch.testing.assert_close(fitted, exact(target, mask, hessian), rtol=1e-6, atol=1e-8)
    assert (fitted[~mask] == 0).all()
    assert torch.equal(fitted[1], target[1])


def test_every_step_of_the_fit_lowers_the_error_of_every_row(monkeypatch):
    target, hessian = matrix(6, 40), correlated(40)
    mask = matrix(6, 40, seed=5) > 0
    errors = []
    for n_steps in range(12):
        monkeypatch.setattr(reconstruction, "ITERATIONS", n_steps)
        errors.append(error(reconstruction.fitted(target, target * mask, mask, hessian), target, hessian))
    assert torch.equal(errors[0], error(target * mask, target, hessian))
    for before, after in pairwise(errors):
        assert (after < before).all()


def test_fewer_weights_than_steps_are_fitted_exactly():
    target, hessian = matrix(3, 4), correlated(4)
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 0]]).bool()
    fitted = reconstruction.fitted(target, target * mask, mask, hessian)
    torch.testing.assert_close(fitted, exact(target, mask, hessian))


def textbook(weight, hessian, n_pruned, ranked):
    """SparseGPT for one row, with the inverse of the Hessian of the columns that are left at every column.

    Optimal Brain Surgeon: removing w_q costs w_q^2 / [H^-1]_qq and changes the others by -w_q / [H^-1]_qq [H^-1]_q.
    """
    weight, hessian = weight.numpy().copy(), hessian.numpy()
    mask = np.ones(len(weight), dtype=bool)
    for j in range(len(weight)):
        if j % ranked == 0:
            # The costs of a block's columns, each as it will be when those before it are gone.
            columns = range(j, min(j + ranked, len(weight)))
            costs = [weight[q] ** 2 / np.linalg.inv(hessian[q:, q:])[0, 0] for q in columns]
            mask[j + np.argsort(costs)[:n_pruned]] = False
        if not mask[j]:
            inverse = np.linalg.inv(hessian[j:, j:])
            weight[j:] -= weight[j] / inverse[0, 0] * inverse[0]
    return torch.from_numpy(mask), torch.from_numpy(np.where(mask, weight, 0))


@pytest.mark.parametrize(
    ("pattern", "sparsity", "block", "n_pruned", "ranked"),
    [("row", 0.5, 128, 6, 12), ("row", 0.5, 4, 2, 4), ("2:4", 0.5, 128, 2, 4), ("1:3", 2 / 3, 6, 2, 3)],
)
def test_the_sweep_is_the_textbooks(monkeypatch, pattern, sparsity, block, n_pruned, ranked):
    monkeypatch.setattr(second_order, "BLOCK", block)
    weight, hessian = matrix(5, 12), correlated(12)
    mask, swept = second_order._swept(weight, hessian, never(weight), sparsity=sparsity, pattern=pattern)
    for row in range(5):
        expected_mask, expected = textbook(weight[row], hessian, n_pruned, ranked)
        assert torch.equal(mask[row], expected_mask)
        torch.testing.assert_close(swept[row], expected)


def test_a_layers_sweep_ranks_all_rows_of_a_block(monkeypatch):
    monkeypatch.setattr(second_order, "BLOCK", 4)
    weight, hessian = matrix(5, 8), torch.eye(8, dtype=torch.float64)
    mask, swept = second_order._swept(weight, hessian, never(weight), sparsity=0.5, pattern="layer")
    # Inputs that do not depend on each other: no weight can make up for another, and the smallest go.
    for begin in (0, 4):
        part = weight[:, begin : begin + 4].abs()
        assert torch.equal(mask[:, begin : begin + 4], compute_masks({"": part}, 0.5, pattern="layer")[""])
    torch.testing.assert_close(swept, weight * mask)


@pytest.mark.parametrize("pattern", ["layer", "row"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.6, 0.95])
def test_the_blocks_together_have_the_sparsity(monkeypatch, pattern, sparsity):
    monkeypatch.setattr(second_order, "BLOCK", 7)
    weight, hessian = matrix(5, 39), correlated(39)
    mask, _ = second_order._swept(weight, hessian, never(weight), sparsity=sparsity, pattern=pattern)
    assert int(mask.sum()) == int(compute_masks({"": weight.abs()}, sparsity, pattern=pattern)[""].sum())
    if pattern == "row":
        assert set(mask.sum(1).tolist()) == {39 - round(39 * sparsity)}


@pytest.mark.parametrize("pattern", ["layer", "row"])
def test_what_is_pruned_stays_pruned_at_every_higher_sparsity(monkeypatch, pattern):
    monkeypatch.setattr(second_order, "BLOCK", 7)
    weight, hessian = matrix(5, 39), correlated(39)
    gone = never(weight)
    for sparsity in np.arange(0.03, 1, 0.03):
        mask, weight = second_order._swept(weight, hessian, gone, sparsity=sparsity, pattern=pattern)
        assert not (mask & gone).any()
        assert int(mask.sum()) == int(compute_masks({"": weight}, sparsity, pattern=pattern)[""].sum())
        gone = ~mask


def test_what_is_gone_goes_first():
    weight, hessian = matrix(5, 12), correlated(12)
    gone = matrix(5, 12, seed=9) > 0.5
    weight[gone] = 100.0  # what it would be good for is no reason to let it come back
    mask, _ = second_order._swept(weight, hessian, gone, sparsity=0.5, pattern="layer")
    assert int(gone.sum()) < 30 == int((~mask).sum())
    assert not (mask & gone).any()


@pytest.mark.parametrize("pattern", ["layer", "row", "2:4"])
def test_correction_is_better_than_zeros_and_than_the_smallest(pattern):
    target, places = matrix(8, 160), torch.arange(160)
    hessian = 0.9 ** (places[:, None] - places).abs().double()  # each input much like its neighbors
    mask, swept = second_order._swept(target, hessian, never(target), sparsity=0.5, pattern=pattern)
    fitted = reconstruction.fitted(target, swept, mask, hessian)
    smallest = compute_masks({"": target.abs()}, 0.5, pattern=pattern)[""]
    corrected = error(fitted, target, hessian)
    assert (corrected <= error(swept, target, hessian) + 1e-9).all()
    assert (corrected < error(target * mask, target, hessian)).all()
    assert corrected.sum() < 0.5 * error(target * smallest, target, hessian).sum()


def test_masks_that_prune_nothing_change_nothing():
    model, batches = built()
    before, answers = values(model), zoo.answer(model, batches[0])
    reconstruct_(model, {name: torch.ones_like(w).bool() for name, w in prunable_weights(model).items()}, batches)
    torch.testing.assert_close(values(model), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(zoo.answer(model, batches[0]), answers, rtol=1e-4, atol=1e-4)


def one_layer(n_features=12, *, bias=True):
    """A model whose only layer to prune reads a feature of its own making."""
    torch.manual_seed(0)
    model = tiny.bert(hidden_size=n_features, num_hidden_layers=1, num_attention_heads=1)
    name = "bert.encoder.layer.0.attention.self.query"
    if not bias:
        model.get_submodule(name).bias = None
    return model, f"{name}.weight", model.get_submodule(name)


def feeding(layer, feature):
    """Whatever the model gives the layer, the feature is made by a function of its inputs."""
    return layer.register_forward_pre_hook(lambda module, args: (feature(args[0].clone()),))


@pytest.mark.parametrize("made_of", [lambda rows: 2 * rows[..., 3], lambda rows: 30.0], ids=["duplicated", "constant"])
def test_a_feature_that_others_tell_is_pruned_without_loss(monkeypatch, made_of):
    def feature(rows):
        rows[..., 5] = made_of(rows)
        return rows

    monkeypatch.setattr(reconstruction, "ITERATIONS", 100)
    monkeypatch.setattr(reconstruction, "DAMPING", 1e-7)
    model, name, layer = one_layer()
    with torch.no_grad():
        layer.weight[:, 5] = 3.0
    batches, mask = batches_for(model), torch.ones(12, 12, dtype=torch.bool)
    mask[:, 5] = False
    feeding(layer, feature)
    rows = torch.cat([rows_into(model, layer, batch, n_calls=1) for batch in batches])
    before = layer(rows).detach()
    reconstruct_(model, {name: mask}, batches)
    assert (layer.weight[:, 5] == 0).all()
    scale = float(before.square().mean().sqrt())
    torch.testing.assert_close(layer(rows).detach(), before, rtol=0, atol=1e-4 * scale)


def test_without_a_bias_the_mean_is_left_to_the_weights():
    """Fitted to the second moments about 0, which the normal equations below are those of."""
    model, name, layer = one_layer(bias=False)
    weight, batches = layer.weight.detach().double(), batches_for(model)
    rows = torch.cat([rows_into(model, layer, batch, n_calls=1) for batch in batches]).double()
    hessian = rows.T @ rows / len(rows)
    hessian += reconstruction.DAMPING * hessian.diagonal().mean() * torch.eye(12)
    mask = matrix(12, 12, seed=4) > -0.5
    mask[:, -3:] = False  # at most 9 weights: 10 steps are enough
    reconstruct_(model, {name: mask}, batches)
    torch.testing.assert_close(layer.weight.detach().double(), exact(weight, mask, hessian), rtol=1e-3, atol=1e-4)


def test_the_mean_output_of_every_layer_is_kept():
    model, dense = zoo.build("bert"), zoo.build("bert")
    batches = batches_for(model)
    prune_second_order_(model, prunable_weights(model), 0.6, pattern="layer", batches=batches)
    for name in prunable_weights(model):
        layer, original = (one.get_submodule(name.removesuffix(".weight")) for one in (model, dense))
        after = layer(torch.cat([rows_into(model, layer, batch, n_calls=1) for batch in batches])).mean(0)
        before = original(torch.cat([rows_into(dense, original, batch, n_calls=1) for batch in batches])).mean(0)
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert", "vit", "electra", "deberta-v2", "dinov2-swiglu"])
def test_models_answer_more_like_before_than_after_magnitude_pruning(name):
    dense, model, smallest = (zoo.build(name) for _ in range(3))
    batches, weights = batches_for(model, n_batches=8), prunable_weights(model)
    masks = prune_second_order_(model, weights, 0.5, pattern="layer", batches=batches)
    assert set(masks) == set(weights)
    for weight, mask in zip(weights.values(), masks.values(), strict=True):
        assert torch.equal(weight != 0, mask)
        assert int((~mask).sum()) == round(0.5 * mask.numel())
    zeroed(smallest, masks_for(prunable_weights(smallest), 0.5))
    assert lost(dense, model, seeds=range(100, 108)) < 0.7 * lost(dense, smallest, seeds=range(100, 108))


def test_given_masks_are_kept_and_corrected():
    dense, (model, batches) = zoo.build("bert"), built(n_batches=8)
    masks = masks_for(prunable_weights(model), 0.5)
    reconstruct_(model, masks, batches)
    assert all(torch.equal(model.get_parameter(name) != 0, mask) for name, mask in masks.items())
    assert lost(dense, model) < 0.7 * lost(dense, zeroed(zoo.build("bert"), masks))


def test_later_layers_make_up_for_the_earlier_ones(monkeypatch):
    """The second layer is not pruned, and yet changed so that it gives for the new inputs what it gave for the old."""
    monkeypatch.setattr(reconstruction, "DAMPING", 1e-6)
    dense, (model, batches) = zoo.build("bert"), built(n_batches=8)
    first, second = (f"bert.encoder.layer.0.{part}.dense" for part in ("intermediate", "output"))
    mask = masks_for({f"{first}.weight": model.get_parameter(f"{first}.weight")}, 0.5)
    reconstruct_(model, mask, batches)
    apart = rows_change(model, dense, second, batches)
    everything = {f"{second}.weight": torch.ones_like(model.get_parameter(f"{second}.weight")).bool()}
    model = zoo.build("bert")
    reconstruct_(model, mask | everything, batches)
    assert rows_change(model, dense, second, batches) < 0.7 * apart


def rows_change(model, dense, name, batches):
    """How far the outputs of a layer are from those of the dense model."""

    def outputs(one):
        layer = one.get_submodule(name)
        return layer(torch.cat([rows_into(one, layer, batch, n_calls=1) for batch in batches])).detach()

    return float((outputs(model) - outputs(dense)).square().sum())


def test_padding_is_ignored():
    models = [zoo.build("bert") for _ in range(2)]
    padded = batches_for(models[0])
    rows = [row for batch in padded for row in zoo.unpadded(batch)]
    for model, batches in zip(models, (padded, rows), strict=True):
        prune_second_order_(model, prunable_weights(model), 0.5, pattern="row", batches=batches)
    torch.testing.assert_close(*map(values, models), rtol=1e-3, atol=1e-4)


def test_twice_the_same_gives_the_same_bits():
    models = [zoo.build("vit") for _ in range(2)]
    for model in models:
        prune_second_order_(model, prunable_weights(model), 0.5, pattern="layer", batches=batches_for(model))
        torch.rand(3)
    assert torch.equal(*map(tiny.flat, models))


def test_modes_and_gradients_are_what_they_were():
    model = zoo.build("bert").train()
    model.bert.embeddings.eval()
    model.bert.encoder.layer[0].requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    state = [(module.training, len(module._forward_pre_hooks)) for module in model.modules()]
    parameters = list(model.parameters())
    before = values(model)
    weights = prunable_weights(model)
    prune_second_order_(model, weights, 0.5, pattern="2:4", batches=batches_for(model))
    assert [(module.training, len(module._forward_pre_hooks)) for module in model.modules()] == state
    for parameter, (name, same) in zip(parameters, model.named_parameters(), strict=True):
        assert same is parameter
        assert parameter.requires_grad == ("encoder.layer.0" not in name)
        assert (parameter.grad == 7).all()
        touched = name in weights or name.replace("bias", "weight") in weights
        assert touched or torch.equal(parameter, before[name])
    for weight in weights.values():
        assert set((weight == 0).view(-1, 4).sum(1).tolist()) == {2}


def test_weights_in_bfloat16_stay_so():
    dense, model = zoo.build("bert").bfloat16(), zoo.build("bert").bfloat16()
    batches = batches_for(model, n_batches=8)
    prune_second_order_(model, prunable_weights(model), 0.5, pattern="layer", batches=batches)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert sparsity_of(prunable_weights(model)) == pytest.approx(0.5, abs=1e-3)
    precise = zoo.build("bert")
    prune_second_order_(precise, prunable_weights(precise), 0.5, pattern="layer", batches=batches)
    unseen = zoo.inputs(model, n=9, seed=100)
    expected = zoo.answer(dense, unseen).float()
    lost = (zoo.answer(model, unseen).float() - expected).norm() / expected.norm()
    assert lost < 2 * (zoo.answer(precise, unseen) - expected).norm() / expected.norm()


def test_a_layer_that_runs_twice():
    dense, model, smallest = (zoo.build("bert") for _ in range(3))
    for one in (dense, model, smallest):
        one.bert.encoder.layer[2] = one.bert.encoder.layer[1] = one.bert.encoder.layer[0]
    batches, weights = batches_for(model, n_batches=8), prunable_weights(model)
    assert len(weights) == 6
    masks = prune_second_order_(model, weights, 0.3, pattern="layer", batches=batches)
    assert sparsity_of(weights) == pytest.approx(0.3, abs=1e-3)
    assert set(masks) == set(weights)
    assert lost(dense, model) < lost(dense, zeroed(smallest, masks_for(prunable_weights(smallest), 0.3)))


def test_choices():
    model = zoo.build("bert", head="ForMultipleChoice")
    masks = prune_second_order_(model, prunable_weights(model), 0.5, pattern="row", batches=[zoo.inputs(model)])
    assert all(torch.equal(model.get_parameter(name) != 0, mask) for name, mask in masks.items())


def test_what_is_pruned_stays_pruned():
    model, batches = built()
    weights = prunable_weights(model)
    first = prune_second_order_(model, weights, 0.3, pattern="layer", batches=batches)
    second = prune_second_order_(model, weights, 0.6, pattern="layer", batches=batches)
    for name, weight in weights.items():
        assert not (second[name] & ~first[name]).any()
        assert torch.equal(weight != 0, second[name])


def test_the_same_again_changes_nothing():
    model, batches = built()
    first = prune_second_order_(model, prunable_weights(model), 0.5, pattern="layer", batches=batches)
    before = values(model)
    second = prune_second_order_(model, prunable_weights(model), 0.5, pattern="layer", batches=batches)
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(values(model), before, rtol=1e-5, atol=1e-5)


def test_too_few_tokens_and_these_alone_are_said_once_and_damped(caplog):
    model = zoo.build("bert")
    batch = {name: column[:2, :5] for name, column in zoo.inputs(model).items()}
    with caplog.at_level(logging.WARNING):
        prune_second_order_(model, prunable_weights(model), 0.5, pattern="layer", batches=[batch])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert f"have fewer tokens than {query} has inputs (12 such layers)" in caplog.text
    assert "Give more rows" in caplog.text
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert tiny.flat(model).abs().max() < 20
    # Enough tokens are not complained of.
    caplog.clear()
    model, batches = built()
    with caplog.at_level(logging.WARNING):
        prune_second_order_(model, prunable_weights(model), 0.5, pattern="layer", batches=batches)
    assert not caplog.records


@pytest.mark.parametrize("n", [1, 7])
def test_inputs_that_do_not_vary(n):
    """One token, again and again: the weights are judged by themselves, and the biases keep the answer."""
    model = zoo.build("bert")
    batch = {"input_ids": torch.full((n, 1), 5), "attention_mask": torch.ones(n, 1, dtype=torch.long)}
    before = zoo.answer(model, batch)
    prune_second_order_(model, prunable_weights(model), 0.5, pattern="layer", batches=[batch, batch])
    assert sparsity_of(prunable_weights(model)) == pytest.approx(0.5, abs=1e-3)
    torch.testing.assert_close(zoo.answer(model, batch), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("scale", "atol"), [(0, 1e-5), (10, 1e-4)])
def test_inputs_that_are_0_or_vary_by_rounding_alone(scale, atol):
    """Their variance is noise, which no weight is fitted to."""
    model, name, layer = one_layer()
    weight = layer.weight.detach().clone()
    row = scale * torch.rand(12)
    feeding(layer, lambda rows: row * (1 + 1e-7 * torch.randn_like(rows)))
    mask = masks_for({name: layer.weight}, 0.5)[name]
    reconstruct_(model, {name: mask}, batches_for(model))
    torch.testing.assert_close(layer.weight.detach(), weight * mask, rtol=0, atol=atol)


def failing(model, kind):
    """Something goes wrong in the last layer, when those before it are pruned already."""
    last = model.bert.encoder.layer[2].output.dense
    if kind == "nan":
        with torch.no_grad():
            model.bert.encoder.layer[1].output.LayerNorm.bias[3] = torch.nan
        return ValueError, r"inputs of bert.encoder.layer.2.attention.self.* are NaN or infinite. Check the data"
    calls = []

    def interrupt(module, args):
        calls.append(module)
        # Seen first in the order; then while the original, or already the pruned model, runs.
        if len(calls) == (4 if kind == "original" else 6):
            raise KeyboardInterrupt

    last.register_forward_pre_hook(interrupt)
    return KeyboardInterrupt, None


@pytest.mark.parametrize("kind", ["nan", "original", "pruned"])
def test_after_an_error_every_weight_is_what_it_was(kind, monkeypatch):
    model = zoo.build("bert").train()
    batches = batches_for(model)
    expected, message = failing(model, kind)
    touched, written = [], reconstruction.write_
    monkeypatch.setattr(reconstruction, "write_", lambda *args: (touched.append(1), written(*args)))
    with tiny.unchanged(model), pytest.raises(expected, match=message):
        prune_second_order_(model, prunable_weights(model), 0.5, pattern="layer", batches=batches)
    assert len(touched) >= 16  # of 36 in all: it was in the middle
    assert model.training


def test_a_layer_that_does_not_run_is_refused_by_name():
    model = zoo.build("bert")
    model.bert.idle = torch.nn.Linear(32, 32)
    message = "The layer bert.idle.weight does not run on the calibration data"
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        prune_second_order_(model, prunable_weights(model), 0.5, pattern="layer", batches=batches_for(model))


def test_convolutions_are_refused():
    model = zoo.build("vit")
    name = "vit.embeddings.patch_embeddings.projection.weight"
    message = rf"Only the weights of linear layers can be corrected. {name} is of a Conv2d"
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        reconstruct_(model, {name: torch.ones_like(model.get_parameter(name)).bool()}, batches_for(model))


def test_statistics_are_of_the_compressed_model():
    """The inputs of a later group are those that the groups before it make now."""
    model = zoo.build("bert")
    batch, layers = zoo.inputs(model), zoo.prunable_layers(model)
    groups = in_order(model, layers, batch)
    rows = rows_into(model, layers[groups[1].names[0]], batch, n_calls=1)
    with torch.no_grad():
        for name in groups[0].names:
            layers[name].weight.zero_()
    after = rows_into(model, layers[groups[1].names[0]], batch, n_calls=1)
    statistics = InputStatistics(32, torch.device("cpu"))
    statistics.add(rows, after)
    assert not torch.equal(rows, after)
    torch.testing.assert_close(statistics.means()[1].float(), after.mean(0))
