"""Rows from strangers: what becomes a model's input, and the column and row of what does not."""

import io
import logging

import numpy as np
import PIL.Image
import pytest
import shipping
import tiny
from datasets import Array3D, Dataset, DatasetDict, Features, Image
from tiny import NAMED, reviews, tokenizer
from transformers import GPT2Config, GPT2ForSequenceClassification, ViTImageProcessorPil

from hf_compalign import AuditCallback, AuditOptions, audit, cache_teacher_logits, predict
from hf_compalign.data import rows_at, tokenized, with_pixels
from hf_compalign.measure.attribution import explain
from hf_compalign.measure.predictions import Columns

RGB = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def file_of(array, mode=None, kind="PNG"):
    """The bytes of an image file."""
    image, buffer = PIL.Image.fromarray(array), io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def pictures(*files):
    rows = {"image": [file and {"bytes": file, "path": None} for file in files]}
    return Dataset.from_dict(rows, features=Features(image=Image()))


def processor(n_channels=3):
    means = [0.5] * n_channels
    return ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=means, image_std=means)


def pixels(dataset, *, n_channels=3, column="image"):
    """Of all rows, as a model gets them."""
    return np.stack(with_pixels(dataset, processor(n_channels), column, n_channels=n_channels)[:]["pixel_values"])


# ---- what is given as a dataset ----


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            DatasetDict(train=reviews(), test=reviews()),
            r"Got DatasetDict. .*'train', 'test'.*dataset\['train'\]",
        ),
        (reviews().to_list(), r"Got list. Make one: Dataset.from_list\(rows\)"),
        (reviews().to_dict(), r"Got dict. Make one: Dataset.from_dict\(columns\)"),
        (reviews().to_pandas(), r"Got DataFrame. Make one: Dataset.from_pandas\(frame"),
        (reviews().to_iterable_dataset(), r"Got IterableDataset. Make one: .*stream.take\(1000\)"),
        ("rows.csv", r"Got str. Make one: Dataset.from_parquet\(path\)"),
        (3, "Got int. Give one"),
        (reviews().select([]), "The dataset is empty"),
        (reviews().with_format("pandas"), r"formatted as pandas. Give dataset.with_format\(None\)"),
    ],
)
def test_what_is_no_dataset_of_rows_is_refused(given, message):
    model = tiny.bert(**NAMED)
    for ask in (
        lambda: predict(model, given, processing_class=tokenizer()),
        lambda: audit(model, model, given, groups="label"),
        lambda: AuditCallback(model, given),
        lambda: explain(model, model, given, processing_class=tokenizer()),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


@pytest.mark.parametrize("format", ["numpy", "torch"])
def test_the_format_of_raw_rows_does_not_matter(format):
    given = reviews().with_format(format), reviews()
    found, expected = (predict(tiny.bert(**NAMED), rows, processing_class=tokenizer()) for rows in given)
    np.testing.assert_array_equal(found.logits, expected.logits)
    assert found.ids.tolist() == expected.ids.tolist()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1. Got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1. Got -1"),
        ({"batch_size": "8"}, "batch_size must be a whole number. Got '8'"),
        ({"batch_size": 2.5}, "batch_size must be a whole number. Got 2.5"),
        ({"device": "gpu"}, "There is no device 'gpu' here. Use one of cpu"),
        ({"device": "cuda:99"}, "There is no device 'cuda:99' here"),
    ],
)
def test_how_rows_cannot_be_asked(option, message):
    for ask in (predict, lambda model, rows, **how: cache_teacher_logits(rows, model, **how)):
        with pytest.raises(ValueError, match=message):
            ask(tiny.bert(), tiny.texts(), **option)


