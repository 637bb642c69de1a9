"""How much a weight matters: a tensor of the weight's shape, >= 0, the least important lowest."""

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]


def magnitude(weight: Tensor) -> Tensor:
    """|w|. https://huggingface.co/papers/1506.02626

    >>> magnitude(torch.tensor([-2.0, 1.0])).tolist()
    [2.0, 1.0]
    """
    return weight.detach().abs()


SCORES: dict[str, Score] = {"magnitude": magnitude}


def resolve_score(score: str) -> Score:
    """A score by its name.

    Raises:
        ValueError: there is no score of that name.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}. Got {score!r}.")
    return SCORES[score]


def rank_together(scores: dict[str, Tensor]) -> Tensor:
    """The scores of all layers as one vector, [sum of numel], float32, in the order of the dict."""
    return torch.cat([score.reshape(-1).float() for score in scores.values()])
