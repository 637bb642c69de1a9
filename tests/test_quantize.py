"""Which layers are quantized, what they compute then, and that nothing else changes."""

import copy
from contextlib import contextmanager

import pytest
import tiny
import torch
import torch.distributed as dist
import zoo
from quantized import CONVERTED, LIBRARIES, ONNX, build, by_scheme, check_alike, needs, prepared, quantized, take_away
from test_seen import build as build_of
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
from transformers import BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification, Trainer

from hf_compalign.compress import load_compressed, prunable_weights
from hf_compalign.compress.callbacks import PruningCallback, ShrinkCallback
from hf_compalign.compress.prune import prune_
from hf_compalign.compress.quantize import (
    SCHEMES,
    calibrate_,
    convert_,
    fake_quantize_,
    prepare_,
    quantizable_layers,
    quantization_of,
    quantize_,
    quantized_layers,
    ranges_of,
    scheme_of,
    set_ranges_,
    symmetric_levels,
    unprepare_,
)
from hf_compalign.compress.shrink import LayerPlan, ShrinkPlan, cut_, shrink_

pytestmark = pytest.mark.numeric

ONNXRUNTIME = scheme_of(ONNX)


@pytest.fixture(autouse=True)
def _library(request):
    if hasattr(request.node, "callspec"):
        needs(request.node.callspec.params.get("name", ONNX))


@contextmanager
def untouched(model):
    """A model that stays as it was, to the bit, and in float."""
    before = copy.deepcopy(model.state_dict())
    yield
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not quantized_layers(model)
    assert quantization_of(model) is None


# ---- which layers ----


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert", "vit"])
def test_all_linear_layers_but_the_last(kind):
    model, last = build(kind), "classifier.out_proj" if kind == "roberta" else "classifier"
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    assert set(quantizable_layers(model, scheme_of("torchao-w8"))) == linear - {last}
    # Read without being called, and in float in the file too.
    embeddings -= {"deberta.encoder.rel_embeddings"}
    assert set(quantizable_layers(model, ONNXRUNTIME)) == linear - {last} | embeddings


def test_patterns_choose_layers():
    model = tiny.bert()
    scheme = scheme_of("torchao-w8")
    chosen = quantizable_layers(model, scheme, include=["*.attention.*"], exclude=["*.layer.1.*"])
    assert len(chosen) == 4
    assert set(quantizable_layers(model, scheme, include=["classifier"])) == {"classifier"}
    for of, patterns, message in (
        (scheme, {"exclude": ["*.mlp"]}, r"'\*.mlp' matches no linear layer of BertForSequenceClassification"),
        (scheme, {"include": ["*word_embeddings"]}, "matches no linear layer of"),
        (
            scheme,
            {"include": ["classifier"], "exclude": ["class*"]},
            r"is left to quantize with include=\['classifier'\] and exclude=",
        ),
        (ONNXRUNTIME, {"include": ["*.mlp"]}, "matches no linear layer or embedding of"),
    ):
        with pytest.raises(ValueError, match=message):
            quantizable_layers(model, of, **patterns)


def gpt2():
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32, "pad_token_id": 1}
    return GPT2ForSequenceClassification(GPT2Config(**sizes, num_labels=3, initializer_range=0.2)).eval()


def test_layers_of_gpt2_are_rounded_by_output_or_refused_by_name():
    model = gpt2()
    layer = model.transformer.h[0].mlp.c_fc
    values, expected = torch.randn(5, 32), nn.Linear(32, 128)
    expected.weight.data, expected.bias = layer.weight.detach().T.contiguous(), layer.bias
    fake_quantize_(expected)
    for name in ("torchao-w8", "quanto-w8a8"):
        with (
            untouched(model),
            pytest.raises(ValueError, match=r"class Conv1D \(transformer.h.0.attn.c_attn and 3"),
        ):
            quantize_(model, name, calibration=[zoo.inputs(model)] if name.endswith("a8") else None)
    plain = layer(values)
    summary = quantize_(model, ONNX)
    assert {name.rpartition(".")[2] for name in summary.layers} == {"c_attn", "c_proj", "c_fc", "wte", "wpe"}
    assert summary.sizes_bytes[1] < 0.3 * summary.sizes_bytes[0]
    assert tiny.distance(layer(values), expected(values)) < tiny.ROUNDING
    assert tiny.distance(layer(values), plain) > 100 * tiny.ROUNDING
    unprepare_(model)
    assert torch.equal(layer(values), plain)