# ---- texts ----


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["good", "bad", None, None], "Row 2 has nothing in the column 'text': None, as have 2 of 4 rows. Leave such"),
        ([1.5, 2.0, 0.5, 3.0], r"'text' must hold texts. Got Value\('float64'\).*cast_column\('text', Value"),
        ([b"good"] * 4, r"must hold texts. Got Value\('binary'\)"),
        ([["good", "film"]] * 4, r"must hold texts. Got List\(Value\('string'\)\)"),
        (["good", "", "bad", " "], "Row 1 has no tokens. Leave it out, or use a tokenizer that adds special tokens"),
        ([""] * 4, "Row 0 has no tokens"),
    ],
)
def test_what_is_no_text_is_refused_with_its_row(column, message):
    model, rows = tiny.bert(**NAMED), Dataset.from_dict({"text": column})
    for ask in (
        lambda: predict(model, rows, processing_class=tokenizer()),
        lambda: predict(model, rows.select([0, *range(4)]).select(range(1, 5)), processing_class=tokenizer()),
        lambda: audit(model, model, rows, options=AuditOptions(processing_class=tokenizer())),
        lambda: explain(model, model, rows, processing_class=tokenizer()),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_the_second_text_of_a_pair_must_be_there_too():
    rows = Dataset.from_dict({"text": ["good", "bad"], "text_pair": ["film", None]})
    with pytest.raises(ValueError, match="Row 1 has nothing in the column 'text_pair'"):
        predict(tiny.bert(**NAMED), rows, processing_class=tokenizer())


def test_an_empty_text_is_one_where_special_tokens_make_it_one():
    rows = Dataset.from_dict({"text": ["", "w1"]})
    assert len(predict(shipping.model(), rows, processing_class=shipping.tokenizer())) == 2


def test_texts_are_cut_to_the_models_positions_and_that_is_said(caplog):
    endless = tokenizer()
    endless.model_max_length = int(1e30)
    rows, model = Dataset.from_dict({"text": ["good", "good film " * 20]}), tiny.bert(**NAMED)
    expected = predict(model, rows, processing_class=tokenizer())  # which knows the 32 positions
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        found = predict(model, rows, processing_class=endless)
    np.testing.assert_array_equal(found.logits, expected.logits)
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 2 texts fill all 32 positions of the model: longer ones are cut there, since the tokenizer's "
        "model_max_length is larger."
    ]
    assert len(tokenized(rows, endless, ["text"])[1]["input_ids"]) == 40


def test_a_tokenizer_without_padding_reads_rows_one_by_one():
    bare = tokenizer()
    bare.pad_token = None
    config = GPT2Config(
        vocab_size=tiny.VOCABULARY, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
    )
    model = GPT2ForSequenceClassification(config)
    assert len(predict(model, reviews(), processing_class=bare, batch_size=1)) == 5
    with pytest.raises(ValueError, match="cannot be stacked into a batch.*tokenizer.pad_token = tokenizer.eos_token"):
        predict(model, reviews(), processing_class=bare)


def test_one_text_column_may_be_named_without_a_list():
    model, rows = tiny.bert(**NAMED), reviews(other=["a"] * 5)
    found, expected = (
        predict(model, rows, processing_class=tokenizer(), columns=Columns(text=text)) for text in ("other", ["other"])
    )
    np.testing.assert_array_equal(found.logits, expected.logits)


def test_columns_of_another_kind_are_refused():
    model = tiny.bert(**NAMED)
    for given in ("text", {"text": "text"}):
        with pytest.raises(ValueError, match=r"columns must be Columns\(text=..., label=...\). Got (str|dict)"):
            predict(model, reviews(), processing_class=tokenizer(), columns=given)
        with pytest.raises(ValueError, match="columns must be Columns"):
            audit(model, model, reviews(), options=AuditOptions(columns=given))
    with pytest.raises(ValueError, match="BertForSequenceClassification reads texts. Got 'text' as the image column"):
        predict(tiny.bert(**NAMED), reviews(), processing_class=tokenizer(), columns=Columns(image="text"))


def test_the_processor_must_be_one_for_the_model():
    with pytest.raises(ValueError, match="BertForSequenceClassification needs a tokenizer. Got ViTImageProcessorPil"):
        predict(tiny.bert(**NAMED), reviews(), processing_class=processor())
    with pytest.raises(ValueError, match="ViTForImageClassification needs an image processor. Got "):
        predict(tiny.vit(num_channels=3), pictures(file_of(RGB)), processing_class=tokenizer())


