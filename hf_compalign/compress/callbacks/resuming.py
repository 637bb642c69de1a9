"""What a resumed run reads from trainer_state.json: the state of its callback, and masks packed as text."""

import base64
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerState

from hf_compalign._compat import stored_states
from hf_compalign._trainer import changes


def own_state(state: TrainerState, name: str, recipe: dict[str, Any], *, part: str) -> dict[str, Any]:
    """What a callback wrote into the checkpoint that is resumed.

    Args:
        state: as it was read from the checkpoint.
        name: the callback's class.
        recipe: its arguments, as it writes them: they tell it from others of its class.
        part: a key that what it wrote must have.

    Raises:
        ValueError: the checkpoint was made without such a callback, or with other arguments.
    """
    stored = stored_states(state, name)
    # Of the states with the same arguments, the last is that of the checkpoint.
    own = [saved for saved in stored if saved["args"] == recipe and part in saved]
    if own:
        return own[-1]
    if not stored:
        raise ValueError(
            f"The checkpoint was made without a {name}, so this run cannot go on from it. To compress it, load the "
            "model from the checkpoint and train without resume_from_checkpoint."
        )
    raise ValueError(
        f"The checkpoint was made with another {name}: {changes(stored[-1]['args'], recipe)}. Resume with the same, "
        "or load the model from the checkpoint and train without resume_from_checkpoint."
    )


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
