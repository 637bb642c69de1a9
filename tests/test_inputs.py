"""What is seen of the inputs of layers, against hooks of its own kind, loops and backward."""

import copy

import numpy as np
import pytest
import tiny
import torch
import zoo
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

from hf_compalign.compress import (
    InputStatistics,
    check_finite,
    in_order,
    input_norms,
    own_loss,
    prunable_weights,
    rows_into,
    weight_gradients,
)

pytestmark = pytest.mark.numeric


def twice(model):
    """The model with one layer for two, as in ALBERT."""
    layers = model.bert.encoder.layer
    layers[1] = layers[0]
    return model


def n_hooks(model):
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def built(name="bert", **patterns):
    model = zoo.build(name)
    return model, zoo.inputs(model), zoo.prunable_layers(model, **patterns)


def test_layers_that_read_the_same_are_one_group():
    model = zoo.build("bert")
    groups = in_order(model, dict(reversed(zoo.prunable_layers(model).items())), zoo.inputs(model))
    short = [[name.split("layer.")[1].removesuffix(".weight") for name in group.names] for group in groups]
    for layer in range(3):
        qkv, out, first, second = short[4 * layer : 4 * layer + 4]
        assert sorted(qkv) == [f"{layer}.attention.self.{name}" for name in ("key", "query", "value")]
        assert out == [f"{layer}.attention.output.dense"]
        assert (first, second) == ([f"{layer}.intermediate.dense"], [f"{layer}.output.dense"])
    assert {group.n_calls for group in groups} == {1}


def test_a_layer_that_runs_twice():
    model, batch = twice(tiny.bert()), tiny.batch(tiny.texts(6))
    layers = zoo.prunable_layers(model)
    groups = in_order(model, layers, batch)
    assert [len(group.names) for group in groups] == [3, 1, 1, 1]
    assert {group.n_calls for group in groups} == {2}
    layer = model.bert.encoder.layer[0].intermediate.dense
    rows = rows_into(model, layer, batch, n_calls=2)
    assert rows.shape == (2 * 6 * 6, 16)
    assert torch.equal(rows[:36], rows_into(model, layer, batch, n_calls=1))
    assert not torch.equal(rows[:36], rows[36:])
    for name, layer in layers.items():
        norms = rows_into(model, layer, batch, n_calls=2).norm(dim=0)
        torch.testing.assert_close(input_norms(model, {name: layer}, [batch])[name], norms)


def test_a_layer_that_does_not_run_is_refused_by_name():
    model = tiny.bert()
    model.bert.idle = torch.nn.Linear(16, 16)
    layers, batch = zoo.prunable_layers(model), tiny.batch(tiny.texts(6))
    message = r"layer bert.idle.weight does not run on the calibration data.*exclude=\['bert.idle'\]"
    with pytest.raises(ValueError, match=message):
        in_order(model, layers, batch)
    with pytest.raises(ValueError, match=message):
        input_norms(model, layers, [batch])
    assert n_hooks(model) == 0


def test_rows_are_the_tokens_that_go_in():
    model, batch, _ = built()
    seen = []
    layer = model.bert.encoder.layer[1].intermediate.dense
    with torch.no_grad():
        handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        model(**batch)
        handle.remove()
    mask = batch["attention_mask"].bool()
    rows = rows_into(model, layer, batch, n_calls=1)
    assert torch.equal(rows, seen[0][mask])
    one_by_one = torch.cat([rows_into(model, layer, item, n_calls=1) for item in zoo.unpadded(batch)])
    assert tiny.distance(rows, one_by_one) < tiny.ROUNDING


def test_what_comes_after_does_not_run():
    model = zoo.build("bert")
    ran = []
    for index, layer in enumerate(model.bert.encoder.layer):
        layer.output.dense.register_forward_hook(lambda *_, index=index: ran.append(index))
    rows_into(model, model.bert.encoder.layer[1].output.dense, zoo.inputs(model), n_calls=1)
    assert ran == [0]


def test_rows_of_choices_and_of_images():
    model = zoo.build("bert", head="ForMultipleChoice")
    batch = zoo.inputs(model)
    rows = rows_into(model, model.bert.encoder.layer[0].attention.self.query, batch, n_calls=1)
    assert rows.shape == (int(batch["attention_mask"].sum()), 32)
    model, batch, layers = built("vit")
    (first, *_) = in_order(model, layers, batch)
    rows = rows_into(model, layers[first.names[0]], batch, n_calls=1)
    assert rows.shape == (5 * 5, 32)  # 4 patches and the class token


def test_modes_and_hooks_are_what_they_were():
    model = tiny.bert(dropout=0.5).train()
    model.bert.embeddings.eval()
    modes = [module.training for module in model.modules()]
    layers, batch = zoo.prunable_layers(model), tiny.batch(tiny.texts(6))
    groups, norms = in_order(model, layers, batch), input_norms(model, layers, [batch])
    rows = rows_into(model, layers[groups[2].names[0]], batch, n_calls=1)
    gradients = weight_gradients(model, layers, batch, own_loss)
    assert [module.training for module in model.modules()] == modes
    assert n_hooks(model) == 0
    model.eval()  # no dropout was at work
    name = groups[2].names[0]
    assert torch.equal(rows, rows_into(model, layers[name], batch, n_calls=1))
    assert torch.equal(norms[name], input_norms(model, layers, [batch])[name])
    assert torch.equal(gradients[name], weight_gradients(model, layers, batch, own_loss)[name])


