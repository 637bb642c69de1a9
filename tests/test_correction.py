"""Weights corrected for the rounding: against regression by other means, and on what the layers themselves compute."""

import copy
from functools import partial

import numpy as np
import pytest
import tiny
import torch
import zoo
from quantized import ONNX, build, by_scheme, needs, prepared

from hf_compalign import PruningCallback, QuantizationCallback, prune_
from hf_compalign.compress import reconstruction, rows_into, token_rows
from hf_compalign.compress.quantize import (
    SCHEMES,
    correct_,
    prepare_,
    quantize_,
    quantized_layers,
    scheme_of,
    unprepare_,
)

pytestmark = pytest.mark.numeric
FIRST, SECOND = (f"bert.encoder.layer.1.{part}.dense" for part in ("intermediate", "output"))


@pytest.fixture(autouse=True)
def _library(request):
    if hasattr(request.node, "callspec"):
        needs(request.node.callspec.params.get("name", ONNX))


def batches(model, *seeds):
    return [zoo.inputs(model, n=16, seed=seed) for seed in seeds or range(4)]


def corrected(name, model):
    """The original, and the model prepared and corrected."""
    original = copy.deepcopy(model)
    correct_(prepared(name, model), original, batches(model))
    return original, model


def linear_layers(model):
    return {name: layer for name, layer in quantized_layers(model).items() if not isinstance(layer, torch.nn.Embedding)}


def saturates():
    """Whether two products of int8, added up in 16 bits, lose what is beyond them."""
    largest = torch.full((32, 32), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest) != 32 * 127**2).any())


def mean_outputs(model, names):
    """What each layer gives on the calibration data on average, without padding."""
    found = {name: [] for name in names}

    def keep(name, batch, layer, args, output):
        found[name].append(token_rows(output.detach(), batch))

    for batch in batches(model):
        hooks = [model.get_submodule(name).register_forward_hook(partial(keep, name, batch)) for name in names]
        zoo.answer(model, batch)
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(rows).mean(0) for name, rows in found.items()}


def rounded(values):
    """ONNX Runtime's uint8 for a whole batch, as floats."""
    values = values.double().numpy()
    low, high = min(values.min(), 0), max(values.max(), 0)
    scale = (high - low) / 255
    return (np.clip(np.round(values / scale) + np.round(-low / scale), 0, 255) - np.round(-low / scale)) * scale


def test_a_layer_is_the_regression_of_the_originals_output_on_rounded_inputs():
    original, model = build(), build()
    prepare_(model, scheme_of(ONNX), ["bert.embeddings.word_embeddings", FIRST, SECOND])
    correct_(model, original, batches(model))
    layer, before = model.get_submodule(SECOND), original.get_submodule(SECOND)
    seen, wanted = [], []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for batch in batches(model):
        zoo.answer(model, batch)
        seen[-1] = rounded(seen[-1])[batch["attention_mask"].bool().numpy()]
        wanted.append(before(rows_into(original, before, batch, n_calls=1)).detach().double().numpy())
    hook.remove()
    inputs, wanted = np.concatenate(seen), np.concatenate(wanted)
    inputs, wanted = inputs - inputs.mean(0), wanted - wanted.mean(0)
    # The damping are rows that ask for the weight of before.
    share = np.sqrt(reconstruction.DAMPING * inputs.var(0).mean() * len(inputs)) * np.eye(inputs.shape[1])
    rows = np.concatenate([inputs, share])
    right = np.concatenate([wanted, share @ before.weight.detach().double().numpy().T])
    expected = np.linalg.lstsq(rows, right, rcond=None)[0].T
    assert tiny.distance(layer.weight.detach(), torch.from_numpy(expected).float()) < 1e-4
    assert tiny.distance(layer.weight.detach(), before.weight.detach()) > 1e-3


@pytest.mark.parametrize("name", by_scheme(SCHEMES))
def test_every_layers_mean_output_is_that_of_the_original(name):
    if name == "quanto-w8a8" and saturates():
        pytest.skip("torch's product of int8 matrices saturates on a CPU without VNNI")
    original, model = corrected(name, build())
    names = [*linear_layers(model)]
    torch.testing.assert_close(mean_outputs(model, names), mean_outputs(original, names), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", by_scheme(name for name in SCHEMES if "w4" in name))
def test_answers_are_closer_to_those_of_the_original(name):
    original, model = corrected(name, build())
    plain = prepared(name)

    def lost(one):
        unseen = batches(original, *range(100, 104))
        return float(sum((zoo.answer(one, batch) - zoo.answer(original, batch)).square().sum() for batch in unseen))

    assert lost(model) < 0.8 * lost(plain)


@pytest.mark.parametrize("name", [ONNX, "torchao-w4a8"])
def test_pruned_weights_stay_zero(name):
    model = build()
    prune_(model, 0.5)
    zeros = {layer: one.weight == 0 for layer, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    quantize_(model, name, calibration=batches(model), reconstruct=True)
    for layer, one in linear_layers(model).items():
        weight = one.weight.dequantize() if hasattr(one.weight, "dequantize") else one.weight
        assert (weight[zeros[layer]] == 0).all()
        assert zeros[layer].any() == ("encoder" in layer)


def test_a_shared_weight_stays():
    model = build()
    query = model.bert.encoder.layer[0].attention.self.query
    model.bert.encoder.layer[1].attention.self.query.weight = query.weight
    original, model = corrected(ONNX, model)
    assert torch.equal(query.weight, original.bert.encoder.layer[0].attention.self.query.weight)


def test_what_cannot_be_corrected_leaves_a_float_model_as_it_was():
    model = build()
    for calibration, message in (
        (None, "reconstruct=True needs calibration data. Give calibration="),
        ([], "calibration holds no batch"),
    ):
        with tiny.unchanged(model), pytest.raises(ValueError, match=message):
            quantize_(model, ONNX, calibration=calibration, reconstruct=True)
    model.bert.idle = torch.nn.Linear(16, 16)
    with tiny.unchanged(model), pytest.raises(ValueError, match=r"layer bert.idle.weight does not run .*exclude="):
        quantize_(model, "torchao-w8", calibration=batches(model), reconstruct=True)
    assert not quantized_layers(model)


# ---- while training ----


def student():
    return tiny.bert(seed=2)


def run(folder, calibration=None, **settings):
    callback = QuantizationCallback(ONNX, begin=0.5, reconstruct=True, calibration=calibration)
    weights = tiny.Watch(lambda network: tiny.flat(network).clone())
    trainer = tiny.trainer(folder, student(), PruningCallback(0.5, schedule="constant"), callback, weights, **settings)
    return trainer, weights


def test_training_goes_on_from_the_corrected_weights(tmp_path):
    calibration = batches(student())
    trainer, weights = run(tmp_path, calibration, learning_rate=0.0)
    trainer.train()
    expected = student()
    prune_(expected, 0.5)
    assert torch.equal(weights.seen[0], tiny.flat(expected))
    quantize_(expected, ONNX, calibration=calibration, reconstruct=True)
    unprepare_(expected)
    assert all(torch.equal(one, tiny.flat(expected)) for one in weights.seen[6:])


def test_a_resumed_run_corrects_once(tmp_path):
    whole, weights = run(tmp_path / "whole", save_steps=3)
    whole.train()
    for step in (3, 6, 9):
        resumed, again = run(tmp_path / str(step), save_steps=12)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert all(map(torch.equal, again.seen, weights.seen[step:]))


def test_calibration_data_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match=r"calibration= would be ignored: .* Leave it out, or give reconstruct=True"):
        QuantizationCallback(ONNX, calibration=[])
