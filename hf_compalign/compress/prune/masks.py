"""Scores -> masks: which weights stay, by the pattern in which they are ranked."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

PATTERNS = ("layer", "row", "global")


def compute_masks(scores: Mapping[str, Tensor], sparsity: float, *, pattern: str) -> dict[str, Tensor]:
    """Masks of bool, True where a weight stays, with the given share of the lowest scores pruned.

    The mask is always the whole one for its sparsity, computed afresh: amounts given one after the other would
    compound. Of equal scores, topk decides which go. N:M: https://huggingface.co/papers/2104.08378

    Args:
        scores: by name, each of the shape [out, ...] of its weight, what matters least lowest.
        sparsity: the share that goes, in [0, 1).
        pattern: "layer" prunes every weight matrix to the sparsity, "row" every output row of it, "global" the lowest
            of all together, "2:4" (or any N:M) all but 2 of 4 consecutive weights at the sparsity 0.5, fewer below.

    Returns:
        By the same names and of the same shapes.

    >>> compute_masks({"w": torch.tensor([[3.0, 1.0], [4.0, 2.0]])}, 0.5, pattern="row")
    {'w': tensor([[ True, False],
            [ True, False]])}
    """
    if pattern == "global":
        together = torch.cat([score.reshape(-1).float() for score in scores.values()])
        parts = _lowest_pruned(together, sparsity, len(together)).split([score.numel() for score in scores.values()])
        return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}
    return {name: _lowest_pruned(score, sparsity, _group_size(score, pattern)) for name, score in scores.items()}


def _lowest_pruned(scores: Tensor, sparsity: float, group: int) -> Tensor:
    """The same number of scores, the lowest, is pruned in every group of consecutive ones; topk decides on ties."""
    grouped = scores.reshape(-1, group)
    lowest = grouped.topk(round(sparsity * group), largest=False).indices
    return torch.ones_like(grouped, dtype=torch.bool).scatter(1, lowest, False).view_as(scores)


def _group_size(scores: Tensor, pattern: str) -> int:
    if pattern == "layer":
        return scores.numel()
    return scores[0].numel() if pattern == "row" else kept_of(pattern)[1]


def kept_of(pattern: str) -> tuple[int, int]:
    """(N, M) of a pattern N:M: N of M consecutive weights of a row stay.

    >>> kept_of("2:4")
    (2, 4)
    """
    kept, _, group = pattern.partition(":")
    if not (kept.isdecimal() and group.isdecimal() and 0 < int(kept) < int(group)):
        raise ValueError(
            f"pattern must be one of {', '.join(PATTERNS)}, or N:M with 0 < N < M; GPUs have kernels for 2:4. "
            f"Got {pattern!r}."
        )
    return int(kept), int(group)


def check_pattern(pattern: str, sparsity: float) -> None:
    """Refuse a pattern that does not exist, or whose sparsity is another one."""
    if pattern in PATTERNS:
        return
    kept, group = kept_of(pattern)
    # As many digits as the message gives.
    if not math.isclose(sparsity, 1 - kept / group, abs_tol=1e-6):
        raise ValueError(
            f"The pattern {pattern} has the sparsity {1 - kept / group:g}. Got {sparsity:g}. Give sparsity="
            f"{1 - kept / group:g}, or another pattern."
        )


def check_shapes(weights: Mapping[str, Tensor], pattern: str) -> None:
    """Refuse weights [out, ...] whose rows a pattern N:M does not divide."""
    if pattern in PATTERNS:
        return
    _, group = kept_of(pattern)
    n_inputs = {name: weight.numel() // len(weight) for name, weight in weights.items()}
    wrong = [name for name, n in n_inputs.items() if n % group]
    if wrong:
        raise ValueError(
            f"The pattern {pattern} needs rows of a multiple of {group} weights. "
            f"{', '.join(f'{name} has {n_inputs[name]}' for name in wrong)}. Leave out what does not fit, with "
            f"exclude={[name.removesuffix('.weight') for name in wrong]}."
        )
