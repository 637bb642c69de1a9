"""Scores -> masks, by the methods of torch.nn.utils.prune; and which weights of a model are pruned at all."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from hf_compalign.compress.scores import Score, rank_together

PATTERNS = ("layer", "global")
# The layers that make the answer, and those that read the input (an image model's patches are a convolution). BERT's
# pooler belongs to the head: it is as good as new before fine-tuning, and its small weights would all go first.
LEFT_OUT = (
    "classifier",
    "classifier.*",
    "*.classifier",
    "pre_classifier",
    "*pooler*",
    "score",
    "logits_proj",
    "*embeddings*",
)


def prunable_weights(
    model: nn.Module, *, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> dict[str, nn.Parameter]:
    """The weights of the linear and convolution layers to prune, by name.

    Args:
        model: the model, not wrapped.
        include: patterns of module names (as in `fnmatch`); None takes every linear and convolution layer but the
            embeddings and the classification head (with the pooler).
        exclude: patterns of module names to leave out after that.

    Raises:
        ValueError: a pattern matches no layer, or nothing is left to prune.
    """
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))
    }
    for pattern in (*(include or ()), *(exclude or ())):
        if not any(_matches(name, [pattern]) for name in layers):
            raise ValueError(
                f"The pattern {pattern!r} matches no linear or convolution layer of {type(model).__name__}. "
                f"Its layers are named like: {', '.join(_samples(list(layers)))}."
            )
    left_out = [*(LEFT_OUT if include is None else ()), *(exclude or ())]
    weights: dict[str, nn.Parameter] = {}
    for name, module in layers.items():
        shared = any(module.weight is weight for weight in weights.values())
        if _matches(name, include or ["*"]) and not _matches(name, left_out) and not shared:
            weights[f"{name}.weight"] = cast(nn.Parameter, module.weight)
    if not weights:
        raise ValueError(
            f"No layer of {type(model).__name__} is left to prune with include={include} and exclude={exclude}. "
            f"Its layers are named like: {', '.join(_samples(list(layers)))}."
        )
    return weights


def compute_masks(weights: Mapping[str, Tensor], sparsity: float, *, pattern: str, score: Score) -> dict[str, Tensor]:
    """Masks of bool, True where a weight stays, with the given share of all weights pruned.

    "layer" prunes every weight matrix to the sparsity, "global" the lowest scores of all together. The mask is
    always the whole one for its sparsity, computed afresh: amounts given one after the other would compound.
    """
    scores = {name: score(weight) for name, weight in weights.items()}
    if pattern == "layer":
        return {name: _lowest_pruned(values, sparsity) for name, values in scores.items()}
    together = _lowest_pruned(rank_together(scores), sparsity)
    parts = together.split([values.numel() for values in scores.values()])
    return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


def _lowest_pruned(scores: Tensor, sparsity: float) -> Tensor:
    count = round(sparsity * scores.numel())
    method = prune.L1Unstructured(amount=count)
    return method.compute_mask(scores, default_mask=torch.ones_like(scores)).bool()


def sparsity_of(weights: Mapping[str, Tensor]) -> float:
    """The share of the weights that are 0."""
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return zeros / sum(weight.numel() for weight in weights.values())


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _samples(names: list[str], most: int = 6) -> list[str]:
    return names if len(names) <= most else [*names[: most - 1], "...", names[-1]]
