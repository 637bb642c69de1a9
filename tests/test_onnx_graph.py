"""The ONNX graph of a model: it answers like the model at any size, is named like it, and is quantized where asked."""

import contextlib
import io
import logging
from collections import Counter

import numpy as np
import onnx
import pytest
import tiny
import torch
import zoo
from onnx import numpy_helper
from torch import nn

from hf_compalign.compress.export import (
    calibrate_graph,
    export_graph,
    file_config,
    graph_layers,
    opset_of,
    quantize_graph,
)
from hf_compalign.compress.export import graph as onnx_graph
from hf_compalign.models import OnnxModel, sample_inputs

MODELS = {"bert": lambda: tiny.bert().eval(), "vit": lambda: tiny.vit().eval()}
MODELS |= {"deberta": lambda: zoo.build("deberta-v2-shared-key", num_hidden_layers=1)}
MODELS |= {"modernbert": lambda: zoo.build("modernbert", num_hidden_layers=2)}
BERT_LAYERS = [
    *(f"bert.embeddings.{kind}_embeddings" for kind in ("word", "token_type", "position")),
    *(
        f"bert.encoder.layer.{index}.{part}"
        for index in range(2)
        for part in (
            *(f"attention.self.{name}" for name in ("query", "key", "value")),
            *("attention.output.dense", "intermediate.dense", "output.dense"),
        )
    ),
    "bert.pooler.dense",
    "classifier",
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """name -> (model, its float file); each is exported once."""
    made = {}

    def get(name):
        if name not in made:
            model = MODELS[name]()
            path = tmp_path_factory.mktemp(name) / "model.onnx"
            export_graph(model, path)
            made[name] = model, path
        return made[name]

    return get


@pytest.fixture
def int8(exported, tmp_path):
    """The tensors of a BERT's INT8 file, of all layers but the classifier."""
    _, path = exported("bert")
    quantize_graph(path, tmp_path / "int8.onnx", mode="dynamic", keep_float=["classifier"])
    return tensors_of(tmp_path / "int8.onnx")


def nodes(path):
    return onnx.load(path).graph.node


def tensors_of(path):
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def layers_of(path, *operators):
    """The layers that have nodes of these operators, by the names of the nodes."""
    return {node.name.rpartition("/")[0] for node in nodes(path) if node.op_type in operators}


def answers(path, model, batch):
    return OnnxModel(path, config=file_config(model))(**batch)["logits"]


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


# ---- export ----


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("n_items", "length"), [(1, 9), (4, 3)])
def test_the_file_answers_like_the_model_at_other_sizes_than_it_was_traced_with(exported, name, n_items, length):
    model, path = exported(name)
    batch = sample_inputs(model, n_items=n_items, length=length)
    assert tiny.distance(answers(path, model, batch), logits(model, batch)) < tiny.ROUNDING


def test_padding_changes_nothing(exported):
    model, path = exported("bert")
    short = sample_inputs(model, n_items=1, length=5)
    long = {name: nn.functional.pad(value, (0, 4)) for name, value in short.items()}
    assert tiny.distance(answers(path, model, long), answers(path, model, short)) < tiny.ROUNDING


def test_inputs_outputs_and_axes_have_the_usual_names(exported):
    graph = onnx.load(exported("bert")[1]).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    text = ["batch_size", "sequence_length"]
    inputs = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), text)
    assert shapes == inputs | {"logits": ["batch_size", 3]}
    [pixels] = onnx.load(exported("vit")[1]).graph.input
    assert [dim.dim_param or dim.dim_value for dim in pixels.type.tensor_type.shape.dim] == ["batch_size", 1, 8, 8]


def test_nodes_are_named_after_modules_and_nothing_else_is_kept(exported):
    model, path = exported("bert")
    names = [node.name for node in nodes(path)]
    modules = {name for name, _ in model.named_modules()}
    assert len(set(names)) == len(names)
    assert {name.rpartition("/")[0] for name in names} <= modules
    assert "bert.encoder.layer.1.attention.self.query/MatMul" in names
    assert not any(node.metadata_props or node.doc_string for node in nodes(path))
    tensors = tensors_of(path)
    weight = model.bert.encoder.layer[0].intermediate.dense.weight
    np.testing.assert_array_equal(tensors["bert.encoder.layer.0.intermediate.dense.weight.T"], weight.detach().T)


def test_the_export_is_silent_and_leaves_the_model_as_it_was(tmp_path, caplog):
    model = tiny.bert(dropout=0.5).train()
    model.classifier.eval()
    model.bert.embeddings.requires_grad_(False)
    before = dict(model.__dict__), [module.training for module in model.modules()], torch.get_rng_state()
    handlers, config = list(logging.getLogger().handlers), model.config.to_dict()
    attention = model.config._attn_implementation
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        export_graph(model, tmp_path / "model.onnx")
    assert printed.getvalue() == ""
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert logging.getLogger().handlers == handlers
    assert logging.root.manager.disable == logging.NOTSET
    assert model.__dict__ == before[0]
    assert [module.training for module in model.modules()] == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == attention
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 5
    batch = sample_inputs(model.eval(), n_items=3)
    assert tiny.distance(answers(tmp_path / "model.onnx", model, batch), logits(model, batch)) < tiny.ROUNDING


