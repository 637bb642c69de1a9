"""Masks as text, short enough for trainer_state.json."""

import base64
import zlib

import numpy as np
import torch
from torch import Tensor


def packed(mask: Tensor) -> str:
    """A mask as text, short where it is mostly of one value.

    >>> mask = torch.tensor([[True, False], [False, True]])
    >>> torch.equal(unpacked(packed(mask), mask), mask)
    True
    """
    bits = np.packbits(mask.cpu().numpy().reshape(-1))
    return base64.b64encode(zlib.compress(bits.tobytes())).decode("ascii")


def unpacked(text: str, like: Tensor) -> Tensor:
    """The mask behind a text of `packed`, with the shape and on the device of another tensor.

    Raises:
        ValueError: it is damaged, or of a tensor of another size.
    """
    n_bytes = -(-like.numel() // 8)
    reader = zlib.decompressobj()
    try:
        # No more than the mask needs, whatever the text would unpack to.
        bits = reader.decompress(base64.b64decode(text, validate=True), n_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"A mask is damaged: {error}.") from error
    if len(bits) != n_bytes or not reader.eof:
        raise ValueError(f"A mask is not that of {like.numel()} weights.")
    flat = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=like.numel()).astype(bool)
    return torch.from_numpy(flat).view(like.shape).to(like.device)
