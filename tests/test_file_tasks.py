"""Files of every task that can be asked answer like the model that they were exported from."""

import every_task
import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from tiny import tokenizer
from transformers import (
    BeitForSemanticSegmentation,
    ConvNextConfig,
    DPTForSemanticSegmentation,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from hf_compalign import predict
from hf_compalign.compress.export import export_onnx, export_openvino
from hf_compalign.measure.predictions import SpanOptions, predict_spans, predict_values
from hf_compalign.models import sample_inputs
from hf_compalign.opening import load_model
from hf_compalign.tasks import EXPORTED, MEASURED, task_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("traced_once")]

N = 9
MODELS = {name: case.model(0).eval() for name, case in every_task.CASES.items()}
FILED = [name for name, model in MODELS.items() if task_of(model).name in {task.name for task in EXPORTED}]
# In INT8 they are as others are, or take long.
ALIKE = ("regression of two", "image-multi-label", "windows", "image-segmentation")
ASKED = [name for name in FILED if task_of(MODELS[name]) in MEASURED]
HOW = {"data_collator": every_task.padded, "batch_size": 4}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The file of a task in a format, exported once."""
    made = {}

    def file(name, export=export_onnx, **how):
        key = (name, export.__name__, *how)
        if key not in made:
            made[key] = export(MODELS[name], tmp_path_factory.mktemp("files") / "out", **how)
        return made[key]

    return file


def inputs_of(name):
    batch = every_task.batch(every_task.rows(name, N))
    return {key: value for key, value in batch.items() if key not in every_task.CASES[name].labels}


def answer(name, model):
    with torch.no_grad():
        return task_of(MODELS[name]).answer(model(**inputs_of(name))).float()


def test_all_but_language_models_become_files():
    left = {task_of(MODELS[name]).name for name in {*MODELS} - {*FILED}}
    assert left == {"fill-mask", "text-generation", "text2text-generation"}


@pytest.mark.parametrize("name", FILED)
def test_onnx_runtime_answers_like_the_model_in_float(files, name):
    expected = answer(name, MODELS[name])
    got = answer(name, load_model(files(name).path))
    assert got.shape == expected.shape
    assert tiny.distance(got, expected) <= tiny.ROUNDING


@pytest.mark.parametrize("name", FILED)
def test_openvino_answers_like_the_model_in_float(files, name):
    got = answer(name, load_model(files(name, export_openvino, precision="f32").path))
    assert tiny.distance(got, answer(name, MODELS[name])) <= tiny.ROUNDING


@pytest.mark.parametrize(
    ("name", "export"),
    [
        *((name, export_onnx) for name in FILED if name not in ALIKE),
        ("question-answering", export_openvino),
        ("windows", export_openvino),
    ],
)
def test_int8_files_move_the_logits_a_little(files, name, export):
    made = files(name, export, quantize="static", calibration=[inputs_of(name)])
    expected = answer(name, MODELS[name])
    moved = (answer(name, load_model(made.path)) - expected).abs().max()
    assert 0 < moved < 0.3 * expected.abs().max()
    assert made.quantized_layers
    assert "classifier" not in made.quantized_layers


@pytest.mark.parametrize("name", ASKED)
def test_predict_asks_a_file_like_the_model(files, name):
    rows = every_task.rows(name, N)
    ours, theirs = predict(MODELS[name], rows, **HOW), predict(files(name).path, rows, **HOW)
    assert np.array_equal(theirs.ids, ours.ids)
    assert np.array_equal(theirs.labels, ours.labels)
    assert theirs.label_names == ours.label_names
    assert (theirs.examples is None) == (ours.examples is None)
    assert tiny.distance(torch.tensor(theirs.logits), torch.tensor(ours.logits)) <= tiny.ROUNDING


@pytest.mark.parametrize("name", ["regression", "regression of two"])
def test_predict_values_asks_a_file_like_the_model(files, name):
    rows = every_task.rows(name, N)
    ours, theirs = predict_values(MODELS[name], rows, **HOW), predict_values(files(name).path, rows, **HOW)
    assert np.array_equal(theirs.ids, ours.ids)
    assert np.allclose(theirs.values, ours.values, atol=1e-5)


def test_predict_spans_asks_a_file_like_the_model(files):
    asked = Dataset.from_dict({"question": ["good day", "bad"], "context": ["a fine good film " * 9, "bad one"]})
    how = {"processing_class": tokenizer(), "options": SpanOptions(stride=8)}
    pair = MODELS["question-answering"], files("question-answering").path
    ours, theirs = (predict_spans(model, asked, **how) for model in pair)
    assert theirs.texts == ours.texts
    assert np.array_equal(theirs.starts, ours.starts)
    assert np.allclose(theirs.scores, ours.scores, atol=1e-4)


def test_a_file_of_choices_takes_any_number_of_them(files):
    file, model = load_model(files("multiple-choice").path), MODELS["multiple-choice"]
    inputs = {name: value[:, :2].contiguous() for name, value in inputs_of("multiple-choice").items()}
    with torch.no_grad():
        assert tiny.distance(file(**inputs)["logits"], model(**inputs).logits) <= tiny.ROUNDING


def _of_patches(architecture, **config):
    """Tiny, of images of 32 x 32 in 4 layers of patches of 8 x 8."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 24}
    made = architecture.config_class(
        **sizes, image_size=32, patch_size=8, initializer_range=0.2, num_labels=3, **config
    )
    return architecture(made).eval()


def _upernet():
    torch.manual_seed(0)
    stages = [f"stage{number}" for number in range(1, 5)]
    backbone = ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, out_features=stages, initializer_range=0.2)
    sizes = {"hidden_size": 8, "pool_scales": [1, 2], "auxiliary_in_channels": 8, "auxiliary_channels": 8}
    made = UperNetConfig(backbone_config=backbone, **sizes, initializer_range=0.2, num_labels=3)
    return UperNetForSemanticSegmentation(made).eval()


SEGMENTERS = {
    "beit": lambda: _of_patches(
        BeitForSemanticSegmentation, out_indices=[1, 2, 3, 4], pool_scales=[1, 2], auxiliary_channels=8
    ),
    "dpt": lambda: _of_patches(
        DPTForSemanticSegmentation, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8
    ),
    "upernet": _upernet,
}


@pytest.mark.parametrize("name", SEGMENTERS)
def test_other_models_for_segmentation_become_files(name, tmp_path):
    model = SEGMENTERS[name]()
    made = export_onnx(model, tmp_path / "out")
    inputs = sample_inputs(model, n_items=3)
    with torch.no_grad():
        expected = model(**inputs).logits
    file = load_model(made.path)
    assert tiny.distance(file(**inputs)["logits"], expected) <= 10 * tiny.ROUNDING
    file.config.id2label = {0: "a", 1: "b"}
    with pytest.raises(ValueError, match="answers with 3 logits, but its config has 2 labels"):
        file(**inputs)


def test_what_cannot_be_traced_says_so(tmp_path):
    class Odd(SegformerForSemanticSegmentation):
        def forward(self, pixel_values, **given):
            found = super().forward(pixel_values, **given)
            if float(found.logits.sum()) > 0:
                found.logits = found.logits * 2
            return found

    with pytest.raises(ValueError, match="Odd cannot be exported to ONNX: on made-up inputs"):
        export_onnx(Odd(MODELS["image-segmentation"].config), tmp_path / "out")


def test_a_file_of_other_tasks_is_refused():
    with pytest.raises(ValueError, match="BertForMaskedLM has a head that is not supported"):
        export_onnx(MODELS["fill-mask"], "nowhere")
