"""The command line, called in this process: what it prints where, what it writes, and its exit codes."""

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import call, error_of
from datasets import ClassLabel, DatasetDict
from transformers.models.vit.modeling_vit import ViTEmbeddings

from hf_compalign.cli import env
from hf_compalign.measure.audit import Audit, audit
from hf_compalign.measure.predictions import Predictions, predict

N_ROWS = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models and their data as files: a parquet file, a folder with two splits, and predictions."""
    folder = tmp_path_factory.mktemp("cli")
    for seed, name in enumerate(("reference", "candidate")):
        tiny.vit(seed=seed).save_pretrained(folder / name)
    rows = tiny.images(N_ROWS).add_column("group", ["old", "young"] * (N_ROWS // 2))
    rows.to_parquet(folder / "rows.parquet")
    DatasetDict(train=rows.select(range(10)), validation=rows.select(range(20))).save_to_disk(folder / "saved")
    for name in ("reference", "candidate"):
        predict(folder / name, rows).save(folder / f"{name}.npz")
    return folder


@pytest.fixture
def models(place):
    return place / "reference", place / "candidate"


@pytest.fixture
def files(place):
    return place / "reference.npz", place / "candidate.npz"


def found_by(*words):
    """The JSON of a call that ends well."""
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def expected(files, **options):
    return audit(*(Predictions.load(path) for path in files), **options)


# ---- two models and a dataset ----


def test_models_are_audited_on_a_parquet_file(place, models, files):
    found, wanted = found_by("audit", *models, "--dataset", place / "rows.parquet"), expected(files)
    assert found["metrics"]["cie"] == wanted.metrics["cie"] > 0
    assert found["metrics"]["accuracy_candidate"] == pytest.approx(wanted.metrics["accuracy_candidate"])
    assert found["reference"]["model"] == str(models[0])


def test_columns_groups_and_files_as_asked(place, models, tmp_path):
    options = ["--label-column", "labels", "--groups", "group", "--batch-size", 7]
    options += ["--output", tmp_path / "audit.json", "--save-predictions", tmp_path / "answers"]
    result = call("audit", *models, "--dataset", place / "rows.parquet", *options)
    assert result.exit_code == 0, result.output
    saved = Audit.load(tmp_path / "audit.json")
    assert [(row.group, row.n) for row in saved.groups] == [("old", N_ROWS // 2), ("young", N_ROWS // 2)]
    again = expected([tmp_path / "answers" / f"{name}.npz" for name in ("reference", "candidate")])
    assert again.metrics == saved.metrics
    assert f"answers {N_ROWS - saved.metrics['cie']} of {N_ROWS} items like the reference" in result.stdout
    assert f"{N_ROWS} rows of" in result.stderr


def test_groups_of_a_class_column_have_its_names(place, models):
    rows = tiny.images(6).add_column("kind", [0, 1, 1, -1, 0, 1]).cast_column("kind", ClassLabel(names=["cat", "dog"]))
    rows.to_parquet(place / "kinds.parquet")
    found = found_by("audit", *models, "--dataset", place / "kinds.parquet", "--groups", "kind")
    assert [(row["group"], row["n"]) for row in found["groups"]] == [("cat", 2), ("dog", 3)]


@pytest.mark.parametrize(("options", "n"), [([], 20), (["--split", "train"], 10), (["--max-samples", "5"], 5)])
def test_the_split_is_validation_unless_named(place, models, options, n):
    assert found_by("audit", *models, "--dataset", place / "saved", *options)["n"] == n


def test_texts_are_audited_by_their_named_columns(tmp_path):
    tiny.texts(12).to_json(tmp_path / "rows.jsonl")
    for seed, name in enumerate(("one", "two")):
        tiny.bert(seed=seed).save_pretrained(tmp_path / name)
    found = found_by("audit", tmp_path / "one", tmp_path / "two", "--dataset", tmp_path / "rows.jsonl")
    assert found["n_labeled"] == 12


# ---- two files of predictions ----


@pytest.mark.parametrize(("limit", "code", "word"), [("1", 0, "PASSED"), ("0.001", 1, "NOT PASSED")])
def test_the_exit_code_says_whether_limits_are_kept(files, limit, code, word):
    result = call("audit", *files, "--limit", f"mismatch_rate={limit}", "--limit", "nfr=1")
    assert result.exit_code == code, result.output
    assert f"\n{word}: " in result.stdout
    assert result.stderr == ""


def test_json_holds_the_whole_audit_with_null_for_nan(files, tmp_path):
    paths = []
    for path in files:
        found = Predictions.load(path)
        paths.append(tmp_path / path.name)
        unlabeled = Predictions(found.logits, np.full(len(found), -100), found.ids, found.label_names)
        unlabeled.save(paths[-1])
    result = call("audit", *paths, "--limit", "mismatch_rate=0", "--json")
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    wanted = expected(paths, limits={"mismatch_rate": 0.0}).to_dict()
    assert found.keys() == wanted.keys()
    assert found["metrics"].keys() == wanted["metrics"].keys()
    assert found["metrics"]["nfr"] is None
    assert found["limits"][0]["upper_bound"] == wanted["limits"][0]["upper_bound"]


# ---- bad input ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Two models need a dataset. Name one with --dataset"),
        (["--dataset", "rows.parquet", "--limit", "mismatch"], "--limit must be a name and a number.*'mismatch'"),
        (["--dataset", "rows.parquet", "--limit", "nfr=small"], "--limit must be a name and a number.*'nfr=small'"),
        (["--dataset", "rows.parquet", "--limit", "mismatches=0.1"], "There is no limit 'mismatches'"),
        (["--dataset", "rows.parquet", "--limit", "nfr=2"], r"limit nfr must be in \[0, 1\]. Got 2.0"),
        (["--dataset", "rows.parquet", "--label-column", "lables"], "There is no column 'lables'.*Did you mean"),
        (["--dataset", "rows.parquet", "--groups", "sex"], "There is no column 'sex'. The columns are .*'group'"),
        (["--dataset", "rows.parquet", "--split", "test"], "is a single file, so --split would be ignored"),
        (["--dataset", "saved", "--split", "test"], "There is no split 'test'. The dataset has train, validation"),
        (["--dataset", "saved", "--config", "en"], "saved is a saved dataset, so --config would be ignored"),
        (["--dataset", "nowhere.csv"], "no such file.*nowhere.csv"),
        (["--dataset", "reference.npz"], "no data file.*reference.npz"),
        (["--dataset", "broken.parquet"], "could be read from 'broken.parquet'.*not a parquet file"),
        (["--dataset", "no/such-dataset"], "No dataset could be loaded from 'no/such-dataset'"),
        (["--dataset", ""], "No dataset could be loaded from ''"),
        (["--dataset", "."], "No dataset could be loaded from '.'"),
        (["--dataset", "nowhere.csv", "--output", "saved"], "saved is a folder. Give the path of a file"),
        (["--dataset", "nowhere.csv", "--report", "rows.parquet/a.html"], "rows.parquet is no folder that can be writ"),
        (["--dataset", "nowhere.csv", "--save-predictions", "rows.parquet"], "rows.parquet is no folder that can be"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(place, monkeypatch, options, message):
    monkeypatch.chdir(place)
    (place / "broken.parquet").write_text("not a table")
    assert re.search(message, error_of(call("audit", "reference", "candidate", *options)))


@pytest.mark.parametrize(
    ("pair", "options", "message"),
    [
        (("reference.npz", "candidate"), [], "Give models or .npz files, not some of each. Got reference.npz"),
        (("reference.npz", "missing.npz"), [], "There is no file missing.npz"),
        (("reference.npz", "broken.npz"), [], "broken.npz is not an .npz file of predictions"),
        (("reference.npz", "candidate.npz"), ["--split", "test"], "so --split would be ignored"),
        (("reference.npz", "fewer.npz"), [], "Both predictions must cover the same items"),
        (("nowhere", "candidate"), ["--dataset", "rows.parquet"], "No model could be loaded from 'nowhere'"),
    ],
)
def test_what_is_no_model_and_no_predictions_is_refused(place, monkeypatch, pair, options, message):
    monkeypatch.chdir(place)
    (place / "broken.npz").write_bytes(b"PK but not a zip")
    whole = Predictions.load("reference.npz")
    Predictions(whole.logits[1:], whole.labels[1:], whole.ids[1:], whole.label_names).save("fewer.npz")
    assert re.search(message, error_of(call("audit", *pair, *options)))


@pytest.mark.parametrize(
    "words",
    [
        ("report", "audit.json"),
        ("audit", "cut.npz", "candidate.npz"),
        ("audit", "reference", "cut.onnx", "--dataset", "rows.parquet"),
        ("audit", "reference", "cut", "--dataset", "rows.parquet"),
        ("audit", "reference", "candidate", "--dataset", "cut.parquet"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(place, files, tmp_path, monkeypatch, words):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    expected(files).save("audit.json")
    shutil.copytree("candidate", "cut")
    for whole, name in (("candidate.npz", "cut.npz"), ("rows.parquet", "cut.parquet"), ("rows.parquet", "cut.onnx")):
        shutil.copy(whole, name)
    damaged = next(word for word in words if word.startswith(("cut", "audit.")))
    path = Path(damaged, "model.safetensors") if damaged == "cut" else Path(damaged)
    path.write_bytes(path.read_bytes()[:-500])
    assert damaged in error_of(call(*words))


def test_several_splits_without_a_usual_name_must_be_named(models, tmp_path):
    rows = tiny.images(4)
    DatasetDict(one=rows, two=rows).save_to_disk(tmp_path / "splits")
    message = error_of(call("audit", *models, "--dataset", tmp_path / "splits"))
    assert "It is not clear which split to use. The dataset has one, two" in message


# ---- the rest ----


def test_env_names_every_version_in_both_forms():
    lines = call("env")
    found = json.loads(call("env", "--json").stdout)
    assert {"python", "platform", "hf_compalign", "torch", "transformers", "datasets", "device"} <= found.keys()
    assert lines.stdout.splitlines() == [f"- {name}: {value}" for name, value in found.items()]


def test_env_says_how_to_install_what_is_missing(monkeypatch):
    monkeypatch.setattr(env, "_EXTRAS", {"no-such-package": "onnx"})
    assert "- no-such-package: not installed (pip install 'hf-compalign[onnx]')" in call("env").stdout


def test_help_lists_the_commands():
    result = call("--help")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("demo", "audit", "export", "env"))


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "reference", "candidate", "--dataset", "rows.parquet", "--output", "a.json", "--report", "a.html"],
        ["export", "reference", "new"],
        ["export", "reference", "new", "--quantize", "dynamic", "--dataset", "rows.parquet"],
        ["demo", "--output", "new"],
    ],
)
def test_ctrl_c_ends_a_command_and_leaves_nothing(place, monkeypatch, words):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ViTEmbeddings, "forward", interrupt)
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    result = call(*words)
    assert result.exit_code == 130, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.endswith("Interrupted.\n")
    assert sorted(place.rglob("*")) == before


def test_the_demo_refuses_bad_input_before_training(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    assert "is not empty: it holds thesis.tex" in error_of(call("demo", "--output", tmp_path))
    assert "Did you mean 0.9?" in error_of(call("demo", "--output", tmp_path / "new", "--sparsities", "0.5,90"))
    assert "numbers with commas between them, such as 0.5,0.7. Got 'half'." in error_of(
        call("demo", "--sparsities", "half")
    )
    assert not (tmp_path / "new").exists()


def test_models_with_other_labels_are_refused_before_one_is_run(place, models, tmp_path):
    tiny.vit(n_labels=4).save_pretrained(tmp_path / "other")
    message = error_of(call("audit", models[0], tmp_path / "other", "--dataset", place / "rows.parquet"))
    assert "The two models must answer with the same labels. Got 3 labels" in message


def test_the_version_is_that_of_the_package():
    assert call("--version").stdout == f"hf-compalign {version('hf_compalign')}\n"