def test_embeddings_of_a_models_own_and_those_that_share_a_table_are_rounded_too():
    model, head = build_of("BartForSequenceClassification")
    layers = quantizable_layers(model, ONNXRUNTIME)
    shared = [name for name, layer in layers.items() if layer.weight is model.get_input_embeddings().weight]
    assert shared == ["model.encoder.embed_tokens", "model.decoder.embed_tokens"]
    table = model.model.encoder.embed_tokens
    plain, ids = table(torch.tensor([3, 4])), torch.tensor([3, 4])
    summary = quantize_(model, ONNX)
    assert {*summary.left_out} == {*head}
    assert 100 * tiny.ROUNDING < tiny.distance(table(ids), plain) < 0.02
    assert copy.deepcopy(model).model.encoder.embed_tokens(ids).equal(table(ids))
    unprepare_(model)
    assert torch.equal(table(ids), plain)


def test_a_layer_tied_to_the_embeddings_stays():
    model = zoo.build("bert", head="ForMaskedLM")
    names = quantizable_layers(model, ONNXRUNTIME)
    assert "cls.predictions.decoder" not in names
    assert "bert.embeddings.word_embeddings" in names


# ---- what is computed ----


@pytest.mark.parametrize("name", by_scheme(SCHEMES))
@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_quantized_answers_are_close_and_those_of_the_preparation(name, kind, caplog):
    model = build(kind)
    batch = zoo.inputs(model)
    before = zoo.answer(model, batch)
    trained = prepared(name, copy.deepcopy(model))
    quantized(name, model)
    after = zoo.answer(model, batch)
    assert not model.training
    assert tiny.distance(after, before) > 100 * tiny.ROUNDING
    coarse = {"int8": 0.15, "int4": 1.7}[SCHEMES[name].weights]
    if "products of int8 matrices overflow" not in caplog.text:
        torch.testing.assert_close(after, before, atol=coarse, rtol=0)
    check_alike(model, trained)
    record = quantization_of(model)
    assert record.scheme == name
    assert record.layers == tuple(quantized_layers(model))
    assert record.converted == (SCHEMES[name].backend != "onnxruntime")
    assert bool(record.ranges) == SCHEMES[name].calibrated


@pytest.mark.parametrize("overflows", [False, True])
def test_a_cpu_whose_int8_products_overflow_is_told(overflows, monkeypatch, caplog):
    pytest.importorskip("optimum.quanto")
    product = 32 * 127**2 - overflows
    monkeypatch.setattr(torch.ops.quanto, "qbytes_mm", lambda *_: torch.tensor(product))
    for name in ("quanto-w8", "quanto-w4", "quanto-w8a8"):
        prepared(name, calibrated=False)
        message = f"overflow: the scheme {name} computes wrong answers here. Use quanto-w8 or torchao-w8a8, or another"
        assert (message in caplog.text) == (overflows and name == "quanto-w8a8")


