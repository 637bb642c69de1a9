"""Terms that are computed part by part have the values and gradients of terms that are computed at once."""

from functools import partial

import pytest
import tiny
import torch
from every_task import CASES, batch, padded, rows

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments
from hf_compalign.align import agreement_loss, kl_loss, logits_loss, margin_loss, parts, task_loss

pytestmark = pytest.mark.numeric

TERMS = [
    agreement_loss,
    partial(agreement_loss, soft=True),
    logits_loss,
    margin_loss,
    partial(kl_loss, temperature=2.0),
]


@pytest.fixture
def small(monkeypatch):
    """Parts of two items each, the last of one."""
    monkeypatch.setattr(parts, "WHOLE", 0)
    monkeypatch.setattr(parts, "PART", 14)


@pytest.mark.parametrize("terms", [TERMS, [task_loss]])
def test_values_and_gradients_are_those_of_the_whole(small, terms):
    student, teacher = torch.randn(2, 7, 3, 5)
    labels = torch.randint(0, 7, (3, 5))
    labels[0, 0] = -100
    found = []
    for compute in (parts.values_of, lambda terms, *given: [term(*given) for term in terms]):
        z = student.clone().requires_grad_()
        # The classes do not lie side by side, as those of pixels do not.
        values = compute(terms, z.movedim(0, -1), teacher.movedim(0, -1) if terms is TERMS else None, labels)
        sum(
            (value * torch.arange(15.0).reshape(3, 5) * (2.0 + place)).sum() for place, value in enumerate(values)
        ).backward()
        found.append((torch.stack(values), z.grad))
    for own, whole in zip(*found, strict=True):
        assert tiny.distance(own, whole.detach()) < tiny.ROUNDING


def test_a_language_model_trains_alike(small, tmp_path, monkeypatch):
    gradients = []
    for whole in (0, 2**24):
        monkeypatch.setattr(parts, "WHOLE", whole)
        trainer = AlignedDistillationTrainer(
            CASES["text-generation"].model(2),
            tiny.arguments(tmp_path),
            teacher=CASES["text-generation"].model(1),
            alignment=AlignmentArguments(preset="paper", kl_weight=1.0),
            train_dataset=rows("text-generation", 4),
            data_collator=padded,
        )
        trainer.compute_loss(trainer.model.train(), batch(trainer.train_dataset)).backward()
        gradients.append(torch.cat([one.grad.flatten() for one in trainer.model.parameters()]))
    assert tiny.distance(*gradients) < tiny.ROUNDING
