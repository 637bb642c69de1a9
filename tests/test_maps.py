"""Label maps of files and lists, beside their images."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Image, Value
from PIL import Image as Pictures
from transformers.models.segformer import SegformerImageProcessorPil
from transformers.models.vit import ViTImageProcessorPil

from hf_compalign.data import find_image_column, find_map_column, with_maps

MAP = (np.arange(48).reshape(6, 8) // 16).astype(np.uint8)
SMALL = {"size": {"height": 3, "width": 4}}


def image():
    return Pictures.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))


def dataset(maps, kind=None):
    found = Dataset.from_dict({"image": [image()] * len(maps), "annotation": maps}).cast_column("image", Image())
    return found if kind is None else found.cast_column("annotation", kind)


def made(maps, kind=None, processor=None):
    given = dataset(maps, kind)
    return with_maps(given, processor or SegformerImageProcessorPil(**SMALL), "image", "annotation")


def palette():
    found = Pictures.fromarray(MAP, mode="P")
    found.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
    return found


def test_maps_are_images_of_ids_or_palettes_paths_or_lists(tmp_path):
    Pictures.fromarray(MAP).save(tmp_path / "map.png")
    nearest = MAP[::2, ::2]
    cases = [(Pictures.fromarray(MAP), Image()), (palette(), Image()), (str(tmp_path / "map.png"), None)]
    for value, kind in [*cases, (MAP.tolist(), None)]:
        row = made([value], kind)[0]
        assert np.array_equal(np.unique(row["labels"]), [0, 1, 2])
        assert np.shape(row["labels"]) == nearest.shape
        assert np.shape(row["pixel_values"]) == (3, *nearest.shape)
        assert {*row} == {"pixel_values", "labels"}


def test_the_background_that_a_processor_leaves_out_counts_for_nothing():
    row = made([MAP.tolist()], processor=SegformerImageProcessorPil(**SMALL, do_reduce_labels=True))[0]
    assert np.array_equal(np.unique(row["labels"]), [0, 1, 255])


def test_a_processor_that_blends_the_ids_is_refused():
    """As that of BEiT, which in transformers 5.23 scales maps like images where there is no torchvision."""

    class Blending(SegformerImageProcessorPil):
        def __call__(self, images, **given):
            found = super().__call__(images, **given)
            found["labels"] = found["labels"] * 2 + 1
            return found

    with pytest.raises(ValueError, match="Blending changes the class ids of a label map: it makes 3 of 0, 1, 2. Bring"):
        made([MAP.tolist()], processor=Blending(**SMALL))[0]
    row = made([MAP.tolist()], processor=SegformerImageProcessorPil(**SMALL))[0]
    assert np.shape(row["labels"]) == (3, 4)


def test_what_is_no_label_map_is_refused():
    with pytest.raises(
        ValueError, match="A label map holds a class id for each pixel.* Got 6 x 8 x 3 of uint8 in 'annotation'."
    ):
        made([image()], Image())[0]
    with pytest.raises(
        ValueError, match="The label map in 'annotation' cannot be read. Repair it, or leave its row out; where"
    ):
        made([{"bytes": b"no image", "path": None}], Image())[0]
    with pytest.raises(ValueError, match=r"The label map in 'annotation' cannot be read.*, name another: columns=Col"):
        made(["a cat on a mat"])[0]
    with pytest.raises(ValueError, match="Row 1 has nothing in the column 'annotation'"):
        made([MAP.tolist(), None])
    with pytest.raises(ValueError, match="ViTImageProcessorPil reads no label maps. Use the image processor saved"):
        made([MAP.tolist()], processor=ViTImageProcessorPil(**SMALL))[0]


def test_the_columns_of_images_and_maps_are_told_apart():
    found = dataset([Pictures.fromarray(MAP)], Image())
    assert (find_image_column(found), find_map_column(found)) == ("image", "annotation")
    assert find_map_column(found.rename_column("annotation", "mask")) is None
    assert find_map_column(found.rename_column("annotation", "mask"), "mask") == "mask"
    with pytest.raises(ValueError, match="2 of them are of type Image. Name the image column"):
        find_image_column(found.rename_column("annotation", "mask"))
    classes = found.add_column("labels", [1])
    for kind in (ClassLabel(names=["a", "b"]), Value("int64")):
        assert find_map_column(classes.cast_column("labels", kind)) == "annotation"
    with pytest.raises(ValueError, match="There is no column 'annotatoin'.*Did you mean 'annotation'"):
        find_map_column(found, "annotatoin")


def test_a_named_column_of_maps_is_not_taken_for_images():
    found = dataset([Pictures.fromarray(MAP)], Image()).rename_column("annotation", "mask")
    assert find_image_column(found, labels="mask") == "image"
    assert find_image_column(found, labels="image") == "mask"
    with pytest.raises(ValueError, match="0 of them are of type Image, without that of the labels. Name the image col"):
        find_image_column(found.remove_columns("image"), labels="mask")
    with pytest.raises(ValueError, match="2 of them are of type Image. Name the image column"):
        find_image_column(found, labels="other")
