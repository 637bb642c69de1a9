"""Deferrals ship beside their files: written, found, said on the card, sent, and refused for other files."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shipping
import tiny
import torch
from huggingface_hub import ModelCard
from traced import traced_once

from hf_compalign import Audit, Deferral, DeferringModel, audit, fit_deferral, load_compressed, predict
from hf_compalign.measure.footprint import footprint
from hf_compalign.report.card import CardDetails
from hf_compalign.ship import ArtifactDetails, checked_files, save_artifact
from hf_compalign.ship.deferral import Traffic, deferral_name, finding, sureness
from hf_compalign.ship.deferrals import pair_audit_name, pair_name

DATA = shipping.raw_texts()
FILE, FLOAT, WEIGHTS = "onnx/model_int8.onnx", "onnx/model.onnx", "model.safetensors"
# Few items show little; these budgets let each file answer a part, and some of that otherwise.
FITTED = {"budget": 0.1, "confidence": 0.5, "scores": ["margin"]}


def details():
    card = CardDetails(task="text-classification", base_model="org/base", dataset="colors", name="org/small")
    return ArtifactDetails(card, shipping.tokenizer(), timed_batch_sizes=())


def balanced(seed=None):
    """A model that gives all answers; with a seed, one that answers some items otherwise."""
    model = shipping.model()
    logits = predict(model, DATA, processing_class=shipping.tokenizer()).logits
    noise = torch.zeros(16) if seed is None else torch.randn(3, 16, generator=torch.manual_seed(seed)) / 4
    with torch.no_grad():
        model.classifier.bias -= torch.from_numpy(logits.mean(0))
        model.classifier.weight *= 1 + noise
    return model


def halving(reference, candidate):
    """A deferral of the less sure half of the items."""
    margins = sureness(candidate.logits, "margin")
    threshold = float(np.median(margins))
    differ = reference.predicted != candidate.predicted
    answered, changed = margins > threshold, (margins > threshold) & differ
    return replace(
        fit_deferral(reference, candidate, **FITTED),
        threshold=threshold,
        answered=int(answered.sum()),
        changed=int(changed.sum()),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of all, the deferrals, and the artifact: INT8 before the weights, the weights before the original."""
    root = tmp_path_factory.mktemp("deferrals")
    original = shipping.saved(root / "org-original", balanced())
    model = shipping.saved(root / "changed", balanced(seed=1))
    with traced_once():
        onnx = shipping.exported(root / "exported", load_compressed(model))
    asked = {"processing_class": shipping.tokenizer()}
    shutil.copy(model / "config.json", root / "exported")
    answers = [predict(one, DATA, **asked) for one in (original, model, onnx[1])]
    of_weights, of_file = fit_deferral(*answers[:2], **FITTED), halving(*answers[1:])
    assert 0 < of_weights.changed < of_weights.mismatches
    assert of_weights.answered < len(DATA)
    deferrals = {FILE: of_file, WEIGHTS: of_weights}
    save_artifact(
        model, root / "small", reference=original, dataset=DATA, onnx=onnx, deferrals=deferrals, details=details()
    )
    return root, deferrals


@pytest.fixture
def root(made):
    return made[0]


@pytest.fixture
def copied(root, tmp_path):
    return Path(shutil.copytree(root / "small", tmp_path / "copy"))


@pytest.fixture
def given(root):
    """What every artifact of these models needs."""
    return {
        "reference": predict(root / "org-original", DATA),
        "dataset": DATA,
        "onnx": [root / "exported" / "model_int8.onnx"],
        "details": details(),
    }


