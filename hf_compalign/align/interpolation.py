"""Weights between those of two models: what was trained, and what the training began with."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import Trainer

from hf_compalign.align.scoring import eval_score


def interpolate_(model: nn.Module, start: nn.Module, share: float) -> None:
    """Move a trained model toward the one that its training began with, in place.

    weights <- (1 - share) * start + share * model, for all floating parameters and stored floating buffers. Weights
    that are 0 in the model stay 0. https://huggingface.co/papers/2109.01903

    >>> model, start = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    >>> model.weight.data, start.weight.data = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 4.0]])
    >>> interpolate_(model, start, 0.75)
    >>> model.weight.data
    tensor([[1.2500, 0.0000]])

    Args:
        model: what is changed.
        start: a model of the same sizes, such as a copy from before the training and after a one-shot compression.
        share: of the model's weights, in [0, 1]; 1 leaves it as it is.

    Raises:
        ValueError: the share is out of range, or the models have other weights.
    """
    _check_shares([share])
    weights, origin = floating(model), _origin(model, start)
    write_(weights, {name: _between(origin[name], weight, share) for name, weight in weights.items()})


def best_interpolation(
    trainer: Trainer, start: nn.Module, *, shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
) -> float:
    """Try several shares with `interpolate_` on the model of a Trainer, and leave it with the best.

    The best has the lowest mismatch rate on the eval dataset, or the lowest loss where there is no teacher; of equal
    ones the largest share. It needs two copies of the weights for as long.

    Returns:
        The best share.

    Raises:
        ValueError: no shares are given, or one out of range; the models have other weights; there is no evaluation
            to choose by.
    """
    _check_shares(shares)
    weights, origin = floating(trainer.model), _origin(trainer.model, start)
    trained = {name: weight.detach().clone() for name, weight in weights.items()}
    best, lowest = 1.0, float("inf")
    try:
        for share in sorted(shares):
            write_(weights, {name: _between(origin[name], weight, share) for name, weight in trained.items()})
            score = eval_score(trainer)
            if score is None:
                raise ValueError(
                    "There is no evaluation to choose a share by. Give the Trainer an eval_dataset with labels or "
                    "answers of a teacher, or choose a share yourself: interpolate_(model, start, 0.5)."
                )
            if score.value <= lowest:
                best, lowest = share, score.value
    finally:
        write_(weights, {name: _between(origin[name], weight, best) for name, weight in trained.items()})
    return best


def floating(model: nn.Module) -> dict[str, Tensor]:
    """The floating tensors of a model that a checkpoint holds, each once, by name: parameters and buffers."""
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    stored = model.state_dict()
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def write_(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Give tensors other values, in place."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])


def widened(tensor: Tensor) -> Tensor:
    """The values in float32 at least, in which sums of many weights are exact enough."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _between(start: Tensor, end: Tensor, share: float) -> Tensor:
    return torch.lerp(widened(start).to(end.device), widened(end), share).masked_fill(end == 0, 0)


def _origin(model: nn.Module, start: nn.Module) -> dict[str, Tensor]:
    """The start's tensors, if they are those of the model in other values."""
    ours, theirs = floating(model), floating(start)
    for name in {**ours, **theirs}:
        sizes = [list(found[name].shape) if name in found else None for found in (ours, theirs)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"The models must have the same weights. {name} has the sizes {sizes[0]} in the model and {sizes[1]} "
                "in the start. Give the model that this training began with, and interpolate before units are cut."
            )
    return theirs


def _check_shares(shares: Sequence[float]) -> None:
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(
            f"The share of the trained weights must be in [0, 1]. Got {list(shares)}. 0 is the start, and 1 the model "
            "as it was trained."
        )
