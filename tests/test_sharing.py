"""Weights that are used several times stand in a file once, in INT8 too; what a file holds in float is named."""

import copy
import math

import onnx
import pytest
import tiny
import torch
import transformers
import zoo
from test_seen import GPT2

from hf_compalign.compress.export import (
    calibrate_graph,
    export_graph,
    export_onnx,
    file_config,
    float_layers,
    quantize_graph,
)
from hf_compalign.compress.quantize import quantize_
from hf_compalign.models import OnnxModel, sample_inputs

# The exporter folds matrices of up to 8192 numbers into copies, and leaves larger ones to be transposed each time.
WIDE = {"hidden_size": 96, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 2}
ALBERT = zoo.TEXT | WIDE | {"embedding_size": 16}
DEBERTA = zoo.DEBERTA_V2 | WIDE | {"share_att_key": True, "num_hidden_layers": 1, "position_biased_input": False}
XLNET = {"vocab_size": 40, "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32}
# A class, its config, and what its dynamic INT8 file holds in float.
SHARED = {
    "albert": ("AlbertForSequenceClassification", ALBERT, ["classifier"]),
    "deberta": ("DebertaV2ForSequenceClassification", DEBERTA, ["deberta.encoder.rel_embeddings", "classifier"]),
    "xlnet": ("XLNetForSequenceClassification", XLNET, ["transformer.layer.0.rel_attn", "logits_proj"]),
    "gpt2": ("GPT2ForSequenceClassification", GPT2, ["score"]),
}


def build(name, settings):
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    return tiny.without_equal_tensors(cls(cls.config_class(num_labels=3, **settings)).eval())


def numbers(path, kind):
    """How many numbers the matrices of a file hold, of those of a type."""
    tensors = onnx.load(path).graph.initializer
    return sum(math.prod(one.dims) for one in tensors if len(one.dims) > 1 and one.data_type == kind)


@pytest.mark.parametrize("name", SHARED)
def test_the_file_rounds_what_the_simulation_rounds_and_names_the_rest(name, tmp_path):
    model = build(*SHARED[name][:2])
    simulating = copy.deepcopy(model)
    found = export_onnx(model, tmp_path / "file", quantize="dynamic")
    summary = quantize_(simulating, "onnxruntime-w8a8")
    assert {*summary.layers} == {*found.quantized_layers}
    assert [*found.float_layers] == SHARED[name][2]
    # What is in float is the weights of the modules that are named.
    named = (one for key, one in model.named_parameters() if key.startswith(found.float_layers) and one.ndim > 1)
    in_float = numbers(found.path, onnx.TensorProto.FLOAT)
    assert in_float == pytest.approx(sum(one.numel() for one in named), abs=512)
    in_int8 = sum(numbers(found.path, kind) for kind in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8))
    assert in_float + in_int8 < 1.02 * model.num_parameters()
    batch = sample_inputs(model, n_items=3)
    with torch.no_grad():
        plain, same = (one(**batch).logits for one in (model, simulating))
    file = OnnxModel(found.path)(**batch)["logits"]
    assert (same - file).abs().max() < 0.1 * (plain - file).abs().max()


@pytest.mark.parametrize("width", [32, 96])
def test_float_and_static_files_hold_shared_weights_once(width, tmp_path):
    model = build("AlbertForSequenceClassification", ALBERT | {"hidden_size": width})
    export_graph(model, tmp_path / "model.onnx")
    assert numbers(tmp_path / "model.onnx", onnx.TensorProto.FLOAT) < 1.02 * model.num_parameters()
    batch = sample_inputs(model, n_items=3)
    plain, int8 = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    quantize_graph(plain, int8, mode="static", ranges=calibrate_graph(plain, [batch]), keep_float=["classifier"])
    assert numbers(int8, onnx.TensorProto.FLOAT) == model.classifier.weight.numel()
    assert float_layers(int8) == ("classifier",)
    with torch.no_grad():
        expected = model(**batch).logits
    for path, most in ((plain, tiny.ROUNDING), (int8, 0.2)):
        assert tiny.distance(OnnxModel(path, config=file_config(model))(**batch)["logits"], expected) < most