def test_each_lies_beside_its_file_with_names_for_others(made):
    root, deferrals = made
    there = {path.relative_to(root / "small").as_posix() for path in (root / "small").rglob("*") if path.is_file()}
    assert there - shipping.SENT == {
        *("deferral.json", "onnx/model_int8.deferral.json"),
        *("pair.audit.json", "onnx/model_int8.pair.audit.json"),
    }
    behind = {FILE: f"org/small/{WEIGHTS}", WEIGHTS: "org-original"}
    for name, deferral in deferrals.items():
        stored = Deferral.load(root / "small" / deferral_name(name))
        names = replace(deferral.candidate, model=f"org/small/{name}"), replace(deferral.reference, model=behind[name])
        assert stored == replace(deferral, candidate=names[0], reference=names[1])
    for path in (root / "small").rglob("*"):
        assert not path.is_file() or str(root).encode() not in path.read_bytes(), path


def test_each_pair_is_audited_and_stands_in_the_table(made):
    root, deferrals = made
    folder = root / "small"
    places = {FILE: folder / FILE, WEIGHTS: folder}
    behind = {FILE: folder, WEIGHTS: root / "org-original"}
    original = predict(root / "org-original", DATA)
    card = (folder / "README.md").read_text()
    for name in deferrals:
        stored = Audit.load(folder / pair_audit_name(name))
        alone = audit(original, DeferringModel(places[name], behind[name]), DATA)
        assert stored.metrics == alone.metrics
        assert f"| {pair_name(name)} | " in card
    assert "This is about the weights" in card


def test_the_card_and_the_page_begin_with_the_file_that_they_are_about(root, given, tmp_path):
    """With the file together with what is behind it; one that does not defer stands alone."""
    deferral = Deferral.load(root / "small" / deferral_name(FILE))
    for rules, words in (
        ({FILE: deferral}, f"This is about `{FILE}` with `{WEIGHTS}` behind it, which answers what it is not sure of."),
        ({}, f"This is about `{FILE}`. All files"),
    ):
        folder = tmp_path / str(len(rules))
        done = save_artifact(
            root / "changed", folder, deferrals=rules, **given | {"details": replace(details(), about=FILE)}
        )
        card = (folder / "README.md").read_text()
        assert words in card
        first = done.files[pair_name(FILE) if rules else FILE].audit
        n = first.n - first.metrics["cie"]
        assert f"the compressed model answers\n{n} of them like the original" in card
        page = re.sub("<[^>]+>", "", (folder / "report.html").read_text())
        assert f"model_int8.onnx{', deferring' * bool(rules)} against org-original" in page
        assert (
            ModelCard.load(folder / "README.md").data.eval_results[0].metric_value
            == first.metrics["accuracy_candidate"]
        )
    with pytest.raises(ValueError, match="There is no file 'onnx/model.onnx' in the artifact for the card to be about"):
        save_artifact(root / "changed", tmp_path / "no", **given | {"details": replace(details(), about=FLOAT)})


def test_it_is_found_beside_the_file_and_in_the_folder(made, tmp_path):
    root, deferrals = made
    for name, where in ((FILE, root / "small" / FILE), (WEIGHTS, root / "small")):
        found = DeferringModel(where, root / "org-original").deferral
        assert (found.threshold, found.candidate.model) == (deferrals[name].threshold, f"org/small/{name}")
    # In a folder of its own, as a user saves one.
    for name in ("model_int8.onnx", "config.json"):
        shutil.copy(root / "exported" / name, tmp_path)
    with pytest.raises(ValueError, match="no model_int8.deferral.json and no deferral.json. Fit one with fit_deferral"):
        DeferringModel(tmp_path / "model_int8.onnx", root / "org-original")
    deferrals[FILE].save(tmp_path / "deferral.json")
    assert DeferringModel(tmp_path / "model_int8.onnx", root / "org-original").deferral == deferrals[FILE]
    # That of another file is not taken.
    deferrals[WEIGHTS].save(tmp_path / "model_int8.deferral.json")
    with pytest.raises(ValueError, match="Its threshold says nothing about another model"):
        DeferringModel(tmp_path / "model_int8.onnx", root / "org-original")


