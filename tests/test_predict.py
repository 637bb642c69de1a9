"""A model on a dataset: raw or prepared, text or image, from memory or a folder."""

import numpy as np
import pytest
import tiny
import torch
import traced
from datasets import ClassLabel, Dataset, Features, Image, Value
from tiny import NAMED, reviews, tokenizer
from transformers import Siglip2Config, Siglip2ForImageClassification, Siglip2ImageProcessorPil, ViTImageProcessorPil

from hf_compalign import audit, predict
from hf_compalign.data import find_image_column, find_label_column, find_text_columns, label_names
from hf_compalign.measure.predictions import Columns, ask, reader_of
from hf_compalign.models import OnnxModel

pytestmark = pytest.mark.numeric


def logits_one_by_one(model, texts):
    with torch.no_grad():
        encoded = (tokenizer()(text, return_tensors="pt") for text in texts)
        return np.concatenate([model.eval()(**inputs).logits.numpy() for inputs in encoded])


def test_raw_texts_are_tokenized_and_padded():
    model = tiny.bert(**NAMED)
    found = predict(model, reviews(), processing_class=tokenizer(), batch_size=2)
    assert tiny.distance(found.logits, logits_one_by_one(model, reviews()["text"])) < tiny.ROUNDING
    assert (found.labels.tolist(), found.label_names) == ([1, 0, 1, 0, 0], ("neg", "pos"))
    assert not model.training


def test_texts_of_one_length_are_asked_together_and_answered_in_their_order():
    rng, model, widths = np.random.default_rng(0), tiny.bert(**NAMED), []
    texts = [" ".join(["good"] * n) for n in rng.permutation(12) + 1]
    model.register_forward_pre_hook(lambda _, args, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True)
    found = predict(model, Dataset.from_dict({"text": texts}), processing_class=tokenizer(), batch_size=4)
    assert widths == [12, 8, 4]
    assert tiny.distance(found.logits, logits_one_by_one(model, texts)) < tiny.ROUNDING


def test_every_part_of_the_model_keeps_its_mode():
    model = tiny.bert(dropout=0.5).train()
    model.bert.encoder.layer[0].eval()  # as one freezes a layer
    modes = [module.training for module in model.modules()]
    first, second = predict(model, tiny.texts(5)), predict(model, tiny.texts(5))
    np.testing.assert_array_equal(first.logits, second.logits)
    assert [module.training for module in model.modules()] == modes


def test_a_folder_brings_its_own_tokenizer(tmp_path):
    model = tiny.bert(**NAMED)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    from_folder, from_memory = predict(tmp_path, reviews()), predict(model, reviews(), processing_class=tokenizer())
    assert tiny.distance(from_folder.logits, from_memory.logits) < tiny.ROUNDING
    assert from_folder.model_fingerprint == from_memory.model_fingerprint
    assert from_folder.model == str(tmp_path)
    ready = reviews().map(lambda row: tokenizer()(row["text"]))  # of different lengths, to pad
    assert tiny.distance(predict(tmp_path, ready).logits, from_folder.logits) < tiny.ROUNDING


def test_models_that_tokenize_differently_still_pair_by_the_text():
    shifted = tokenizer()
    shifted.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    reference = predict(tiny.bert(**NAMED), reviews(), processing_class=tokenizer())
    shuffled = reviews().select([4, 2, 0, 1, 3])
    assert audit(reference, predict(tiny.bert(seed=1, **NAMED), shuffled, processing_class=shifted)).n == 5


def test_pairs_of_texts():
    dataset = Dataset.from_dict({"premise": ["good"], "hypothesis": ["bad"], "label": [0]})
    model = tiny.bert(**NAMED)
    found = predict(model, dataset, processing_class=tokenizer())
    with torch.no_grad():
        expected = model(**tokenizer()("good", "bad", return_tensors="pt")).logits
    assert tiny.distance(found.logits, expected) < tiny.ROUNDING


