"""Weights between those of a model and of its start."""

import copy

import pytest
import tiny
import torch

from hf_compalign.align import AlignedDistillationTrainer, best_interpolation, interpolate_
from hf_compalign.compress.prune import prune_


def between(share, *, dtype=torch.float32):
    """The weights that come out of it, and those of the model and the start, all in float64."""
    model, start = tiny.bert(seed=1).to(dtype), tiny.bert(seed=2).to(dtype)
    prune_(model, 0.5)
    ends = tiny.flat(model).double(), tiny.flat(start).double()
    interpolate_(model, start, share)
    return tiny.flat(model).double(), *ends


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_weights_lie_between_and_zeros_stay(share):
    found, end, start = between(share)
    expected = ((1 - share) * start + share * end) * (end != 0)
    assert (end == 0).float().mean() > 0.3
    assert tiny.distance(found, expected) < tiny.ROUNDING
    assert torch.equal(found == 0, end == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ends_are_exact(dtype):
    found, end, _ = between(1.0, dtype=dtype)
    assert torch.equal(found, end)
    found, end, start = between(0.0, dtype=dtype)
    assert torch.equal(found, start * (end != 0))


def trainer(folder, model, *, teacher, **data):
    data = {"eval_dataset": tiny.texts(40, seed=5)} | data
    args = tiny.arguments(folder)
    return AlignedDistillationTrainer(model, args, teacher=teacher, train_dataset=tiny.texts(), **data)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_with_the_fewest_mismatches_is_found_and_put_in(tmp_path, share):
    model, start = tiny.bert(seed=1), tiny.bert(seed=2)
    teacher = copy.deepcopy(model)
    interpolate_(teacher, start, share)
    run = trainer(tmp_path, model, teacher=teacher)
    rng = torch.get_rng_state()
    assert best_interpolation(run, start) == share
    assert torch.equal(torch.get_rng_state(), rng)
    assert not run.state.log_history
    assert torch.equal(tiny.flat(model), tiny.flat(teacher))
    assert run.evaluate()["eval_mismatch_rate"] == 0


def test_of_equal_shares_the_largest_is_taken(tmp_path):
    model = tiny.bert(seed=1)
    run = trainer(tmp_path, model, teacher=tiny.bert(seed=1))
    assert best_interpolation(run, copy.deepcopy(model), shares=[0.75, 0.0, 0.25]) == 0.75


@pytest.mark.parametrize("share", [-0.1, 80])
def test_a_share_that_cannot_be_is_refused(share):
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\]. Got \[{share}\]. 0 is the start"):
        interpolate_(tiny.bert(), tiny.bert(seed=1), share)


def test_models_of_other_weights_are_refused():
    other = tiny.bert(intermediate_size=24)
    with tiny.unchanged(other), pytest.raises(ValueError, match=r"sizes \[24, 16\] in the model and \[32, 16\] in the"):
        interpolate_(other, tiny.bert(), 0.5)
    with pytest.raises(ValueError, match=r"has the sizes None in the model.*this training began with"):
        interpolate_(tiny.bert(), tiny.bert(num_hidden_layers=3), 0.5)


def test_without_anything_to_choose_by_the_model_stays_as_it_is(tmp_path):
    model = tiny.bert(seed=1)
    run = trainer(tmp_path, model, teacher=tiny.bert(seed=2), eval_dataset=None)
    with tiny.unchanged(model), pytest.raises(ValueError, match="no evaluation to choose a share by. Give the Trainer"):
        best_interpolation(run, tiny.bert(seed=3))
    with pytest.raises(ValueError, match=r"Got \[\]"):
        best_interpolation(run, tiny.bert(seed=3), shares=[])
