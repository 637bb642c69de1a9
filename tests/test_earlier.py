"""An earlier artifact in a folder: which of its files go, and that no other does."""

import pytest
import shipping
import tiny

from hf_compalign import predict
from hf_compalign.report.card import CardDetails
from hf_compalign.ship import (
    ArtifactDetails,
    artifact_files,
    checked_files,
    refuse_foreign_files,
    save_artifact,
)

ONNX = {"onnx/model_int8.onnx", "onnx/model_int8.audit.json", "onnx/model_int8.deferral.json"}
ONNX |= {"onnx/model_int8.pair.audit.json", "onnx/model_int8.onnx_data"}
OPENVINO = {f"openvino/openvino_model.{what}" for what in ("xml", "bin", "audit.json")}
TOP = {"model.quanto.safetensors", "deferral.json", "pair.audit.json"}
MINE = {
    "onnx/notes.txt",
    "onnx/mine.onnx_data",
    "openvino/openvino_model.py",
    "thesis.tex",
    "README.md",
    "tokenizer.json",
}


def put(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_files_of_an_artifact_are_those_with_an_audit(tmp_path):
    put(tmp_path, ONNX | OPENVINO | TOP | MINE | {"onnx/mine.onnx", "openvino/openvino_model_mine.xml"})
    assert artifact_files(tmp_path) == frozenset()  # without the audit of its weights it is none
    put(tmp_path, ["audit.json"])
    assert artifact_files(tmp_path) == ONNX | OPENVINO | TOP


@pytest.mark.parametrize(
    "name", ["onnx/mine.onnx", "openvino/mine.xml", "onnx/mine.deferral.json", "model-mine.safetensors"]
)
def test_what_no_artifact_wrote_is_refused(tmp_path, name):
    put(tmp_path, ONNX | OPENVINO | TOP | MINE | {"audit.json", "model.safetensors"})
    refuse_foreign_files(tmp_path)
    refuse_foreign_files(tmp_path / "nowhere")
    put(tmp_path, [name])
    with pytest.raises(ValueError, match=f"holds {name}, which no artifact wrote, .* Move it away, or give another"):
        refuse_foreign_files(tmp_path)


def test_a_new_artifact_takes_the_place_of_an_earlier_one(tmp_path):
    model, rows, out = shipping.model(), shipping.raw_texts(20), tmp_path / "out"
    files = shipping.exported(tmp_path / "files", model)
    details = ArtifactDetails(
        CardDetails(task="text-classification", base_model="org/base", dataset="colors", name="org/small"),
        shipping.tokenizer(),
        timed_batch_sizes=(),
    )
    given = {"reference": predict(model, rows, processing_class=shipping.tokenizer()), "dataset": rows}
    save_artifact(model, out, **given, onnx=files, details=details)
    put(out, ["mine.txt", "onnx/mine.txt"])
    other = tiny.bert(seed=1, **shipping.NAMED).eval()
    [file, _] = shipping.exported(tmp_path / "others", other)
    new = {**given, "onnx": [file], "details": details, "overwrite": True}
    with pytest.raises(ValueError, match=r"holds onnx/model_int8.onnx, which would be no part of the new artifact"):
        save_artifact(other, out, **new)
    save_artifact(other, out, **new, dropped=artifact_files(out))
    assert {path.name for path in (out / "onnx").iterdir()} == {"model.onnx", "model.audit.json", "mine.txt"}
    assert (out / "mine.txt").is_file()
    assert "onnx/model.onnx" in checked_files(out)
