"""The loss terms about what goes on inside of the models, pure functions with one value per example."""

from collections.abc import Sequence

import torch
from torch import Tensor


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Distance of the hidden states: mean over layers of sum |h_s - h_t|^2 / sum |h_t|^2; 0 at student = teacher.

    The sums go over the positions and features of an item. Without a unit: 0.01 is an error of a tenth of the length.
    https://huggingface.co/papers/1909.10351; where the widths differ, the student's states come projected.

    Args:
        student: of each layer, [B, positions, features] or any [B, ...].
        teacher: the same of the teacher.
        mask: [B, positions], or of several texts in a row [B, texts, positions], 0 where there is padding; it counts
            for states that have these positions.

    Returns:
        [B], one value per item.

    Raises:
        ValueError: there are more of one model, or they are wider.

    >>> states = [torch.ones(2, 3, 4)]
    >>> hidden_loss([2 * states[0]], states).tolist(), hidden_loss(states, states).tolist()
    ([1.0, 1.0], [0.0, 0.0])
    """
    shapes = [[tuple(state.shape) for state in states] for states in (student, teacher)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "Hidden states can be compared where there are as many of the same width. Got the shapes "
            f"{shapes[0]} of the student and {shapes[1]} of the teacher. Set hidden_weight=0."
        )
    return torch.stack([_relative_error(*pair, mask) for pair in zip(student, teacher, strict=True)]).mean(0)


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Distance of the attention maps: mean over layers, heads and positions of KL(a_t || a_s); 0 at student = teacher.

    In nats. Each position's attention is a distribution over all positions, and of those that it reads padding has a
    share of 0 in both models. https://huggingface.co/papers/2002.10957, there of the last layer alone.

    Args:
        student: of each layer, [B, heads, positions, positions], each row a distribution.
        teacher: the same of the teacher.
        mask: [B, positions], or of several texts in a row [B, texts, positions], 0 where there is padding, whose own
            attention does not count.

    Returns:
        [B], one value per example.

    Raises:
        ValueError: the two models differ in layers, heads or positions.

    >>> even, sure = torch.full((1, 1, 2, 2), 0.5), torch.eye(2).reshape(1, 1, 2, 2)
    >>> attention_loss([even], [sure]).tolist(), attention_loss([sure], [sure]).tolist()
    ([0.6931471824645996], [0.0])
    """
    shapes = [[tuple(maps.shape) for maps in layers] for layers in (student, teacher)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "Attention maps can be compared where there are as many heads. Got the shapes "
            f"{shapes[0]} of the student and {shapes[1]} of the teacher. Set attention_weight=0."
        )
    return torch.stack([_divergence(*pair, mask) for pair in zip(student, teacher, strict=True)]).mean(0)


def attribution_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the two input gradients, each of length 1: |g_s / |g_s| - g_t / |g_t||^2.

    0 at student = teacher, 2 where they have nothing in common, 4 where they are opposed. The gradient is that of the
    logit of the teacher's answer with respect to what a model reads. https://huggingface.co/papers/1803.00443

    Args:
        student: the gradient of each example, [B, ...].
        teacher: the same of the teacher.

    Returns:
        [B], one value per example.

    >>> east, north = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    >>> attribution_loss(east, north).tolist(), attribution_loss(2 * east, east).tolist()
    ([2.0], [0.0])
    """
    return (_of_length_one(student) - _of_length_one(teacher)).square().sum(1)


def _relative_error(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    student, teacher = student.float(), teacher.float()
    kept = _positions(mask, teacher.shape[:2])
    error, size = (_squares(values, kept) for values in (student - teacher, teacher))
    return error / size.clamp_min(torch.finfo(size.dtype).tiny)


def _squares(values: Tensor, kept: Tensor | None) -> Tensor:
    """[B]: the sum of the squares of [B, positions, ...], where a position is kept."""
    squares = values.square()
    # Summed before they are masked, which takes one pass less over all features.
    sums = squares.flatten(2).sum(2) if squares.ndim > 2 else squares
    return (sums if kept is None else sums * kept).sum(1)


def _divergence(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """[B]: mean over heads and positions of the divergences of the attention, of [B, heads, positions, positions]."""
    own, wanted = student.float(), teacher.float()
    # What no one reads is 0 in both models, and 0 times a finite number.
    tiny = torch.finfo(own.dtype).tiny
    # Rounding can leave a sum of tiny differences just below the 0 that is its minimum.
    values = (wanted * (wanted.clamp_min(tiny).log() - own.clamp_min(tiny).log())).sum(-1).clamp_min(0.0).mean(1)
    kept = _positions(mask, values.shape)
    if kept is None:
        return values.mean(1)
    return torch.where(kept, values, torch.zeros_like(values)).sum(1) / kept.sum(1).clamp_min(1)


def _positions(mask: Tensor | None, shape: torch.Size) -> Tensor | None:
    """[B, positions] of bool, which are no padding; None without a mask, or where states have other positions."""
    if mask is not None and mask.ndim > 2:
        mask = mask.flatten(0, -2)
    return None if mask is None or mask.shape != shape else mask.bool()


def _of_length_one(gradient: Tensor) -> Tensor:
    """[B, n]; what is 0 has no direction, and stays 0 with no gradient of its own."""
    flat = gradient.float().flatten(1)
    length = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return torch.where(length > 0, flat / length.clamp_min(torch.finfo(flat.dtype).tiny), torch.zeros_like(flat))
