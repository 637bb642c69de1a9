"""Arrays from an .npz file, which may be damaged or made to harm: its sizes are checked before memory is taken."""

import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

_SUFFIX = ".npy"
# Deflate packs at most 1032 bytes into one; a file that says more of itself is damaged.
_MOST_PACKED = 1032
_LAST_CHARACTER = 0x10FFFF


def read_npz(path: Path, names: Collection[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of these names that the file holds, without pickle.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an .npz file, or damaged.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                held = [one for one in archive.infolist() if one.filename.removesuffix(_SUFFIX) in names]
                if len({one.filename for one in held}) < len(held):
                    raise ValueError("an array is in it twice")
                whole = os.fstat(file.fileno()).st_size
                return {one.filename.removesuffix(_SUFFIX): _read(archive, one, whole) for one in held}
        # Whatever zipfile, zlib and numpy raise on bytes that they did not write: a dozen kinds of errors.
        except Exception as error:
            raise ValueError(f"{path} is not an .npz file of predictions: {error}") from error


def _read(archive: zipfile.ZipFile, one: zipfile.ZipInfo, whole: int) -> np.ndarray[Any, Any]:
    if one.file_size > _MOST_PACKED * min(one.compress_size, whole):
        raise ValueError(f"{one.filename} cannot be {one.file_size:,} bytes in a file of {whole:,}")
    with archive.open(one) as stream:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
        shape, _, dtype = read_header(stream)
        # Python's integers: those of numpy would wrap around.
        size = dtype.itemsize
        for length in shape:
            size *= length
        if dtype.hasobject or stream.tell() + size != one.file_size:
            raise ValueError(f"{one.filename} does not hold what it says, an array {list(shape)} of {dtype}")
    with archive.open(one) as stream:
        found: np.ndarray[Any, Any] = npy.read_array(stream, allow_pickle=False)
    if found.dtype.kind == "U" and found.size and found.reshape(-1).view(np.uint32).max(initial=0) > _LAST_CHARACTER:
        raise ValueError(f"{one.filename} holds what is no text")
    return found
