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
    """The mask behind a text of `packed`, with the shape and on the device of another tensor."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    flat = np.unpackbits(bits, count=like.numel()).astype(bool)
    return torch.from_numpy(flat).view(like.shape).to(like.device)
