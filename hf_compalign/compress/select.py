"""Which layers a verb may touch: by patterns of their names, and by what they do in the model."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_compalign.compress.adapters import refuse_adapters
from hf_compalign.compress.seen import LINEAR, seen_in

_PRUNABLE = (*LINEAR, nn.Conv1d, nn.Conv2d)
# What is not pruned besides the layers that make the logits: those that read the input (an image model's patches are a
# convolution), and the rest of the head. BERT's pooler belongs to it: it is as good as new before fine-tuning, and its
# small weights would all go first.
_LEFT_OUT = ("*classifier", "classifier.*", "head.*", "*pooler*", "*embeddings*")


def prunable_weights(
    model: nn.Module, *, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> dict[str, nn.Parameter]:
    """The weights of the linear and convolution layers to prune, by name; `include` and `exclude` as in `prune_`."""
    left_out = () if include is not None else (*_LEFT_OUT, *seen_in(model).head)
    purpose = Purpose("prune", "linear or convolution layer", left_out)
    chosen = select_layers(model, prunable_layers(model), purpose=purpose, include=include, exclude=exclude)
    return {f"{name}.weight": cast(nn.Parameter, module.weight) for name, module in chosen.items()}


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All linear and convolution layers of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _PRUNABLE)}


def by_output(layer: nn.Module, values: Tensor) -> Tensor:
    """A layer's weight, or what has its shape, as [out, ...]; applied twice, it gives the layout of the weight."""
    return values.T if isinstance(layer, Conv1D) else values


@dataclass(frozen=True)
class Purpose:
    """What layers are selected for."""

    verb: str  # what is done with them
    kind: str  # what they are called
    left_out: Sequence[str]  # patterns of names that are not meant where no include pattern is given
    once: bool = True  # of layers that share a weight, take the first


def select_layers(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    *,
    purpose: Purpose,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
) -> dict[str, nn.Module]:
    """The layers, by name, that patterns of module names choose.

    `include` is as in `fnmatch`, and None takes all but those that the purpose leaves out; `exclude` comes after that.
    """
    refuse_adapters(model)
    named_like = f"Its layers are named like: {', '.join(_samples([*layers]))}."
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
        others = (*(chosen.values() if purpose.once else ()), *(() if module in embeddings else embeddings))
        shared = any(module.weight is other.weight for other in others)
        if _matches(name, include or ["*"]) and not _matches(name, left_out) and not shared:
            chosen[name] = module
    if not chosen:
        omitted = [] if include is not None else [name for name in layers if _matches(name, purpose.left_out)]
        by_default = f"; left out by default: {', '.join(omitted)}" if omitted else ""
        raise ValueError(
            f"No layer of {type(model).__name__} is left to {purpose.verb} with include={include} and "
            f"exclude={exclude}{by_default}. {named_like}"
        )
    return chosen


def sparsity_of(weights: Mapping[Any, Tensor]) -> float:
    """The share of the weights that are 0."""
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return zeros / sum(weight.numel() for weight in weights.values())


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def listed(names: Sequence[str]) -> str:
    """The names; of many, how many they are and some of them."""
    samples = ", ".join(_samples(names))
    return f"{len(names)} layers, like {samples}" if "..." in samples else samples


def _samples(names: Sequence[str], most: int = 6) -> Sequence[str]:
    return names if len(names) <= most else [*names[: most - 1], "...", names[-1]]