def test_labels_count_where_the_model_makes_no_loss_of_them():
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 12, "num_hidden_layers": 1}
    model = DeiTForImageClassificationWithTeacher(DeiTConfig(**sizes, num_labels=3)).eval()
    batch = {"pixel_values": torch.randn(4, 1, 8, 8), "labels": torch.tensor([0, 2, 1, -100])}
    expected = torch.nn.functional.cross_entropy(model(batch["pixel_values"]).logits[:3], batch["labels"][:3])
    assert own_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_norms_against_a_loop():
    model, batch, layers = built()
    norms = input_norms(model, layers, [batch, zoo.inputs(model, n=3, seed=5)])
    for name, layer in layers.items():
        squares = np.zeros(layer.in_features)
        for part in (batch, zoo.inputs(model, n=3, seed=5)):
            for item in zoo.unpadded(part):
                for token in rows_into(model, layer, item, n_calls=1).double().numpy():
                    squares += token**2
        np.testing.assert_allclose(norms[name], np.sqrt(squares), rtol=1e-5)
        assert norms[name].dtype == torch.float32


def test_inputs_that_are_nan_are_refused():
    model = tiny.bert()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias[3] = torch.nan
    layers = zoo.prunable_layers(model, include=["*layer.1*"])
    with pytest.raises(ValueError, match=r"The inputs of bert.encoder.layer.1.attention.* are NaN or infinite. Check"):
        input_norms(model, layers, [tiny.batch(tiny.texts(6))])
    with pytest.raises(ValueError, match=r"The gradients of x on the calibration data are NaN .* in float16 it may"):
        check_finite("x", torch.tensor([1.0, torch.inf]), of="gradients")


def backward(model, batch):
    model = copy.deepcopy(model).eval().requires_grad_(True)
    own_loss(model, batch).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("case", ["bert", "vit", "choices", "twice", "frozen", "unlabeled", "modernbert"])
def test_gradients_are_those_of_backward(case):
    if case == "choices":
        model = zoo.build("bert", head="ForMultipleChoice")
    else:
        model = zoo.build(case if case in zoo.KINDS else "bert")
    batch = zoo.inputs(model)
    if case == "twice":
        model = twice(model)
    if case != "unlabeled":
        batch["labels"] = torch.tensor([0, 1, 1, 0, 1])
    if case == "frozen":
        model.requires_grad_(False)
    model.train()
    kept = {name: torch.full_like(parameter, 7.0) for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = kept[name] if parameter.requires_grad else None
    expected = backward(model, batch)
    gradients = weight_gradients(model, zoo.prunable_layers(model), batch, own_loss)
    assert set(gradients) == set(prunable_weights(model))
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)
        assert gradient.abs().max() > 0
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (case != "frozen")
        assert parameter.grad is (kept[name] if parameter.requires_grad else None)
        assert parameter.grad is None or (parameter.grad == 7).all()
    assert model.training


def test_gradients_of_part_of_the_model():
    model, batch, layers = built(include=["*layer.0*query", "*layer.2*dense"])
    model.bert.encoder.layer[0].requires_grad_(False)
    expected = backward(model, batch)
    for name, gradient in weight_gradients(model, layers, batch, own_loss).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_gradients_under_autocast_and_in_half_precision():
    model, batch, layers = built()
    expected = weight_gradients(model, layers, batch, own_loss)

    def mixed(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return own_loss(model, batch)

    under_autocast = weight_gradients(model, layers, batch, mixed)
    for gradients in (under_autocast, weight_gradients(model.bfloat16(), layers, batch, own_loss)):
        for name, gradient in gradients.items():
            assert gradient.dtype == torch.float32
            assert torch.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0) > 0.95


def test_layers_that_do_not_matter_have_gradient_0():
    model, batch, layers = built(include=["*layer.2*"])
    gradients = weight_gradients(model, layers, batch, lambda m, b: m.bert.embeddings(b["input_ids"]).sum())
    assert gradients == {}

    def of_the_first_layer(model, batch):
        return model.bert(**batch, output_hidden_states=True).hidden_states[1].square().sum()

    gradients = weight_gradients(model, layers, batch, of_the_first_layer)
    assert len(gradients) == len(layers)
    assert not any(gradient.any() for gradient in gradients.values())


def test_hooks_are_gone_after_an_error():
    model = zoo.build("bert")
    with pytest.raises(ValueError, match="loss must return a scalar"):
        weight_gradients(model, zoo.prunable_layers(model), zoo.inputs(model), lambda m, b: m(**b).logits)
    assert n_hooks(model) == 0


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_moments_are_those_of_all_tokens_together(mean):
    generator = np.random.default_rng(0)
    original = (generator.normal(size=(70, 5)) + mean).astype(np.float32)
    compressed = original + generator.normal(size=(70, 5)).astype(np.float32)
    statistics = InputStatistics(5, torch.device("cpu"))
    for begin, end in ((0, 10), (10, 11), (11, 70)):
        statistics.add(torch.from_numpy(original[begin:end]), torch.from_numpy(compressed[begin:end]))
    x, y = original.astype(np.float64), compressed.astype(np.float64)
    assert statistics.n_tokens == 70
    np.testing.assert_allclose(torch.stack(statistics.means()), [x.mean(0), y.mean(0)], rtol=1e-6, atol=1e-6)
    for got, expected in zip(statistics.moments(centered=False), (x.T @ y / 70, y.T @ y / 70), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    together = np.cov(np.hstack([x, y]).T, bias=True)
    for got, expected in zip(statistics.moments(centered=True), (together[:5, 5:], together[5:, 5:]), strict=True):
        # A float32 of 1000 has 6e-5 to its neighbor; without the shift the products would lose 0.1.
        np.testing.assert_allclose(got, expected, atol=1e-6 if mean == 0 else 1e-4)
