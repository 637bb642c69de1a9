"""Rows become a model's inputs. A row that cannot is refused, with its column and its number."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from datasets import Dataset, Image, Value
from pyarrow import compute

from hf_compalign._formats import plural

logger = logging.getLogger(__name__)

# From here on transformers takes a tokenizer's model_max_length for none.
_NO_LIMIT = 1e20
# The mode of Pillow for so many channels.
_MODES = {1: "L", 3: "RGB"}
_WHITE = 255


# Where each word of a text begins among its tokens, -1 where it has none.
WORD_PLACES = "word_places"


class RowError(ValueError):
    """A row cannot be read; `naming_rows` says which."""


def tokenized(dataset: Dataset, tokenizer: Any, columns: Sequence[str], *, longest: int | None = None) -> Dataset:
    """Add the tokenizer's columns, truncated but not yet padded.

    Args:
        dataset: with texts in the columns.
        tokenizer: which truncates to its own ``model_max_length``.
        columns: the text column, or the two of a pair.
        longest: how many tokens the model takes, if that is limited; see `hf_compalign.models.position_limit`.

    Raises:
        ValueError: a column holds no texts, or a row has none; or the tokenizer's limit is no length.
    """
    check_texts(dataset, columns)
    cut = _cut(tokenizer, longest)
    own, limit = tokenizer.model_max_length, cut.get("max_length", _NO_LIMIT)

    def tokenize(batch: Mapping[str, list[Any]]) -> Any:
        return tokenizer(*(batch[column] for column in columns), **cut)

    rows = dataset.with_format(None).map(tokenize, batched=True, desc="Tokenizing")
    if limit < own:
        full = int(np.count_nonzero(lengths(rows, "input_ids") == limit))
        if full:
            logger.warning(
                "%d of %d texts fill all %d positions of the model: longer ones are cut there, since the tokenizer's "
                "model_max_length is larger.",
                full,
                len(rows),
                limit,
            )
    return rows


def lengths(dataset: Dataset, column: str) -> np.ndarray:
    """How long the lists [N] in a column are."""
    return compute.list_value_length(dataset.with_format("arrow")[:][column]).to_numpy()


def tokenized_words(dataset: Dataset, tokenizer: Any, column: str, *, longest: int | None = None) -> Dataset:
    """As `tokenized`, of texts as lists of words, or whole; with a column `WORD_PLACES`: where each word begins.

    Raises:
        ValueError: the tokenizer does not know which token belongs to which word, or its limit is no length.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"The words of a text are found with a fast tokenizer. Got {type(tokenizer).__name__}. Load it with "
            "AutoTokenizer, or give tokenized rows with labels."
        )
    check_filled(dataset, column)
    cut = _cut(tokenizer, longest)
    in_words = hasattr(dataset.features[column], "feature")

    def tokenize(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        found = tokenizer(batch[column], is_split_into_words=in_words, **cut)
        places = []
        for row in range(len(batch[column])):
            words = found.word_ids(row)
            first = {word: place for place, word in reversed([*enumerate(words)]) if word is not None}
            places.append([first.get(word, -1) for word in range(max(first, default=-1) + 1)])
        return {**found, WORD_PLACES: places}

    return dataset.with_format(None).map(tokenize, batched=True, desc="Tokenizing")


def _cut(tokenizer: Any, longest: int | None) -> dict[str, Any]:
    """What a tokenizer is told so that texts fit it and the model."""
    own = tokenizer.model_max_length
    if not isinstance(own, int | float) or own < 1:
        raise ValueError(
            f"The tokenizer's model_max_length must be a number from 1 on. Got {own!r}. Set it to the longest text, in "
            "tokens, that the model takes."
        )
    limit = min(own, longest or _NO_LIMIT)
    return {"truncation": True, "max_length": limit} if limit < _NO_LIMIT else {}


def with_pixels(dataset: Dataset, processor: Any, column: str, *, n_channels: int = 3) -> Dataset:
    """Replace the image by what the processor makes of it, on access, so that nothing is stored twice.

    That is ``pixel_values`` and, for models that read patches (Siglip2), their mask and shapes.

    Args:
        dataset: with images in the column, or what `image_files` makes images of.
        processor: the image processor.
        column: of the images.
        n_channels: that the model takes: with 1 images become grey, with 3 RGB.

    Raises:
        ValueError: the column holds no images, or a row has none; on access: an image cannot be read.
    """
    read = pixel_reader(dataset, processor, column, n_channels=n_channels)
    return image_files(dataset, column).with_transform(lambda batch: batch | read(batch.pop(column)))


def pixel_reader(
    dataset: Dataset, processor: Any, column: str, *, n_channels: int = 3
) -> Callable[..., dict[str, list[Any]]]:
    """What makes a model's inputs of values of `image_files`, and of what else the processor is given by name.

    Raises:
        ValueError: the model takes neither 1 nor 3 channels; when called: an image cannot be read, or the processor
            does not fit.
    """
    if n_channels not in _MODES:
        raise ValueError(
            f"Images have 1 or 3 channels here, and the model takes {n_channels}. Give a dataset with its inputs, the "
            "column pixel_values."
        )
    stored = getattr(dataset.features[column], "mode", None)

    def read(values: Sequence[Any], **given: Any) -> dict[str, list[Any]]:
        images = [image_of(value, stored=stored, mode=_MODES[n_channels]) for value in values]
        try:
            inputs = processor(images, **given, return_tensors="np")
            pixels = inputs["pixel_values"]
            if pixels.ndim == 4 and pixels.shape[1] != n_channels:
                raise ValueError(f"It makes {pixels.shape[1]} channels.")
        except ValueError as error:
            raise ValueError(
                f"The image processor does not fit a model that takes images of {plural(n_channels, 'channel')}. Use "
                f"the one saved beside the model. ({error})"
            ) from error
        return {name: list(values) for name, values in inputs.items()}

    return read


def image_files(dataset: Dataset, column: str) -> Dataset:
    """The dataset with the column's images as files, not decoded: as they are, or made of paths or of arrays.

    Raises:
        ValueError: the column holds nothing of that kind, or a row has no image.
    """
    check_filled(dataset, column)
    feature = dataset.features[column]
    try:
        if not isinstance(feature, Image):
            _check_bytes(dataset, column)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the numbers become bytes
            return dataset.with_format(None).cast_column(column, Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"The column {column!r} holds no images. Got {feature}. Images are files, paths of files, or arrays of "
            f"whole numbers from 0 to 255, height x width or height x width x 3. ({error})"
        ) from error


def image_of(value: Any, *, stored: str | None = None, mode: str = "RGB") -> Any:
    """The image in a row of `image_files` in a mode of Pillow; ``stored`` is the mode that the dataset asks for.

    Raises:
        RowError: it cannot be read, or its numbers do not fit into 8 bits.
    """
    try:
        return _in_8_bits(Image(mode=stored).decode_example(value)).convert(mode)
    except ImportError:
        raise
    # Pillow and its decoders raise anything on files that are damaged.
    except Exception as error:
        file = f" {value['path']!r}" if value["path"] else ""
        raise RowError(f"The image{file} cannot be read. Repair it, or leave its row out. ({error})") from error


@contextmanager
def naming_rows(dataset: Dataset) -> Iterator[None]:
    """Say which row of the dataset it is that cannot be read.

    Raises:
        ValueError: with the number of the row.
    """
    try:
        yield
    except RowError:
        # A transform does not know the numbers of the rows that it is given.
        for row in range(len(dataset)):
            try:
                dataset[row]
            except RowError as error:
                raise ValueError(f"Row {row}: {error}") from error
        raise


def rows_at(dataset: Dataset, places: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
    """These rows of a dataset, with those of the columns that it has.

    Raises:
        ValueError: a row cannot be read; says which.
    """
    with naming_rows(dataset):
        batch = dataset[places]
    kept = {name: values for name, values in batch.items() if name in columns}
    return [dict(zip(kept, row, strict=True)) for row in zip(*kept.values(), strict=True)]


def check_filled(dataset: Dataset, column: str) -> None:
    """Raise a ValueError that names the first row without anything in the column."""
    if not dataset.data.column(column).null_count:
        return
    values = dataset.select_columns([column]).with_format("arrow")[:][column]
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise ValueError(
            f"Row {row} has nothing in the column {column!r}: None, as have {values.null_count} of {len(values)} rows. "
            f"Leave such rows out (dataset.filter(lambda row: row[{column!r}] is not None)), or fill them."
        )


def check_texts(dataset: Dataset, columns: Sequence[str]) -> None:
    """Raise a ValueError that names the first column without texts, or row without a text."""
    for column in columns:
        check_filled(dataset, column)
        feature = dataset.features[column]
        if not isinstance(feature, Value) or feature.dtype not in ("string", "large_string"):
            raise ValueError(
                f"The column {column!r} must hold texts. Got {feature}. Name another text column, or make texts of it: "
                f"dataset.cast_column({column!r}, Value('string'))."
            )


def _check_bytes(dataset: Dataset, column: str) -> None:
    """Refuse numbers that `datasets` would wrap around to make bytes of them."""
    for chunk in dataset.data.column(column).chunks:
        values = getattr(chunk, "storage", chunk)  # of an Array2D or Array3D
        while hasattr(values.type, "value_type"):
            values = values.flatten()
        numbers = values.to_numpy(zero_copy_only=False)
        if numbers.dtype.kind in "iu" and not 0 <= numbers.min(initial=0) <= numbers.max(initial=0) <= _WHITE:
            raise ValueError(f"Its numbers go from {numbers.min()} to {numbers.max()}.")


def _in_8_bits(image: Any) -> Any:
    """The image with numbers from 0 to 255: Pillow's `convert` would clip larger ones to white."""
    # Pillow 10 reads a PNG of 16 bits as one of 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return image.convert("I").point(lambda value: value * (1 / 257) + 0.5)
    if image.mode in ("I", "F"):
        low, high = image.getextrema()
        if image.mode == "F" or low < 0 or high > _WHITE:
            raise ValueError(f"Its pixels go from {low:g} to {high:g}: scale them to 0 to 255, in 8 bits.")
    return image