@pytest.mark.parametrize("name", by_scheme(SCHEMES))
def test_a_prepared_model_trains_its_own_parameters(name):
    model = build()
    parameters = {name: id(value) for name, value in model.named_parameters()}
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared(name, model)
    assert {name: id(value) for name, value in model.named_parameters()} == parameters
    assert list(model.state_dict()) == list(before)
    assert not model.training
    model.train()
    model(**zoo.inputs(model), labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
    optimizer.step()
    for key, value in model.named_parameters():
        # The gradient of a key's bias is 0, since softmax does not see it.
        assert not torch.equal(value, before[key]) or key.endswith("key.bias"), key


@pytest.mark.parametrize("name", SCHEMES)
def test_a_prepared_model_gives_its_layers_back(name):
    model = build()
    answer = zoo.answer(model, zoo.inputs(model))
    with untouched(model):
        unprepare_(prepared(name, model, calibrated=False))
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {nn.Linear}
    assert torch.equal(zoo.answer(model, zoo.inputs(model)), answer)


@pytest.mark.parametrize("name", by_scheme(SCHEMES))
def test_copies_compute_the_same_and_are_independent(name):
    model = prepared(name)
    batch = zoo.inputs(model)
    for step in (lambda: None, lambda: convert_(model)):
        step()
        copied = copy.deepcopy(model)
        answer = zoo.answer(model, batch)
        check_alike(copied, model)
        with torch.no_grad():
            for parameter in copied.parameters():
                if type(parameter) is nn.Parameter:
                    parameter.zero_()
        assert torch.equal(zoo.answer(model, batch), answer)
        shared = {id(value) for value in model.parameters()} & {id(value) for value in copied.parameters()}
        assert not shared


@pytest.mark.parametrize("name", by_scheme(SCHEMES))
def test_pruned_weights_stay_zero(name):
    model = build()
    prune_(model, 0.5)
    zeros = {key: weight == 0 for key, weight in prunable_weights(model).items()}
    quantized(name, model)
    for key, mask in zeros.items():
        weight = model.get_parameter(key)
        values = symmetric_levels(weight)[0] if name == ONNX else weight.dequantize()
        assert bool((values[mask] == 0).all()) == SCHEMES[name].keeps_zeros, key


def test_a_scheme_that_undoes_the_pruning_says_so(caplog):
    model = build()
    quantizable_layers(model, SCHEMES["quanto-w4"])
    prune_(model, 0.5)
    quantizable_layers(model, SCHEMES["torchao-w4"])
    assert not caplog.messages
    quantizable_layers(model, SCHEMES["quanto-w4"])
    assert "of the weights are 0, and the scheme quanto-w4 keeps no zeros" in caplog.text
    assert "torchao-w4 keeps them" in caplog.text


def test_a_prepared_model_can_be_pruned():
    model, plain = prepared(ONNX), build()
    assert list(prunable_weights(model)) == list(prunable_weights(plain))
    prune_(model, 0.5)
    prune_(plain, 0.5)
    check_alike(model, prepared(ONNX, plain))


@pytest.mark.parametrize("name", [ONNX, "torchao-w8a8", "quanto-w8a8"])
def test_a_prepared_model_can_be_shrunk(name):
    model = prepared(name)
    scales = ranges_of(model)
    cut_(model, ShrinkPlan((LayerPlan(0, (0, 1), tuple(range(8))), LayerPlan(2, (1,), tuple(range(5))))))
    record = quantization_of(model)
    assert record.layers == tuple(quantized_layers(model))
    assert not any(".layer.2." in layer for layer in record.layers)
    if scales:
        assert record.ranges["bert.encoder.layer.1.output.dense"] == scales["bert.encoder.layer.2.output.dense"]
    rounding = copy.deepcopy(model)
    convert_(model)
    check_alike(model, rounding)


def test_shrinking_goes_first_or_second():
    first, second = prepared(ONNX), build()
    shrink_(first, ffn=0.5)
    shrink_(second, ffn=0.5)
    check_alike(first, quantized(ONNX, second))
    assert quantization_of(first) == quantization_of(second)


def test_the_config_is_not_shared_with_the_teacher():
    model = build()
    teacher = type(model)(model.config)
    quantize_(model, ONNX)
    assert quantization_of(teacher) is None


def test_the_summary_tells_bytes():
    pytest.importorskip("optimum.quanto")
    model = tiny.bert()
    summary = quantize_(model, "quanto-w8", include=["*intermediate.dense"])
    # Two layers [32, 16]: float32 before, int8 and one float32 scale for each row after.
    assert summary.sizes_bytes == (2 * 32 * 16 * 4, 2 * (32 * 16 + 32 * 4))
    assert str(summary).startswith("scheme quanto-w8: 2 layers, 4,096 -> 1,280 bytes of weights (31.2%)\nleft out: ")
    assert "classifier" in summary.left_out
    model = tiny.bert()
    summary = quantize_(model, ONNX, include=["*intermediate.dense", "*word_embeddings"])
    table = tiny.VOCABULARY * 16
    assert summary.sizes_bytes == (4 * (2 * 32 * 16 + table), 2 * (32 * 16 + 32 * 4) + table + 4)


# ---- ranges ----


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.calibrated])
def test_ranges_come_back_to_the_bit(name):
    model, other = prepared(name), prepared(name, calibrated=False)
    ranges = ranges_of(model)
    assert set(ranges) == set(quantization_of(model).layers)
    set_ranges_(other, ranges)
    assert ranges_of(other) == ranges
    check_alike(other, model)


