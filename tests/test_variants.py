"""OpenVINO files ship as ONNX ones do: names, places, audits, what the card says, what is refused."""

import json
import re

import numpy as np
import pytest
import shipping
import tiny
from traced import traced_once

from hf_compalign import predict
from hf_compalign.measure.audit import Audit
from hf_compalign.models import OpenVinoModel
from hf_compalign.report.card import CardDetails
from hf_compalign.ship import ArtifactDetails, checked_files, save_artifact

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")
DATA = shipping.raw_texts()
UNTIMED = ArtifactDetails(timed_batch_sizes=())
BOTH = ("onnx", "openvino")
# Format -> where its files are, without their suffix, and the suffix.
PLACES = {"onnx": ("onnx/model", ".onnx"), "openvino": ("openvino/openvino_model", ".xml")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders: the original, the model's files, and the artifact of it all."""
    root = tmp_path_factory.mktemp("variants")
    original = shipping.saved(root / "org-original", shipping.model())
    model = shipping.model(shrunk=True)
    with traced_once():
        onnx = shipping.exported(root / "exported", model)
        found = shipping.exported_openvino(root / "exported", model)
    card = CardDetails(task="text-classification", base_model="org/base", dataset="colors", name="org/small")
    details = ArtifactDetails(card, shipping.tokenizer(), n_runs=1, timed_batch_sizes=(2,))
    artifact = save_artifact(
        model, root / "small", reference=original, dataset=DATA, onnx=onnx, openvino=found, details=details
    )
    return root, artifact


@pytest.fixture
def root(made):
    return made[0]


@pytest.fixture
def pair(root):
    return {"reference": predict(root / "org-original", DATA), "dataset": DATA, "details": UNTIMED}


@pytest.fixture
def files(root):
    """Format -> an exported file."""
    return {
        "onnx": root / "exported" / "model.onnx",
        "openvino": root / "exported" / "bf16" / "openvino_model.xml",
    }


def code_of(folder, begins):
    """The Python of the card that begins with this import, for the folder itself instead of the Hub."""
    body = (folder / "README.md").read_text()
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", body, re.S) if one.startswith(begins)]
    return code.replace("org/small", str(folder))


def test_the_layout_is_that_of_optimum_and_sentence_transformers(root):
    there = {one.relative_to(root / "small").as_posix() for one in (root / "small").rglob("*") if one.is_file()}
    assert there == shipping.SENT | shipping.SENT_OPENVINO
    for folder, name in (("bf16", "openvino_model"), ("qint8", "openvino_model_qint8")):
        source = root / "exported" / folder / "openvino_model.xml"
        for suffix in (".xml", ".bin"):
            copy = root / "small" / "openvino" / f"{name}{suffix}"
            assert copy.read_bytes() == source.with_suffix(suffix).read_bytes()


def test_each_file_has_its_own_audit(made):
    root, artifact = made
    original = predict(root / "org-original", DATA)
    names = [name for name in artifact.files if name.startswith("openvino/")]
    assert names == ["openvino/openvino_model.xml", "openvino/openvino_model_qint8.xml"]
    for name in names:
        stored = Audit.load((root / "small" / name).with_suffix(".audit.json"))
        answers = predict(root / "small" / name, DATA)
        assert stored.to_json() == artifact.files[name].audit.to_json()
        assert stored.metrics["cie"] == (answers.predicted != original.predicted).sum()
        assert stored.candidate.model == f"org/small/{name}"
        assert stored.candidate.model_fingerprint == answers.model_fingerprint
        size = sum((root / "small" / name).with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
        assert artifact.files[name].size_bytes == size
        assert list(artifact.files[name].latencies) == [2]


def test_the_card_lists_them_and_says_in_which_precision_they_were_audited(made):
    root, artifact = made
    header, body = shipping.front_matter(root / "small")
    assert {"onnx", "openvino", "int8", "transformers.js"} <= set(header["tags"])
    for name in ("openvino/openvino_model.xml", "openvino/openvino_model_qint8.xml"):
        metrics = {one["name"]: one["value"] for one in header["model-index"][0]["results"][0]["metrics"]}
        audited = artifact.files[name].audit
        assert metrics[f"Mismatch rate against the original ({name})"] == audited.metrics["mismatch_rate"]
        assert f"\n| {name} | " in body
    assert "The ONNX and OpenVINO files follow below." in body
    at = {name: OpenVinoModel(root / "small" / name).computed_by.precision for name in artifact.files if ".xml" in name}
    in_f32 = "in f32 (`openvino/openvino_model_qint8.xml`)"
    if at["openvino/openvino_model.xml"] == "bf16":  # on a processor that can
        assert f"audited in bf16 (`openvino/openvino_model.xml`) and {in_f32}: set `INFERENCE_PRECISION_HINT`" in body
    assert at["openvino/openvino_model_qint8.xml"] == "f32"
    assert '"CPU", {"INFERENCE_PRECISION_HINT": "f32"})' in body


def test_the_ways_to_load_them_work_and_agree(root, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda folder, name: f"{folder}/{name}")
    names = {}
    exec(code_of(root / "small", "import openvino"), names)
    assert isinstance(names["compiled"], openvino.CompiledModel)
    by_itself = names["logits"]
    exec(code_of(root / "small", "from hf_compalign.models"), names)
    assert by_itself.shape == (2, 3)
    assert tiny.distance(names["logits"], by_itself) < tiny.ROUNDING


def test_answers_that_depend_on_the_batch_are_marked(root):
    _, body = shipping.front_matter(root / "small")
    (said,) = [line for line in body.splitlines() if line.startswith("Answers of ")]
    assert said.startswith("Answers of onnx/model\\_int8.onnx depend on the batch, as dynamic INT8 takes its ranges")
    page = re.sub("<[^>]*>", "", (root / "small" / "report.html").read_text())
    assert "Answers of model_int8.onnx depend on the batch, as dynamic INT8 takes its ranges" in page


def test_without_such_files_nothing_is_said_of_batches(root, pair, tmp_path):
    save_artifact(root / "small", tmp_path, **pair)
    for name in ("README.md", "report.html"):
        assert "depend on the batch" not in (tmp_path / name).read_text()
    assert "OpenVINO" not in (tmp_path / "README.md").read_text().partition("## Versions")[0]


def test_a_file_that_changed_since_its_audit_is_refused(root, pair, files, tmp_path):
    save_artifact(root / "small", tmp_path, openvino=[files["openvino"]], **pair)
    weights = tmp_path / "openvino" / "openvino_model.bin"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    for use in (lambda: checked_files(tmp_path), lambda: OpenVinoModel(weights.with_suffix(".xml"))):
        with pytest.raises(ValueError, match="openvino_model.audit.json is of other weights .* Write the folder again"):
            use()


def test_weights_are_sent_and_pickles_are_not(root, pair, files, tmp_path):
    save_artifact(root / "small", tmp_path, openvino=[files["openvino"]], **pair)
    (tmp_path / "checkpoint-1").mkdir()
    for name in ("pytorch_model.bin", "openvino/training_args.bin", "checkpoint-1/openvino_model.bin"):
        (tmp_path / name).write_bytes(b"a pickle")
    (tmp_path / "checkpoint-1" / "openvino_model.xml").write_text("<net/>")
    sent = checked_files(tmp_path)
    assert [name for name in sent if name.endswith(".bin")] == ["openvino/openvino_model.bin"]
    assert not [name for name in sent if "checkpoint" in name]
    (tmp_path / "openvino" / "openvino_model.audit.json").unlink()
    with pytest.raises(ValueError, match="it lacks openvino/openvino_model.audit.json. Write the folder with"):
        checked_files(tmp_path)


@pytest.mark.parametrize("form", BOTH)
def test_two_files_of_one_name_are_told_apart_by_the_user(root, pair, files, tmp_path, form):
    place, suffix = PLACES[form]
    stem, name = files[form].stem, f"{place}{suffix}"
    message = (
        f"Two files would be {name}: {files[form]} and {files[form]}. Name each, say {form}={{'{stem}': .*, "
        f"'{stem}_quantized': "
    )
    with pytest.raises(ValueError, match=message):
        save_artifact(root / "small", tmp_path / "out", **pair, **{form: [files[form]] * 2})
    given = {stem: files[form], f"{stem}_quantized{suffix}": files[form]}
    artifact = save_artifact(root / "small", tmp_path / "out", **pair, **{form: given})
    assert list(artifact.files)[2:] == [name, f"{place}_quantized{suffix}"]
    one, other = (np.array(predict(tmp_path / "out" / file, DATA).logits) for file in list(artifact.files)[2:])
    assert np.array_equal(one, other)


@pytest.mark.parametrize("form", BOTH)
def test_a_file_of_an_earlier_artifact_does_not_stay_by_accident(root, pair, tmp_path, form):
    place, suffix = PLACES[form]
    (tmp_path / form).mkdir()
    (tmp_path / f"{place}_q4{suffix}").write_bytes(b"old")
    message = f"holds {place}_q4{suffix}, which would be no part of the new artifact. Remove it, list it in {form}=, or"
    with pytest.raises(ValueError, match=message):
        save_artifact(root / "small", tmp_path, overwrite=True, **pair)


REFUSED = {
    "no file": (["nowhere.xml"], "There is no OpenVINO file 'nowhere.xml'. Make it with export_openvino, and give its"),
    "a folder": ("bf16", "There is no OpenVINO file 'bf16'. Make it with export_openvino"),
    "another format": (["model.onnx"], "model.onnx is no OpenVINO file but one of ONNX. Give it in onnx="),
    "another name": (
        {"model_int8": "bf16/openvino_model.xml"},
        "An OpenVINO file of an artifact is called openvino_model or openvino_model_<what>, in small letters. Got "
        "'model_int8'. Name it, say openvino={'openvino_model_int8': 'bf16/openvino_model.xml'}",
    ),
    "no OpenVINO": ({"openvino_model": "text.xml"}, "text.xml is not a file that OpenVINO can open"),
    "no weights": ({"openvino_model": "alone.xml"}, "There is no alone.bin beside alone.xml, which holds its weights"),
    "other labels": (["other/openvino_model.xml"], "is of another model: its config.json has the labels {0: 'LABEL_0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_ship_is_refused_before_anything_is_written(root, pair, files, tmp_path, monkeypatch, case):
    given, message = REFUSED[case]
    monkeypatch.chdir(root / "exported")
    for name in ("text", "alone", "other/openvino_model"):
        target = root / "exported" / f"{name}.xml"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"no graph" if name == "text" else files["openvino"].read_bytes())
        if name != "alone":
            target.with_suffix(".bin").write_bytes(files["openvino"].with_suffix(".bin").read_bytes())
    config = json.loads((root / "small" / "config.json").read_text())
    named = {str(index): f"LABEL_{index}" for index in range(3)}
    ids = {name: int(index) for index, name in named.items()}
    (root / "exported" / "other" / "config.json").write_text(json.dumps(config | {"id2label": named, "label2id": ids}))
    with pytest.raises(ValueError, match=message):
        save_artifact(root / "small", tmp_path / "out", openvino=given, **pair)
    assert not (tmp_path / "out").exists()


def test_the_model_is_not_one_of_its_files(root, pair, files, tmp_path):
    message = "must be the PyTorch model that was exported, and .*.xml is an OpenVINO file. Give it in openvino=."
    with pytest.raises(ValueError, match=message):
        save_artifact(files["openvino"], tmp_path / "out", **pair)
