"""Terms of many items with many classes, computed part by part: in the memory of one copy of the logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WHOLE = 2**24  # up to so many logits are computed at once
PART = 2**21  # and of more, so many at a time


def values_of(terms: Sequence[Any], student: Tensor, teacher: Tensor | None, labels: Tensor) -> list[Tensor]:
    """The values [...] of each of some terms, as in `losses`, of logits [..., C] and labels [...].

    What a term computes in between is several times as large as the logits of a language model. Of more than `WHOLE`
    logits it is therefore computed for `PART` of them at a time, and once more for the gradient, which is then all that
    is as large as they are, for all terms together.

    >>> from hf_compalign.align.losses import kl_loss, logits_loss
    >>> z = torch.randn(2, 3, 5)
    >>> [value.shape for value in values_of([kl_loss, logits_loss], z, z, torch.zeros(2, 3))]
    [torch.Size([2, 3]), torch.Size([2, 3])]
    """
    if not terms or student.numel() <= WHOLE:
        return [term(student, teacher, labels) for term in terms]
    return list(_InParts.apply(terms, student, teacher, labels))


class _InParts(torch.autograd.Function):
    """Values of terms, of which nothing but the logits themselves is kept for the gradient."""

    @staticmethod
    def forward(
        ctx: Any, terms: Sequence[Any], student: Tensor, teacher: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.terms = terms
        ctx.save_for_backward(student, teacher, labels)
        parts = [[term(*part) for term in terms] for part in _parts(student, teacher, labels)]
        return tuple(torch.cat(values).reshape(labels.shape) for values in zip(*parts, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[None, Tensor, None, None]:
        student, teacher, labels = ctx.saved_tensors
        gradient = torch.empty(student.shape, dtype=student.dtype, device=student.device)
        weights = torch.stack([one.reshape(-1) for one in given], dim=1)
        begin = 0
        for part, *others in _parts(student, teacher, labels):
            end = begin + len(part)
            with torch.enable_grad():
                own = part.detach().requires_grad_()
                total = (torch.stack([term(own, *others) for term in ctx.terms], dim=1) * weights[begin:end]).sum()
            gradient.view(-1, own.shape[-1])[begin:end] = torch.autograd.grad(total, own)[0]
            begin = end
        return None, gradient, None, None


def _parts(student: Tensor, teacher: Tensor | None, labels: Tensor) -> list[tuple[Any, ...]]:
    """The items in a row, so many at a time that their logits are a part."""
    n, classes = max(1, PART // student.shape[-1]), student.shape[-1]
    own, split = student.reshape(-1, classes).split(n), labels.reshape(-1).split(n)
    wanted = [None] * len(own) if teacher is None else teacher.reshape(-1, classes).split(n)
    return list(zip(own, wanted, split, strict=True))