def test_a_range_is_the_largest_value_over_127():
    pytest.importorskip("optimum.quanto")
    model = build()
    batch, seen = zoo.inputs(model), {}
    for name, layer in quantizable_layers(model, scheme_of("quanto-w8a8")).items():
        layer.register_forward_pre_hook(lambda layer, args, name=name: seen.update({name: args[0].abs().max()}))
    zoo.answer(model, batch)
    ranges = ranges_of(prepared("quanto-w8a8"))
    first = "bert.encoder.layer.0.attention.self.query"  # the only ones to read what no rounding has changed
    assert ranges[first] == pytest.approx(seen[first].item() / 127)


def test_calibrating_again_forgets_the_first_time():
    pytest.importorskip("optimum.quanto")
    model = prepared("quanto-w8a8")
    batch, ranges = zoo.inputs(model), ranges_of(model)
    calibrate_(model, [zoo.inputs(model, seed=5)])
    assert ranges_of(model) != ranges
    calibrate_(model, [batch])
    assert ranges_of(model) == ranges


def test_ranges_that_do_not_fit_are_refused():
    pytest.importorskip("optimum.quanto")
    model = prepared("quanto-w8a8")
    ranges = ranges_of(model)
    for wrong in ({}, {"other": 1.0}):
        with pytest.raises(ValueError, match="and do not fit the 19 layers that are quantized by quanto-w8a8"):
            set_ranges_(model, wrong)
    assert ranges_of(model) == ranges
    with pytest.raises(ValueError, match="do not fit the 22 layers that are quantized by onnxruntime-w8a8"):
        set_ranges_(prepared(ONNX), ranges)


def test_calibration_data_with_infinite_activations_leave_the_model_as_it_was():
    pytest.importorskip("optimum.quanto")
    model = build()
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.weight.fill_(1e38)
        model.bert.embeddings.LayerNorm.bias.fill_(3.4e38)
    message = "bert.encoder.layer.0.* reads NaN or infinite values on the calibration data"
    with untouched(model), pytest.raises(ValueError, match=message):
        quantized("quanto-w8a8", model)


@pytest.mark.parametrize("name", [name for name in SCHEMES if SCHEMES[name].keeps_zeros])
def test_a_row_of_zeros_stays_one(name):
    model = tiny.bert(hidden_size=32)
    dense = model.bert.encoder.layer[0].intermediate.dense
    with torch.no_grad():
        dense.weight[3] = 0
    calibration = tiny.texts(labels=False) if scheme_of(name).calibrated else None
    quantize_(model, name, calibration=calibration)
    outputs = model.bert.encoder.layer[0].intermediate.dense(torch.ones(1, 1, 32))
    assert outputs[0, 0, 3] == dense.bias[3]


def test_a_layer_that_reads_zeros_gives_no_nan():
    pytest.importorskip("optimum.quanto")
    model = build()
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.weight.zero_()
        model.bert.embeddings.LayerNorm.bias.zero_()
    quantized("quanto-w8a8", model)
    assert bool(zoo.answer(model, zoo.inputs(model)).isfinite().all())