def test_half_precision_is_written_in_float32_and_more_than_a_message_holds_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "_MOST_BYTES", 1000)
    model = tiny.bert().bfloat16()
    path = tmp_path / "model.onnx"
    export_graph(model, path)
    assert model.dtype == torch.bfloat16
    batch = sample_inputs(model, n_items=3)
    expected = logits(tiny.bert().bfloat16().float().eval(), batch)
    assert tiny.distance(answers(path, model, batch), expected) < tiny.ROUNDING

    ranges = calibrate_graph(path, [batch])
    for mode in ("dynamic", "static"):
        quantize_graph(path, tmp_path / f"{mode}.onnx", mode=mode, ranges=ranges)
    names = {"model.onnx", "dynamic.onnx", "static.onnx"}
    assert {file.name for file in tmp_path.iterdir()} == names | {f"{name}_data" for name in names}
    for mode in ("dynamic", "static"):
        assert (answers(tmp_path / f"{mode}.onnx", model, batch) - expected).abs().max() < 0.2


class Singular(type(tiny.bert())):
    """Its answer needs an operation that ONNX lacks."""

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None):
        logits = super().forward(input_ids, attention_mask, token_type_ids).logits
        return {"logits": logits + torch.linalg.svdvals(logits).sum()}


class Branching(type(tiny.bert())):
    """Its computation depends on the values of the inputs."""

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None):
        logits = super().forward(input_ids, attention_mask, token_type_ids).logits
        return {"logits": logits if logits.sum() > 0 else -logits}


@pytest.mark.parametrize(("broken", "what"), [(Singular, "linalg_svd"), (Branching, "data-dependent")])
def test_what_cannot_be_exported_is_named(tmp_path, broken, what):
    model = tiny.bert()
    model.__class__ = broken
    with pytest.raises(ValueError, match=f"{broken.__name__} cannot be exported to ONNX: .*{what}"):
        export_graph(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    assert "forward" not in model.__dict__


# ---- layers ----


def test_layers_are_the_modules_with_weights_in_the_order_of_the_graph(exported):
    _, path = exported("bert")
    assert list(graph_layers(path, "dynamic")) == BERT_LAYERS == list(graph_layers(path, "static"))
    _, path = exported("vit")
    assert graph_layers(path, "static")[0] == "vit.embeddings.patch_embeddings.projection"
    assert graph_layers(path, "static")[1:] == graph_layers(path, "dynamic")
    with pytest.raises(ValueError, match="mode must be one of dynamic, static. Got 'dinamic'"):
        graph_layers(path, "dinamic")


def test_a_layer_that_is_used_twice_counts_once(exported):
    """DeBERTa projects its relative positions by the weights for the tokens."""
    model, path = exported("deberta")
    found = graph_layers(path, "dynamic")
    layers = {name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Embedding))}
    # The weights of the relative positions are read without their embedding being called.
    assert {*found} == layers - {"deberta.encoder.rel_embeddings"}
    assert len(set(found)) == len(found)
    n_nodes = Counter(node.name.rpartition("/")[0] for node in nodes(path) if node.op_type == "MatMul")
    assert n_nodes["deberta.encoder.layer.0.attention.self.query_proj"] == 2


def test_the_opset_is_read_from_the_file(exported):
    model = onnx.load(exported("bert")[1])
    assert [(one.domain, one.version) for one in model.opset_import] == [("", opset_of(exported("bert")[1]))]


# ---- INT8 ----


