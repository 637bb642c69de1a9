"""What is pushed arrives, in one commit, and is the same model: with huggingface_hub's real client."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import hub_run
import hub_server
import pytest
import shipping
import tiny
import torch
from traced import traced_once

from hf_compalign import Deferral, fit_deferral, load_compressed
from hf_compalign.measure.predictions import predict
from hf_compalign.models import OnnxModel
from hf_compalign.report.card import CardDetails
from hf_compalign.ship import ArtifactDetails, audit_name, checked_files, push_to_hub, save_artifact

pytestmark = pytest.mark.slow

OF_THE_HUB = {".gitattributes"}
SURE = "openvino/openvino_model_qint8"  # a file with a deferral
SENT = shipping.SENT | shipping.SENT_OPENVINO | {f"{SURE}.deferral.json", f"{SURE}.pair.audit.json"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "small"
    model = shipping.model(shrunk=True)
    with traced_once():
        onnx = shipping.exported(folder.with_name("exported"), model)
        openvino = shipping.exported_openvino(folder.with_name("exported"), model)
    asked = partial(predict, dataset=hub_run.DATA, processing_class=shipping.tokenizer())
    deferral = fit_deferral(asked(model), asked(openvino["openvino_model_qint8"]), budget=0.5, scores=["margin"])
    card = CardDetails(task="text-classification", base_model="tester/base", dataset="colors", name="tester/small")
    details = ArtifactDetails(card, shipping.tokenizer(), timed_batch_sizes=())
    files = {"onnx": onnx, "openvino": openvino, "deferrals": {f"{SURE}.xml": deferral}}
    save_artifact(model, folder, reference=shipping.model(), dataset=hub_run.DATA, details=details, **files)
    return folder


@pytest.fixture(scope="module")
def pushed(artifact):
    """The hub after all of hub_run.py, and what its steps found."""
    found = artifact.with_name("found.json")
    with hub_server.running_hub() as hub:
        online = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(artifact.with_name("home")),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_of_nobody",
        }
        call = [sys.executable, hub_run.__file__, str(artifact), str(found)]
        done = subprocess.run(call, capture_output=True, text=True, env=os.environ | online, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        yield hub, json.loads(found.read_text())


def test_one_commit_takes_everything(pushed, artifact):
    hub, found = pushed
    (commit,) = hub.commits("tester/small")
    assert set(commit.files) == SENT | OF_THE_HUB
    for name in SENT:
        assert commit.files[name] == (artifact / name).read_bytes()
    assert commit.message == "Ship it"
    assert found["push"] == {"url": f"{hub.url}/tester/small/commit/{commit.oid}", "oid": commit.oid}
    assert hub.repositories["tester/small"].private
    assert len(hub.large_files) >= 3  # the weights and two graphs


def test_what_comes_back_is_the_same_model(pushed, artifact):
    _, found = pushed
    fetched = found["fetch"]
    assert set(fetched["files"]) == SENT | OF_THE_HUB
    for name in ("model", "onnx", "openvino"):
        first, second = fetched[name]["fingerprints"]
        assert first == second
        assert fetched[name]["mismatches"] == 0
        assert fetched[name]["distance"] < tiny.ROUNDING
    size = (artifact / "model.safetensors").stat().st_size
    assert fetched["size_bytes"] == [size, size]
    assert fetched["results"] == 30  # six metrics of five files


def test_the_code_of_the_card_runs_against_the_hub(pushed, artifact):
    _, found = pushed
    answers, *logits, threshold = found["card"]
    assert {answer["label"] for answer in answers} <= set(shipping.NAMES)
    assert [[len(row) for row in one] for one in logits] == [[3, 3]] * 3
    assert threshold == Deferral.load(artifact / f"{SURE}.deferral.json").threshold


def test_pushing_the_same_again_makes_no_commit(pushed):
    hub, found = pushed
    (commit,) = hub.commits("tester/small")
    assert found["push_again"]["unchanged"] == commit.oid


def test_a_branch_holds_only_what_the_folder_holds(pushed):
    hub, _ = pushed
    first, second, stale, last = hub.repositories["tester/small"].branches["float"]
    assert set(first.files) == SENT | OF_THE_HUB
    gone = {f"{SURE}{end}" for end in (".xml", ".bin", ".audit.json", ".deferral.json", ".pair.audit.json")}
    assert set(first.files) - set(second.files) == gone | {"onnx/model_int8.onnx", "onnx/model_int8.audit.json"}
    assert set(second.files) <= set(first.files)
    assert set(stale.files) - set(second.files) == {"deferral.json"}
    assert last.files == second.files


def test_the_push_of_the_trainer_and_of_a_model_work(pushed):
    hub, found = pushed
    assert len(set(found["trainer"]["fingerprints"])) == 1
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(
        hub.commits("tester/trained")[-1].files
    )
    (commit,) = hub.commits("tester/alone")
    assert {"config.json", "model.safetensors"} <= set(commit.files)


def test_a_repository_that_is_not_there_is_a_clear_error(pushed):
    _, found = pushed
    assert found["missing"].startswith("No model could be loaded from 'tester/nothing'")


@pytest.fixture
def copied(artifact, tmp_path):
    return Path(shutil.copytree(artifact, tmp_path / "copy"))


@pytest.mark.parametrize(
    "name", ["README.md", "audit.json", "config.json", "model.safetensors", "onnx/model.audit.json"]
)
def test_a_folder_that_is_no_artifact_is_refused(copied, name):
    (copied / name).unlink()
    with pytest.raises(ValueError, match=f"is not an artifact: it lacks {name}. Write the folder with save_artifact"):
        push_to_hub(copied, "tester/small")


def test_a_folder_with_two_kinds_of_weights_is_refused(copied):
    (copied / "model.quanto.safetensors").write_bytes(b"of another model")
    with pytest.raises(ValueError, match="holds model.safetensors and model.quanto.safetensors, .* Remove the one"):
        push_to_hub(copied, "tester/small")


def test_an_audit_that_cannot_be_read_is_refused(copied):
    (copied / "onnx" / "model.audit.json").write_text("{}")
    with pytest.raises(ValueError, match="model.audit.json is JSON, but not that of an audit"):
        push_to_hub(copied, "tester/small")


def test_a_missing_folder_and_a_bad_id_are_refused(copied, tmp_path):
    with pytest.raises(ValueError, match="There is no folder .*nowhere.* to send. Write one with save_artifact"):
        push_to_hub(tmp_path / "nowhere", "tester/small")
    with pytest.raises(ValueError, match="Repo id must"):
        push_to_hub(copied, "a/b/c")


def test_an_audit_of_other_weights_is_not_sent(copied):
    int8 = copied / "onnx" / "model_int8.onnx"
    int8.write_bytes((copied / "onnx" / "model.onnx").read_bytes())
    for use in (partial(push_to_hub, copied, "tester/small"), partial(OnnxModel, int8)):
        with pytest.raises(
            ValueError, match="model_int8.audit.json is of other weights .* Write the folder again with"
        ):
            use()
    trained = load_compressed(copied)
    trained.classifier.bias.data += 1
    trained.save_pretrained(copied)
    other = r"copy/audit.json is of other weights \(\w{16}\) than those of .*copy \(.*or remove audit.json, to audit"
    for use in (partial(push_to_hub, copied, "tester/small"), partial(load_compressed, copied)):
        with pytest.raises(ValueError, match=other):
            use()
    # Other numbers were asked for, so nothing tells whether the file is the one that was audited.
    assert load_compressed(copied, dtype="bfloat16").dtype == torch.bfloat16
    (copied / "audit.json").unlink()
    assert len(predict(copied, hub_run.DATA)) == len(hub_run.DATA)


def test_a_link_that_leads_out_of_the_folder_is_not_sent(copied):
    (copied / "inside.md").symlink_to("README.md")
    assert "inside.md" in checked_files(copied)
    (copied / "notes.md").symlink_to(__file__)
    with pytest.raises(ValueError, match="notes.md is a link that leads out of the folder. Put the file itself there"):
        checked_files(copied)


def test_what_a_training_leaves_behind_is_not_sent(copied):
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", "runs/events", "checkpoint-9/config.json"):
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_text("not for others")
    (copied / "frontier.png").write_bytes(b"an image of the card")
    assert set(checked_files(copied)) == SENT | {"frontier.png"}


def test_the_fetched_files_are_audited_like_the_local_ones(artifact):
    stored = json.loads((artifact / audit_name("onnx/model_int8.onnx")).read_text())
    again = predict(artifact / "onnx" / "model_int8.onnx", hub_run.DATA)
    assert stored["candidate"]["model_fingerprint"] == again.model_fingerprint
