"""Sounds become a model's inputs. A row that cannot is refused, with its column and its number."""

import io
import warnings
from collections.abc import Mapping
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Audio, Dataset, Value
from numpy.typing import NDArray

from hf_compalign.data.inputs import RowError, check_filled

_WAV_ALONE = "Only WAV files are read here: convert others, or give arrays of floats at the model's sampling rate."


def with_sounds(dataset: Dataset, extractor: Any, column: str) -> Dataset:
    """Replace the sound by what the feature extractor makes of it, on access, so that nothing is stored twice.

    That is ``input_values`` or ``input_features`` and, for models that read one, their mask. Rows are not padded here
    beyond what the extractor always pads to.

    Args:
        dataset: with sounds in the column, or what `sound_files` makes sounds of.
        extractor: the feature extractor; files of another sampling rate than its own are resampled.
        column: of the sounds.

    Raises:
        ValueError: the column holds no sounds, or a row has none; on access: a sound cannot be read.
    """
    rate = extractor.sampling_rate

    def to_inputs(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        sounds = [sound_of(value, rate) for value in batch.pop(column)]
        inputs = extractor(sounds, sampling_rate=rate)
        return batch | {name: list(values) for name, values in inputs.items()}

    return sound_files(dataset, column).with_transform(to_inputs)


def sound_files(dataset: Dataset, column: str) -> Dataset:
    """The dataset with the column's sounds as files, not decoded, or as arrays of floats.

    Raises:
        ValueError: the column holds nothing of that kind, or a row has no sound.
    """
    check_filled(dataset, column)
    feature = dataset.features[column]
    number = getattr(feature, "feature", None)
    if isinstance(number, Value) and number.dtype.startswith("float"):
        return dataset.with_format(None)
    try:
        if not isinstance(feature, Audio | Value | dict):
            raise TypeError("Lists of whole numbers are on a scale that is not known.")
        return dataset.with_format(None).cast_column(column, Audio(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"The column {column!r} holds no sounds. Got {feature}. Sounds are WAV files, paths of them, or lists of "
            f"floats in [-1, 1] at the model's sampling rate. ({error})"
        ) from error


def sound_of(value: Any, rate: int) -> NDArray[np.float32]:
    """The sound in a row of `sound_files`, one channel [samples] at this many samples a second; files in [-1, 1].

    Raises:
        RowError: it is no WAV file, or empty, or has values that are not finite.
    """
    samples = _of_file(value, rate) if isinstance(value, Mapping) else np.asarray(value, dtype=np.float32)
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
        raise RowError(
            f"A sound is a list of finite numbers, one for each sample. Got an array of shape {list(samples.shape)}. "
            "Repair it, or leave its row out."
        )
    return samples


def _of_file(file: Mapping[str, Any], rate: int) -> NDArray[np.float32]:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about chunks that hold no sound
            own, samples = wavfile.read(io.BytesIO(file["bytes"] or Path(file["path"]).read_bytes()))
    # scipy raises anything on files that are damaged.
    except Exception as error:
        name = f" {file['path']!r}" if file["path"] else ""
        raise RowError(f"The sound{name} cannot be read. {_WAV_ALONE} ({error})") from error
    mono = _scaled(samples).mean(axis=1) if samples.ndim > 1 else _scaled(samples)
    return mono if own == rate else _resampled(mono, own, rate)


def _scaled(samples: NDArray[Any]) -> NDArray[np.float32]:
    """In [-1, 1]: unsigned bytes are centered at 128, and larger integers, 24 bits among them, fill their type."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    center = 128 if samples.dtype.kind == "u" else 0
    return ((samples.astype(np.float64) - center) / 2 ** (8 * samples.dtype.itemsize - 1)).astype(np.float32)


def _resampled(samples: NDArray[np.float32], own: int, rate: int) -> NDArray[np.float32]:
    from scipy import signal  # a second, for files of another rate alone

    common = gcd(own, rate)
    return np.asarray(signal.resample_poly(samples, rate // common, own // common), dtype=np.float32)
