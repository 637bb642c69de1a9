"""The loss terms about the inside of the models, against other ways to compute them."""

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from scipy.special import rel_entr

from hf_compalign.align import attention_loss, attribution_loss, hidden_loss

pytestmark = pytest.mark.numeric


def test_hidden_states_are_compared_item_by_item_without_their_padding():
    student, teacher = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)  # layers, items, positions, features
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
    expected = []
    for item, length in enumerate(mask.sum(1).tolist()):
        pairs = [(student[layer][item, :length], teacher[layer][item, :length]) for layer in range(3)]
        expected.append(np.mean([((s - t).norm() ** 2 / t.norm() ** 2).item() for s, t in pairs]))
    found = hidden_loss([*student], [*teacher], mask)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert hidden_loss([*teacher], [*teacher], mask).tolist() == [0, 0, 0, 0]


def test_hidden_states_of_other_depths_and_widths_are_refused():
    with pytest.raises(ValueError, match=r"as many of the same width. Got the shapes \[\(2, 4\)\] of the student"):
        hidden_loss([torch.ones(2, 4)], [torch.ones(2, 3)])


def test_attention_maps_are_compared_position_by_position_without_their_padding():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    scores = torch.randn(2, 3, 2, 2, 4, 4).masked_fill(mask[:, None, None] == 0, -torch.inf)
    student, teacher = scores.softmax(-1)  # layers, items, heads, positions, positions
    expected = []
    for item, length in enumerate(mask.sum(1).tolist()):
        ours, theirs = (maps[:, item, :, :length].numpy() for maps in (student, teacher))
        expected.append(rel_entr(theirs, ours).sum(-1).mean())
    assert attention_loss([*student], [*teacher], mask).tolist() == pytest.approx(expected, rel=1e-5)
    assert attention_loss([*teacher], [*teacher], mask).tolist() == [0, 0]
    # What the student does not read at all still gives a finite number, and a finite gradient.
    own = torch.tensor([[1.0, 0.0]]).reshape(1, 1, 1, 2).requires_grad_()
    loss = attention_loss([own], [torch.full((1, 1, 1, 2), 0.5)]).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(own.grad).all()
    with pytest.raises(ValueError, match="as many heads. Got the shapes .* Set attention_weight=0"):
        attention_loss([student[0][:, :1]], [teacher[0]])


def test_attributions_are_compared_by_their_direction():
    student, teacher = torch.randn(2, 5, 3, 4)
    found = attribution_loss(student, teacher)
    cosines = F.cosine_similarity(student.flatten(1), teacher.flatten(1))
    assert tiny.distance(found, 2 - 2 * cosines) < tiny.ROUNDING
    assert attribution_loss(teacher, teacher).tolist() == [0] * 5
    nothing = torch.zeros(1, 3, requires_grad=True)
    loss = attribution_loss(nothing, torch.ones(1, 3)).sum()
    loss.backward()
    assert (loss.item(), nothing.grad.tolist()) == (pytest.approx(1.0), [[0.0] * 3])