def test_only_fixed_ranges_are_calibrated():
    with pytest.raises(ValueError, match="The scheme onnxruntime-w8a8 has no ranges to calibrate"):
        calibrate_(prepared(ONNX), [])


# ---- errors ----


def test_what_would_be_missing_or_ignored_is_refused():
    model = build()
    for scheme, calibration, message in (
        ("int8", None, "scheme must be one of"),
        ("quanto-w8a8", None, "The scheme quanto-w8a8 fixes the ranges .* Give calibration="),
        ("torchao-w8a8", [zoo.inputs(model)], "calibration= would be ignored: the scheme torchao-w8a8 needs no data"),
        ("quanto-w8a8", [], "calibration holds no batch"),
    ):
        with untouched(model), pytest.raises(ValueError, match=message):
            quantize_(model, scheme, calibration=calibration)


@pytest.mark.parametrize("name", [ONNX, "torchao-w8", "quanto-w8"])
def test_a_model_that_is_quantized_already_is_refused(name):
    model = quantized(name)
    answer = zoo.answer(model, zoo.inputs(model))
    with pytest.raises(ValueError, match=f"is quantized already, by {name}. Start from the float model"):
        quantize_(model, ONNX)
    assert torch.equal(zoo.answer(model, zoo.inputs(model)), answer)
    if name != ONNX:
        for verb in (convert_, unprepare_):
            with pytest.raises(ValueError, match=f"is converted to {name} already: its float weights are gone"):
                verb(model)


@pytest.mark.parametrize("name", by_scheme(CONVERTED))
def test_a_converted_model_is_neither_pruned_nor_shrunk(name, tmp_path):
    model = quantized(name)
    model.save_pretrained(tmp_path)
    for one in (model, load_compressed(tmp_path)):
        answer, config = zoo.answer(one, zoo.inputs(one)), one.config.to_dict()
        with pytest.raises(ValueError, match=f"quantized already, by {name}.* cannot be pruned.* quantize last"):
            prune_(one, 0.5)
        with pytest.raises(ValueError, match=f"quantized already, by {name}.* cannot be shrunk.* quantize last"):
            shrink_(one, heads=0.5, ffn=0.5)
        assert torch.equal(zoo.answer(one, zoo.inputs(one)), answer)
        assert one.config.to_dict() == config


@pytest.mark.parametrize("name", ["torchao-w8", "quanto-w8"])
@pytest.mark.parametrize("callback", [PruningCallback(0.5), ShrinkCallback(ffn=0.5, score="magnitude")])
def test_a_converted_model_is_refused_before_it_is_trained(name, callback, tmp_path):
    trainer = Trainer(quantized(name), tiny.arguments(tmp_path), train_dataset=tiny.texts(8), callbacks=[callback])
    with pytest.raises(ValueError, match=f"quantized already, by {name}.* cannot be (pruned|shrunk)"):
        trainer.train()
    assert trainer.state.global_step == 0


def train_with(callback):
    def train(model, folder):
        Trainer(model, tiny.arguments(folder), train_dataset=tiny.texts(8), callbacks=[callback]).train()

    return train


@pytest.mark.parametrize(
    "compress",
    [
        lambda model, folder: prune_(model, 0.5),
        lambda model, folder: shrink_(model, ffn=0.5),
        train_with(PruningCallback(0.5)),
        train_with(ShrinkCallback(ffn=0.5, score="magnitude")),
    ],
)
def test_what_is_compressed_as_a_float_model_is_opened_as_one(compress, tmp_path):
    prepared(ONNX).save_pretrained(tmp_path / "rounded")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "rounded")
    config = model.config
    compress(model, tmp_path / "run")
    # The teacher may have been built from the same object.
    assert "quantization" in config.compression
    assert quantization_of(model) is None
    model.save_pretrained(tmp_path / "float")
    loaded = load_compressed(tmp_path / "float")
    assert not quantized_layers(loaded)
    check_alike(loaded, model.eval())


