"""A model's outputs as one tensor, and that tensor as the logits of items."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# What a model for question answering calls its outputs.
SPAN_LOGITS = ("start_logits", "end_logits")


def logits_of(outputs: Any) -> Tensor:
    """The logits in a model's outputs, a mapping or a tuple, from a call without labels."""
    logits: Tensor = outputs["logits"] if hasattr(outputs, "keys") else outputs[0]
    return logits


def span_logits_of(outputs: Any) -> Tensor:
    """[B, 2, positions]: the logits of where a span starts and of where it ends, side by side.

    Raises:
        ValueError: the model returns no such two.
    """
    if hasattr(outputs, "keys") and not outputs.keys() >= {*SPAN_LOGITS}:
        raise ValueError(
            f"A model for question answering must return start_logits and end_logits. Got {', '.join(outputs.keys())}. "
            "Use a class whose head gives both for every position, such as XLNetForQuestionAnsweringSimple."
        )
    start, end = (outputs[name] for name in SPAN_LOGITS) if hasattr(outputs, "keys") else outputs[:2]
    return torch.stack([start, end], dim=1)


def hidden_states_of(outputs: Any) -> tuple[Tensor, ...]:
    """The states of the embeddings and of each layer, from a call with ``output_hidden_states=True``.

    Raises:
        ValueError: the model returns none under that name, as encoder-decoders do.
    """
    states: tuple[Tensor, ...] | None = getattr(outputs, "hidden_states", None)
    if not states:
        raise ValueError(
            f"The model returns no hidden_states. Got a {type(outputs).__name__}. Compare the logits alone, or take a "
            "model that returns them."
        )
    return states


def attentions_of(outputs: Any) -> tuple[Tensor, ...]:
    """The attention maps of each layer, from a call with ``output_attentions=True``.

    Raises:
        ValueError: the model returns none under that name.
    """
    maps: tuple[Tensor, ...] | None = getattr(outputs, "attentions", None)
    if not maps or any(one is None for one in maps):
        raise ValueError(
            f"The model returns no attentions. Got a {type(outputs).__name__}. Set attention_weight=0, or take a model "
            "that returns them."
        )
    return maps


# ---- from a model's answer, and the labels [...] of its items, to their logits [..., C] ----


def as_they_are(answer: Tensor, labels: Tensor) -> Tensor:
    """The classes of an item stand last already. Losses of half-precision logits need float32."""
    return answer if answer.dtype == torch.float64 else answer.float()


def yes_or_no(answer: Tensor, labels: Tensor) -> Tensor:
    """Each logit z as the two of a question: (0, z), whose cross-entropy is the binary one of z.

    >>> yes_or_no(torch.tensor([[2.0]]), torch.tensor([[1]])).tolist()
    [[[0.0, 2.0]]]
    """
    yes = as_they_are(answer, labels)
    return torch.stack([torch.zeros_like(yes), yes], dim=-1)


def values(answer: Tensor, labels: Tensor) -> Tensor:
    """[..., 1]: each number of a regression as its only logit."""
    return as_they_are(answer, labels).reshape(labels.shape).unsqueeze(-1)


def pixels(answer: Tensor, labels: Tensor) -> Tensor:
    """[B, height, width, C] of [B, C, h, w], in the size of the labels: interpolated as in the models' own loss."""
    # The small map in the order of the result: of any other, every term would copy the large one.
    whole = as_they_are(answer, labels).contiguous(memory_format=torch.channels_last)
    scaled = F.interpolate(whole, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return scaled.movedim(1, -1)
