"""A learned map between hidden states of different widths: trained with the student, and kept beside it."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_compalign._files import atomic_path

PROJECTION_FILE = "alignment_projection.safetensors"


class Projection(nn.Module):
    """The student's hidden states in the width of the teacher's: h W^T, one W for all of them.

    W is learned along with the student, and no part of it. https://huggingface.co/papers/1909.10351, which has another
    one for the embeddings.

    Args:
        width: of the student's hidden states.
        wanted: of the teacher's.
        seed: of the start, normal with variance 1 / width.

    >>> Projection(4, 6, seed=0)(torch.ones(2, 3, 4)).shape
    torch.Size([2, 3, 6])
    """

    def __init__(self, width: int, wanted: int, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(wanted, width, generator=generator) / width**0.5)

    def forward(self, states: Tensor) -> Tensor:
        """[..., wanted] of states [..., width]."""
        return nn.functional.linear(states.to(self.weight.dtype), self.weight)


def save_projection(projection: Projection, folder: Path) -> None:
    """Write it into a checkpoint, beside the student."""
    with atomic_path(folder / PROJECTION_FILE) as path:
        save_file({"weight": projection.weight.detach().contiguous()}, path)


def load_projection(projection: Projection, folder: Path) -> None:
    """Put back what a checkpoint holds.

    Raises:
        ValueError: it holds none, or one of other widths.
    """
    path = folder / PROJECTION_FILE
    try:
        projection.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{path} holds no projection of hidden states of this training. Resume from another checkpoint, or copy "
            f"this one again. ({error})"
        ) from error
