"""Scores -> masks, by the methods of torch.nn.utils.prune; and which weights of a model are pruned at all."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

PATTERNS = ("layer", "row", "global")
# The layers that make the answer, and those that read the input (an image model's patches are a convolution). BERT's
# pooler belongs to the head: it is as good as new before fine-tuning, and its small weights would all go first.
LEFT_OUT = (
    "*classifier",
    "classifier.*",
    "head.*",
    "*pooler*",
    "score",
    "logits_proj",
    "qa_outputs",
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
    purpose = Purpose("prune", "linear or convolution layer", LEFT_OUT)
    chosen = select_layers(model, layers, purpose=purpose, include=include, exclude=exclude)
    return {f"{name}.weight": cast(nn.Parameter, module.weight) for name, module in chosen.items()}


@dataclass(frozen=True)
class Purpose:
    """What layers are selected for.

    Attributes:
        verb: what is done with them.
        kind: what they are called.
        left_out: patterns of module names that are not meant unless an include pattern says so.
    """

    verb: str
    kind: str
    left_out: Sequence[str]


def select_layers(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    *,
    purpose: Purpose,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
) -> dict[str, nn.Module]:
    """Those of a model's layers that patterns of module names ask for; of layers with one weight, the first.

    Args:
        model: the model, not wrapped.
        layers: those to choose from, by name.
        purpose: what for.
        include: patterns (as in `fnmatch`); None takes all but those that the purpose leaves out.
        exclude: patterns of what to leave out after that.

    Raises:
        ValueError: a pattern matches no layer, or nothing is left.
    """
    for pattern in (*(include or ()), *(exclude or ())):
        if not any(_matches(name, [pattern]) for name in layers):
            raise ValueError(
                f"The pattern {pattern!r} matches no {purpose.kind} of {type(model).__name__}. "
                f"Its layers are named like: {', '.join(_samples(list(layers)))}."
            )
    # A language model's last layer can be its embeddings, under another name.
    embeddings = [module for module in model.modules() if include is None and isinstance(module, nn.Embedding)]
    left_out = [*(purpose.left_out if include is None else ()), *(exclude or ())]
    chosen: dict[str, nn.Module] = {}
    for name, module in layers.items():
        others = [other for other in (*chosen.values(), *embeddings) if other is not module]
        shared = any(module.weight is other.weight for other in others)
        if _matches(name, include or ["*"]) and not _matches(name, left_out) and not shared:
            chosen[name] = module
    if not chosen:
        raise ValueError(
            f"No layer of {type(model).__name__} is left to {purpose.verb} with include={include} and "
            f"exclude={exclude}. Its layers are named like: {', '.join(_samples(list(layers)))}."
        )
    return chosen


class _LowestOfEachGroup(prune.BasePruningMethod):
    """Prunes the same number of scores, the lowest, in every group of consecutive ones."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, count: int, group: int) -> None:
        self.count = count
        self.group = group

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask of the scores ``t``; of those that compare equal, topk decides."""
        lowest = t.reshape(-1, self.group).topk(self.count, largest=False).indices
        mask = default_mask.reshape(-1, self.group).scatter(1, lowest, 0)
        return mask.view_as(t)


def compute_masks(scores: Mapping[str, Tensor], sparsity: float, *, pattern: str) -> dict[str, Tensor]:
    """Masks of bool, True where a weight stays, with the given share of the lowest scores pruned.

    "layer" prunes every weight matrix to the sparsity, "row" every output row of it, "global" the lowest of all
    together, "2:4" (or any N:M) all but 2 of 4 consecutive weights at the sparsity 0.5, fewer below. The mask is always
    the whole one for its sparsity, computed afresh: amounts given one after the other would compound.

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
    method = _LowestOfEachGroup(round(sparsity * group), group)
    return method.compute_mask(scores, torch.ones_like(scores, dtype=torch.bool))


def _group_size(scores: Tensor, pattern: str) -> int:
    if pattern == "layer":
        return scores.numel()
    return scores[0].numel() if pattern == "row" else kept_of(pattern)[1]


def kept_of(pattern: str) -> tuple[int, int]:
    """(N, M) of a pattern N:M: N of M consecutive weights of a row stay.

    >>> kept_of("2:4")
    (2, 4)

    Raises:
        ValueError: it is none of the patterns, or not 0 < N < M.
    """
    kept, _, group = pattern.partition(":")
    if not (kept.isdecimal() and group.isdecimal() and 0 < int(kept) < int(group)):
        raise ValueError(
            f"pattern must be one of {', '.join(PATTERNS)}, or N:M with 0 < N < M, of which 2:4 is the one that GPUs "
            f"have kernels for. Got {pattern!r}."
        )
    return int(kept), int(group)


def check_pattern(pattern: str, sparsity: float) -> None:
    """Refuse a pattern that does not exist, or that does not have this sparsity in the end.

    Raises:
        ValueError: says which patterns there are, or the pattern's sparsity.
    """
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
    """Refuse weights whose rows a pattern N:M does not divide.

    Raises:
        ValueError: names the first such weight.
    """
    if pattern in PATTERNS:
        return
    _, group = kept_of(pattern)
    for name, weight in weights.items():
        n_inputs = weight.numel() // len(weight)
        if n_inputs % group:
            raise ValueError(
                f"The pattern {pattern} needs rows of a multiple of {group} weights. {name} has {n_inputs}. Leave it "
                f"out with exclude={[name.removesuffix('.weight')]}."
            )


def sparsity_of(weights: Mapping[str, Tensor]) -> float:
    """The share of the weights that are 0."""
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return zeros / sum(weight.numel() for weight in weights.values())


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _samples(names: list[str], most: int = 6) -> list[str]:
    return names if len(names) <= most else [*names[: most - 1], "...", names[-1]]
