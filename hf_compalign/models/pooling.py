"""Batches of texts in windows: as one window after the other, and what is answered to these as answers to the texts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

IDS, MASK = "input_ids", "attention_mask"
# What a text has for each of its windows.
OF_WINDOWS = (IDS, MASK, "token_type_ids")


def is_windows(inputs: Mapping[str, Any]) -> bool:
    """Whether a batch holds several texts or windows in a row: [B, W, tokens]."""
    ids = inputs.get(IDS)
    return ids is not None and ids.ndim == 3


def flat_windows(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor]:
    """The windows [N, tokens] of a batch that are not empty, one text after the other; and which these are [B, W]."""
    ids, mask = torch.as_tensor(inputs[IDS]), inputs.get(MASK)
    places = torch.ones_like(ids[..., 0], dtype=torch.bool) if mask is None else torch.as_tensor(mask).bool().any(-1)
    found = {name: torch.as_tensor(value)[places] if name in OF_WINDOWS else value for name, value in inputs.items()}
    return found, places


def window_rows(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch with a row for each window, which has the label of its text, and whatever else that has."""
    found, places = flat_windows(batch)
    owners = places.nonzero()[:, 0]
    return {name: value if name in OF_WINDOWS else value[owners.to(value.device)] for name, value in found.items()}


def pooled(logits: Tensor, places: Tensor) -> Tensor:
    """[B, C]: the mean over the windows of each text, of logits [N, C] as `flat_windows` has them."""
    places = places.to(logits.device)
    return spread(logits, places).sum(1) / places.sum(1, keepdim=True)


def spread(values: Tensor, places: Tensor) -> Tensor:
    """[B, W, ...] of values [N, ...] in these places, 0 elsewhere."""
    found = values.new_zeros(*places.shape, *values.shape[1:])
    # Not in place, for the sake of gradients of gradients.
    return found.masked_scatter(places.to(values.device).reshape(*places.shape, *(1,) * (values.ndim - 1)), values)