def test_raw_images_are_processed_and_told_apart_by_their_bytes():
    pixels = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 100, 200)]
    features = Features(picture=Image(), label=ClassLabel(names=["neg", "pos"]))
    dataset = Dataset.from_dict({"picture": pixels, "label": [0, 1, 1]}, features=features)
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    model = tiny.vit(num_channels=3, **NAMED)
    found = predict(model, dataset, processing_class=processor)
    with torch.no_grad():
        expected = model(torch.tensor(np.stack(processor(pixels)["pixel_values"]))).logits
    assert tiny.distance(found.logits, expected) < tiny.ROUNDING
    assert len(set(found.ids)) == 3
    assert found.labels.tolist() == [0, 1, 1]


def test_a_model_gets_all_that_its_processor_makes_of_an_image():
    """Siglip2 reads patches, with a mask and the shapes of the images."""
    pixels = [np.full((8 * rows, 16, 3), 40 * rows, dtype=np.uint8) for rows in (1, 2, 4)]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Siglip2Config(vision_config=sizes | {"patch_size": 8, "num_patches": 16}, num_labels=3)
    model = Siglip2ForImageClassification(config).eval()
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    dataset = Dataset.from_dict({"picture": pixels}, features=Features(picture=Image()))
    found = predict(model, dataset, processing_class=processor)
    with torch.no_grad():
        expected = model(**processor([np.array(row["picture"]) for row in dataset], return_tensors="pt")).logits
    assert tiny.distance(found.logits, expected) < tiny.ROUNDING


def test_prepared_rows_pair_in_any_order():
    dataset = tiny.texts(9)
    reference, candidate = predict(tiny.bert(), dataset), predict(tiny.bert(seed=1), dataset.shuffle(seed=0))
    assert reference.data_fingerprint == candidate.data_fingerprint
    expected = predict(tiny.bert(seed=1), dataset)
    assert tiny.distance(candidate.aligned_to(reference).logits, expected.logits) < tiny.ROUNDING


def test_an_id_column_names_the_rows_when_it_can_and_equal_rows_get_names_of_their_own():
    found = predict(tiny.bert(), tiny.texts(3).select([0, 0, 1]))
    assert found.ids[1] == f"{found.ids[0]}#2"
    dataset = reviews(idx=[5, 6, 7, 8, 9], group=["x"] * 5)
    model = tiny.bert(**NAMED)
    assert predict(model, dataset, processing_class=tokenizer()).ids.tolist() == ["5", "6", "7", "8", "9"]
    # Test sets of the Hub often carry idx = -1 everywhere.
    assert len(set(predict(model, reviews(idx=[-1] * 5), processing_class=tokenizer()).ids)) == 5
    with pytest.raises(ValueError, match="The id column 'group' names several rows alike"):
        predict(model, dataset, processing_class=tokenizer(), columns=Columns(id="group"))
    with pytest.raises(ValueError, match="There is no column 'nope'"):
        predict(model, dataset, processing_class=tokenizer(), columns=Columns(id="nope"))


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        ([float(2**24 + index) for index in range(5)], [str(2**24 + index) for index in range(5)]),
        ([0.1, 0.5, 1.0, 1e6, -3.0], ["0.1", "0.5", "1", "1000000", "-3"]),
        (["a", "1", "1.0", "None", "nan"], ["a", "1", "1.0", "None", "nan"]),
    ],
)
def test_ids_name_rows_as_they_are_and_whole_floats_as_integers(column, ids):
    rows, named = reviews(number=column), Columns(id="number")
    assert predict(tiny.bert(**NAMED), rows, processing_class=tokenizer(), columns=named).ids.tolist() == ids


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_row_without_an_id_is_named_or_the_column_passed_over(missing):
    settings = {"processing_class": tokenizer()}
    rows = reviews(idx=[1.0, 2.0, missing, 4.0, 5.0])
    assert len(predict(tiny.bert(**NAMED), rows, **settings).ids[0]) == 16
    with pytest.raises(ValueError, match="The id column 'idx' is empty in row 2"):
        predict(tiny.bert(**NAMED), rows, **settings, columns=Columns(id="idx"))


