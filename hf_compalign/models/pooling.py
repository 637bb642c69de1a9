"""Texts in windows: what a config says of them, batches, and what is answered to windows as answers to texts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign.data import Windows

# Where a config says it.
ENTRY = "text_windows"
IDS, MASK = "input_ids", "attention_mask"
# What a text has for each of its windows.
OF_WINDOWS = (IDS, MASK, "token_type_ids", "position_ids")


def windows_of(model: nn.Module) -> Windows | None:
    """How the config of a model says that it reads long texts; see `windows_in`."""
    return windows_in(getattr(model, "config", None))


def windows_in(config: Any) -> Windows | None:
    """How a config says that its model reads long texts; None where it says nothing.

    Raises:
        ValueError: what it says is no `Windows`.
    """
    entry = getattr(config, ENTRY, None)
    if entry is None:
        return None
    try:
        return Windows(**entry)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"config.{ENTRY} must hold length and stride. Got {entry!r:.200}. Set it with read_in_windows. ({error})"
        ) from error


def check_same_reading(models: Mapping[str, nn.Module]) -> None:
    """Raise a ValueError unless all of these models, by what they are called, read long texts in windows, or none."""
    found = {name: windows_of(model) for name, model in models.items()}
    if len({windows is None for windows in found.values()}) > 1:
        said = ", ".join(f"{name} {windows or 'none'}" for name, windows in found.items())
        raise ValueError(
            f"Both models must read long texts in windows, or neither: they would see other parts of them. Got {said}. "
            "Call read_in_windows on the other one too, and save it."
        )


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
