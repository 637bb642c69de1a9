"""What was asked, added to the changed items of an audit."""

import base64
import io

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from hf_compalign.measure.audit import MOST_CHARACTERS, THUMBNAIL_PIXELS, audit, with_contents
from hf_compalign.measure.audit import contents as audit_contents
from hf_compalign.measure.predictions import Columns, Predictions
from hf_compalign.tasks import CLASSIFIERS

TEXT, IMAGE = CLASSIFIERS
IDS = [f"row {row}" for row in range(4)]


def found_in(changed):
    """An audit in which these of the four rows change."""
    reference = np.eye(2)[[0, 0, 1, 1]]
    candidate = reference.copy()
    candidate[changed] = candidate[changed][:, ::-1]
    return audit(*(Predictions(logits, [0, 0, 1, 1], IDS, ("no", "yes")) for logits in (reference, candidate)))


def test_texts_are_those_of_the_changed_rows():
    rows = Dataset.from_dict({"text": ["a", "b", None, "x" * (MOST_CHARACTERS + 1)], "label": [0, 0, 1, 1]})
    items = with_contents(found_in([1, 2, 3]), rows, ids=IDS, task=TEXT).items
    texts = {item.id: item.texts for item in items}
    assert texts == {"row 1": ("b",), "row 2": ("",), "row 3": ("x" * MOST_CHARACTERS + " ...",)}


def test_pairs_of_texts():
    rows = Dataset.from_dict({"premise": list("abcd"), "hypothesis": list("wxyz"), "other": list("mnop")})
    (item,) = with_contents(found_in([2]), rows, ids=IDS, task=TEXT).items
    assert item.texts == ("c", "y")
    (item,) = with_contents(found_in([2]), rows, ids=IDS, task=TEXT, columns=Columns(text=["other"])).items
    assert item.texts == ("o",)


def test_thumbnails_are_small_pngs_of_the_image():
    pictures = [Pictures.new("L", (200, 100), 60 * row) for row in range(4)]
    rows = Dataset.from_dict({"image": pictures}, features=Features({"image": Image()}))
    (item,) = with_contents(found_in([2]), rows, ids=IDS, task=IMAGE).items
    kind, _, data = item.image.partition(",")
    assert kind == "data:image/png;base64"
    shown = Pictures.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS // 2)
    assert shown.getpixel((5, 5)) == (120, 120, 120)


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (["/data/test/cat/1.png", "/data/test/cat/2.png", "/data/test/dog/1.png", "/data/test/dog/2.png"], "dog/1.png"),
        (["/data/cat/1.png", "/data/cat/2.png", "/data/cat/3.png", "/data/cat/4.png"], "3.png"),
        (["a.png", "b.png", "c.png", "d.png"], "c.png"),
        ([None] * 4, ""),
    ],
)
def test_an_image_is_named_by_its_file_within_the_folder_of_all(paths, name):
    buffer = io.BytesIO()
    Pictures.new("RGB", (8, 8)).save(buffer, "PNG")
    rows = Dataset.from_dict({"image": [{"bytes": buffer.getvalue(), "path": path} for path in paths]})
    rows = rows.cast_column("image", Image())
    (item,) = with_contents(found_in([2]), rows, ids=IDS, task=IMAGE).items
    assert (item.id, item.name) == ("row 2", name)


def test_only_the_first_items_get_a_thumbnail(monkeypatch):
    monkeypatch.setattr(audit_contents, "MOST_THUMBNAILS", 1)
    pictures = [Pictures.new("RGB", (8, 8))] * 4
    rows = Dataset.from_dict({"image": pictures}, features=Features({"image": Image()}))
    items = with_contents(found_in([1, 2]), rows, ids=IDS, task=IMAGE).items
    assert [bool(item.image) for item in items] == [True, False]


def test_other_columns_are_not_opened():
    rows = Dataset.from_dict({"text": list("abcd"), "image": [{"bytes": b"no picture", "path": None}] * 4})
    rows = rows.cast_column("image", Image())
    (item,) = with_contents(found_in([2]), rows, ids=IDS, task=TEXT).items
    assert item.texts == ("c",)


def test_no_changed_item_needs_no_row():
    rows = Dataset.from_dict({"text": list("abcd")})
    assert with_contents(found_in([]), rows, ids=IDS, task=TEXT).items == ()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (IDS[:3], "ids must name the rows of the dataset: 4 of them. Got 3"),
        ([f"other {row}" for row in range(4)], "1 of their 1 items are not among them, such as 'row 2'"),
    ],
)
def test_other_rows_are_refused(ids, message):
    rows = Dataset.from_dict({"text": list("abcd")}, features=Features({"text": Value("string")}))
    with pytest.raises(ValueError, match=message):
        with_contents(found_in([2]), rows, ids=ids, task=TEXT)
