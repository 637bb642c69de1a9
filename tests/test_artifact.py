"""What ships is what was measured: every file, its audit, and the card's numbers."""

import json
import logging
import math
import re
import sys

import numpy as np
import pytest
import shipping
import tiny
import torch
from huggingface_hub import ModelCard
from transformers import ViTImageProcessorPil

from hf_compalign import load_compressed
from hf_compalign.compress.quantize import quantize_
from hf_compalign.measure.audit import Audit
from hf_compalign.measure.footprint import first_batch, quartiles
from hf_compalign.measure.predictions import Predictions, predict
from hf_compalign.report.card import CardDetails
from hf_compalign.ship import WEIGHTS, ArtifactDetails, checked_files, save_artifact

UNTIMED = ArtifactDetails(timed_batch_sizes=())
DATA = shipping.raw_texts()
ANSWERS = np.array(DATA["label"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders: the original, the compressed model, its ONNX files, and the artifact of both."""
    root = tmp_path_factory.mktemp("artifact")
    original = shipping.saved(root / "org-original", shipping.model())
    model = shipping.model(shrunk=True)
    onnx = shipping.exported(root / "exported", model)
    card = CardDetails(
        task="text-classification",
        base_model="org/base",
        dataset="colors",
        dataset_id="org/colors",
        dataset_split="test",
        name="org/small",
        recipe={"Compression": {"ffn": 0.5, "heads": 0.5}},
    )
    details = ArtifactDetails(card, shipping.tokenizer(), limits={"mismatch_rate": 0.999}, n_runs=2)
    artifact = save_artifact(model, root / "small", reference=original, dataset=DATA, onnx=onnx, details=details)
    return root, model, artifact


@pytest.fixture
def root(made):
    return made[0]


@pytest.fixture
def pair(root):
    """What every artifact of these models needs."""
    return {"reference": root / "org-original", "dataset": DATA, "details": UNTIMED}


def table_of(body):
    """First column -> the others, of the card's table of files."""
    lines = body.partition("## Each file")[2].partition("\n|")[2].split("\n\n")[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: dict(zip(header[1:], values, strict=True)) for name, *values in rows}


def test_the_layout_is_that_of_the_hub(made):
    root, model, artifact = made
    files = {path.relative_to(root / "small").as_posix() for path in (root / "small").rglob("*") if path.is_file()}
    assert files == shipping.SENT
    assert artifact.folder == root / "small"
    assert torch.equal(tiny.flat(load_compressed(root / "small")), tiny.flat(model))
    for name in ("model.onnx", "model_int8.onnx"):
        assert (root / "small" / "onnx" / name).read_bytes() == (root / "exported" / name).read_bytes()


def test_each_audit_is_of_its_own_file(made):
    root, _, artifact = made
    original = predict(root / "org-original", DATA)
    places = {"model.safetensors": "audit.json", "onnx/model.onnx": "onnx/model.audit.json"}
    places["onnx/model_int8.onnx"] = "onnx/model_int8.audit.json"
    assert list(artifact.files) == ["original", *places]
    for name, place in places.items():
        stored = Audit.load(root / "small" / place)
        assert stored.to_json() == artifact.files[name].audit.to_json()
        answers = predict(root / "small" / name if name.endswith(".onnx") else root / "small", DATA)
        assert stored.metrics["cie"] == (answers.predicted != original.predicted).sum()
        assert stored.metrics["accuracy_candidate"] == (answers.predicted == ANSWERS).mean()
        assert stored.candidate.model_fingerprint == answers.model_fingerprint
        assert stored.candidate.model == f"org/small/{name}"
        assert stored.reference.model == "org-original"
        assert [limit.name for limit in stored.limits] == ["mismatch_rate"]
    fingerprints = [artifact.files[name].audit.candidate.model_fingerprint for name in places]
    assert len(set(fingerprints)) == 3


def test_the_table_of_the_card_has_the_numbers_that_were_measured(made):
    root, _, artifact = made
    _, body = shipping.front_matter(root / "small")
    table = table_of(body)
    assert list(table) == list(artifact.files)
    original = predict(root / "org-original", DATA)
    assert table["original"]["accuracy"] == f"{100 * (original.predicted == ANSWERS).mean():.2f} %"
    assert table["original"]["mismatches"] == table["original"]["mismatch rate"] == ""
    assert artifact.files["original"].size_bytes == (root / "org-original" / "model.safetensors").stat().st_size
    for name, row in table.items():
        measured = artifact.files[name]
        assert row["accuracy"] == f"{100 * measured.accuracy:.2f} %"
        assert row["MB"] == f"{measured.size_bytes / 1e6:.2f}"
        assert sorted(measured.latencies) == [1, 8]
        for size, latency in measured.latencies.items():
            assert 0 < latency.low_ms <= latency.median_ms <= latency.high_ms
            assert row[f"ms, batch {size}"] == quartiles(latency)
        if measured.audit is not None:
            assert measured.size_bytes == (root / "small" / name).stat().st_size
            low, high = measured.audit.metrics["mismatch_rate_interval"]
            assert row["mismatches"] == f"{measured.audit.metrics['cie']} of 60"
            rate = measured.audit.metrics["mismatch_rate"]
            assert row["limits"] == measured.audit.limits[0].words
            assert row["mismatch rate"] == f"{100 * rate:.2f} % ({100 * low:.2f} to {100 * high:.2f} %)"
    assert f"on {artifact.machine}." in body
    assert f"threads: {torch.get_num_threads()}" in artifact.machine
    assert f"torch {torch.__version__}" in artifact.machine


def test_the_metadata_tell_each_file_and_what_was_done(made):
    root, _, artifact = made
    header, _ = shipping.front_matter(root / "small")
    assert header["tags"] == [
        "hf_compalign",
        "model-compression",
        "pruning",
        "quantization",
        "int8",
        "onnx",
        "transformers.js",
    ]
    assert (header["base_model"], header["base_model_relation"]) == ("org/base", "finetune")
    assert header["library_name"] == "transformers"
    (index,) = header["model-index"]
    (result,) = index["results"]
    assert index["name"] == "small"
    assert result["dataset"] == {"name": "colors", "type": "org/colors", "split": "test"}
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert len(values) == len(result["metrics"]) == 3 * 6
    for name, of in [("model.safetensors", ""), *((f"onnx/{n}.onnx",) * 2 for n in ("model", "model_int8"))]:
        suffix = f" ({of})" if of else ""
        metrics = artifact.files[name].audit.metrics
        assert values[f"Accuracy{suffix}"] == metrics["accuracy_candidate"]
        assert values[f"Mismatch rate against the original{suffix}"] == metrics["mismatch_rate"]
        assert values[f"Agreement with the original{suffix}"] == metrics["agreement"]
        assert values[f"Negative flip rate against the original{suffix}"] == metrics["nfr"]
    # The Hub's own reader.
    assert len(ModelCard.load(root / "small" / "README.md").data.eval_results) == 18


def test_without_matplotlib_there_is_no_page_and_none_of_other_audits(root, tmp_path, monkeypatch, caplog):
    pair = {"reference": predict(root / "org-original", DATA), "dataset": DATA, "details": UNTIMED}
    save_artifact(root / "small", tmp_path, **pair)
    assert (tmp_path / "report.html").exists()
    with monkeypatch.context() as patched, caplog.at_level(logging.INFO, "hf_compalign"):
        patched.setitem(sys.modules, "matplotlib", None)
        save_artifact(root / "small", tmp_path, **pair, overwrite=True)
    assert "report.html is left out, as matplotlib is not installed. Install it: pip install" in caplog.text
    assert not (tmp_path / "report.html").exists()
    assert "report.html" not in (tmp_path / "README.md").read_text()


def test_a_page_that_cannot_be_made_for_another_reason_is_an_error(root, tmp_path, monkeypatch):
    answers = predict(root / "org-original", DATA)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="matplotlib.figure"):
        save_artifact(root / "small", tmp_path / "out", reference=answers, dataset=DATA, details=UNTIMED)
    assert not (tmp_path / "out").exists()


def test_nothing_that_ships_tells_a_local_path(root):
    for path in (root / "small").rglob("*"):
        assert not path.is_file() or str(root).encode() not in path.read_bytes(), path


def test_it_prints_as_a_table(made):
    _, _, artifact = made
    folder, header, *rows, machine = str(artifact).splitlines()
    assert folder == str(artifact.folder)
    assert re.split(r"  +", header.strip()) == list(table_of(shipping.front_matter(artifact.folder)[1])["original"])
    assert [row.split()[0] for row in rows] == list(artifact.files)
    assert machine.startswith(f"Medians and quartiles of times on {artifact.machine}.")
    assert artifact.passed == all(one.audit.passed for one in list(artifact.files.values())[1:])


def test_the_way_to_run_it_in_a_browser_names_the_last_file(made, tmp_path):
    root, model, _ = made
    _, body = shipping.front_matter(root / "small")
    assert 'pipeline("text-classification", "org/small", { dtype: "int8" })' in body
    onnx = {"model_int8_static": root / "exported" / "model_int8.onnx"}
    details = ArtifactDetails(processing_class=shipping.tokenizer(), timed_batch_sizes=())
    save_artifact(model, tmp_path / "out", reference=model, dataset=DATA, onnx=onnx, details=details)
    _, body = shipping.front_matter(tmp_path / "out")
    assert '"out", { dtype: "fp32", model_file_name: "model_int8_static" })' in body


def test_predictions_stand_for_the_original(made, tmp_path):
    root, _, artifact = made
    given = predict(root / "org-original", DATA)
    short = save_artifact(root / "small", tmp_path / "out", reference=given, dataset=DATA, details=UNTIMED)
    assert short.files["model.safetensors"].audit.metrics == artifact.files["model.safetensors"].audit.metrics
    original = short.files["original"]
    assert (original.size_bytes, original.latencies) == (None, {})
    assert original.accuracy == artifact.files["original"].accuracy
    assert short.machine == ""
    assert "ms" not in str(short)
    _, body = shipping.front_matter(tmp_path / "out")
    assert "Times:" not in body
    assert "org-original" in body


def test_without_labels_nothing_is_said_of_accuracy(root, tmp_path):
    unlabeled = DATA.remove_columns("label")
    original = root / "org-original"
    short = save_artifact(root / "small", tmp_path, reference=original, dataset=unlabeled, details=UNTIMED)
    assert math.isnan(short.files["original"].accuracy)
    header, body = shipping.front_matter(tmp_path)
    assert list(table_of(body)["model.safetensors"]) == ["mismatches", "mismatch rate", "MB"]
    assert {metric["type"] for metric in header["model-index"][0]["results"][0]["metrics"]} == {
        "agreement",
        "mismatch_rate",
    }


def relation(folder, **options):
    card = CardDetails(task="text-classification", base_model="org/base", dataset="colors", **options.pop("card", {}))
    details = ArtifactDetails(card, timed_batch_sizes=())
    save_artifact(folder=folder, dataset=DATA, details=details, **options)
    header, _ = shipping.front_matter(folder)
    return header["base_model_relation"], set(header["tags"]) - {"hf_compalign", "model-compression"}


def test_the_relation_to_the_base_model_is_what_was_done(root, tmp_path):
    original = root / "org-original"
    onnx = sorted((root / "exported").glob("*.onnx"))
    in_int8 = {"quantization", "int8", "onnx", "transformers.js"}
    same = {"model": original, "reference": original}
    assert relation(tmp_path / "1", **same, onnx=onnx) == ("quantized", in_int8)
    assert relation(tmp_path / "2", **same, onnx=onnx[:1]) == ("finetune", {"onnx", "transformers.js"})
    # Other weights than the original's: trained, whatever else.
    trained = shipping.saved(tmp_path / "trained", load_compressed(original))
    model = load_compressed(trained)
    with torch.no_grad():
        model.classifier.weight.mul_(1.5)
    shipping.saved(trained, model)
    assert relation(tmp_path / "3", model=trained, reference=original, onnx=onnx) == ("finetune", in_int8)
    # Zeros of pruning stay zeros.
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.intermediate.dense.weight[:, ::2] = 0
    shipping.saved(trained, model)
    assert relation(tmp_path / "4", model=trained, reference=original)[1] == {"pruning"}
    assert "**Pruned weights**: `sparsity` 50.00 %, `layers` 2 of 14\n" in shipping.front_matter(tmp_path / "4")[1]
    # One layer alone, of a model that is nearly all embeddings.
    model.bert.embeddings.word_embeddings = torch.nn.Embedding(5000, model.config.hidden_size)
    model.config.vocab_size = 5000
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.dense.weight.fill_(1)
    shipping.saved(trained, model)
    assert relation(tmp_path / "6", model=trained, reference=original)[1] == {"pruning"}
    assert "**Pruned weights**: `sparsity` 50.00 %, `layers` 1 of 14\n" in shipping.front_matter(tmp_path / "6")[1]
    chosen = relation(tmp_path / "5", **same, card={"base_model_relation": "merge", "tags": ["toy"]})
    assert chosen == ("merge", {"toy"})


def test_quantized_weights_ship_in_their_own_file(root, tmp_path):
    model = load_compressed(root / "org-original")
    quantize_(model, "quanto-w8")
    found = relation(tmp_path / "out", model=model, reference=root / "org-original")
    assert found == ("quantized", {"quantization", "int8"})
    _, body = shipping.front_matter(tmp_path / "out")
    row = table_of(body)["model.quanto.safetensors"]
    assert row["MB"] == f"{(tmp_path / 'out' / 'model.quanto.safetensors').stat().st_size / 1e6:.2f}"
    answers, original = predict(tmp_path / "out", DATA), predict(root / "org-original", DATA)
    assert row["mismatches"] == f"{(answers.predicted != original.predicted).sum()} of 60"
    assert 'load_compressed("out")' in body
    assert "Its weights are quantized (`quanto-w8`): `pip install 'hf-compalign[optimum]'`" in body


@pytest.mark.parametrize("scheme", ["torchao-w8", "torchao-w8a8", "torchao-w4"])
def test_the_weights_of_torchao_ship_too(tmp_path, scheme):
    pytest.importorskip("torchao")
    sizes = {"hidden_size": 64, "intermediate_size": 64, "vocab_size": len(shipping.tokenizer())}
    original = shipping.saved(tmp_path / "original", tiny.bert(**sizes))
    found = []
    for share in (0, 0.5):
        model = load_compressed(original)
        # Evenly over the rows and groups, and the embeddings aside, whose zeros no scheme adds to.
        with torch.no_grad():
            for layer in model.bert.encoder.layer if share else ():
                for linear in (module for module in layer.modules() if isinstance(module, torch.nn.Linear)):
                    linear.weight[:, ::2] = 0
        quantize_(model, scheme)
        found.append(relation(tmp_path / str(share), model=model, reference=original))
        assert [path.name for path in (tmp_path / str(share)).glob("*.safetensors")] == ["model.safetensors"]
    done = {"quantization", "int4" if scheme == "torchao-w4" else "int8"}
    assert found == [("quantized", done), ("finetune", done | {"pruning"})]


def test_the_models_stay_as_they_are(made, tmp_path):
    model, reference = shipping.model(shrunk=True), shipping.model()
    model.train()
    before = tiny.flat(model).clone(), tiny.flat(reference).clone()
    details = ArtifactDetails(processing_class=shipping.tokenizer(), n_runs=1)
    save_artifact(model, tmp_path / "out", reference=reference, dataset=DATA, details=details)
    assert torch.equal(tiny.flat(model), before[0])
    assert torch.equal(tiny.flat(reference), before[1])
    assert model.training
    assert not reference.training
    _, body = shipping.front_matter(tmp_path / "out")
    assert "made with hf_compalign from `the original`" in body
    assert "## How it was made" not in body


def test_images_ship_with_their_processor(tmp_path):
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    details = ArtifactDetails(processing_class=processor, n_runs=1, timed_batch_sizes=(3,))
    model, images = tiny.vit(), tiny.images()
    artifact = save_artifact(model, tmp_path, reference=tiny.vit(), dataset=images, details=details)
    assert artifact.files["model.safetensors"].audit.metrics["cie"] == 0
    assert list(artifact.files["original"].latencies) == [3]
    assert (tmp_path / "preprocessor_config.json").is_file()
    header, _ = shipping.front_matter(tmp_path)
    assert header["pipeline_tag"] == "image-classification"


def test_overwriting_replaces_the_files(root, pair, tmp_path):
    save_artifact(root / "org-original", tmp_path, **pair)
    with pytest.raises(ValueError, match="is not empty: it holds README.md, audit.json, config.json"):
        save_artifact(root / "small", tmp_path, **pair)
    assert json.loads((tmp_path / "audit.json").read_text())["metrics"]["cie"] == 0
    artifact = save_artifact(root / "small", tmp_path, overwrite=True, **pair)
    assert json.loads((tmp_path / "audit.json").read_text())["metrics"]["cie"] > 0
    assert torch.equal(tiny.flat(load_compressed(tmp_path)), tiny.flat(load_compressed(root / "small")))
    assert artifact.files["model.safetensors"].audit.to_json() == Audit.load(tmp_path / "audit.json").to_json()


def test_two_files_of_one_name_are_told_apart_by_the_user(root, pair, tmp_path):
    first = root / "exported" / "model_int8.onnx"
    second = tmp_path / "repaired" / first.name
    second.parent.mkdir()
    second.write_bytes((root / "exported" / "model.onnx").read_bytes())
    clash = f"Two files would be onnx/model_int8.onnx: {first} and .* Name each, say onnx={{'model_int8': '{first}'"
    with pytest.raises(ValueError, match=clash):
        save_artifact(root / "small", tmp_path / "out", onnx=[first, second], **pair)
    onnx = {"model_int8": first, "model_quantized.onnx": second}
    save_artifact(root / "small", tmp_path / "out", onnx=onnx, **pair)
    assert (tmp_path / "out" / "onnx" / "model_quantized.onnx").read_bytes() == second.read_bytes()
    assert (tmp_path / "out" / "onnx" / "model_int8.onnx").read_bytes() == first.read_bytes()


REFUSED = {
    "no file": ({"onnx": ["nowhere/model.onnx"]}, "There is no ONNX file 'nowhere/model.onnx'. Make it"),
    "other name": ({"onnx": {"Small": "model.onnx"}}, "is called model or model_<what>, in .* Got 'Small'"),
    "no ONNX": ({"onnx": {"model": "text.onnx"}}, "text.onnx is not an ONNX file that ONNX Runtime can open"),
    "limit": ({"details": ArtifactDetails(limits={"mismatches": 0.1})}, "There is no limit 'mismatches'"),
    "ONNX model": ({"model": "model.onnx"}, "must be the PyTorch model that was exported, and .* Give it in onnx="),
    "no data": ({"dataset": DATA.select([])}, "The dataset is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_ship_is_refused_before_anything_is_written(root, pair, tmp_path, monkeypatch, case):
    inputs, message = REFUSED[case]
    (tmp_path / "text.onnx").write_text("no graph")
    (tmp_path / "model.onnx").write_bytes((root / "small" / "onnx" / "model.onnx").read_bytes())
    (tmp_path / "config.json").write_bytes((root / "small" / "config.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        save_artifact(folder=tmp_path / "out", **({"model": root / "small"} | pair | inputs))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_model_without_a_processor_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No tokenizer could be loaded .* or pass processing_class="):
        save_artifact(tiny.bert(), tmp_path / "out", reference=tiny.bert(), dataset=tiny.texts(), details=UNTIMED)
    assert not (tmp_path / "out").exists()


def test_an_onnx_file_of_an_earlier_artifact_does_not_stay_by_accident(root, pair, tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model_q4.onnx").write_bytes(b"old")
    with pytest.raises(ValueError, match="holds onnx/model_q4.onnx, which would be no part of the new artifact"):
        save_artifact(root / "small", tmp_path, overwrite=True, **pair)


def test_weights_of_another_kind_do_not_stay_beside_the_new_ones(root, pair, tmp_path):
    quantized = load_compressed(root / "org-original")
    quantize_(quantized, "quanto-w8")
    models = {"model.safetensors": root / "small", "model.quanto.safetensors": quantized}
    for old, new in (list(models), list(reversed(models))):
        folder = tmp_path / old
        save_artifact(models[old], folder, **pair)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(ValueError, match=f"holds {old}, other weights than the new {new}. Remove it, or give"):
            save_artifact(models[new], folder, overwrite=True, **pair)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        (folder / old).unlink()
        save_artifact(models[new], folder, overwrite=True, **pair)
        assert checked_files(folder).keys() & set(WEIGHTS) == {new}
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "model-00001-of-00002.safetensors").write_bytes(b"old")
    with pytest.raises(ValueError, match="holds model-00001-of-00002.safetensors, other weights than the new model.s"):
        save_artifact(root / "small", tmp_path / "parts", overwrite=True, **pair)


@pytest.mark.parametrize("place", ["exported", "exported/onnx"])
def test_an_onnx_file_of_other_labels_is_refused(root, pair, tmp_path, place):
    folder = tmp_path / place
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes((root / "exported" / "model.onnx").read_bytes())
    config = json.loads((root / "small" / "config.json").read_text())
    inputs = pair | {"onnx": [folder / "model.onnx"]}
    (tmp_path / "exported" / "config.json").write_text(json.dumps(config))
    save_artifact(root / "small", tmp_path / "same", **inputs)
    names = {"0": "blue", "1": "green", "2": "red"}
    config |= {"id2label": names, "label2id": {name: int(index) for index, name in names.items()}}
    (tmp_path / "exported" / "config.json").write_text(json.dumps(config))
    message = (
        r"its config.json has the labels {0: 'blue', 1: 'green', 2: 'red'}, the model has "
        r"{0: 'red', 1: 'green', 2: 'blue'}. Export"
    )
    with pytest.raises(ValueError, match=message):
        save_artifact(root / "small", tmp_path / "other", **inputs)
    assert not (tmp_path / "other").exists()


def test_batches_begin_again_where_the_data_end():
    batch = first_batch(shipping.model(), shipping.raw_texts(3), size=7, processing_class=shipping.tokenizer())
    assert batch["input_ids"].shape[0] == 7
    assert torch.equal(batch["input_ids"][:3], batch["input_ids"][3:6])
    assert "label" not in batch


def test_predictions_of_other_data_are_refused(root, tmp_path):
    given = predict(root / "org-original", shipping.raw_texts(30))
    assert isinstance(given, Predictions)
    with pytest.raises(ValueError, match="The predictions must be of the rows of the dataset. They are of 30 items"):
        save_artifact(root / "small", tmp_path / "out", reference=given, dataset=DATA, details=UNTIMED)
    assert not (tmp_path / "out").exists()
