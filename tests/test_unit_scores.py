"""How much heads, neurons and layers matter: against finite differences, explicit masks and planted units."""

from types import SimpleNamespace

import pytest
import tiny
import torch
import torch.nn.functional as F

from hf_compalign.compress import calibration_batches, run_model
from hf_compalign.compress.shrink import layers_of, unit_scores

pytestmark = pytest.mark.numeric

MODELS = {"bert": tiny.bert, "vit": tiny.vit}


def batches(kind="bert", n=6, *, size=4):
    whole = tiny.batch(tiny.texts(n) if kind == "bert" else tiny.images(n))
    return [{name: values[start : start + size] for name, values in whole.items()} for start in range(0, n, size)]


def item_loss(model, batch, item):
    logits = run_model(model, {name: values[item : item + 1] for name, values in batch.items()})[0]
    return F.cross_entropy(logits, batch["labels"][item : item + 1])


def tensors(importances):
    return torch.cat([torch.cat([one.heads, one.neurons, torch.tensor([one.layer])]) for one in importances])


@pytest.mark.parametrize("kind", MODELS)
def test_taylor_is_the_slope_of_each_items_loss(kind):
    model = MODELS[kind](seed=1).double().eval()
    data = [{name: v.double() if v.is_floating_point() else v for name, v in batch.items()} for batch in batches(kind)]
    found = unit_scores(model, data)
    epsilon = 1e-5

    def slope(linear, columns):
        """The sum over the items of |d loss / d (factor on the columns)|, by differences."""
        total = 0.0
        weight = linear.weight.detach().clone()
        for batch in data:
            for item in range(len(batch["labels"])):
                losses = []
                for factor in (1 + epsilon, 1 - epsilon):
                    with torch.no_grad():
                        linear.weight.copy_(weight)
                        linear.weight[:, columns] *= factor
                        losses.append(float(item_loss(model, batch, item)))
                total += abs(losses[0] - losses[1]) / (2 * epsilon)
        with torch.no_grad():
            linear.weight.copy_(weight)
        return total

    for layer, one in zip(layers_of(model), found, strict=True):
        heads = [slope(layer.attention_out, slice(8 * head, 8 * head + 8)) for head in range(2)]
        assert one.heads.tolist() == pytest.approx(heads, rel=1e-4)
        for neuron in (0, 17, 31):
            assert float(one.neurons[neuron]) == pytest.approx(slope(layer.ffn_out, [neuron]), rel=1e-4, abs=1e-7)


def test_taylor_is_the_gradient_of_explicit_masks():
    model = tiny.bert(seed=1).eval()
    data = batches()
    found = unit_scores(model, data)
    layers = layers_of(model)
    expected = [[torch.zeros(2), torch.zeros(32), 0.0] for _ in layers]
    for batch in data:
        for item in range(len(batch["labels"])):
            masks = [(torch.ones(2, requires_grad=True), torch.ones(32, requires_grad=True)) for _ in layers]
            gates = [torch.ones(1, requires_grad=True) for _ in layers]  # 1: the layer, 0: only its input
            hooks = []
            for layer, (heads, neurons), gate in zip(layers, masks, gates, strict=True):
                hooks += [
                    layer.attention_out.register_forward_pre_hook(
                        lambda _, args, heads=heads: (args[0] * heads.repeat_interleave(8),)
                    ),
                    layer.ffn_out.register_forward_pre_hook(lambda _, args, neurons=neurons: (args[0] * neurons,)),
                    layer.module.register_forward_hook(
                        lambda _, args, output, gate=gate: gate * output + (1 - gate) * args[0]
                    ),
                ]
            item_loss(model, batch, item).backward()
            for hook in hooks:
                hook.remove()
            for total, (heads, neurons), gate in zip(expected, masks, gates, strict=True):
                total[0] += heads.grad.abs()
                total[1] += neurons.grad.abs()
                total[2] += float(gate.grad.abs())
    for one, (heads, neurons, layer) in zip(found, expected, strict=True):
        torch.testing.assert_close(one.heads, heads, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.neurons, neurons, rtol=1e-4, atol=1e-6)
        assert one.layer == pytest.approx(layer, rel=1e-4)


