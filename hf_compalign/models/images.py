"""Which images a model takes, as far as its config says."""

from typing import Any

from torch import nn


def image_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images."""
    size = _of_images(model.config, "image_size")
    return None if not size else (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def image_channels(model: nn.Module) -> int:
    """How many channels the images have: by default 3."""
    return int(_of_images(model.config, "num_channels") or 3)


def _of_images(config: Any, name: str) -> Any:
    """An entry of the config, or of its part for images."""
    return getattr(config, name, None) or getattr(getattr(config, "vision_config", None), name, None)