def test_a_record_that_is_dropped_is_told(caplog):
    model = prepared(ONNX)
    prune_(model, 0.5)
    assert quantization_of(model) is not None
    assert not caplog.messages
    plain = build()
    plain.config.compression = model.config.compression
    prune_(plain, 0.5)
    assert "says that its layers are rounded (onnxruntime-w8a8), but they are plain" in caplog.text


def test_a_model_quantized_by_another_tool_is_refused():
    torchao = pytest.importorskip("torchao.quantization")
    model = build()
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    for verb in (lambda: quantize_(model, "torchao-w8"), lambda: prune_(model, 0.5), lambda: shrink_(model, ffn=0.5)):
        with pytest.raises(ValueError, match="is quantized already, by another tool"):
            verb()
    model = build()
    model.classifier.weight = nn.Parameter(model.classifier.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="The weights of classifier are torch.int8, not float"):
        quantize_(model, ONNX, include=["classifier"])


def test_groups_that_do_not_divide_a_layer_are_refused():
    model = zoo.build("bert")  # 24 neurons
    message = "torchao-w4 needs layers whose inputs are a multiple of 32. bert.encoder.layer.0.output.dense has 24"
    with untouched(model), pytest.raises(ValueError, match=message) as error:
        quantize_(model, "torchao-w4")
    assert "exclude=['bert.encoder.layer.0.output.dense']" in str(error.value)
    pytest.importorskip("torchao")
    quantize_(model, "torchao-w4", exclude=["bert.encoder.layer.*.output.dense"], include=["bert.encoder.*"])


def test_a_cut_that_breaks_the_groups_is_found_at_the_end():
    pytest.importorskip("torchao")
    model = prepared("torchao-w4a8")
    cut_(model, ShrinkPlan(tuple(LayerPlan(index, (0, 1, 2, 3), tuple(range(20))) for index in range(3))))
    with pytest.raises(ValueError, match="bert.encoder.layer.0.output.dense has 20"):
        convert_(model)


def test_nan_weights_are_refused():
    model = build()
    with torch.no_grad():
        model.bert.pooler.dense.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="The weights of bert.pooler.dense hold NaN or infinite values"):
        quantize_(model, ONNX)


def test_a_model_in_shards_is_refused():
    model = build()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        dense = model.bert.pooler.dense
        dense.weight = nn.Parameter(distribute_tensor(dense.weight.detach(), init_device_mesh("cpu", (1,))))
        with pytest.raises(ValueError, match="The model is in shards .* quantize it there"):
            quantize_(model, ONNX)
    finally:
        dist.destroy_process_group()


def test_what_is_no_model_of_transformers_is_refused():
    with pytest.raises(ValueError, match="The model must be one of transformers, .* Got Linear"):
        quantize_(nn.Linear(2, 2), ONNX)


def test_names_that_are_no_layers_are_refused():
    model = build()
    with untouched(model), pytest.raises(ValueError, match="has no plain linear layer or embedding 'bert.encoder'"):
        prepare_(model, ONNXRUNTIME, ["bert.pooler.dense", "bert.encoder"])


def test_conversion_needs_a_prepared_and_calibrated_model():
    for verb in (convert_, unprepare_):
        with pytest.raises(ValueError, match="is not prepared for quantization. Call prepare_"):
            verb(build())
    pytest.importorskip("optimum.quanto")
    model = build()
    prepare_(model, scheme_of("quanto-w8a8"), ["bert.pooler.dense"])
    with pytest.raises(ValueError, match="quanto-w8a8 has fixed ranges of the activations, and they are not"):
        convert_(model)
    assert quantization_of(model).converted is False


@pytest.mark.parametrize(("scheme", "module", "extra"), LIBRARIES)
def test_a_missing_library_is_named_with_its_command(scheme, module, extra, monkeypatch):
    model = build()
    take_away(module, monkeypatch)
    with untouched(model), pytest.raises(ImportError, match=rf"pip install 'hf-compalign\[{extra}\]'"):
        quantize_(model, scheme)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype):
    model = quantized(ONNX, build().to(dtype))
    answer = zoo.answer(model, zoo.inputs(model))
    assert answer.dtype == dtype
    assert bool(answer.isfinite().all())
