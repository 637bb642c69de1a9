"""The loss terms against torch, scipy and values computed by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from hf_compalign.align import (
    Focus,
    agreement_loss,
    kl_loss,
    logits_loss,
    margin_loss,
    masked_mean,
    task_loss,
    where_teacher_is_right,
    yes_no_loss,
)

shapes = st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**31 - 1))


def draw(shape):
    n, c, seed = shape
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, n, c, generator=generator, dtype=torch.float64) * 5
    return student, teacher, torch.randint(0, c, (n,), generator=generator)


@given(shapes)
@settings(max_examples=40, deadline=None)
def test_terms_against_numpy(shape):
    student, teacher, labels = draw(shape)
    logs = log_softmax(student.numpy(), axis=-1)
    rows = np.arange(len(labels))
    soft = softmax(teacher.numpy(), axis=-1)
    np.testing.assert_allclose(task_loss(student, None, labels), -logs[rows, labels.numpy()])
    np.testing.assert_allclose(agreement_loss(student, teacher, labels), -logs[rows, teacher.numpy().argmax(-1)])
    np.testing.assert_allclose(agreement_loss(student, teacher, labels, soft=True), -(soft * logs).sum(-1))
    np.testing.assert_allclose(logits_loss(student, teacher, labels), ((student - teacher) ** 2).mean(-1))
    order = np.argsort(-teacher.numpy(), axis=-1)[:, :2]
    ours, theirs = (np.take_along_axis(one.numpy(), order, -1) for one in (student, teacher))
    margins = (ours[:, 0] - ours[:, 1]) - (theirs[:, 0] - theirs[:, 1])
    np.testing.assert_allclose(margin_loss(student, teacher, labels), margins**2)
    t = 3.0
    p, q = softmax(teacher.numpy() / t, axis=-1), softmax(student.numpy() / t, axis=-1)
    expected = t**2 * rel_entr(p, q).sum(-1)
    np.testing.assert_allclose(kl_loss(student, teacher, labels, temperature=t), expected, rtol=1e-6, atol=1e-9)


@given(shapes)
@settings(max_examples=40, deadline=None)
def test_divergences_are_0_at_equality_and_never_negative(shape):
    student, teacher, labels = (x.float() if x.is_floating_point() else x for x in draw(shape))
    for term in (logits_loss, kl_loss, margin_loss):
        assert (term(student, teacher, labels) >= 0).all()
        assert (term(teacher, teacher, labels) == 0).all()


@given(shapes)
@settings(max_examples=40, deadline=None)
def test_agreement_states_its_value_at_equality(shape):
    student, teacher, labels = draw(shape)
    p = softmax(teacher.numpy(), axis=-1)
    entropy = -(p * np.log(p)).sum(-1)
    np.testing.assert_allclose(agreement_loss(teacher, teacher, labels), -np.log(p.max(-1)))
    at_equality = agreement_loss(teacher, teacher, labels, soft=True)
    np.testing.assert_allclose(at_equality, entropy)
    # Soft agreement has its minimum there.
    assert (agreement_loss(student, teacher, labels, soft=True) >= at_equality - 1e-9).all()


def test_unknown_labels_cost_nothing_and_have_no_gradient():
    student = torch.randn(3, 4, requires_grad=True)
    values = task_loss(student, None, torch.tensor([1, -100, -100]))
    values.sum().backward()
    assert values[1:].tolist() == [0, 0]
    assert student.grad[1:].abs().sum() == 0
    assert student.grad[0].abs().sum() > 0


def test_label_smoothing_is_torchs():
    student, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    expected = F.cross_entropy(student, labels, label_smoothing=0.1)
    assert torch.allclose(task_loss(student, None, labels, label_smoothing=0.1).mean(), expected)


def test_targets_between_no_and_yes_have_the_binary_cross_entropy():
    z, share = torch.randn(4, 3), torch.rand(4, 3)
    student = torch.stack([torch.zeros_like(z), z], dim=-1)
    expected = F.binary_cross_entropy_with_logits(z, share, reduction="none")
    assert torch.allclose(yes_no_loss(student, None, share), expected)
    share[0, 1] = -100
    values = yes_no_loss(student, None, share)
    assert values[0, 1] == 0
    assert torch.allclose(values[1:], expected[1:])
    hard = torch.tensor([[0, 1, -100]] * 4)
    flat = F.cross_entropy(student.flatten(0, 1), hard.flatten(), reduction="none")
    assert torch.equal(yes_no_loss(student, None, hard).flatten(), flat)


def test_the_gate_zeroes_items_on_which_the_teacher_is_wrong():
    teacher = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    labels = torch.tensor([0, 1, -100])  # right, wrong, unknown
    assert where_teacher_is_right(teacher, labels).tolist() == [True, False, True]
    values = Focus(alpha=0.0, beta=1.0)(logits_loss(torch.zeros(3, 2), teacher, labels), teacher, labels)
    assert values.tolist() == [2.0, 0.0, 2.0]


@given(shapes)
@settings(max_examples=40, deadline=None)
def test_a_masked_mean_is_the_mean_of_the_subset(shape):
    student, teacher, labels = draw(shape)
    mask = labels > 0
    values = logits_loss(student, teacher, labels)
    expected = values[mask].mean() if mask.any() else torch.tensor(0.0, dtype=torch.float64)
    assert torch.allclose(masked_mean(values, mask), expected)


def test_an_all_masked_batch_gives_0_and_a_finite_gradient():
    student = torch.randn(3, 4, requires_grad=True)
    nothing = torch.zeros(3, dtype=torch.bool)
    loss = masked_mean(kl_loss(student, torch.randn(3, 4), torch.zeros(3)), nothing)
    loss.backward()
    assert loss == 0
    assert (student.grad == 0).all()


def test_a_nan_outside_the_mask_does_not_spread():
    values = torch.tensor([1.0, math.nan], requires_grad=True)
    loss = masked_mean(values, torch.tensor([True, False]))
    loss.backward()
    assert loss == 1
    assert values.grad.tolist() == [1, 0]


def test_the_count_of_a_whole_step_makes_batches_add_up():
    values = torch.arange(6.0)
    mask = torch.tensor([True, True, False, True, True, True])
    whole = masked_mean(values, mask)
    parts = sum(masked_mean(values[s], mask[s], torch.tensor(5)) for s in (slice(0, 4), slice(4, 6)))
    assert whole == pytest.approx(parts.item())


def test_focal_weights_are_the_general_form_of_the_gate():
    teacher, labels = torch.tensor([[2.0, 0.0]] * 3), torch.tensor([0, 1, -100])
    values = torch.tensor([1.0, 2.0, 3.0])
    assert Focus()(values, teacher, labels).tolist() == [1.0, 2.0, 3.0]
    assert Focus(alpha=1.0, beta=5.0)(values, teacher, labels).tolist() == [6.0, 2.0, 18.0]
    broken = torch.tensor([1.0, math.nan, 3.0])
    assert Focus(alpha=0.0, beta=1.0)(broken, teacher, labels).tolist() == [1.0, 0.0, 3.0]
    items, mask = labels.reshape(1, 3), torch.tensor([[True, True, False]])
    whole = Focus(alpha=0.5, beta=1.0).of_examples(torch.tensor([4.0]), teacher[None], items, mask)
    assert whole.tolist() == [4.0 * (0.5 + 0.5)]
