"""What a model does with its layers: it is run once, on made-up inputs, and its class and names need not be known."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_compalign.compress.sharding import in_shards
from hf_compalign.models import evaluating, random_state_kept, sample_inputs

logger = logging.getLogger(__name__)

# Conv1D is the linear layer of GPT-2, with a weight of [in, out].
LINEAR = (nn.Linear, Conv1D)
_LAYERS = (*LINEAR, nn.Conv1d, nn.Conv2d, nn.Embedding)
# What the layers that make the logits are called, where a model cannot be run.
_LOGITS = (
    *("classifier", "classifier.out_proj", "classifier.linear_out", "cls_classifier", "distillation_classifier"),
    *("score", "logits_proj", "qa_outputs"),
)


@dataclass(frozen=True)
class Seen:
    """Layers by name.

    Attributes:
        head: those that make the logits, with no other layer in between.
        run: those that the logits depend on.
    """

    head: tuple[str, ...]
    run: tuple[str, ...]


def seen_in(model: nn.Module) -> Seen:
    """What one run shows of the model's linear layers, convolutions and embeddings.

    The head of a model that cannot be run, because its weights are elsewhere or its inputs are unknown, is found by
    the usual names, and all its layers count as run.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _LAYERS)}
    found = _asked(model, layers)
    if found is not None and found.head:
        return found
    named = tuple(name for name in layers if name in _LOGITS)
    if found is None and not named:
        logger.warning(
            "Which layers of %s make the logits is not known: it cannot be run on made-up inputs, and their names are "
            "none of %s. Name them in exclude=, since compression harms them most.",
            type(model).__name__,
            ", ".join(_LOGITS),
        )
    return Seen(named, tuple(layers))


def _asked(model: nn.Module, layers: Mapping[str, nn.Module]) -> Seen | None:
    if in_shards(model) or any(parameter.is_meta for parameter in model.parameters()):
        return None
    made_by: dict[Any, str] = {}

    def mark(name: str, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        """Give the output a node of its own in the graph of gradients, in frozen layers too."""
        marked = (output if output.requires_grad else output.detach().requires_grad_()).clone()
        made_by[marked.grad_fn] = name
        return marked

    try:
        with _unchanged(model), torch.enable_grad():
            for name, layer in layers.items():
                layer.register_forward_hook(partial(mark, name))
            answer: Any = model(**sample_inputs(model))
    except Exception:  # any model at all may be given, and what it needs to run is not known
        return None
    logits = [value.grad_fn for name, value in answer.items() if name.endswith("logits")]
    head, run = (_behind(logits, made_by, through=through) for through in (False, True))
    return Seen(tuple(head), tuple(name for name in layers if name in run))


def _behind(nodes: Iterable[Any], made_by: Mapping[Any, str], *, through: bool) -> dict[str, None]:
    """The layers behind nodes of a graph of gradients; ``through`` layers, or up to the next ones alone."""
    found: dict[str, None] = {}
    waiting, seen = [*nodes], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in made_by:
            found[made_by[node]] = None
        if through or node not in made_by:
            waiting.extend(following for following, _ in node.next_functions)
    return found


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Some models change when they run, such as BigBird on short texts: all modules get their attributes back."""
    before = [(vars(module), dict(vars(module))) for module in model.modules()]
    inner = [(value, dict(value)) for _, values in before for value in values.values() if isinstance(value, dict)]
    try:
        with evaluating(model), random_state_kept():
            yield
    finally:
        for now, then in (*inner, *before):
            now.clear()
            now.update(then)
