"""Short hashes that say whether two models, or two rows of a dataset, are the same."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

DIGITS = 16


def model_fingerprint(model: "nn.Module") -> str:
    """16 hex digits of a model's weights: names, shapes, dtypes and values of its state dict.

    What its config says of a quantisation counts too, since that changes the answers without changing the weights. A
    file that answers like a model has a ``fingerprint`` of its own, that of its bytes.
    """
    import torch

    own: str | None = getattr(model, "fingerprint", None)
    if own is not None:
        return own
    digest = hashlib.blake2b(digest_size=DIGITS // 2)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        for part in plain_tensors(tensor.detach()):
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    compression = getattr(getattr(model, "config", None), "compression", None) or {}
    if "quantization" in compression:
        digest.update(json.dumps(compression["quantization"], sort_keys=True).encode())
    return digest.hexdigest()


def plain_tensors(tensor: "Tensor") -> "Iterator[Tensor]":
    """The tensors that one is made of: integers and scales where a library holds them as one of floats; or itself."""
    if not is_quantized(tensor):
        yield tensor
        return
    made_of: Any = tensor
    for name in made_of.__tensor_flatten__()[0]:
        yield from plain_tensors(getattr(tensor, name))


def is_quantized(tensor: "Tensor") -> bool:
    """Whether a library holds the tensor in another form than its floats."""
    from torch.distributed.tensor import DTensor

    return hasattr(tensor, "__tensor_flatten__") and not isinstance(tensor, DTensor)


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
