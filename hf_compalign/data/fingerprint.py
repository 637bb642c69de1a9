"""Short hashes that say whether two models, or two rows of a dataset, are the same."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    pass

DIGITS = 16


def row_fingerprint(row: Mapping[str, Any]) -> str:
    """16 hex digits of one example: its columns in the order of their names, with their values.

    Lists, arrays and tensors of the same numbers hash alike, whatever their float or integer width.
    """
    digest = hashlib.blake2b(digest_size=DIGITS // 2)
    for name in sorted(row):
        digest.update(name.encode())
        digest.update(_content(row[name]))
    return digest.hexdigest()


def combined_fingerprint(parts: Iterable[str]) -> str:
    """16 hex digits of several fingerprints, in any order."""
    return hashlib.blake2b("".join(sorted(parts)).encode(), digest_size=DIGITS // 2).hexdigest()


def _content(value: Any) -> bytes:
    if value is None:
        return b"none"
    if isinstance(value, (bytes, str)):
        return value if isinstance(value, bytes) else value.encode()
    if isinstance(value, Mapping):
        return row_fingerprint(value).encode()
    array = np.asarray(value)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype.kind in "iub":
        array = array.astype(np.int64)
    elif array.dtype.kind not in "OU":
        raise TypeError(f"cannot fingerprint a value of type {type(value).__name__}")
    data = "\x1f".join(map(str, array.ravel())).encode() if array.dtype.kind in "OU" else array.tobytes()
    return str(array.shape).encode() + data
