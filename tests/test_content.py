"""What rows hold: which changes count, and which do not."""

import numpy as np
import pytest
import shipping
import tiny
from datasets import Audio, ClassLabel, Dataset, Image
from every_task import CASES, rows
from PIL import Image as Pictures
from transformers import ViTImageProcessorPil, Wav2Vec2FeatureExtractor
from transformers.models.segformer import SegformerImageProcessorPil

from hf_compalign.measure.predictions import Columns, content_fingerprint, reader_of, row_contents

TEXTS = {"idx": [7, 8, 9], "text": ["w1 w2", "w3", "w3"], "label": ["red", "blue", "red"]}


def mark(dataset, model=None, processor=None, **columns):
    reader = reader_of(model or shipping.model(), dataset, processing_class=processor or shipping.tokenizer())
    return content_fingerprint(reader, dataset, Columns(**columns))


def contents(dataset, **columns):
    reader = reader_of(shipping.model(), dataset, processing_class=shipping.tokenizer())
    return [*row_contents(reader, dataset, Columns(**columns))]


def texts(**changed):
    return Dataset.from_dict(TEXTS | changed)


@pytest.mark.parametrize(
    "changed",
    [
        texts(text=["w1 w2", "w3", "w4"]),  # behind the same ids
        texts(label=["red", "red", "blue"]),
        texts().select([1, 0, 2]),
        texts().select([0, 1]),
        texts().remove_columns("label"),
        texts(label=[0, 2, 0]),
    ],
)
def test_texts_answers_and_their_order_count(changed):
    assert mark(changed) != mark(texts())


def test_names_of_classes_count():
    numbers = texts(label=[0, 1, 0])
    red, blue = (numbers.cast_column("label", ClassLabel(names=names)) for names in (["red", "blue"], ["blue", "red"]))
    assert mark(red) != mark(blue)


def test_ids_and_other_columns_do_not_count():
    assert mark(texts(idx=[1, 2, 3], source=["a", "b", "c"])) == mark(texts())
    several = texts(other=["w5", "w6", "w7"])
    assert mark(several, text="other") != mark(several)


def test_of_prepared_rows_all_that_the_model_reads_counts():
    given = tiny.texts(4)
    masks = [[1] * len(row) for row in given["input_ids"]]
    whole = given.remove_columns("attention_mask") if "attention_mask" in given.column_names else given
    whole = whole.add_column("attention_mask", masks)
    masks[2] = [*masks[2][:-1], 0]
    cut = whole.remove_columns("attention_mask").add_column("attention_mask", masks)
    assert mark(whole, tiny.bert()) != mark(cut, tiny.bert())
    assert mark(whole, tiny.bert()) == mark(whole.add_column("number", [1, 2, 3, 4]), tiny.bert())
    other = whole.remove_columns("labels").add_column("labels", [1 - min(1, label) for label in whole["labels"]])
    assert mark(whole, tiny.bert()) != mark(other, tiny.bert())


def test_images_count_by_their_bytes_wherever_they_lie(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path, level in zip(paths, (0, 200), strict=True):
        Pictures.fromarray(np.full((8, 8), level, dtype=np.uint8)).save(path)

    def found(*files):
        given = Dataset.from_dict({"image": [str(file) for file in files]}).cast_column("image", Image())
        return mark(given, tiny.vit(), ViTImageProcessorPil(size={"height": 8, "width": 8}))

    before = found(*paths)
    moved = paths[0].rename(tmp_path / "moved.png")
    assert found(moved, paths[1]) == before
    moved.write_bytes(paths[1].read_bytes())
    assert found(moved, paths[1]) != before


def test_sounds_count_by_their_samples():
    network, extractor = CASES["audio-classification"].model(0), Wav2Vec2FeatureExtractor(sampling_rate=800)

    def found(*levels):
        given = Dataset.from_dict({"audio": [[level] * 20 for level in levels]})
        return mark(given, network, extractor, audio="audio")

    assert found(0.1, 0.2) == found(0.1, 0.2)
    assert len({found(0.1, 0.2), found(0.2, 0.1), found(0.1, 0.3)}) == 3
    file = {"bytes": b"RIFF", "path": None}
    held = [Dataset.from_dict({"audio": [file | {"path": name}]}).cast_column("audio", Audio()) for name in "ab"]
    assert mark(held[0], network, extractor) == mark(held[1], network, extractor)


def test_label_maps_count():
    network = CASES["image-segmentation"].model(0)
    rng = np.random.default_rng(0)
    images = [Pictures.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(2)]
    maps = [Pictures.fromarray(rng.integers(0, 3, (8, 8), dtype=np.uint8)) for _ in range(2)]
    one, other = (Dataset.from_dict({"image": images, "annotation": drawn}) for drawn in (maps, maps[::-1]))
    assert mark(one, network, SegformerImageProcessorPil()) != mark(other, network, SegformerImageProcessorPil())
    prepared = rows("image-segmentation", 2)
    turned = prepared.remove_columns("labels").add_column("labels", prepared["labels"][::-1])
    assert mark(prepared, network) != mark(turned, network)


def test_two_rows_ask_the_same_by_what_they_hold():
    first, second, third = contents(texts())
    assert first != second == third
    assert contents(texts(idx=[1, 2, 3]).rename_column("text", "sentence")) == [first, second, third]
    pairs = [Dataset.from_dict({"text": ["w1"], "text_pair": [text]}) for text in ("w2", "w3")]
    assert contents(pairs[0]) != contents(pairs[1])
    assert contents(pairs[0], text=("text", "text_pair")) != contents(pairs[0], text=("text_pair", "text"))
