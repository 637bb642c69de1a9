"""The public export: what it writes, what the file answers, and what it refuses before it writes anything."""

import shutil
import sys

import numpy as np
import onnx
import pytest
import tiny
import torch
from tiny import NAMED, reviews, tokenizer
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BigBirdConfig,
    BigBirdForSequenceClassification,
    CanineConfig,
    CanineForSequenceClassification,
    LayoutLMConfig,
    LayoutLMForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipForImageClassification,
)

from hf_compalign import audit, load_compressed, predict, prune_, shrink_
from hf_compalign.compress.export import Export, export_onnx
from hf_compalign.compress.quantize import quantize_
from hf_compalign.models import OnnxModel, sample_inputs

pytestmark = pytest.mark.usefixtures("traced_once")

TEXTS = tiny.texts(20, length=9)


def int8_layers(path):
    return {node.name.rpartition("/")[0] for node in onnx.load(path).graph.node if node.op_type == "MatMulInteger"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model's folder with a tokenizer, and what was exported from it: float and INT8 in one folder."""
    folder = tmp_path_factory.mktemp("export")
    tiny.bert(**NAMED).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    found = export_onnx(folder / "model", folder / "onnx")
    exclude = ["*layer.0.attention*", "*position_embeddings"]
    found_int8 = export_onnx(folder / "model", folder / "onnx", quantize="dynamic", exclude=exclude, overwrite=True)
    return folder, found, found_int8


# ---- what is written ----


def test_a_folder_is_exported_with_all_that_predict_needs(saved):
    folder, found, _ = saved
    assert {"model.onnx", "model_int8.onnx", "config.json", "tokenizer.json"} <= {
        file.name for file in (folder / "onnx").iterdir()
    }
    assert found.path == folder / "onnx" / "model.onnx"
    assert found.max_logit_difference < 1e-5
    assert found.size_bytes == found.path.stat().st_size
    assert (found.quantize, found.quantized_layers) == (None, ())
    compared = audit(predict(folder / "model", reviews()), predict(found.path, reviews()))
    assert compared.metrics["mismatch_rate"] == 0
    assert compared.label_names == ("neg", "pos")


def test_excluded_layers_and_the_classifier_stay_float(saved):
    _, _, found = saved
    kept = {"classifier", "bert.embeddings.position_embeddings", "bert.encoder.layer.0.attention.output.dense"}
    kept |= {f"bert.encoder.layer.0.attention.self.{name}" for name in ("query", "key", "value")}
    assert {*found.float_layers} == kept
    linear = {name for name in found.quantized_layers if "embeddings" not in name}
    assert int8_layers(found.path) == linear
    assert len(found.quantized_layers) + len(kept) == 17
    assert found.path.name == "model_int8.onnx"
    assert found.size_bytes == found.path.stat().st_size


def test_the_summary_says_what_was_written(saved):
    _, found, found_int8 = saved
    assert str(found).splitlines()[0] == f"{found.path}: float32, opset {found.opset}, 0.0 MB"
    assert "layers in INT8: 11; in float: 6\n" in str(found_int8)


def test_the_reported_difference_is_that_of_the_logits(saved):
    folder, _, found = saved
    model, file = load_compressed(folder / "model"), OnnxModel(found.path)
    batches = [sample_inputs(model, n_items=n, length=length) for n, length in ((1, 24), (2, 7), (1, 12), (3, 4))]
    with torch.no_grad():
        differences = [float((file(**batch)["logits"] - model(**batch).logits).abs().max()) for batch in batches]
    assert found.max_logit_difference == pytest.approx(max(differences))
    assert found.max_logit_difference > 1e-4


def test_static_int8_of_a_model_in_training_mode(tmp_path):
    model = tiny.vit().train()
    rows = tiny.images(24)
    with tiny.unchanged(model):
        found = export_onnx(model, tmp_path / "onnx", quantize="static", calibration=rows)
    assert model.training
    assert found.float_layers == ("classifier",)
    assert found.quantized_layers[0] == "vit.embeddings.patch_embeddings.projection"
    reference, candidate = predict(model, rows), predict(found.path, rows)
    assert abs(reference.logits - candidate.logits).max() < 0.2


def test_a_portable_file_says_so_and_is_no_worse_than_seven_bits_are(saved, tmp_path):
    found = export_onnx(saved[0] / "model", tmp_path / "onnx", quantize="dynamic", portable=True)
    assert str(found).splitlines()[0].startswith(f"{found.path}: INT8 (dynamic, 7-bit weights), opset")
    assert found.portable
    assert not saved[2].portable
    assert found.max_logit_difference < 0.2


# ---- compressed models ----


def test_a_shrunk_and_pruned_model_is_exported_as_it_is(tmp_path):
    model = tiny.bert()
    shrink_(model, ffn=0.5, heads=0.5)
    prune_(model, 0.5)
    model.save_pretrained(tmp_path / "model")
    found = export_onnx(tmp_path / "model", tmp_path / "onnx")
    tensors = {one.name: list(one.dims) for one in onnx.load(found.path).graph.initializer}
    width = model.bert.encoder.layer[0].intermediate.dense.out_features
    assert tensors["bert.encoder.layer.0.intermediate.dense.weight.T"] == [16, width]
    assert width < 32
    compared = audit(predict(tmp_path / "model", TEXTS), predict(found.path, TEXTS))
    assert compared.metrics["mismatch_rate"] == 0
    assert OnnxModel(found.path).config.compression == model.config.compression


def test_a_model_that_simulates_the_file_is_exported_as_that_file(tmp_path):
    model = tiny.bert()
    quantize_(model, "onnxruntime-w8a8", exclude=["*layer.1.output*"])
    message = r"simulates the file that quantize='dynamic' writes.*unprepare_\(model\)"
    with tiny.unchanged(model):
        for options in ({}, {"quantize": "static", "calibration": TEXTS}, {"quantize": "dynamic", "exclude": ["*key"]}):
            with pytest.raises(ValueError, match=message):
                export_onnx(model, tmp_path / "onnx", **options)
        with pytest.raises(ValueError, match="cannot be exported with portable=True, whose weights have 7 bits"):
            export_onnx(model, tmp_path / "onnx", quantize="dynamic", portable=True)
        found = export_onnx(model, tmp_path / "onnx", quantize="dynamic")
    assert model.training
    assert {*found.float_layers} == {"classifier", "bert.encoder.layer.1.output.dense"}
    assert {*found.quantized_layers} == {*model.config.compression["quantization"]["layers"]}
    # Rounded alike, up to the last bits of float32: without the simulation the logits differ by 0.01 and more.
    assert found.max_logit_difference < 1e-3
    file = OnnxModel(found.path)
    assert file.config.compression["quantization"]["scheme"] == "onnxruntime-w8a8"
    compared = audit(predict(model, TEXTS), predict(found.path, TEXTS))
    assert compared.metrics["mismatch_rate"] == 0


def test_a_model_of_another_scheme_is_refused(tmp_path):
    record = {"scheme": "torchao-w8a8", "layers": ["bert.pooler.dense"], "converted": True}
    model = tiny.bert(compression={"version": 1, "quantization": record})
    with pytest.raises(ValueError, match="scheme torchao-w8a8, which ONNX Runtime cannot run. Export the float model"):
        export_onnx(model, tmp_path / "onnx", quantize="dynamic")


def test_a_simulating_model_that_was_opened_without_its_rounding_is_refused(tmp_path):
    model = tiny.bert()
    quantize_(model, "onnxruntime-w8a8")
    model.save_pretrained(tmp_path / "model")
    plain = type(model).from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Open the model with hf_compalign.load_compressed\(folder\)"):
        export_onnx(plain, tmp_path / "onnx", quantize="dynamic")


# ---- architectures ----


def big_bird(attention):
    """Attends to random blocks of 8 tokens, but to all tokens of a text with fewer than 88."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 256, "block_size": 8, "initializer_range": 0.5}
    tokens = {"sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    return BigBirdForSequenceClassification(BigBirdConfig(**sizes, **tokens, attention_type=attention, num_labels=3))


def test_what_a_model_does_with_long_texts_is_checked_and_the_model_not_changed(tmp_path):
    model = big_bird("block_sparse").train()
    randomness = np.random.get_state()[1].copy(), torch.get_rng_state()
    for quantize in (None, "dynamic"):
        message = "does not answer like the model: .* the values or the length of"
        with tiny.unchanged(model), pytest.raises(ValueError, match=message):
            export_onnx(model, tmp_path / "onnx", quantize=quantize)
    assert model.training
    assert model.bert.attention_type == "block_sparse"
    assert (np.random.get_state()[1] == randomness[0]).all()
    assert torch.equal(torch.get_rng_state(), randomness[1])
    assert list(tmp_path.iterdir()) == []
    assert export_onnx(big_bird("original_full"), tmp_path / "onnx").max_logit_difference < 1e-4


def test_an_encoder_decoder_is_exported(tmp_path):
    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 40, "init_std": 0.5}
    model = BartForSequenceClassification(BartConfig(**sizes, max_position_embeddings=64, num_labels=3)).eval()
    file = OnnxModel(export_onnx(model, tmp_path / "onnx").path)
    ids = torch.tensor([[0, 5, 9, 12, 2, 1, 1], [0, 7, 30, 6, 21, 8, 2]])
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=(ids != 1).long()).logits
    assert tiny.distance(file(input_ids=ids, attention_mask=ids != 1)["logits"], expected) < tiny.ROUNDING


def test_a_model_of_characters_is_refused_with_what_to_do(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = CanineForSequenceClassification(CanineConfig(**sizes, num_hash_buckets=64, num_hash_functions=2))
    with pytest.raises(ValueError, match=r"Canine\w+ cannot be .* made-up inputs \(input_ids \[2, 7\],.*torchao-w8"):
        export_onnx(model, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def resnet():
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**sizes, num_labels=3)).eval()


def test_a_model_that_names_no_image_size_takes_any(tmp_path):
    model = resnet()
    found = export_onnx(model, tmp_path / "onnx")
    convolutions = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert {*found.float_layers} == {*convolutions, "classifier.1"}  # by their own names, merged with normalizations
    file = OnnxModel(found.path)
    pixels = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        assert tiny.distance(file(pixel_values=pixels)["logits"], model(pixels).logits) < tiny.ROUNDING


def test_the_image_size_of_a_model_of_two_parts(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(vision_config=sizes | {"image_size": 32, "patch_size": 8}, text_config=sizes, num_labels=3)
    file = OnnxModel(export_onnx(SiglipForImageClassification(config), tmp_path / "onnx").path)
    assert file._inputs["pixel_values"].shape[1:] == (3, 32, 32)


def test_a_file_without_a_layer_in_int8_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Nothing is left to quantize: all 17 layers .* in float, by exclude="):
        export_onnx(tiny.bert(), tmp_path / "onnx", quantize="dynamic", exclude=["*"])
    with pytest.raises(ValueError, match=r"Nothing is left .*quantize='static' would take \d layers more, the convol"):
        export_onnx(resnet(), tmp_path / "onnx", quantize="dynamic")
    assert list(tmp_path.iterdir()) == []


# ---- a folder that held another file ----


def test_what_a_repair_said_of_a_replaced_file_goes_with_it(tmp_path):
    records = {"audit.json", "frontier.json", "frontier.png"}
    for name in (*records, "notes.txt"):
        (tmp_path / name).write_text("{}")
    for n_exports in (1, 2):  # the first replaces no file
        export_onnx(tiny.vit(), tmp_path, quantize="dynamic", overwrite=True)
        left = records if n_exports == 1 else set()
        assert {file.name for file in tmp_path.iterdir()} == {"model_int8.onnx", "config.json", "notes.txt"} | left


def test_a_config_of_other_labels_does_not_come_beside_a_file(saved, tmp_path):
    shutil.copytree(saved[0] / "onnx", tmp_path / "onnx")
    before = (tmp_path / "onnx" / "config.json").read_text()
    with pytest.raises(ValueError, match=r"holds model.onnx of a model with other labels \(neg, pos\)"):
        export_onnx(tiny.bert(), tmp_path / "onnx", quantize="dynamic", overwrite=True)
    assert (tmp_path / "onnx" / "config.json").read_text() == before
    for damaged in ("{", "[]", '{"id2label": {"a": "b"}}', "[" * 100_000):
        (tmp_path / "onnx" / "config.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"onnx/config.json (is not a JSON file|cannot be read)"):
            export_onnx(tiny.bert(), tmp_path / "onnx", quantize="dynamic", overwrite=True)


# ---- errors ----


def test_calibration_data_of_another_shape_are_refused(tmp_path):
    batches = [{"pixel_values": torch.randn(2, 1, 12, 12)}]
    with pytest.raises(ValueError, match="cannot be run on the calibration data. Give batches of the shape"):
        export_onnx(tiny.vit(), tmp_path / "onnx", quantize="static", calibration=batches)


def test_a_file_is_not_exported_again(saved, tmp_path):
    for model in (saved[1].path, OnnxModel(saved[1].path)):
        with pytest.raises(ValueError, match=r"model.onnx is an ONNX file already. Give the PyTorch model"):
            export_onnx(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int8"}, r"quantize must be None \(float32\), 'dynamic' or 'static'. Got 'int8'"),
        ({"quantize": "static"}, "fixes the ranges of the activations beforehand. Give calibration="),
        ({"calibration": TEXTS}, "calibration= would be ignored with quantize=None"),
        ({"quantize": "dynamic", "calibration": TEXTS}, "calibration= would be ignored with quantize='dynamic'"),
        ({"exclude": ["*key"]}, "exclude= would be ignored without quantize="),
        (
            {"portable": True},
            "portable=True would be ignored without quantize=: a file in float answers alike on every",
        ),
        ({"quantize": "dynamic", "exclude": "*key"}, r"must be a list of patterns. .*Did you mean \['\*key'\]"),
        ({"quantize": "dynamic", "exclude": ["*kay"]}, r"'\*kay' in exclude= matches no layer .*bert.embeddings.word"),
        ({"quantize": "static", "calibration": []}, "calibration holds no batch"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(tiny.bert(), tmp_path / "onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_before_the_work(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty: it holds notes.txt"):
        export_onnx(tiny.bert(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_models_that_cannot_be_exported_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be one of transformers. Got Linear"):
        export_onnx(torch.nn.Linear(2, 2), tmp_path / "onnx")
    with pytest.raises(ValueError, match="BertModel has a head that is not supported"):
        export_onnx(tiny.bert().bert, tmp_path / "onnx")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with pytest.raises(
        ValueError, match="LayoutLM.* also reads bbox, which an exported file does not take.*torchao-w8"
    ):
        export_onnx(LayoutLMForSequenceClassification(LayoutLMConfig(vocab_size=9, **sizes)), tmp_path / "onnx")
    with torch.device("meta"):
        model = tiny.bert()
    with pytest.raises(ValueError, match="not all in this process: .* on the meta device"):
        export_onnx(model, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


class Counting(type(tiny.bert())):
    """Its answer depends on how often it was called, which a graph cannot know."""

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None):
        self.calls = getattr(self, "calls", 0) + 1
        return {"logits": super().forward(input_ids, attention_mask, token_type_ids).logits * self.calls}


def test_a_file_that_does_not_answer_alike_is_not_delivered(tmp_path):
    model = tiny.bert()
    model.__class__ = Counting
    Counting.__name__ = "CountingForSequenceClassification"
    with pytest.raises(ValueError, match="does not answer like the model: the logits differ by up to"):
        export_onnx(model, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_fails_on_other_inputs_is_not_delivered(tmp_path, monkeypatch):
    def run(file, feeds):
        raise RuntimeError("Unsqueeze")

    monkeypatch.setattr(OnnxModel, "_run", run)
    message = r"does not answer like the model: it fails on other inputs. .*Unsqueeze.*torchao-w8"
    with pytest.raises(ValueError, match=message):
        export_onnx(tiny.bert(), tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"needs packages .*pip install 'hf-compalign\[onnx\]'"):
        export_onnx(tiny.bert(seed=9), tmp_path / "onnx")  # of a model that was not traced before
    assert list(tmp_path.iterdir()) == []


def test_a_long_list_of_float_layers_is_only_counted():
    layers = tuple(f"layer.{index}" for index in range(5))
    assert "in float: 5\n" in str(Export("model.onnx", 20, "static", 10, (), layers, 0.5))
