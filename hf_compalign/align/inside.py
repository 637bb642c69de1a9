"""What goes on inside of a model while it answers a batch: its hidden states, attention maps and input gradients."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_compalign.tasks import attentions_of, hidden_states_of

# The terms about the inside, and what a model is asked for them.
_ASKED = {"hidden": "output_hidden_states", "attention": "output_attentions"}
INNER = (*_ASKED, "attribution")


@dataclass(frozen=True)
class Inside:
    """What a model showed of its inside; empty what it was not asked for.

    Attributes:
        hidden_states: of the embeddings and each layer, [B, ...].
        attentions: of each layer, [B, heads, positions, positions].
        gradient: of a logit of each example, with respect to the embeddings of its tokens or its pixels, [B, ...].
    """

    hidden_states: Sequence[Tensor] = ()
    attentions: Sequence[Tensor] = ()
    gradient: Tensor | None = None

    def detached(self) -> "Inside":
        """The same, out of any graph."""
        states, maps = ([one.detach() for one in layers] for layers in (self.hidden_states, self.attentions))
        return Inside(states, maps, None if self.gradient is None else self.gradient.detach())


class Watch:
    """A context for one pass of a model over a batch, in which the model shows what it is asked for.

    Args:
        model: which one, not wrapped.
        inputs: the batch, as the model takes it.
        asked: names of `INNER`.
        trained: whether a loss of what is seen is to train the model.

    Attributes:
        inputs: what to call the model with.
        options: and the options of the call.
    """

    def __init__(
        self, model: nn.Module, inputs: Mapping[str, Any], asked: Collection[str] = (), *, trained: bool = False
    ) -> None:
        self.inputs = dict(inputs)
        self.options = {option: True for name, option in _ASKED.items() if name in asked}
        self._model = model
        self._asked = asked
        self._trained = trained
        self._stack = ExitStack()
        self._read: Tensor | None = None

    def __enter__(self) -> "Watch":
        if "attribution" not in self._asked:
            return self
        if self._trained:
            # The fast kernels have no second derivative.
            self._stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "pixel_values" in self.inputs:
            self._read = self.inputs["pixel_values"] = self.inputs["pixel_values"].detach().requires_grad_()
        else:
            table: Any = self._model.get_input_embeddings()  # type: ignore[operator]
            self._stack.callback(table.register_forward_hook(self._note).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _note(self, table: nn.Module, given: Any, embedded: Tensor) -> None:
        # Those of a frozen table have no gradient yet.
        self._read = embedded if embedded.requires_grad else embedded.requires_grad_()

    def seen(self, outputs: Any, logits: Tensor, answers: Tensor) -> Inside:
        """What was asked for, in the outputs of the pass.

        Args:
            outputs: of the model.
            logits: [..., C], in the outputs.
            answers: logits [..., C], whose largest says which of them has the gradient that is wanted.
        """
        states = hidden_states_of(outputs) if "hidden" in self._asked else ()
        maps = attentions_of(outputs) if "attention" in self._asked else ()
        gradient = None
        if self._read is not None:
            chosen = logits.gather(-1, answers.argmax(-1, keepdim=True)).sum()
            (gradient,) = torch.autograd.grad(chosen, self._read, create_graph=self._trained)
        return Inside(states, maps, gradient)
