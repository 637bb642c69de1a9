"""Factors moved from activations to weights: the same answers in float, better ones in INT8, and only where it pays."""

import shutil

import numpy as np
import onnx
import pytest
import tiny
import torch
from onnx import numpy_helper

from hf_compalign import export_onnx
from hf_compalign.compress.export import (
    calibrate_graph,
    export_graph,
    file_config,
    graph_layers,
    quantize_graph,
    smooth_graph_,
)
from hf_compalign.compress.export.smoothing import _best, _error
from hf_compalign.models import OnnxModel, sample_inputs

MODELS = {"bert": tiny.bert, "vit": tiny.vit}


def with_outliers(build):
    """A model of which two channels of normalizations are 60 times as large as the others.

    In the ViT the weights that read them are as much smaller, so that it answers as if nothing had happened.
    """
    model = build(initializer_range=0.5).eval()
    for name, module in model.named_modules():
        if name.endswith(("layernorm_before", "layernorm_after", "output.LayerNorm")):
            module.weight.data[[3, 7]] *= 60
        elif name.endswith(("q_proj", "k_proj", "v_proj", "fc1")):
            module.weight.data[:, [3, 7]] /= 60
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> (model, its float file, the same smoothed, what was changed, batches)."""
    made = {}
    for name, build in MODELS.items():
        folder, model = tmp_path_factory.mktemp(name), with_outliers(build)
        batches = [sample_inputs(model, n_items=6) for _ in range(4)]
        export_graph(model, folder / "plain.onnx")
        shutil.copy(folder / "plain.onnx", folder / "smooth.onnx")
        changed = smooth_graph_(folder / "smooth.onnx", batches)
        made[name] = model, folder / "plain.onnx", folder / "smooth.onnx", changed, batches
    return made


def logits(path, model, batch):
    return OnnxModel(path, config=file_config(model))(**batch)["logits"]


@pytest.mark.numeric
@pytest.mark.parametrize("name", MODELS)
def test_a_smoothed_file_answers_the_same(files, name):
    model, plain, smooth, changed, batches = files[name]
    assert changed
    before, after = (logits(path, model, batches[0]) for path in (plain, smooth))
    assert tiny.distance(after, before) < 3 * tiny.ROUNDING
    assert graph_layers(smooth, "static") == graph_layers(plain, "static")


@pytest.mark.numeric
def test_in_int8_it_answers_more_like_the_model(files, tmp_path):
    model, plain, smooth, _, batches = files["vit"]
    errors = []
    for path in (plain, smooth):
        target = tmp_path / path.name
        quantize_graph(path, target, mode="static", ranges=calibrate_graph(path, batches), keep_float=["classifier"])
        found = torch.cat([logits(target, model, batch) - logits(plain, model, batch) for batch in batches])
        errors.append(float(found.square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_a_residual_that_reads_a_normalization_gets_it_back(files):
    counts = {}
    for name, (_, plain, smooth, changed, _) in files.items():
        kinds = [[node.op_type for node in onnx.load(path).graph.node].count("Mul") for path in (plain, smooth)]
        counts[name] = kinds[1] - kinds[0], len(changed)
    assert counts["bert"][0] == counts["bert"][1]  # its residuals start after the normalization
    assert counts["vit"][0] == 0  # and those before it


def test_weights_that_something_else_reads_are_left_alone(files, tmp_path):
    _, plain, _, _, batches = files["vit"]
    model = onnx.load(plain)
    product = next(node for node in model.graph.node if node.op_type == "MatMul" and "q_proj" in node.name)
    product.input[1] = next(n for n in model.graph.node if n.op_type == "MatMul" and "k_proj" in n.name).input[1]
    onnx.save(model, tmp_path / "shared.onnx")
    shared = product.input[1]
    before = numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == shared))
    changed = smooth_graph_(tmp_path / "shared.onnx", batches)
    after = numpy_helper.to_array(
        next(one for one in onnx.load(tmp_path / "shared.onnx").graph.initializer if one.name == shared)
    )
    assert np.array_equal(before, after)
    assert changed
    assert not any("layer.0.layernorm_before" in name for name in changed)


def test_factors_are_taken_only_where_they_lessen_the_error():
    rng = np.random.default_rng(0)
    weights = [rng.choice([-1.0, 1.0], size=(8, 16)).astype(np.float32)]
    even = rng.choice([-1.0, 1.0], size=(500, 8)).astype(np.float32)
    assert _best(even, weights) is None  # a grid of 255 steps holds both values exactly
    values = rng.normal(size=(500, 8)).astype(np.float32)
    values[:, 2] *= 100
    factors = _best(values, weights)
    assert factors.argmax() == 2
    assert np.log(factors).mean() == pytest.approx(0, abs=1e-5)
    assert _error(values, values, weights, factors) < 0.2 * _error(values, values, weights, np.ones(8, np.float32))


def test_a_static_export_is_smoothed(tmp_path):
    model = with_outliers(tiny.bert)
    rows = tiny.texts(32, labels=False)
    made = export_onnx(model, tmp_path / "static", quantize="static", calibration=rows)
    names = {one.name for one in onnx.load(made.path).graph.initializer}
    assert any(name.endswith("_scale") and name.startswith("layer_norm") for name in names)