def test_equal_rows_with_other_labels_in_another_order_need_a_column_of_ids():
    rows = tiny.texts(2, labels=False).select([0, 0, 1]).add_column("number", [7, 8, 9])
    rows = rows.add_column("labels", [0, 1, 2])
    other = rows.select([1, 0, 2])
    with pytest.raises(ValueError, match=r"2 of 3 differ.* Some rows are equal.* columns=Columns\(id=...\)"):
        predict(tiny.bert(), other).aligned_to(predict(tiny.bert(), rows))
    named = Columns(id="number")
    assert audit(*(predict(tiny.bert(), each, columns=named) for each in (rows, other))).metrics["cie"] == 0


def test_labels_follow_the_models_order_of_names():
    features = Features(text=Value("string"), label=ClassLabel(names=["pos", "neg"]))
    by_id = Dataset.from_dict({"text": ["good", "bad", "film"], "label": [0, 1, -1]}, features=features)
    by_name = Dataset.from_dict({"text": ["good", "bad"], "label": ["POS", "neg"]})
    unlabeled = by_id.remove_columns("label")
    for dataset, expected in ((by_id, [1, 0, -100]), (by_name, [1, 0]), (unlabeled, [-100] * 3)):
        assert predict(tiny.bert(**NAMED), dataset, processing_class=tokenizer()).labels.tolist() == expected


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (reviews().select([]), "The dataset is empty"),
        (
            Dataset.from_list([{"x": "a", "y": "b"}]),
            "Cannot tell which columns hold the text. Got the columns 'x', 'y'",
        ),
        (reviews().remove_columns("label").add_column("label", ["pos", "neg", "so", "so", "la"]), "Got la, so"),
        (reviews().remove_columns("label").add_column("label", [0.5] * 5), "must be class ids or names. Got float"),
    ],
)
def test_bad_data_is_refused(dataset, message):
    with pytest.raises(ValueError, match=message):
        predict(tiny.bert(**NAMED), dataset, processing_class=tokenizer())


def test_rows_are_asked_again_of_a_model_that_changed():
    model, settings = tiny.bert(**NAMED), {"processing_class": tokenizer(), "batch_size": 2}
    reader = reader_of(model, reviews(), processing_class=settings["processing_class"])
    asked = ask(reader, reviews(), columns=None, batch_size=2)
    first = asked.answers
    with torch.no_grad():
        model.classifier.bias += 1
    again, expected = asked.again(model), predict(model, reviews(), **settings)
    np.testing.assert_array_equal(again.logits, expected.logits)
    assert (again.logits != first.logits).all()
    assert again.model_fingerprint == expected.model_fingerprint != first.model_fingerprint
    assert again.data_fingerprint == expected.data_fingerprint
    assert (again.ids.tolist(), again.labels.tolist()) == (expected.ids.tolist(), expected.labels.tolist())


def test_a_missing_tokenizer_or_architecture_is_named(tmp_path):
    tiny.bert(**NAMED).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="No tokenizer could be loaded from .* pass processing_class="):
        predict(tmp_path, reviews())
    ready = reviews().map(lambda row: tokenizer()(row["text"]))
    with pytest.raises(ValueError, match="differ in length or shape. Pass processing_class="):
        predict(tmp_path, ready)
    tiny.bert().config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not say which class of model it is"):
        predict(tmp_path, tiny.texts(2))


