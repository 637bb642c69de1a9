"""Short hashes that tell whether two rows are the same."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

DIGITS = 16


def row_fingerprint(row: Mapping[str, Any]) -> str:
    """16 hex digits of one row's names and values, for any order of its columns.

    Lists, arrays and tensors of the same numbers hash alike, for any float or integer width.
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
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Mapping):
        return row_fingerprint(value).encode()
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths, such as the choices of a question
        return "\x1f".join(row_fingerprint({"": one}) for one in value).encode()
    if array.dtype.kind == "f":
        data = array.astype(np.float32).tobytes()
    elif array.dtype.kind in "iub":
        data = array.astype(np.int64).tobytes()
    elif array.dtype.kind in "OU":
        data = "\x1f".join(map(str, array.ravel())).encode()
    else:
        raise TypeError(f"cannot fingerprint a value of type {type(value).__name__}")
    return str(array.shape).encode() + data