def test_neither_the_size_of_the_batches_nor_padding_matters():
    model, whole = tiny.bert(seed=1), batches(size=6)
    padded = [{name: F.pad(values, (0, 3)) if values.ndim > 1 else values for name, values in whole[0].items()}]
    expected = tensors(unit_scores(model, whole))
    for other in (batches(size=4), padded):
        torch.testing.assert_close(tensors(unit_scores(model, other)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_stays_as_it_is(frozen):
    model = tiny.bert(seed=1, dropout=0.5).train()
    model.classifier.eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(not frozen and index % 2 == 0)
        parameter.grad = torch.full_like(parameter, 7.0) if parameter.requires_grad else None
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}
    with torch.no_grad():
        first = tensors(unit_scores(model, batches()))
    assert torch.equal(first, tensors(unit_scores(model, batches())))  # dropout is off
    assert model.training
    assert not model.classifier.training
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.grad is None or (parameter.grad == 7).all()
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_frozen_parameters_change_nothing():
    free, frozen = tiny.bert(seed=1), tiny.bert(seed=1).requires_grad_(False)
    torch.testing.assert_close(tensors(unit_scores(free, batches())), tensors(unit_scores(frozen, batches())))


@pytest.mark.parametrize("score", ["taylor", "magnitude"])
def test_a_useless_unit_comes_last(score):
    model = tiny.bert(seed=1)
    layer = layers_of(model)[1]
    with torch.no_grad():
        layer.attention_out.weight[:, 8:] *= 1e-4
        layer.ffn_out.weight[:, 5] *= 1e-4
    found = unit_scores(model, batches(), score=score)
    assert int(torch.cat([one.heads for one in found]).argmin()) == 2 + 1
    assert int(torch.cat([one.neurons for one in found]).argmin()) == 32 + 5


def test_a_layer_that_changes_nothing_comes_last():
    model = tiny.vit(seed=1, num_hidden_layers=3)
    layer = layers_of(model)[1]
    with torch.no_grad():
        for linear in (layer.attention_out, layer.ffn_out):
            linear.weight.zero_()
            linear.bias.zero_()
    found = unit_scores(model, batches("vit"))
    assert found[1].layer == 0 < min(found[0].layer, found[2].layer)


def test_magnitude_by_hand():
    model = tiny.bert()
    layer = layers_of(model)[0]
    with torch.no_grad():
        layer.attention_out.weight.zero_()
        layer.attention_out.weight[0, 0] = 3.0
        layer.attention_out.weight[5, 7] = -4.0  # both in the first head, of 8 features
        layer.attention_out.weight[2, 8] = 1.0
        layer.ffn_out.weight.zero_()
        layer.ffn_out.weight[:2, 4] = torch.tensor([6.0, 8.0])
    found = unit_scores(model, score="magnitude")[0]
    assert found.heads.tolist() == pytest.approx([5 / 26**0.5, 1 / 26**0.5])
    assert found.neurons.tolist() == [1.0 if neuron == 4 else 0.0 for neuron in range(32)]
    assert found.layer == pytest.approx((5 + 1) / 2 + 10 / 32)


def test_any_loss_can_be_asked():
    model = tiny.bert(seed=1)
    plain = unit_scores(model, batches())
    tripled = unit_scores(model, batches(), loss=lambda model, batch: 3 * model(**batch).loss)
    torch.testing.assert_close(tensors(tripled), 3 * tensors(plain))


def test_labels_are_not_needed():
    batch = calibration_batches(tiny.texts(8, labels=False), tiny.bert())
    assert (tensors(unit_scores(tiny.bert(), batch)) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "weight"}, "score must be one of taylor, magnitude. Got 'weight'"),
        ({"batches": []}, "score='taylor' needs calibration data"),
        ({"loss": lambda model, batch: model(**batch).logits}, r"must return a scalar .* of shape \[4, 3\]\.$"),
        ({"loss": lambda model, batch: model(**batch).loss.detach()}, r"of shape \[\] without a gradient"),
        ({"loss": lambda model, batch: model(**batch).loss * torch.nan}, "are NaN or infinite. Check the data"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    model = tiny.bert()
    with pytest.raises(ValueError, match=message):
        unit_scores(model, **({"batches": batches()} | arguments))
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_other_models_are_refused():
    model = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(model_type="mlp")
    with pytest.raises(ValueError, match="cannot be removed from Linear"):
        unit_scores(model, batches())
