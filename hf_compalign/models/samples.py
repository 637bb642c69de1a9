"""Inputs made up from a config, to trace a model and to try its file."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign.models.images import image_channels, image_size
from hf_compalign.tasks import AUDIO_INPUTS, TASKS

# The height and width of images where the config names none.
_IMAGE_SIZE = 224
# How many tokens a model has whose config names no number: CANINE reads characters by their code points.
_CHARACTERS = 256
# How many samples a sound has: a quarter of a second at the usual rate, and more than a step of the convolutions.
_SAMPLES = 4000
# How many choices a question has.
_CHOICES = 3


def sample_inputs(model: nn.Module, *, n_items: int = 2, length: int = 7) -> dict[str, Tensor]:
    """Inputs for the model: noise for images and sounds, or random tokens, padded in all texts but the first.

    The choices of a question are one text.
    """
    config: Any = model.config
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        height, width = image_size(model) or (_IMAGE_SIZE, _IMAGE_SIZE)
        shape = n_items, image_channels(model), height, width
        return {"pixel_values": torch.randn(*shape, generator=generator).to(device)}
    if model.main_input_name in AUDIO_INPUTS:
        noise = torch.randn(n_items, *_of_a_sound(config), generator=generator)
        return {str(model.main_input_name): noise.to(device)}
    # Some models start to count positions above 0.
    positions = getattr(config, "max_position_embeddings", length * 2)
    length = min(length, max(3, positions // 2, positions - 8))
    n_tokens = getattr(config, "vocab_size", _CHARACTERS)
    ids = torch.randint(0, n_tokens, (n_items, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1:, -2:] = 0
    # Encoder-decoders answer at the end-of-text token, which each text must have once, at its end.
    padding, end = (getattr(config, name, None) for name in ("pad_token_id", "eos_token_id"))
    special = [token for token in (padding, end) if isinstance(token, int) and token < n_tokens]
    ids[torch.isin(ids, torch.tensor(special, dtype=ids.dtype))] = next(one for one in range(3) if one not in special)
    if end in special:
        ids[torch.arange(n_items), mask.sum(1) - 1] = end
    if padding is not None:
        ids[mask == 0] = padding
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1 and "token_type_ids" in signature(type(model).forward).parameters:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    if any(task.has_choices and task.head in type(model).__name__ for task in TASKS):
        inputs = {name: torch.stack([value] * _CHOICES, dim=1) for name, value in inputs.items()}
    return {name: value.to(device) for name, value in inputs.items()}


def _of_a_sound(config: Any) -> tuple[int, ...]:
    """The shape of what a model reads of a sound: frames of mel bins as AST or as Whisper has them, or samples."""
    n_bins = getattr(config, "num_mel_bins", None)
    if n_bins and hasattr(config, "max_source_positions"):
        return n_bins, 2 * config.max_source_positions
    return (config.max_length, n_bins) if n_bins and hasattr(config, "time_stride") else (_SAMPLES,)