def test_it_is_found_on_the_hub(made, monkeypatch):
    root, deferrals = made
    on_the_hub = {("org/small", "deferral.json"): root / "small" / "deferral.json"}
    monkeypatch.setattr(finding, "cached_file", lambda *where: str(on_the_hub[where]))
    candidate = load_compressed(root / "small")
    candidate.config.name_or_path = "org/small"
    assert DeferringModel(candidate, root / "org-original").deferral.threshold == deferrals[WEIGHTS].threshold


def test_without_a_place_to_look_there_is_a_clear_error(root):
    with pytest.raises(ValueError, match="was made in memory, so no deferral lies beside it. Give deferral=, from"):
        DeferringModel(tiny.bert(), tiny.bert())
    message = "There is no deferral beside .*org-original: no deferral.json. Fit one with fit_deferral, and save it"
    with pytest.raises(ValueError, match=message):
        DeferringModel(root / "org-original", root / "org-original")


def test_the_card_says_what_each_pair_does_and_how_to_load_it(made, monkeypatch):
    root, deferrals = made
    _, body = shipping.front_matter(root / "small")
    part = body.partition("## Let a file answer where it is sure")[2].partition("## Versions")[0]
    for name, behind in ((FILE, f"`{WEIGHTS}` (the reference)"), (WEIGHTS, "`org-original` (the reference)")):
        said = next(line for line in part.splitlines() if line.startswith(f"`{name}` (the candidate)"))
        one = deferrals[name]
        assert f"answers where it is sure, and {behind} answers the rest." in said
        assert f"answers {one.answered} of 60 items itself" in said
        assert f"{100 * one.answered_rate:.2f} %" in said
        assert f"With 50 % confidence, at most {100 * one.bound:.2f} % of all items get another answer" in said
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: str(root / "small"))
    monkeypatch.chdir(root)  # where the original is
    pairs = []
    for code in re.findall(r"```python\n(.*?)```", part, re.S):
        assert len(code.strip().splitlines()) == 5
        names = {}
        exec(code, names)
        pairs.append(names["pair"])
    assert [pair.deferral.threshold for pair in pairs] == [one.threshold for one in deferrals.values()]
    assert pairs[0].path == str(root / "small" / FILE)
    assert pairs[0].reference.config.name_or_path == str(root / "small")
    assert pairs[1].reference.config.name_or_path == "org-original"


def test_a_cascade_is_loaded_as_one(root, given, tmp_path, monkeypatch):
    """The file was fitted against the weights together with the original behind them."""
    behind = DeferringModel(root / "small", root / "org-original")
    answers = predict(behind, DATA), predict(root / "small" / FILE, DATA)
    deferrals = {FILE: halving(*answers), WEIGHTS: root / "small" / "deferral.json"}
    save_artifact(root / "changed", tmp_path / "small", deferrals=deferrals, **given)
    _, body = shipping.front_matter(tmp_path / "small")
    assert f"and `{WEIGHTS}`, with what is behind that, (the reference) answers the rest." in body
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", body, re.S) if 'int8.onnx", Deferring' in one]
    assert f'pair = DeferringModel(f"{{folder}}/{FILE}", DeferringModel(folder, "org-original"))' in code
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: str(tmp_path / "small"))
    monkeypatch.chdir(root)
    names = {}
    exec(code, names)
    pair = names["pair"]
    assert audit(answers[0], pair, DATA).metrics["cie"] == deferrals[FILE].changed
    assert pair.traffic == Traffic(answered=30, deferred=30)
    assert pair.reference.traffic.n == 30
    sizes = [tmp_path / "small" / FILE, tmp_path / "small" / WEIGHTS, root / "org-original" / WEIGHTS]
    in_memory = sum(footprint(load_compressed(path.parent)).parameters for path in sizes[1:]) * 4
    assert footprint(pair).size_bytes == sizes[0].stat().st_size + in_memory


