"""Short hashes of models."""

import hashlib
import json

import torch
from torch import nn

from hf_compalign.compress.record import QUANTIZATION, entry_of
from hf_compalign.data import DIGITS
from hf_compalign.models import plain_tensors


def model_fingerprint(model: nn.Module) -> str:
    """16 hex digits of a model's state dict: names, shapes, dtypes and values; of an exported file, of its bytes.

    A quantization in the config counts too, since it changes the answers without changing the weights.
    """
    own: str | None = getattr(model, "fingerprint", None)
    if own is not None:
        return own
    digest = hashlib.blake2b(digest_size=DIGITS // 2)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        for part in plain_tensors(tensor.detach()):
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    rounding = entry_of(getattr(model, "config", None), QUANTIZATION)
    if rounding is not None:
        digest.update(json.dumps(rounding, sort_keys=True).encode())
    return digest.hexdigest()
