"""OpenVINO files: what is exported, what they answer and weigh as models, and what is refused."""

import re
import shutil
import sys

import pytest
import tiny
import torch
from commands import call, error_of
from datasets import Dataset
from exported import rounded_products, weight_types
from tiny import NAMED, reviews, tokenizer, without_equal_tensors

from hf_compalign import audit, load_compressed, predict, prune_, read_in_windows, shrink_
from hf_compalign.compress.export import export_openvino
from hf_compalign.compress.export import openvino as openvino_export
from hf_compalign.compress.quantize import quantize_
from hf_compalign.measure.footprint import footprint, interleaved_latency_ms
from hf_compalign.models import OpenVinoModel, sample_inputs
from hf_compalign.opening import load_model, model_fingerprint

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")
pytestmark = pytest.mark.usefixtures("traced_once")
TEXTS = tiny.texts(20, length=9)
IMAGES = tiny.images(24)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model's folder with a tokenizer, the float file exported from it, and its INT8 file."""
    folder = tmp_path_factory.mktemp("openvino")
    without_equal_tensors(tiny.bert(**NAMED)).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    found = export_openvino(folder / "model", folder / "float", precision="f32")
    int8 = {"quantize": "static", "precision": "f32", "calibration": TEXTS, "exclude": ["*layer.0.attention*"]}
    return folder, found, export_openvino(folder / "model", folder / "int8", **int8)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A model of images, its float file and its INT8 file."""
    folder = tmp_path_factory.mktemp("openvino_images")
    model = without_equal_tensors(tiny.vit())
    with tiny.unchanged(model.train()):
        found = export_openvino(model, folder / "float", precision="f32")
        found_int8 = export_openvino(model, folder / "int8", quantize="static", precision="f32", calibration=IMAGES)
    assert model.training
    return model, found, found_int8


def test_a_folder_is_exported_with_all_that_predict_needs(saved):
    folder, found, _ = saved
    names = {file.name for file in (folder / "float").iterdir()}
    assert {"openvino_model.xml", "openvino_model.bin", "config.json", "tokenizer.json"} <= names
    assert not any("onnx" in name or "int8" in name for name in names)
    assert found.path == folder / "float" / "openvino_model.xml"
    assert found.max_logit_difference < 1e-5
    assert (found.quantize, found.quantized_layers, found.opset) == (None, (), None)
    assert str(found).splitlines()[0] == f"{found.path}: float32, {found.size_bytes / 1e6:.1f} MB"


@pytest.mark.parametrize(("n_items", "length"), [(1, 3), (5, 12), (2, 7)])
def test_any_batch_and_length_is_answered_like_the_model(saved, n_items, length):
    folder, found, _ = saved
    model, file = load_compressed(folder / "model").eval(), OpenVinoModel(found.path)
    batch = sample_inputs(model, n_items=n_items, length=length)
    with torch.no_grad():
        assert tiny.distance(file(**batch)["logits"], model(**batch).logits) < tiny.ROUNDING


def test_images_are_answered_like_the_model(images):
    model, found, _ = images
    reference, candidate = predict(model, IMAGES), predict(found.path, IMAGES, batch_size=5)
    assert tiny.distance(candidate.logits, reference.logits) < tiny.ROUNDING
    assert audit(reference, candidate).metrics["mismatch_rate"] == 0


def test_an_audit_of_rows_finds_no_mismatch(saved):
    folder, found, _ = saved
    candidate = predict(found.path, reviews(), batch_size=2)
    compared = audit(predict(folder / "model", reviews()), candidate)
    assert (compared.n, compared.metrics["mismatch_rate"], compared.label_names) == (5, 0, ("neg", "pos"))
    assert candidate.model_fingerprint == OpenVinoModel(found.path).fingerprint


def test_excluded_layers_and_the_last_stay_float(saved):
    _, _, found = saved
    attention = {f"bert.encoder.layer.0.attention.{name}" for name in ("self.query", "self.key", "self.value")}
    kept = {"classifier", "bert.encoder.layer.0.attention.output.dense", *attention}
    assert {*found.float_layers} == kept
    types = weight_types(found.path)
    assert {layer for layer, kind in types.items() if kind == "i8"} == {*found.quantized_layers}
    assert {types[layer] for layer in kept} == {"f32"}
    assert len(types) == 17
    assert str(found).startswith(f"{found.path}: INT8 (static), 0.")
    assert 1e-5 < found.max_logit_difference < 0.5


def test_a_product_of_queries_and_keys_is_in_float_where_a_layer_that_makes_them_is(images, tmp_path):
    model, _, plain = images
    products = {f"vit.layers.{layer}.attention/MatMul" for layer in (0, 1)}
    assert rounded_products(plain.path) == products
    for name, is_float in (("k_proj", True), ("v_proj", False)):
        options = {"calibration": IMAGES, "exclude": [f"*layers.0.attention.{name}"]}
        found = export_openvino(model, tmp_path / name, quantize="static", **options)
        assert rounded_products(found.path) == (products - {"vit.layers.0.attention/MatMul"} if is_float else products)


def test_convolutions_are_in_int8_too(images):
    model, _, found = images
    assert found.float_layers == ("classifier",)
    assert found.quantized_layers[0] == "vit.embeddings.patch_embeddings.projection"
    reference, candidate = predict(model, IMAGES), predict(found.path, IMAGES)
    assert 1e-5 < abs(reference.logits - candidate.logits).max() < 0.2


def test_a_shrunk_and_pruned_model_is_exported_as_it_is(tmp_path):
    model = tiny.bert()
    shrink_(model, ffn=0.5, heads=0.5)
    prune_(model, 0.5)
    file = OpenVinoModel(export_openvino(model, tmp_path / "openvino", precision="f32").path)
    assert file.config.compression == model.config.compression
    assert audit(predict(model, TEXTS), predict(file, TEXTS)).metrics["mismatch_rate"] == 0


def test_it_computes_in_float32_with_the_threads_of_torch(saved, monkeypatch):
    model = OpenVinoModel(saved[1].path)
    assert model._compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert model._compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    model(**sample_inputs(tiny.bert()))
    assert model._compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_what_a_caller_may_leave_out_is_filled_in(saved):
    model, ids = OpenVinoModel(saved[1].path), torch.tensor([[5, 6, 7], [1, 2, 3]])
    full = model(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids))
    assert torch.equal(model(input_ids=ids.int())["logits"], full["logits"])
    assert model.input_names == ("input_ids", "attention_mask", "token_type_ids")


def test_parameters_are_those_of_the_model(saved, images):
    folder, found, found_int8 = saved
    of_texts = load_model(folder / "model"), found.path, found_int8.path
    for model, path, path_int8 in (of_texts, (images[0], images[1].path, images[2].path)):
        n = sum(parameter.numel() for parameter in model.parameters())
        assert OpenVinoModel(path).count_parameters() == (n, n)
        n_all, n_nonzero = OpenVinoModel(path_int8).count_parameters()
        assert n_all == n
        # Some numbers are rounded to 0.
        assert 0.9 * n < n_nonzero < n


def test_zeros_are_counted(saved, tmp_path):
    model = load_compressed(saved[0] / "model")
    with torch.no_grad():
        model.bert.pooler.dense.weight[:2] = 0
    n = sum(parameter.numel() for parameter in model.parameters())
    assert OpenVinoModel(export_openvino(model, tmp_path / "openvino", precision="f32").path).count_parameters() == (
        n,
        n - 2 * 16,
    )


def test_size_and_fingerprint_are_of_both_files(saved, tmp_path):
    _, found, _ = saved
    folder = shutil.copytree(found.path.parent, tmp_path / "copy")
    model = OpenVinoModel(folder / "openvino_model.xml")
    weights = folder / "openvino_model.bin"
    assert model.files == (model.path, weights)
    assert model.size_bytes == found.size_bytes == model.path.stat().st_size + weights.stat().st_size
    assert model.fingerprint == model_fingerprint(OpenVinoModel(found.path))
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    assert OpenVinoModel(model.path).fingerprint != model.fingerprint


def test_it_is_weighed_and_timed(saved):
    folder, found, _ = saved
    inputs = sample_inputs(tiny.bert(), n_items=3)
    measured = footprint(found.path, inputs=inputs, n_warmup=0, n_runs=1)
    assert (measured.size_bytes, measured.batch_size, measured.flops_per_item) == (found.size_bytes, 3, None)
    assert measured.parameters == footprint(folder / "model").parameters
    models = {"torch": load_model(folder / "model"), "openvino": load_model(found.path)}
    times = interleaved_latency_ms({name: (one, inputs) for name, one in models.items()}, n_warmup=0, n_runs=1)
    assert times["openvino"].median_ms > 0


def test_a_folder_with_one_file_is_that_file(saved, tmp_path):
    _, found, _ = saved
    assert load_model(found.path.parent).path == found.path
    repo = shutil.copytree(found.path.parent, tmp_path / "repo" / "openvino").parent
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.move(repo / "openvino" / name, repo)
    file = load_model(repo)
    assert file.path == repo / "openvino" / "openvino_model.xml"
    assert tiny.distance(predict(file, reviews()).logits, predict(found.path, reviews()).logits) < tiny.ROUNDING
    (repo / "model.onnx").touch()
    with pytest.raises(ValueError, match="several ONNX and OpenVINO files: model.onnx, openvino/openvino_model.xml. G"):
        load_model(repo)


def test_the_command_exports_and_audits(saved, tmp_path):
    folder, _, _ = saved
    reviews().to_csv(tmp_path / "reviews.csv")
    options = [
        "--format",
        "openvino",
        "--precision",
        "f32",
        "--dataset",
        tmp_path / "reviews.csv",
        "--limit",
        "mismatch_rate=1",
    ]
    result = call("export", folder / "model", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path}/out/openvino_model.xml: float32, 0.")
    assert (tmp_path / "out" / "openvino_model.bin").is_file()
    assert re.search(r"torch +\d.*\n.*openvino_model.xml +\d", result.stdout)
    assert "5 items" in result.stdout or "of 5" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "tflite"], "--format must be onnx or openvino. Got 'tflite'."),
        (["--format", "openvino", "--quantize", "dynamic"], "--quantize dynamic is for ONNX"),
        (["--format", "openvino", "--max-measurements", "3"], "Nothing is repaired without --quantize and --limit"),
    ],
)
def test_the_command_refuses_what_openvino_has_not(saved, tmp_path, options, message):
    result = call("export", saved[0] / "model", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in error_of(result)
    assert list(tmp_path.iterdir()) == []


def test_what_a_repair_said_of_a_replaced_file_goes_with_it(saved, tmp_path):
    folder = shutil.copytree(saved[1].path.parent, tmp_path / "copy")
    for name in ("audit.json", "frontier.json", "frontier.png", "notes.txt"):
        (folder / name).write_text("{}")
    export_openvino(tiny.vit(), folder, overwrite=True)
    names = {file.name for file in folder.iterdir()}
    assert {"openvino_model.xml", "notes.txt"} < names
    assert not {"audit.json", "frontier.json", "frontier.png"} & names


def test_options_that_openvino_has_not_are_refused(tmp_path):
    for options, message in (
        ({"quantize": "dynamic"}, "quantize='dynamic' is for ONNX: OpenVINO would compute such layers in float"),
        ({"quantize": "int4"}, r"quantize must be None \(float32\), 'static'. Got 'int4'"),
        ({"quantize": "static"}, "Give calibration=, a DataLoader of some hundred rows.$"),
        ({"calibration": TEXTS}, "calibration= would be ignored with quantize=None"),
        ({"exclude": ["*key"]}, "exclude= would be ignored without quantize="),
        ({"quantize": "static", "calibration": TEXTS, "exclude": ["*kye"]}, "The pattern '\\*kye' in exclude= matches"),
    ):
        with pytest.raises(ValueError, match=message):
            export_openvino(tiny.bert(), tmp_path / "openvino", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_quantized_model_is_refused(tmp_path):
    model = tiny.bert()
    quantize_(model, "onnxruntime-w8a8")
    with pytest.raises(ValueError, match=r"is quantized already, .*unprepare_\(model\)"):
        export_openvino(model, tmp_path / "openvino")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_openvino_cannot_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_export, "export_graph", lambda model, source: source.write_text("nothing"))
    with pytest.raises(ValueError, match="OpenVINO cannot read the model's ONNX graph: .* Deploy the ONNX file"):
        export_openvino(tiny.bert(), tmp_path / "openvino")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_model_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="There is no file .*nowhere.xml. Give the path of an .xml file"):
        load_model(tmp_path / "nowhere.xml")
    path = tmp_path / "openvino_model.xml"
    path.write_text("<net")
    with pytest.raises(ValueError, match="There is no openvino_model.bin beside .*, which holds its weights"):
        OpenVinoModel(path)
    path.with_suffix(".bin").symlink_to(__file__)
    with pytest.raises(ValueError, match="keeps weights in 'openvino_model.bin', which is outside of its folder"):
        OpenVinoModel(path)
    path.with_suffix(".bin").unlink()
    path.with_suffix(".bin").touch()
    with pytest.raises(ValueError, match="openvino_model.xml is not a file that OpenVINO can open"):
        OpenVinoModel(path)


def test_devices_and_inputs_that_the_file_does_not_take_are_refused(saved, images):
    model = OpenVinoModel(saved[1].path)
    with pytest.raises(ValueError, match="OpenVINO files run on the CPU here. Got the device cuda"):
        model.to("cuda")
    assert model.to("cpu").device == torch.device("cpu")
    with pytest.raises(ValueError, match="openvino_model.xml takes input_ids, .* needs input_ids. Got pixel_values"):
        model(pixel_values=torch.zeros(1))
    with pytest.raises(ValueError, match=r"OpenVINO cannot run openvino_model.xml on pixel_values \[1, 1, 8, 9\]"):
        OpenVinoModel(images[1].path)(pixel_values=torch.zeros(1, 1, 8, 9))


@pytest.mark.parametrize("package", ["openvino", "nncf"])
def test_a_missing_extra_is_named(saved, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"The export to OpenVINO needs .*pip install 'hf-compalign\[openvino\]'"):
        export_openvino(tiny.bert(), tmp_path / "openvino", quantize="static", calibration=TEXTS)
    assert list(tmp_path.iterdir()) == []
    if package == "openvino":
        with pytest.raises(ImportError, match=r"Running an OpenVINO file needs .*'hf-compalign\[openvino\]'"):
            OpenVinoModel(saved[1].path)


def test_long_texts_are_read_in_windows(tmp_path):
    model = read_in_windows(tiny.bert(**NAMED, vocab_size=len(tiny.WORDS)).eval(), length=8, stride=2)
    long = Dataset.from_dict({"text": ["good film", "good " * 8 + "a bad book the bad " * 5, "bad " * 3]})
    export_openvino(model, tmp_path / "out")
    tokenizer().save_pretrained(tmp_path / "out")
    expected = predict(model, long, processing_class=tokenizer()).logits
    found = predict(tmp_path / "out", long).logits
    error = tiny.distance(found, expected)
    assert error < 0.05  # in bfloat16 on some CPUs
    del model.config.text_windows
    whole = predict(model, long, processing_class=tokenizer()).logits
    assert tiny.distance(whole[1], expected[1]) > 5 * error


def test_nothing_left_and_another_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Nothing is left to quantize: all 14 layers"):
        export_openvino(tiny.vit(), tmp_path / "out", quantize="static", calibration=IMAGES, exclude=["*"])
    batches = [{"pixel_values": torch.randn(2, 1, 12, 12)}]
    with pytest.raises(ValueError, match="cannot be run on the calibration data. Give batches of the shape"):
        export_openvino(tiny.vit(), tmp_path / "out", quantize="static", calibration=batches)
    assert list(tmp_path.iterdir()) == []