def test_dynamic_int8_is_of_the_layers_that_were_asked_for(exported, tmp_path):
    _, path = exported("bert")
    kept = ["classifier", "bert.encoder.layer.1.output.dense", "bert.embeddings.position_embeddings"]
    quantize_graph(path, tmp_path / "int8.onnx", mode="dynamic", keep_float=kept)
    linear = {name for name in BERT_LAYERS if "embeddings" not in name}
    assert layers_of(tmp_path / "int8.onnx", "MatMulInteger") == linear - {*kept}
    float_layers = layers_of(tmp_path / "int8.onnx", "MatMul", "Gemm") - {
        f"bert.encoder.layer.{index}.attention.self" for index in range(2)
    }
    assert float_layers == {*kept} & linear
    tensors = {one.name: one.data_type for one in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert tensors["bert.embeddings.word_embeddings.weight_quantized"] == onnx.TensorProto.UINT8
    assert tensors["bert.embeddings.position_embeddings.weight"] == onnx.TensorProto.FLOAT
    assert "bert.embeddings.word_embeddings.weight" not in tensors


def test_a_quantized_weight_is_what_the_formula_says(exported, int8):
    (model, _), tensors = exported("bert"), int8
    for name, stored in (
        ("bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.intermediate.dense.weight.T"),
        ("bert.pooler.dense", "bert.pooler.dense.weight_Transposed"),
    ):
        weight = model.get_submodule(name).weight.detach().numpy()
        scale = np.abs(weight).max(axis=1) / np.float32(127)
        np.testing.assert_allclose(tensors[f"{stored}_scale"], scale, rtol=1e-6)
        levels = np.rint(weight / tensors[f"{stored}_scale"][:, None])
        np.testing.assert_array_equal(tensors[f"{stored}_quantized"], levels.T)
        assert not tensors[f"{stored}_zero_point"].any()
    table = "bert.embeddings.word_embeddings.weight"
    weight = model.bert.embeddings.word_embeddings.weight.detach().numpy()
    scale = (weight.max() - weight.min()) / 255
    assert tensors[f"{table}_scale"] == pytest.approx(scale, rel=1e-6)
    values = (tensors[f"{table}_quantized"].astype(float) - tensors[f"{table}_zero_point"]) * scale
    assert np.abs(values - weight).max() <= 0.51 * scale


def test_keeping_every_layer_gives_the_float_graph(exported, tmp_path):
    _, path = exported("bert")
    quantize_graph(path, tmp_path / "same.onnx", mode="dynamic", keep_float=BERT_LAYERS)
    assert onnx.load(tmp_path / "same.onnx") == onnx.load(path)


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_in_static_int8_what_stays_float_reads_float(exported, tmp_path, kind):
    """Only the query is in INT8: other layers and sums that read the same tensor must not notice."""
    model, path = exported(kind)
    layers = graph_layers(path, "static")
    query = next(name for name in layers if name.endswith(("query", "q_proj")))
    ranges = calibrate_graph(path, [sample_inputs(model)])
    quantize_graph(path, tmp_path / "q.onnx", mode="static", keep_float={*layers} - {query}, ranges=ranges)
    graph = onnx.load(tmp_path / "q.onnx").graph
    made_by = {name: node for node in graph.node for name in node.output}
    weights = {one.name for one in graph.initializer}
    rounded = [
        node.name
        for node in graph.node
        for name in node.input
        if name in made_by and made_by[name].op_type == "DequantizeLinear" and made_by[name].input[0] not in weights
    ]
    assert {name.rpartition("/")[0] for name in rounded} == {query}


def test_static_int8_uses_the_ranges_of_the_calibration_data(exported, tmp_path):
    model, path = exported("vit")
    batches = [{"pixel_values": torch.tensor(tiny.images(8, seed=seed)["pixel_values"])} for seed in (0, 1)]
    ranges = calibrate_graph(path, batches)
    kept = ["classifier", "vit.layers.1.mlp.fc1"]
    assert {*kept} <= {*graph_layers(path, "static")}
    quantize_graph(path, tmp_path / "int8.onnx", mode="static", keep_float=kept, ranges=ranges)
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    expected = float(pixels.max() - pixels.min()) / 255
    assert tensors_of(tmp_path / "int8.onnx")["pixel_values_scale"] == pytest.approx(expected, rel=1e-5)
    made = nodes(tmp_path / "int8.onnx")
    dequantized = {node.output[0] for node in made if node.op_type == "DequantizeLinear"}
    found = {
        node.name.rpartition("/")[0]
        for node in made
        if node.op_type in ("MatMul", "Gemm", "Conv") and node.input[1] in dequantized
    }
    assert found == {*graph_layers(path, "static")} - {*kept}
    batch = {"pixel_values": pixels}
    assert (answers(tmp_path / "int8.onnx", model, batch) - logits(model, batch)).abs().max() < 0.2


def test_bad_arguments_are_refused(exported, tmp_path):
    _, path = exported("bert")
    with pytest.raises(ValueError, match="Static quantization needs the ranges"):
        quantize_graph(path, tmp_path / "int8.onnx", mode="static")
    with pytest.raises(ValueError, match="keep_float names no layers of .*: clasifier"):
        quantize_graph(path, tmp_path / "int8.onnx", mode="dynamic", keep_float=["clasifier"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_portable_weights_have_seven_bits_and_embeddings_eight(exported, tmp_path, mode):
    """So that 255 times two neighbors stays within 16 bits; an embedding is only looked up."""
    model, path = exported("bert")
    ranges = calibrate_graph(path, [sample_inputs(model)])
    for portable, most in ((False, 127), (True, 64)):
        quantize_graph(path, tmp_path / "int8.onnx", mode=mode, ranges=ranges, portable=portable)
        found = [one for one in tensors_of(tmp_path / "int8.onnx").values() if one.dtype == np.int8 and one.ndim > 1]
        assert {int(np.abs(one.astype(int)).max()) for one in found} == {most}
        assert len(found) == len(BERT_LAYERS) - 3
        table = tensors_of(tmp_path / "int8.onnx")["bert.embeddings.word_embeddings.weight_quantized"]
        assert (table.dtype, table.min(), table.max()) == (np.uint8, 0, 255)
