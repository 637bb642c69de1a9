"""Images that only a teacher can answer: of two, of a part of one, of one and noise."""

from collections.abc import Mapping
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

_PIXELS = "pixel_values"
# Of the image, how much a crop shows at least; and how far its width and height may differ.
_LEAST_AREA = 0.25
_MOST_RATIO = 4 / 3
_MOST_NOISE = 0.5


def mixup(pixels: Tensor, rows: Tensor, partners: Tensor, generator: Generator) -> Tensor:
    """The mean l x + (1 - l) x' of an image and its partner, l ~ U(0, 1); https://huggingface.co/papers/1710.09412.

    Args:
        pixels: [N, C, H, W], the images of a batch.
        rows: [K], which of them become others.
        partners: [K], with which.
        generator: of the draws, on the CPU.

    Returns:
        [K, C, H, W].

    >>> pixels = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    >>> mixed = mixup(pixels, torch.tensor([0]), torch.tensor([1]), Generator().manual_seed(0))
    >>> 0 < mixed.item() < 1
    True
    """
    shares = torch.rand(len(rows), 1, 1, 1, generator=generator).to(pixels)
    return pixels[partners].lerp(pixels[rows], shares)


def cutmix(pixels: Tensor, rows: Tensor, partners: Tensor, generator: Generator) -> Tensor:
    """An image with a rectangle of its partner, at the same place; https://huggingface.co/papers/1905.04899.

    The rectangle has a share of the area ~ U(0, 1) and its center anywhere, so that the border may cut it. See `mixup`.
    """
    sides, across, down = torch.rand(3, len(rows), generator=generator)

    def covered(size: int, centers: Tensor) -> Tensor:
        places = (torch.arange(size) + 0.5) / size
        return (places - centers[:, None]).abs() < sides.sqrt()[:, None] / 2

    height, width = pixels.shape[-2:]
    inside = covered(height, down)[:, None, :, None] & covered(width, across)[:, None, None]
    return torch.where(inside.to(pixels.device), pixels[partners], pixels[rows])


def crop(pixels: Tensor, rows: Tensor, partners: Tensor, generator: Generator) -> Tensor:
    """A part of an image, of 1/4 to all of its area and a ratio of 3/4 to 4/3, scaled to its size. See `mixup`."""
    size = torch.tensor(pixels.shape[-2:])
    area = _LEAST_AREA + (1 - _LEAST_AREA) * torch.rand(len(rows), generator=generator)
    ratio = (log(_MOST_RATIO) * (2 * torch.rand(len(rows), generator=generator) - 1)).exp()
    shares = torch.stack([area / ratio, area * ratio], 1).sqrt()
    parts = (size * shares).round().long().clamp(min=1).minimum(size)
    begins = (torch.rand(len(rows), 2, generator=generator) * (size - parts + 1)).long().minimum(size - parts)
    boxes = torch.cat([begins, begins + parts], 1).tolist()
    cut = [
        F.interpolate(pixels[row, None, :, top:bottom, left:right], size=pixels.shape[-2:], mode="bilinear")
        for row, (top, left, bottom, right) in zip(rows.tolist(), boxes, strict=True)
    ]
    return torch.cat(cut)


def noise(pixels: Tensor, rows: Tensor, partners: Tensor, generator: Generator) -> Tensor:
    """An image plus s d n: n ~ N(0, 1) by pixel, d the batch's deviation by channel, s ~ U(0, 1/2). See `mixup`."""
    deviation = pixels.float().std((0, 2, 3), correction=0, keepdim=True)
    strengths = _MOST_NOISE * torch.rand(len(rows), 1, 1, 1, generator=generator)
    drawn = strengths * torch.randn(len(rows), *pixels.shape[1:], generator=generator)
    return pixels[rows] + (deviation * drawn.to(pixels.device)).to(pixels.dtype)


IMAGE_KINDS = {"mixup": mixup, "cutmix": cutmix, "crop": crop, "noise": noise}


class Images:
    """The pixels of batches, and the inputs made of them."""

    padding: Mapping[str, int] = {_PIXELS: 0}

    def read(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The column that `made` works on.

        Raises:
            ValueError: the batch has no images of one shape, with numbers that can be mixed.
        """
        pixels = batch.get(_PIXELS)
        if not isinstance(pixels, Tensor) or pixels.ndim != 4 or not pixels.is_floating_point():
            got = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
            raise ValueError(
                f"transfer makes images of images, from {_PIXELS!r} as floats [B, C, H, W]. Got {got}. Let the image "
                "processor, or the data_collator, make one tensor of floats, or leave transfer out."
            )
        return {_PIXELS: pixels}

    def made(
        self, kind: str, columns: Mapping[str, Tensor], rows: Tensor, partners: Tensor, generator: Generator
    ) -> dict[str, Tensor]:
        """The inputs that take the places of ``rows``."""
        return {_PIXELS: IMAGE_KINDS[kind](columns[_PIXELS], rows, partners, generator)}

    def written(self, batch: Mapping[str, Any], columns: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
        """The columns as the batch holds them."""
        return dict(columns)