def test_another_reference_is_said(root, given, tmp_path, caplog):
    answers = predict(root / "org-original", DATA), predict(root / "small" / FILE, DATA)
    elsewhere = replace(answers[0], model="org/elsewhere", model_fingerprint="0" * 16)
    deferrals = {FILE: fit_deferral(elsewhere, answers[1], **FITTED)}
    save_artifact(root / "changed", tmp_path / "small", deferrals=deferrals, **given)
    assert "was fitted for the reference org/elsewhere (0000000000000000), which is neither the original" in caplog.text
    assert f'DeferringModel(f"{{folder}}/{FILE}", "org/elsewhere")' in (tmp_path / "small" / "README.md").read_text()


def test_what_is_no_deferral_of_the_artifact_is_refused(made, given, tmp_path):
    root, deferrals = made
    one = deferrals[FILE]
    unknown = replace(one, candidate=replace(one.candidate, model_fingerprint=""))
    refused = [
        (
            {"model_int8.onnx": one},
            f"no file 'model_int8.onnx' in the artifact .* It holds {WEIGHTS}, {FILE}. Name one",
        ),
        ({FLOAT: one}, f"There is no file '{FLOAT}' in the artifact that could defer"),
        (
            {WEIGHTS: one},
            rf"of {WEIGHTS} was fitted for .*model_int8.onnx \(\w+\), and the weights of {WEIGHTS} are ot",
        ),
        ({FILE: unknown}, r"was fitted for .* \(unknown\), and the weights of .* Fit it anew with fit_deferral"),
        ({FILE: tmp_path / "nowhere.json"}, "nowhere.json"),
    ]
    for wrong, message in refused:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            save_artifact(root / "changed", tmp_path / "out", deferrals=wrong, **given)
        assert not (tmp_path / "out").exists()


def test_one_of_an_earlier_artifact_does_not_stay_by_accident(made, given, copied):
    root, deferrals = made
    given["onnx"] = sorted((root / "exported").glob("*.onnx"))
    message = (
        "holds deferral.json, onnx/model_int8.deferral.json, onnx/model_int8.pair.audit.json, pair.audit.json, which "
        "would be no part .* list its file in deferrals="
    )
    with pytest.raises(ValueError, match=message):
        save_artifact(root / "changed", copied, overwrite=True, **given)
    save_artifact(root / "changed", copied, overwrite=True, deferrals=deferrals, **given)
    assert {"deferral.json", "onnx/model_int8.deferral.json"} <= checked_files(copied).keys()


def test_a_pair_is_no_model_to_pack(made, given, tmp_path):
    root, deferrals = made
    pair = DeferringModel(root / "small" / FILE, root / "org-original", deferrals[FILE])
    with pytest.raises(ValueError, match="a DeferringModel is two. Give the weights .* and its deferral in deferrals="):
        save_artifact(pair, tmp_path / "out", **given)


def test_only_deferrals_of_these_weights_are_sent(copied):
    place = copied / "onnx" / "model_int8.deferral.json"
    stored = json.loads(place.read_text())
    stored["candidate"]["model_fingerprint"] = "0" * 16
    place.write_text(json.dumps(stored))
    message = rf"The deferral of {FILE} was fitted for org/small/{FILE} \(0{{16}}\), and the weights of .* are others"
    with pytest.raises(ValueError, match=message):
        checked_files(copied)
    place.write_text("{}")
    with pytest.raises(ValueError, match="model_int8.deferral.json is JSON, but not that of a deferral"):
        checked_files(copied)
    place.rename(copied / "onnx" / "model_q4.deferral.json")
    with pytest.raises(ValueError, match="holds onnx/model_q4.deferral.json without the file that it was fitted for"):
        checked_files(copied)


def test_a_pair_from_the_folder_answers_as_its_deferral_says(made):
    root, deferrals = made
    one = deferrals[WEIGHTS]
    pair = DeferringModel(root / "small", root / "org-original")
    found = audit(root / "org-original", pair, DATA)
    assert found.metrics["cie"] == one.changed
    assert pair.traffic == Traffic(answered=one.answered, deferred=60 - one.answered)
    margins = sureness(predict(root / "small", DATA).logits, "margin")
    assert one.threshold is None or np.sum(margins > one.threshold) == one.answered
