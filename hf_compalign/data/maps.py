"""Label maps, the labels of segmentation: of files or lists, beside the images that they are of."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Image, Value
from numpy.typing import NDArray

from hf_compalign.data.inputs import RowError, check_filled, image_files, pixel_reader
from hf_compalign.data.rows import LABELS

# What processors write where an image was padded, and in place of the background that they leave out.
_MADE = (0, 255)


def with_maps(dataset: Dataset, processor: Any, column: str, maps: str, *, n_channels: int = 3) -> Dataset:
    """As `with_pixels`, with a label map for each image: ``labels``, in the size in which the model gets the image.

    Args:
        dataset: with images and label maps.
        processor: the image processor, which brings both to one size.
        column: of the images.
        maps: of the label maps: images with class ids for colors, paths of them, or lists, height x width.
        n_channels: that the model takes.

    Raises:
        ValueError: a column holds something else, or a row has nothing in it; on access: an image or a map cannot be
            read, or the processor takes no label maps or changes their class ids.
    """
    read = pixel_reader(dataset, processor, column, n_channels=n_channels)
    check_filled(dataset, maps)

    def to_pixels(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        given = [map_of(value, maps) for value in batch.pop(maps)]
        try:
            inputs = read(batch.pop(column), segmentation_maps=given)
        except TypeError as error:
            raise ValueError(
                f"{type(processor).__name__} reads no label maps. Use the image processor saved beside the model, or "
                f"give prepared rows with pixel_values and labels. ({error})"
            ) from error
        _check_ids_kept(given, inputs[LABELS], processor)
        return batch | inputs

    files = image_files(dataset, column)
    if isinstance(dataset.features[maps], Image | Value):
        files = image_files(files, maps)
    return files.with_transform(to_pixels)


def map_of(value: Any, column: str) -> NDArray[np.int64]:
    """The class ids [height, width] in a row of a column of label maps: a list, or a file as `image_files` has it.

    Raises:
        RowError: it cannot be read, or is none.
    """
    try:
        found = np.asarray(Image().decode_example(dict(value)) if isinstance(value, Mapping) else value)
    except ImportError:
        raise
    except Exception as error:  # Pillow and its decoders raise anything on files that are damaged
        raise RowError(
            f"The label map in {column!r} cannot be read. Repair it, or leave its row out; where the column holds no "
            "label maps, name another: columns=Columns(label=...), or remove it where there are none. "
            f"({error})"
        ) from error
    if found.ndim != 2 or found.dtype.kind not in "iub":
        raise RowError(
            "A label map holds a class id for each pixel, height x width. Got "
            f"{' x '.join(map(str, found.shape))} of {found.dtype} in {column!r}. Name the column of label maps, "
            "columns=Columns(label=...), and make class ids of colors."
        )
    return found.astype(np.int64)


def _check_ids_kept(given: Sequence[NDArray[np.int64]], made: Sequence[Any], processor: Any) -> None:
    """Refuse maps with ids that were not there before: some processors blend neighbors as if ids were colors."""
    reduced = 1 if getattr(processor, "do_reduce_labels", False) else 0
    for before, after in zip(given, made, strict=True):
        known = [*_MADE, *np.unique(before) - reduced]
        new = np.setdiff1d(after, known)
        if new.size:
            raise ValueError(
                f"{type(processor).__name__} changes the class ids of a label map: it makes {int(new[0])} of "
                f"{', '.join(map(str, np.unique(before)[:8].tolist()))}. Bring the maps to the size of the model's "
                "images without it, and give prepared rows with pixel_values and labels."
            )