# ---- images ----


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pictures(file_of(RGB), None), "Row 1 has nothing in the column 'image': None, as have 1 of 2 rows"),
        (pictures(file_of(RGB), file_of(RGB)[:-80]), r"Row 1: The image cannot be read. Repair it.*truncated"),
        (pictures(file_of(RGB), b"no image"), r"Row 1: The image cannot be read. .*cannot identify"),
        (pictures(file_of(RGB[..., 0].astype(np.float32), kind="TIFF")), "Row 0: .* pixels go from .* in 8 bits"),
        (pictures(file_of(300 * RGB[..., 0].astype(np.int32), kind="TIFF")), "Row 0: .* pixels go from .* in 8 bits"),
    ],
)
def test_what_is_no_image_is_refused_with_its_row(rows, message):
    model = tiny.vit(num_channels=3)
    for ask in (
        lambda: predict(model, rows, processing_class=processor(), batch_size=1),
        lambda: explain(model, model, rows, processing_class=processor()),
        lambda: cache_teacher_logits(with_pixels(rows, processor(), "image"), model),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_16_bits_are_scaled_to_8_and_not_clipped():
    deep = 257 * RGB[..., 0].astype(np.uint16)
    found, expected = (pixels(pictures(file_of(array)), n_channels=1) for array in (deep, RGB[..., 0]))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_get_the_channels_that_the_model_takes(mode):
    rows = pictures(file_of(RGB, mode, "TIFF"))
    for n_channels, wanted in ((3, "RGB"), (1, "L")):
        expected = PIL.Image.fromarray(RGB).convert(mode).convert(wanted)
        given = processor(n_channels)(expected, return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(pixels(rows, n_channels=n_channels), given)
    model = tiny.vit()  # of one channel
    assert predict(model, rows, processing_class=processor(1)).logits.shape == (1, 3)
    with pytest.raises(ValueError, match="does not fit a model that takes images of 1 channel.*saved beside the model"):
        predict(model, rows, processing_class=processor(3))
    with pytest.raises(ValueError, match="Images have 1 or 3 channels here, and the model takes 4"):
        with_pixels(rows, processor(4), "image", n_channels=4)


def test_a_dataset_says_how_its_images_are_read():
    grey = pictures(file_of(RGB)).cast_column("image", Image(mode="L"))
    expected = PIL.Image.fromarray(RGB).convert("L").convert("RGB")
    np.testing.assert_array_equal(pixels(grey), processor()(expected, return_tensors="np")["pixel_values"])


def test_paths_and_arrays_in_a_named_column_are_images(tmp_path):
    (tmp_path / "one.png").write_bytes(file_of(RGB))
    expected = pixels(pictures(file_of(RGB)))
    shaped = Features(image=Array3D(shape=RGB.shape, dtype="uint8"))
    for rows in (
        Dataset.from_dict({"image": [str(tmp_path / "one.png")]}),
        Dataset.from_dict({"image": [RGB]}),
        Dataset.from_dict({"image": [RGB]}, features=shaped),
    ):
        np.testing.assert_array_equal(pixels(rows), expected)
        model, named = tiny.vit(num_channels=3), Columns(image="image")
        assert len(predict(model, rows, processing_class=processor(), columns=named)) == 1
    missing = Dataset.from_dict({"image": [str(tmp_path / "two.png")]})
    with pytest.raises(ValueError, match=r"Row 0: The image '.*two.png' cannot be read.*No such file"):
        rows_at(with_pixels(missing, processor(), "image"), [0], ["pixel_values"])


@pytest.mark.parametrize("array", [RGB.transpose(2, 0, 1), RGB / 255, 2 * RGB.astype(int), RGB.astype(int) - 1])
def test_arrays_that_are_no_images_are_refused(array):
    rows = Dataset.from_dict({"image": [array]})
    with pytest.raises(ValueError, match="'image' holds no images. Got List.*arrays of whole numbers from 0 to 255"):
        pixels(rows)


@pytest.mark.parametrize("limit", [-1, 0, "x", None])
def test_a_tokenizer_whose_limit_is_no_length_is_refused(limit):
    own = tokenizer()
    own.model_max_length = limit
    with pytest.raises(ValueError, match=f"model_max_length must be a number from 1 on. Got {limit!r}. Set it to"):
        predict(tiny.bert(**NAMED), reviews(), processing_class=own)
