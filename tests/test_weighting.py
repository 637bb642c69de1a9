"""The weightings against the published example and hand-computed values."""

import json
import math

import numpy as np
import pytest
import torch

from hf_compalign.align import (
    AlignmentArguments,
    RandomWeighting,
    RoundRobinWeighting,
    SoftAdaptWeighting,
    UncertaintyWeighting,
    Weighting,
    load_json_state,
    state_as_json,
)

# The example of the SoftAdapt author's own page: three losses over five steps, beta = 0.1.
HISTORY = torch.tensor([[1, 150, 1500], [2, 100, 1000], [3, 50, 500], [4, 10, 100], [5, 0.1, 1]])
PUBLISHED = {
    "original": [9.9343e-01, 6.5666e-03, 3.8908e-22],
    "normalized": [0.3221, 0.3251, 0.3528],
    "loss_weighted": [8.7978e-01, 1.2022e-01, 7.1234e-20],
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_softadapt_gives_the_published_weights(variant):
    weighting = SoftAdaptWeighting([1.0, 1.0, 1.0], variant=variant, beta=0.1)
    for number, losses in enumerate(HISTORY):
        assert weighting.weights().tolist() == [1.0, 1.0, 1.0]  # until the window is full
        weighting.step(losses, number)
    np.testing.assert_allclose(weighting.weights().numpy(), PUBLISHED[variant], rtol=5e-4)


def test_softadapt_forgets_what_leaves_the_window():
    first, second = (SoftAdaptWeighting([1.0, 1.0], window=3) for _ in range(2))
    for number, losses in enumerate(torch.rand(5, 2)):
        first.step(losses, number)
        if number >= 2:
            second.step(losses, number)
    assert torch.equal(first.weights(), second.weights())


def test_softadapt_survives_losses_that_stand_still():
    weighting = SoftAdaptWeighting([1.0, 1.0], variant="normalized", window=2)
    for number in range(3):
        weighting.step(torch.zeros(2), number)
    assert weighting.weights().tolist() == [0.5, 0.5]


def test_fixed_weights_are_a_plain_sum():
    assert Weighting([1.0, 2.0])(torch.tensor([3.0, 4.0])) == 11


def test_random_weights_are_a_softmax_that_depends_on_seed_and_step_alone():
    first, second, other = (RandomWeighting([1.0] * 3, seed=seed) for seed in (1, 1, 2))
    second.step(torch.zeros(3), 5)
    second.step(torch.zeros(3), 1)
    first.step(torch.zeros(3), 1)
    other.step(torch.zeros(3), 1)
    assert torch.equal(first.weights(), second.weights())
    assert not torch.equal(first.weights(), other.weights())
    assert first.weights().sum().item() == pytest.approx(1)


def test_round_robin_takes_turns():
    weighting = RoundRobinWeighting([1.0, 2.0, 3.0])
    seen = [weighting.weights().tolist()]
    for step in (1, 2, 3):
        weighting.step(torch.zeros(3), step)
        seen.append(weighting.weights().tolist())
    assert seen == [[1, 0, 0], [0, 2, 0], [0, 0, 3], [1, 0, 0]]


def test_uncertainty_has_its_optimum_where_the_variance_is_the_loss():
    weighting = UncertaintyWeighting([1.0, 1.0])
    losses = torch.tensor([0.5, 3.0])
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(500):
        optimizer.zero_grad()
        weighting(losses).backward()
        optimizer.step()
    np.testing.assert_allclose(weighting.log_variance.detach().exp(), losses, rtol=1e-3)
    assert weighting(losses).item() == pytest.approx(0.5 * (2 + math.log(0.5) + math.log(3.0)), rel=1e-3)


def test_uncertainty_stays_in_its_bounds_when_a_loss_is_0_and_comes_back():
    weighting = UncertaintyWeighting([1.0], bound=4.0)
    optimizer = torch.optim.SGD(weighting.parameters(), lr=1.0)

    def train(loss, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            weighting(torch.tensor([loss])).backward()
            optimizer.step()
        weighting(torch.tensor([loss]))

    train(0.0, 100)
    assert weighting.weights().item() == pytest.approx(math.exp(4.0) / 2)
    train(1.0, 100)
    assert weighting.weights().item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("name", ["fixed", "random", "round_robin", "softadapt", "uncertainty"])
def test_state_survives_json(name):
    alignment = AlignmentArguments(preset="paper", weighting=name)
    one, two = alignment.build_weighting(0), alignment.build_weighting(1)
    for number in range(6):
        one.step(torch.rand(3), number)
    load_json_state(two, json.loads(json.dumps(state_as_json(one))))
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key])
    assert torch.equal(one.weights(), two.weights())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task_weight": -1.0}, "task_weight must be a finite number >= 0. Got -1.0"),
        (
            {"preset": "logits", "logits_weight": 0.0},
            "All loss weights are 0.*logits.* has logits 1. .*take preset='labels'",
        ),
        ({"preset": "best"}, "preset must be one of default, logits, paper, kd, labels. Got 'best'"),
        (
            {"preset": "logits", "weighting": "random"},
            "weighting='random' would be ignored: it needs two terms or more, as preset='paper'",
        ),
        ({"weighting": "magic"}, "weighting must be one of fixed, random, .* Got 'magic'"),
        (
            {"preset": "paper", "weighting": "softadapt", "softadapt_variant": "x"},
            "softadapt_variant must be one of original",
        ),
        ({"kl_weight": 1.0, "temperature": 0.0}, "temperature must be > 0. Got 0.0"),
        (
            {"preset": "paper", "weighting": "softadapt", "softadapt_window": 1},
            "softadapt_window must be 2 steps or more. Got 1",
        ),
        ({"temperature": 4.0}, "temperature=4.0 would be ignored: it needs kl_weight > 0"),
        ({"soft_agreement": True, "agreement_weight": 0.0}, "soft_agreement=True would be ignored"),
        (
            {"focal_alpha": -1.0},
            "and focal_beta must be finite numbers >= 0, and not both 0. Got -1.0 and 0.0",
        ),
        ({"focal_alpha": 0.0}, "and not both 0. Got 0.0 and 0.0. 1 and 0 weigh all items alike"),
        (
            {"focal_beta": 1.0, "only_where_teacher_is_right": True},
            "focal_alpha=0 and focal_beta=1. Got 1.0 and 1.0",
        ),
        (
            {"preset": "labels", "focal_beta": 1.0},
            "focal_beta=1.0 would be ignored: it needs a teacher term",
        ),
        ({"softadapt_beta": 1.0}, "softadapt_beta=1.0 would be ignored: it needs weighting='softadapt'"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AlignmentArguments(**settings)


@pytest.mark.parametrize(
    ("settings", "weights", "said"),
    [
        ({}, {"logits": 1.0, "hidden": 1.0}, "preset default: logits 1, hidden 1"),
        ({"preset": "logits"}, {"logits": 1.0}, "preset logits: logits 1"),
        (
            {"preset": "paper"},
            {"task": 1.0, "agreement": 1.0, "logits": 1.0},
            "preset paper: task 1, agreement 1, logits 1",
        ),
        ({"preset": "kd", "temperature": 4.0}, {"task": 1.0, "kl": 1.0}, "preset kd: task 1, kl 1"),
        ({"preset": "labels"}, {"task": 1.0}, "preset labels: task 1"),
        ({"hidden_weight": 0.0}, {"logits": 1.0}, "preset default with other weights: logits 1"),
        ({"preset": "paper", "task_weight": 0.0}, {"agreement": 1.0, "logits": 1.0}, "preset paper with other weights"),
    ],
)
def test_a_preset_names_the_terms_and_a_weight_that_is_given_counts(settings, weights, said):
    alignment = AlignmentArguments(**settings)
    assert alignment.weights() == weights
    assert str(alignment).startswith(said)
    # What a checkpoint remembers are the weights, by whatever name they came.
    spelled = {f"{term}_weight": weights.get(term, 0.0) for term in ("task", "agreement", "logits", "kl", "hidden")}
    options = {name: value for name, value in settings.items() if name == "temperature"}
    assert AlignmentArguments(**spelled, **options).recipe() == alignment.recipe()


def test_the_arguments_become_flags():
    from transformers import HfArgumentParser

    (parsed,) = HfArgumentParser(AlignmentArguments).parse_args_into_dataclasses(
        ["--kl_weight", "0.5", "--temperature", "4", "--weighting", "random", "--student_dropout"]
    )
    assert parsed == AlignmentArguments(kl_weight=0.5, temperature=4.0, weighting="random", student_dropout=True)
