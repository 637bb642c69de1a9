"""Scores by hand, and what each says about a small step."""

import pytest
import torch

from hf_compalign.compress.prune import magnitude, movement, taylor, wanda

WEIGHT = torch.tensor([[2.0, -1.0, 0.0], [-0.5, 4.0, 3.0]])


def test_magnitude():
    assert magnitude(WEIGHT).tolist() == [[2, 1, 0], [0.5, 4, 3]]


def test_wanda_scales_every_column():
    assert wanda(WEIGHT, torch.tensor([3.0, 10.0, 0.5])).tolist() == [[6, 10, 0], [1.5, 40, 1.5]]


def test_wanda_does_not_round_to_the_type_of_the_weights():
    # 257 has no bfloat16; in float16 the norm would be infinite.
    assert wanda(WEIGHT.bfloat16(), torch.full((3,), 257.0))[0].tolist() == [514, 257, 0]
    assert wanda(WEIGHT.half(), torch.full((3,), 1e6))[0].tolist() == [2e6, 1e6, 0]


def test_taylor_is_the_change_of_a_linear_loss():
    gradient = torch.tensor([[1.0, -2.0, 5.0], [0.25, 0.0, -1.0]])

    def loss(weight):
        return (weight * gradient).sum()

    for index in torch.ones(2, 3).nonzero().tolist():
        removed = WEIGHT.clone()
        removed[tuple(index)] = 0
        change = loss(removed) - loss(WEIGHT)
        assert taylor(WEIGHT, gradient)[tuple(index)] == pytest.approx(abs(float(change)))


def test_movement_tells_which_weights_a_step_moves_away_from_0():
    gradient = torch.tensor([[1.0, -2.0, 5.0], [0.25, 0.0, -1.0]])
    moved = WEIGHT - 1e-3 * gradient
    away = torch.where(WEIGHT == 0, 0.0, (moved.abs() - WEIGHT.abs()).sign())
    assert torch.equal(movement(WEIGHT, gradient).sign(), away)
    assert movement(WEIGHT, gradient).tolist() == [[-2, -2, 0], [0.125, 0, 3]]


def test_scores_have_no_gradient():
    weight = torch.nn.Parameter(WEIGHT.clone())
    ones = torch.ones(2, 3)
    for score in (magnitude(weight), wanda(weight, ones[0]), taylor(weight, ones), movement(weight, ones)):
        assert not score.requires_grad
