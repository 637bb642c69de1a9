"""The loss terms, pure functions with one value per item, and the only reduction.

Every term takes the logits [..., C] of student and teacher and the labels [...], -100 where unknown, and gives [...].
A regression has its values for logits, [..., 1], and nan for labels that are unknown.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_compalign.labels import IGNORED

TermFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student logits, teacher logits, labels) -> one value per item."""


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


def value_loss(student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
    """Squared error of a regression, (z_s - y)^2, of values [..., 1] and labels [...]; 0 where the label is nan.

    In the squared unit of the labels; at student = teacher it is the teacher's own error. The teacher is not used.

    >>> value_loss(torch.tensor([[1.0], [2.0]]), None, torch.tensor([3.0, float("nan")])).tolist()
    [4.0, 0.0]
    """
    own = student.squeeze(-1)
    return (own - torch.where(labels.isnan(), own.detach(), labels)).square()


def yes_no_loss(student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
    """Binary cross-entropy of questions, -y log p - (1 - y) log(1 - p) with p = softmax(z_s)[1]; 0 where y is -100.

    The targets y may lie between 0, no, and 1, yes. In nats; at student = teacher it is the teacher's own loss, not 0.
    The teacher is not used.

    >>> yes_no_loss(torch.zeros(3, 2), None, torch.tensor([1.0, 0.5, -100.0])).tolist()
    [0.6931471824645996, 0.6931471824645996, 0.0]
    """
    no, yes = student.log_softmax(-1).unbind(-1)
    known = labels != IGNORED
    share = torch.where(known, labels, 0).to(yes.dtype)
    return torch.where(known, -(share * yes + (1 - share) * no), torch.zeros_like(yes))


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


def margin_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Squared difference of the margins between the teacher's two largest logits, r and q; 0 at student = teacher.

    ((z_s[r] - z_s[q]) - (z_t[r] - z_t[q]))^2: how sure the teacher is of its answer, against the answer that it is most
    likely to be lost to. The other logits do not matter. The labels are not used. As the margins of
    https://huggingface.co/papers/2010.02666, there of two passages.

    >>> margin_loss(torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([0])).tolist()
    [1.0]
    """
    largest, places = teacher.topk(2, dim=-1)
    own = student.gather(-1, places)
    return ((own[..., 0] - own[..., 1]) - (largest[..., 0] - largest[..., 1])).square()


def where_teacher_is_right(teacher: Tensor, labels: Tensor) -> Tensor:
    """The gate 1[argmax z_t = y]: [...] of bool. Items without a label pass: nobody knows them wrong.

    Args:
        teacher: logits [..., C].
        labels: [...], -100 where unknown.

    >>> where_teacher_is_right(torch.tensor([[2.0, 0.0]] * 3), torch.tensor([0, 1, -100])).tolist()
    [True, False, True]
    """
    return (teacher.argmax(-1) == labels) | (labels == IGNORED)


@dataclass(frozen=True)
class Focus:
    """How much the teacher's terms count: ``alpha + beta`` where the teacher is right, ``alpha`` where it is wrong.

    Focal distillation, https://huggingface.co/papers/2011.09161; the gate is alpha = 0 and beta = 1. Every item still
    counts as one.

    >>> teacher, labels = torch.tensor([[2.0, 0.0]] * 2), torch.tensor([0, 1])
    >>> Focus(alpha=0.5, beta=1.0)(torch.tensor([2.0, 2.0]), teacher, labels).tolist()
    [3.0, 1.0]
    """

    alpha: float = 1.0
    beta: float = 0.0

    def __call__(self, values: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """A term's values [...], weighted by whether the teacher's logits [..., C] are right."""
        return self._weighted(values, where_teacher_is_right(teacher, labels).to(values.dtype))

    def of_examples(self, values: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Values [B] of whole examples, weighted by the share of their items [B, ...] on which the teacher is right.

        >>> right, wrong = [0.0, 2.0], [2.0, 0.0]
        >>> teacher, labels = torch.tensor([[right, wrong]]), torch.tensor([[1, 1]])
        >>> Focus(alpha=0.0, beta=1.0).of_examples(torch.tensor([3.0]), teacher, labels, labels == 1).tolist()
        [1.5]
        """
        passed = where_teacher_is_right(teacher, labels) & mask
        n_passed, n = (which.reshape(len(values), -1).sum(1) for which in (passed, mask))
        return self._weighted(values, n_passed / n.clamp_min(1))

    def _weighted(self, values: Tensor, right: Tensor) -> Tensor:
        weights = self.alpha + self.beta * right
        # What does not count at all may be nan.
        return torch.where(weights > 0, values * weights, torch.zeros_like(values))


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


def teacher_terms(*, soft_agreement: bool, temperature: float) -> dict[str, TermFunction]:
    """The terms that compare logits, with their options bound."""
    return {
        "agreement": partial(agreement_loss, soft=soft_agreement),
        "logits": logits_loss,
        "margin": margin_loss,
        "kl": partial(kl_loss, temperature=temperature),
    }
