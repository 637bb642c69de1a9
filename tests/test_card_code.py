"""The Python on a model card runs as it stands there, and prints what a model of each task answers."""

import ast
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import every_task
import numpy as np
import pytest
import shipping
import test_card
import test_pixels
import test_ship_tasks
import torch
import zoo
from PIL import Image
from transformers import ASTFeatureExtractor

from hf_compalign import read_in_windows
from hf_compalign.compress.export import export_onnx, export_openvino
from hf_compalign.report.card import Measured
from hf_compalign.ship import write_model_card

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("traced_once")]

TASKS = {"labels": "text-classification", "one": "text-classification", "words": "token-classification"}
TASKS |= {"choices": "multiple-choice", "pixels": "image-segmentation", "sounds": "audio-classification"}
TEXTS = ["one text", "and another text"]


def made(kind):
    """A model and what reads its inputs."""
    if kind == "one":
        return shipping.model(), shipping.tokenizer()
    if kind == "choices":
        return zoo.build("bert", head="ForMultipleChoice", vocab_size=len(shipping.tokenizer())), shipping.tokenizer()
    if kind == "pixels":
        return test_pixels.model(), test_pixels.processor()
    if kind == "sounds":
        model = every_task.CASES["audio-classification"].model(0).eval()
        sizes = {"num_mel_bins": model.config.num_mel_bins, "max_length": model.config.max_length}
        return model, ASTFeatureExtractor(**sizes)
    return test_ship_tasks.model(kind), shipping.tokenizer()


def card_of(folder, kind, model, processor, files=()):
    """The card of a model with these files, which is loaded by its folder."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    found = test_card.compared()
    details = replace(
        test_card.DETAILS, task=TASKS[kind], name=str(folder), files={name: Measured(found, 0.75) for name in files}
    )
    write_model_card(folder, found, details=details)
    return shipping.front_matter(folder)[1]


def code_in(card, what):
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", card, re.S) if what in one]
    return code


def expected(kind, model, batch):
    """What the card's code prints of this batch, from the model itself."""
    with torch.no_grad():
        logits = model(**{name: torch.as_tensor(value) for name, value in batch.items()}).logits
    names = model.config.id2label
    if kind == "labels":
        return [[names[index] for index in range(3) if row[index] > 0] for row in logits]
    if kind == "words":
        tokens = [shipping.tokenizer().convert_ids_to_tokens(ids) for ids in batch["input_ids"].tolist()]
        classes = [[names[index] for index in row] for row in logits.argmax(-1).tolist()]
        return [[*zip(*pair, strict=True)] for pair in zip(tokens, classes, strict=True)]
    if kind == "pixels":
        return {names[index] for index in logits.argmax(1).flatten().tolist()}
    best = logits.argmax(-1).tolist()
    return best if kind == "choices" else [names[index] for index in best]


@pytest.mark.parametrize("kind", TASKS)
def test_files_are_asked_as_their_task_is(kind, tmp_path, monkeypatch, capsys):
    model, processor = made(kind)
    export_onnx(model, tmp_path / "onnx", processing_class=processor)
    export_openvino(model, tmp_path / "openvino", precision="f32", processing_class=processor)
    card = card_of(tmp_path, kind, model, processor, ["onnx/model.onnx", "openvino/openvino_model.xml"])
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda folder, name: f"{folder}/{name}")
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save("image.png")
    sound = rng.normal(size=16_000).astype(np.float32)
    reader = SimpleNamespace(read=lambda name, dtype: (sound.astype(dtype), 16_000))
    monkeypatch.setitem(sys.modules, "soundfile", reader)
    names = {}
    for what in ("from onnxruntime", "import openvino"):
        exec(code_in(card, what), names)
        printed = [ast.literal_eval(line) for line in capsys.readouterr().out.splitlines()]
        answer = expected(kind, model, names["batch"])
        assert printed == (answer if kind == "words" else [answer])
    package = {"pixels": " pillow", "sounds": " soundfile"}.get(kind, "")
    assert f"pip install onnxruntime transformers{package}`" in card
    by_itself = names["logits"]
    exec(code_in(card, "import OpenVinoModel"), names)
    assert np.allclose(np.asarray(names["logits"]), by_itself, atol=1e-4)


@pytest.mark.parametrize("kind", TASKS)
def test_weights_are_loaded_with_a_pipeline_where_there_is_one(kind, tmp_path):
    model, processor = made(kind)
    card = card_of(tmp_path, kind, model, processor, ["onnx/model.onnx"])
    names = {}
    exec(code_in(card, "pipeline" if kind != "choices" else "load_compressed"), names)
    loaded = names["model"] if kind == "choices" else names["classify"].model
    assert type(loaded) is type(model)
    assert ("pipeline" in card) is (kind != "choices")
    if kind == "labels":
        (scores,) = names["classify"](["w1 w2"])
        assert {one["label"] for one in scores} == {*model.config.id2label.values()}


@pytest.mark.parametrize("kind", ["one", "labels"])
def test_windows_are_asked_for_one_class_or_several_labels(kind, tmp_path, capsys):
    model, tokenizer = made(kind)
    card = card_of(tmp_path, kind, read_in_windows(model, length=8, stride=2), tokenizer)
    names = {}
    exec(code_in(card, "import predict"), names)
    [found] = [ast.literal_eval(line) for line in capsys.readouterr().out.splitlines()]
    single = expected(kind, made(kind)[0], tokenizer(TEXTS, padding=True, return_tensors="pt"))
    if kind == "labels":
        single = [(text, label) for text, labels in zip(TEXTS, single, strict=True) for label in labels]
    assert found == single


def test_a_task_without_code_of_its_own_is_loaded_and_no_more(tmp_path):
    model, tokenizer = made("one")
    found = test_card.compared()
    details = replace(test_card.DETAILS, task="object-counting", name=str(tmp_path))
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    write_model_card(tmp_path, found, details=replace(details, files={"onnx/model.onnx": Measured(found, 0.75)}))
    card = shipping.front_matter(tmp_path)[1]
    assert "pipeline" not in card
    assert "onnxruntime" not in card
    names = {}
    exec(code_in(card, "load_compressed"), names)
    assert type(names["model"]) is type(model)
