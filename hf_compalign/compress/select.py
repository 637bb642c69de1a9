"""Which layers a verb may touch, by patterns of their names."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from hf_compalign.compress.adapters import refuse_adapters

# The layers that make the answer, and those that read the input (an image model's patches are a convolution). BERT's
# pooler belongs to the head: it is as good as new before fine-tuning, and its small weights would all go first.
LEFT_OUT = ("*classifier", "classifier.*", "head.*", "*pooler*", "score", "logits_proj", "qa_outputs", "*embeddings*")


def prunable_weights(
    model: nn.Module, *, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> dict[str, nn.Parameter]:
    """The weights of the linear and convolution layers to prune, by name; `include` and `exclude` as in `prune_`."""
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))
    }
    purpose = Purpose("prune", "linear or convolution layer", LEFT_OUT)
    chosen = select_layers(model, layers, purpose=purpose, include=include, exclude=exclude)
    return {f"{name}.weight": cast(nn.Parameter, module.weight) for name, module in chosen.items()}


@dataclass(frozen=True)
class Purpose:
    """What layers are selected for."""

    verb: str  # what is done with them
    kind: str  # what they are called
    left_out: Sequence[str]  # patterns of names that are not meant unless an include pattern says so


def select_layers(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    *,
    purpose: Purpose,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
) -> dict[str, nn.Module]:
    """The layers, by name, that patterns of module names choose; of layers that share a weight, the first.

    `include` is as in `fnmatch`, and None takes all but those that the purpose leaves out; `exclude` comes after that.
    """
    refuse_adapters(model)
    named_like = f"Its layers are named like: {', '.join(_samples(list(layers)))}."
    for pattern in (*(include or ()), *(exclude or ())):
        if not any(_matches(name, [pattern]) for name in layers):
            raise ValueError(
                f"The pattern {pattern!r} matches no {purpose.kind} of {type(model).__name__}. {named_like}"
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
            f"exclude={exclude}. {named_like}"
        )
    return chosen


def sparsity_of(weights: Mapping[str, Tensor]) -> float:
    """The share of the weights that are 0."""
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return zeros / sum(weight.numel() for weight in weights.values())


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _samples(names: list[str], most: int = 6) -> list[str]:
    return names if len(names) <= most else [*names[: most - 1], "...", names[-1]]
