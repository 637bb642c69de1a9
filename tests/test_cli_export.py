"""hf-compalign export, called in this process: what it prints where, what it writes, and its exit codes."""

import json
import re

import onnx
import pytest
import shipping
import tiny
from commands import call, error_of
from datasets import Dataset, DatasetDict
from onnx import TensorProto, numpy_helper

from hf_compalign import cli
from hf_compalign.cli.export import default_output
from hf_compalign.measure.audit import audit
from hf_compalign.measure.predictions import predict
from hf_compalign.ship import EXPORTERS, ExportOptions, Frontier, export_audited

pytestmark = pytest.mark.usefixtures("traced_once")

pytest.importorskip("onnxruntime")

N = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models of images, one of texts, and their data as files."""
    folder = tmp_path_factory.mktemp("cli_export")
    for seed, name in enumerate(("images", "others")):
        tiny.vit(seed=seed, num_hidden_layers=1, initializer_range=0.5).save_pretrained(folder / name)
    tiny.images(N).to_parquet(folder / "images.parquet")
    shipping.saved(folder / "texts", tiny.bert(num_hidden_layers=1, initializer_range=0.5))
    texts = shipping.raw_texts(N)
    rows = Dataset.from_dict({"id": list(range(N)), "review": texts["text"], "label": texts["label"]})
    rows.to_csv(folder / "reviews.csv")
    DatasetDict(train=rows.select(range(20)), test=rows.select(range(20, N))).save_to_disk(folder / "saved")
    return folder


# ---- without data ----


def test_a_float_file_is_written_and_timed_beside_the_model(place, tmp_path):
    result = call("export", place / "texts", tmp_path / "out")
    assert result.exit_code == 0, result.output
    first, second, third, *rest = result.stdout.splitlines()
    assert re.fullmatch(rf"{tmp_path}/out/model.onnx: float32, opset \d+, 0\.\d MB", first)
    assert second.startswith("layers in INT8: 0; in float: ")
    assert third.startswith("largest difference of a logit from the PyTorch model: ")
    time = r" +\d+\.\d \(\d+\.\d to \d+\.\d\)"
    assert any(re.fullmatch(rf"torch +0\.0{time}{time}", line.strip()) for line in rest)
    assert any(re.fullmatch(rf"model\.onnx +0\.\d{time}{time}", line.strip()) for line in rest)
    assert any(line.startswith("Medians and quartiles of times side by side on ") for line in rest)
    assert {"model.onnx", "config.json", "tokenizer.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_the_output_is_named_after_the_model_by_default(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = found_in(call("export", place / "images", "--quantize", "dynamic", "--exclude", "*.attention.*", "--json"))
    assert found["export"]["path"] == "images-onnx/model_int8.onnx"
    assert (tmp_path / "images-onnx" / "model_int8.onnx").is_file()
    assert any(".attention." in layer for layer in found["export"]["float_layers"])
    assert not any(".attention." in layer for layer in found["export"]["quantized_layers"])
    assert found["latency"].keys() == {"torch", "model_int8.onnx"}
    assert found["latency"]["torch"].keys() == {"1", "8"}
    assert found["audit"] is found["frontier"] is None
    assert found["passed"]


@pytest.mark.parametrize(("model", "name"), [("user/bert", "bert-onnx"), ("bert", "bert-onnx"), ("a/b/", "b-onnx")])
def test_default_names(tmp_path, monkeypatch, model, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert str(default_output(model)) == name


@pytest.mark.parametrize("limit", [(), ("--dataset", "images.parquet", "--limit", "mismatch_rate=0.1")])
def test_portable_files_have_seven_bits_repaired_or_not(place, tmp_path, monkeypatch, limit):
    monkeypatch.chdir(place)
    limit = (*limit, "--reference", "others", "--max-measurements", 2) if limit else ()
    options = ["--quantize", "dynamic", "--portable", *limit, "--json"]
    found = found_in(call("export", "images", tmp_path / "out", *options), code=1 if limit else 0)
    assert found["export"]["portable"]
    graph = onnx.load(found["export"]["path"]).graph
    weights = [numpy_helper.to_array(one) for one in graph.initializer if one.data_type == TensorProto.INT8]
    assert max(int(abs(one.astype(int)).max()) for one in weights if one.ndim == 2) == 64


# ---- with data ----


def found_in(result, code=0):
    """The JSON of a call that ends with this exit code."""
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_with_a_dataset_the_file_is_audited_against_the_model(place, tmp_path):
    options = ["--quantize", "dynamic", "--dataset", place / "reviews.csv", "--text-column", "review"]
    result = call("export", place / "texts", tmp_path / "out", *options, "--json")
    rows = Dataset.from_csv(str(place / "reviews.csv"))
    expected = audit(predict(place / "texts", rows), predict(tmp_path / "out" / "model_int8.onnx", rows))
    found = found_in(result)["audit"]
    assert found["n"] == N
    assert found["metrics"]["cie"] == expected.metrics["cie"]
    assert found["metrics"]["kl"] == pytest.approx(expected.metrics["kl"])
    assert found["reference"]["model_fingerprint"] == expected.reference.model_fingerprint
    assert f"{N} rows of" in result.stderr


def against_another(place, output, *options, quantize=("--quantize", "dynamic")):
    options = (*quantize, "--dataset", place / "images.parquet", "--reference", place / "others", *options)
    return call("export", place / "images", output, *options, "--limit", "mismatch_rate=0.1")


def test_a_float_file_against_another_model_is_beyond_the_limit(place, tmp_path):
    result = against_another(place, tmp_path / "out", quantize=())
    assert result.exit_code == 1, result.output
    assert "\nNOT PASSED: exceeded the limit on mismatch_rate." in result.stdout
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_static_ranges_come_from_rows_of_the_training_split(place, tmp_path):
    options = ["--quantize", "static", "--calibration", place / "saved", "--calibration-rows", 10]
    result = call("export", place / "texts", tmp_path / "out", *options, "--text-column", "review", "--json")
    assert found_in(result)["export"]["quantize"] == "static"


# ---- repair ----


def test_a_limit_that_is_kept_at_once(place, tmp_path):
    options = ["--quantize", "dynamic", "--dataset", place / "images.parquet", "--limit", "mismatch_rate=0.5"]
    result = call("export", place / "images", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert re.search(r"\nKEPT: with all \d+ layers in INT8\.", result.stdout)
    assert re.search(r"   1  all \d+ layers in INT8: \d+ of 30 differ, mismatch_rate .*\(within 50 %\)", result.stderr)
    assert "<- chosen" in result.stdout


def test_a_limit_that_no_file_keeps(place, tmp_path):
    found = found_in(against_another(place, tmp_path / "out", "--json"), code=1)
    assert not found["passed"]
    assert found["frontier"]["verdict"].startswith("NOT KEPT: no set of layers suffices.")
    saved = Frontier.load(tmp_path / "out" / "frontier.json")
    assert json.loads(json.dumps(saved.to_dict())) == found["frontier"]
    assert found["audit"]["metrics"]["cie"] == saved.judged[0].mismatches
    assert (found["audit"]["n"], saved.n_searched, saved.n_judged) == (N // 2, N // 2, N // 2)
    assert found["latency"]["model_int8.onnx"].keys() == {"1", "8"}


def test_an_openvino_file_is_repaired_too(place, tmp_path):
    pytest.importorskip("nncf")
    tiny.images(8, seed=9).to_parquet(place / "others.parquet")
    quantize = ("--format", "openvino", "--quantize", "static", "--calibration", place / "others.parquet")
    found = found_in(against_another(place, tmp_path / "out", "--json", quantize=quantize), code=1)
    assert found["frontier"]["verdict"].startswith("NOT KEPT: no set of layers suffices.")
    assert len(found["frontier"]["points"]) == 2
    assert found["export"]["path"].endswith("openvino_model.xml")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"openvino_model.xml", "openvino_model.bin", "audit.json", "frontier.json"} <= names
    assert found["latency"].keys() >= {"torch", "openvino_model.xml"}


def test_a_budget_is_told_and_kept(place, tmp_path):
    result = against_another(place, tmp_path / "out", "--max-measurements", 1)
    assert result.exit_code == 1, result.output
    assert "NOT KEPT by any file so far, but the 1 measurements were spent" in result.stdout
    assert "The budget of 1 measurements is spent." in result.stderr


# ---- bad input ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quantize", "int4"], "--quantize must be dynamic or static.*Got 'int4'"),
        (["--quantize", "static"], "--quantize static fixes the ranges.*--calibration"),
        (
            ["--calibration", "images.parquet"],
            "Only --quantize static is calibrated, so --calibration would be ignored",
        ),
        (
            ["--quantize", "static", "--calibration", "images.parquet", "--dataset", "images.parquet"],
            "--calibration and --dataset are the same data",
        ),
        (["--limit", "mismatch_rate=0.1"], "A limit is measured on data. Name them with --dataset"),
        (["--limit", "mismatches=0.1", "--dataset", "images.parquet"], "There is no limit 'mismatches'"),
        (["--reference", "others"], "There is no --dataset, so --reference would be ignored"),
        (["--image-column", "image"], "There is no --dataset, so --image-column would be ignored"),
        (["--pixels-per-image", "9"], "There is no --dataset, so --pixels-per-image would be ignored"),
        (
            ["--dataset", "images.parquet", "--max-measurements", "3"],
            "Nothing is repaired without --quantize and --limit, so --max-measurements would be ignored",
        ),
        (["--exclude", "*.query"], "Without --quantize every layer is in float, so --exclude would be ignored"),
        (["--portable"], "Without --quantize every layer is in float, so --portable would be ignored"),
        (
            ["--portable", "--format", "openvino", "--quantize", "static", "--calibration", "images.parquet"],
            "Only ONNX Runtime's products can saturate, so --portable would be ignored",
        ),
        (["--calibration-rows", "9"], "Only --quantize static is calibrated, so --calibration-rows would be ignored"),
        (["--dataset", "nowhere.csv"], "no such file.*nowhere.csv"),
        (
            ["--quantize", "dynamic", "--limit", "mismatch_rate=0.001", "--dataset", "images.parquet"],
            "cannot be shown to be kept.*Give at least 5,989 items",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(place, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(place)
    assert re.search(message, error_of(call("export", "images", tmp_path / "out", *options)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options", [[], ["--quantize", "dynamic", "--limit", "nfr=0.9", "--dataset", "images.parquet"]]
)
def test_a_folder_that_holds_something_is_refused(place, tmp_path, monkeypatch, options):
    monkeypatch.chdir(place)
    (tmp_path / "thesis.tex").write_text("precious")
    assert "is not empty: it holds thesis.tex" in error_of(call("export", "images", tmp_path, *options))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        ("texts", "reviews.csv", ["--text-column", "nope"], "There is no column 'nope'"),
        ("texts", "images.parquet", [], "Cannot tell which columns hold the text"),
        ("images", "reviews.csv", [], "No image processor could be loaded"),
        ("images", "images.parquet", ["--label-column", "nope"], "There is no column 'nope'"),
        ("texts", "wrong.csv", [], "Labels must lie in [0, 3), or be -100 or -1 where unknown. Got 7"),
    ],
)
def test_data_are_checked_before_the_export(place, tmp_path, monkeypatch, model, data, options, message):
    Dataset.from_dict({"text": ["a", "b"], "label": [0, 7]}).to_csv(place / "wrong.csv")

    def no_export(*arguments, **settings):
        raise AssertionError("The model was exported first.")

    monkeypatch.setitem(EXPORTERS, "onnx", no_export)
    result = call("export", place / model, tmp_path / "out", "--dataset", place / data, *options)
    assert message in error_of(result)


@pytest.mark.parametrize("where", ["", "model.onnx"])
def test_what_was_exported_already_is_refused(tmp_path, where):
    (tmp_path / "model.onnx").write_text("a graph")
    result = call("export", tmp_path / where, tmp_path / "out")
    assert "model.onnx is an ONNX file already. Give the PyTorch model that it was exported from." in error_of(result)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"file_format": "tflite"}, "file_format must be one of onnx, openvino. Got 'tflite'."),
        (
            {"file_format": "openvino", "options": ExportOptions(portable=True)},
            "portable=True is about the integer products of ONNX Runtime. Got file_format='openvino'. Leave it out",
        ),
        ({"limits": {"nfr": 0.1}}, "limits and reference= are about an audit, which needs data. Give dataset= too."),
        ({"reference": "others"}, "limits and reference= are about an audit, which needs data. Give dataset= too."),
        ({"limits": {"nfrr": 0.1}}, "There is no limit 'nfrr'"),
    ],
)
def test_the_call_refuses_what_the_command_would_not_pass_on(place, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        export_audited(place / "images", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_failure_of_the_program_is_no_limit_that_is_not_kept(monkeypatch, capsys):
    def broken():
        raise AttributeError("no one expected this")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as exit_of:
        cli.main()
    assert exit_of.value.code == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Traceback")
    assert "AttributeError: no one expected this" in printed.err


def test_what_is_no_model_is_refused(tmp_path):
    assert "No model could be loaded from" in error_of(call("export", tmp_path / "nowhere", tmp_path / "out"))
