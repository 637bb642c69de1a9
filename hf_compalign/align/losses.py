"""The loss terms, pure functions with one value per item, and the only reduction.

Every term takes the logits [..., C] of student and teacher and the labels [...], -100 where unknown, and gives [...].
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_compalign.labels import IGNORED

TermFunction = Callable[..., Tensor]
"""(student logits, teacher logits, labels) -> one value per item; the task term alone does without a teacher."""


def task_loss(student: Tensor, teacher: Tensor | None, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels, -log softmax(z_s)[y]; 0 where the label is -100.

    In nats; at student = teacher it is the teacher's own loss, not 0. The teacher is not used. `label_smoothing` is the
    share of the target that is spread over all classes.

    >>> task_loss(torch.zeros(2, 4), None, torch.tensor([1, -100])).tolist()
    [1.3862943649291992, 0.0]
    """
    flat = F.cross_entropy(
        student.reshape(-1, student.shape[-1]),
        labels.reshape(-1),
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return flat.reshape(labels.shape)


def agreement_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, soft: bool = False) -> Tensor:
    """Cross-entropy with the teacher's prediction: -log softmax(z_s)[r], r = argmax z_t.

    With ``soft`` the target is softmax(z_t) in place of its argmax. In nats; at student = teacher it is
    -log max softmax(z_t) when hard, the teacher's entropy when soft (which is also its minimum). The labels are not
    used. https://huggingface.co/papers/2012.01604

    >>> z = torch.tensor([[2.0, 0.0]])
    >>> bool(torch.isclose(agreement_loss(z, z, z), -torch.log_softmax(z, -1)[:, 0]).all())
    True
    """
    if soft:
        return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1)
    return -student.log_softmax(-1).gather(-1, teacher.argmax(-1, keepdim=True)).squeeze(-1)


def logits_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Logit pairing: mean over classes of (z_t - z_s)^2; 0 at student = teacher. The labels are not used.

    https://huggingface.co/papers/1312.6184, as the third term of https://huggingface.co/papers/2012.01604

    >>> logits_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([0])).tolist()
    [2.5]
    """
    return (student - teacher).pow(2).mean(-1)


def kl_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Distillation: T^2 * KL(softmax(z_t / T) || softmax(z_s / T)), T > 0; 0 at student = teacher.

    In nats; at T = 1 it is the plain divergence of the two predictions. The labels are not used.
    https://huggingface.co/papers/1503.02531

    >>> z = torch.randn(3, 5)
    >>> kl_loss(z, z, z, temperature=2.0).tolist()
    [0.0, 0.0, 0.0]
    """
    p = (teacher / temperature).log_softmax(-1)
    q = (student / temperature).log_softmax(-1)
    # Rounding can leave a sum of tiny differences just below the 0 that is its minimum.
    return temperature**2 * (p.exp() * (p - q)).sum(-1).clamp_min(0.0)


def where_teacher_is_right(teacher: Tensor, labels: Tensor) -> Tensor:
    """The gate 1[argmax z_t = y]: [...] of bool. Items without a label pass: nobody knows them wrong.

    Args:
        teacher: logits [..., C].
        labels: [...], -100 where unknown.

    >>> where_teacher_is_right(torch.tensor([[2.0, 0.0]] * 3), torch.tensor([0, 1, -100])).tolist()
    [True, False, True]
    """
    return (teacher.argmax(-1) == labels) | (labels == IGNORED)


def gated(term: TermFunction) -> TermFunction:
    """The term, with 0 for the items on which the teacher is known to be wrong; they still count as items.

    Args:
        term: (student logits, teacher logits, labels) -> [...], one value per item.

    >>> student, teacher = torch.zeros(2, 2), torch.tensor([[2.0, 0.0]] * 2)
    >>> gated(logits_loss)(student, teacher, torch.tensor([0, 1])).tolist()
    [2.0, 0.0]
    """

    def gated_term(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        values = term(student, teacher, labels)
        return torch.where(where_teacher_is_right(teacher, labels), values, torch.zeros_like(values))

    return gated_term


def masked_mean(per_item: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    """Sum of the items that the mask keeps, over their count; 0 with a finite gradient when it keeps none.

    Args:
        per_item: [...], one loss per item.
        mask: [...] of bool.
        count: what to divide by when there is more than this batch: the items of all accumulated batches, over the
            number of processes. None takes ``mask.sum()``.

    Returns:
        A scalar in the unit of the losses.

    >>> masked_mean(torch.tensor([1.0, 5.0]), torch.tensor([True, False])).item()
    1.0
    """
    total = torch.where(mask, per_item, torch.zeros_like(per_item)).sum()
    if count is None:
        count = mask.sum()
    return total / count.clamp_min(1.0 / 1024)


def teacher_terms(
    *, soft_agreement: bool, temperature: float, only_where_teacher_is_right: bool
) -> dict[str, TermFunction]:
    """The three terms that need a teacher, with their options bound."""
    terms: dict[str, TermFunction] = {
        "agreement": partial(agreement_loss, soft=soft_agreement),
        "logits": logits_loss,
        "kl": partial(kl_loss, temperature=temperature),
    }
    return {name: gated(term) for name, term in terms.items()} if only_where_teacher_is_right else terms
