"""The terms of one batch that compare the student with its teacher, each a mean over its own items or examples."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_compalign.align.arguments import AlignmentArguments
from hf_compalign.align.inner_losses import attention_loss, attribution_loss, hidden_loss
from hf_compalign.align.inside import INNER, Inside
from hf_compalign.align.losses import masked_mean, teacher_terms
from hf_compalign.align.parts import values_of
from hf_compalign.align.projection import Projection
from hf_compalign.tasks import Items


class TeacherTerms:
    """The terms with a teacher that take part.

    Args:
        alignment: the arguments in force.
        projection: of the student's hidden states, where the teacher's have another width.

    Attributes:
        inner: those about what goes on inside of the models.
    """

    def __init__(self, alignment: AlignmentArguments, projection: Projection | None = None) -> None:
        weights = alignment.weights()
        self.inner = tuple(name for name in weights if name in INNER)
        own = teacher_terms(soft_agreement=alignment.soft_agreement, temperature=alignment.temperature)
        self._of_items = {name: own[name] for name in weights if name in own}
        self._focus = alignment.focus
        self._layers = alignment.hidden_layers
        self._projection = projection
        self._of_examples: dict[str, Callable[[Inside, Inside, Tensor | None], Tensor]] = {
            "hidden": self._hidden,
            "attention": self._attention,
            "attribution": _attribution,
        }

    def of_items(self, items: Items, answers: Tensor, count: Tensor | None) -> dict[str, Tensor]:
        """The terms about the answers.

        Args:
            items: the student's.
            answers: the teacher's logits of the same items, [..., C].
            count: of the items of an optimizer step; None takes those of the batch.
        """
        losses = {}
        found = values_of([*self._of_items.values()], items.logits, answers, items.labels)
        for name, value in zip(self._of_items, found, strict=True):
            values = value if self._focus is None else self._focus(value, answers, items.labels)
            losses[name] = masked_mean(values, items.mask, count)
        return losses

    def of_examples(
        self,
        inside: tuple[Inside, Inside],
        items: Items,
        answers: Tensor,
        *,
        padding: Tensor | None,
        count: Tensor | None,
    ) -> dict[str, Tensor]:
        """The terms about the inside, which belongs to an example and not to its items.

        Args:
            inside: what student and teacher showed.
            items: the student's.
            answers: the teacher's logits of the same items, [..., C].
            padding: the attention mask, 0 where there is padding.
            count: of the examples of an optimizer step; None takes those of the batch.
        """
        losses = {}
        for name in self.inner:
            values = self._of_examples[name](*inside, padding)
            values = _mean_over_texts(values.reshape(len(items.mask), -1), padding)
            if self._focus is not None:
                values = self._focus.of_examples(values, answers, items.labels, items.mask)
            losses[name] = masked_mean(values, torch.ones_like(values, dtype=torch.bool), count)
        return losses

    def _hidden(self, student: Inside, teacher: Inside, mask: Tensor | None) -> Tensor:
        own, wanted = _following(student.hidden_states, teacher.hidden_states, self._layers)
        return hidden_loss(own if self._projection is None else [*map(self._projection, own)], wanted, mask)

    def _attention(self, student: Inside, teacher: Inside, mask: Tensor | None) -> Tensor:
        # Embeddings have no attention.
        layers = None if self._layers is None else [layer - 1 for layer in self._layers[1:]]
        return attention_loss(*_following(student.attentions, teacher.attentions, layers), mask)


def _mean_over_texts(values: Tensor, padding: Tensor | None) -> Tensor:
    """[B]: of values [B, texts], the choices of a question or windows, the mean over those that are no padding."""
    there = torch.ones_like(values, dtype=torch.bool)
    if padding is not None and padding.shape[:-1] == values.shape:
        there = padding.bool().any(-1)
    return (values * there).sum(1) / there.sum(1).clamp_min(1)


def _attribution(student: Inside, teacher: Inside, mask: Tensor | None) -> Tensor:
    if student.gradient is None or teacher.gradient is None:
        raise RuntimeError("Both models must be asked for the gradients of their inputs.")
    return attribution_loss(student.gradient, teacher.gradient)


def _following(
    student: Sequence[Tensor], teacher: Sequence[Tensor], layers: Sequence[int] | None
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """What is compared: the student's where they follow one of the teacher's, and those that they follow."""
    if layers is None:
        return student, teacher
    pairs = [(own, teacher[layer]) for own, layer in zip(student, layers, strict=True) if layer >= 0]
    return [own for own, _ in pairs], [wanted for _, wanted in pairs]