def test_columns_are_found_by_type_and_usual_names():
    features = Features(headline=Value("string"), topic=ClassLabel(names=["a"]), photo=Image())
    dataset = Dataset.from_dict({"headline": ["x"], "topic": [0], "photo": [None]}, features=features)
    assert find_text_columns(dataset) == ("headline",)
    assert find_label_column(dataset) == "topic"
    assert find_image_column(dataset) == "photo"
    assert label_names(dataset, "topic") == ("a",)
    assert label_names(dataset, "headline") is None


@pytest.mark.parametrize(
    ("columns", "given", "expected"),
    [
        # TREC, BoolQ, WikiQA, QNLI, a reranker's, SQuAD
        ({"question": "what ?", "label-coarse": 1}, {}, ("question",)),
        ({"question": "what ?", "label": "place", "label_text": "place", "question_id": "Q1"}, {}, ("question",)),
        ({"question": "what ?", "kind": "place", "row": "r1"}, {"labels": "kind", "ids": "row"}, ("question",)),
        ({"question": "is it ?", "passage": "it is", "answer": True, "title": "it"}, {}, ("question", "passage")),
        ({"question": "what ?", "title": "it", "answer": "it", "label": 1}, {}, ("question", "answer")),
        ({"question": "what ?", "answer": "it", "good": 1}, {"labels": "good"}, ("question", "answer")),
        ({"question": "what ?", "sentence": "it", "label": 1}, {}, ("question", "sentence")),
        ({"query": "it", "text": "it is", "label": 1}, {}, ("query", "text")),
        ({"id": "1", "title": "it", "context": "it is", "question": "what ?"}, {}, ("question", "context")),
        ({"question": "what ?", "context": ["it", "is"]}, {}, ("question",)),
    ],
)
def test_a_question_is_read_with_the_text_that_goes_with_it(columns, given, expected):
    dataset = Dataset.from_list([columns])
    assert find_text_columns(dataset, **given) == expected
    wide = dataset.cast_column("question", Value("large_string")) if "question" in columns else dataset
    assert find_text_columns(wide, **given) == expected


@pytest.mark.parametrize(
    "columns",
    [
        {"question": "what ?", "article": "it is", "label": 1},
        {"question": "what ?", "answer": "it"},  # an answer may be the label
        {"question": "what ?", "answer": "it", "article": "it is"},
    ],
)
def test_a_question_beside_another_text_is_not_read_alone(columns):
    rows = Dataset.from_list([columns])
    with pytest.raises(ValueError, match="Cannot tell which .* Got the columns 'question', .* Name one or two of them"):
        predict(tiny.bert(), rows, processing_class=tokenizer())
    assert predict(tiny.bert(), rows, processing_class=tokenizer(), columns=Columns(text="question")).ids.size == 1


def test_wanted_columns_must_exist():
    dataset = reviews()
    assert find_text_columns(dataset, ["text"]) == ("text",)
    assert find_label_column(dataset, "label") == "label"
    with pytest.raises(ValueError, match=r"There is no column 'txt'. .*'text', 'label'. Did you mean 'text'\?"):
        find_text_columns(dataset, ["txt"])
    with pytest.raises(ValueError, match="There is no column 'target'"):
        find_label_column(dataset, "target")
    with pytest.raises(ValueError, match="0 of them are of type Image. Name the image column"):
        find_image_column(dataset)


def test_a_model_in_onnx_answers_on_prepared_rows_like_the_original(tmp_path):
    model = tiny.vit()
    model.config.architectures = ["ViTForImageClassification"]
    model.config.save_pretrained(tmp_path)
    traced.export_graph(model, tmp_path / "model.onnx")
    dataset = tiny.images(7)
    found, expected = predict(tmp_path / "model.onnx", dataset, batch_size=3), predict(model, dataset)
    assert tiny.distance(found.logits, expected.logits) < tiny.ROUNDING
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.data_fingerprint == expected.data_fingerprint
    assert found.model_fingerprint == OnnxModel(tmp_path / "model.onnx").fingerprint
    assert audit(expected, found).metrics["mismatch_rate"] == 0
