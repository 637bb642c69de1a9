"""Units and layers that go while a model trains: which, when, and what is left in memory and in the folders."""

import logging

import pytest
import tiny
import torch
import zoo
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback

from hf_compalign import AlignedDistillationTrainer
from hf_compalign._records import built
from hf_compalign.compress import load_compressed
from hf_compalign.compress.callbacks import Goal, Removal, ShrinkCallback, narrowed
from hf_compalign.compress.shrink import LayerPlan, ShrinkPlan, layers_of, shrink_, unit_scores
from hf_compalign.models import count_flops

pytestmark = pytest.mark.numeric

BUDGET = {"heads": 0.25, "ffn": 0.5, "n_layers": 1}


def model(*, seed=2, **config):
    return tiny.bert(seed=seed, num_hidden_layers=3, num_attention_heads=4, **config)


def trainer(folder, *callbacks, student=None, **settings):
    return tiny.trainer(folder, model() if student is None else student, *callbacks, **settings)


def trained(folder, *callbacks, resume=None, **settings):
    run = trainer(folder, *callbacks, **settings)
    run.train(resume_from_checkpoint=resume)
    return run


def logits(network):
    with torch.no_grad():
        return network.eval()(**tiny.batch(tiny.texts(10, seed=5), "input_ids", "attention_mask")).logits


def widths(network):
    return [(layer.n_heads, layer.n_neurons) for layer in layers_of(network)]


def zero_units(network):
    """Of each layer, the heads and the neurons that nothing reads."""
    found = []
    for layer in layers_of(network):
        heads = (layer.attention_out.weight == 0).all(0).view(layer.n_heads, -1).all(1)
        found.append((heads, (layer.ffn_out.weight == 0).all(0)))
    return found


# ---- the way to the goal ----


def test_what_is_removed_stays_and_the_least_important_follows():
    network = model()
    whole = ShrinkPlan.whole(network)
    importances = unit_scores(network, score="magnitude")
    goal = Goal(widths=((0, 2, 16), (2, 4, 24)), dropped=(1,))
    first = narrowed(whole, goal, importances, whole=whole, share=0.5)
    # Half of 2 heads, 16 and 8 neurons; half of one layer is rounded to none, and its units stay until it goes.
    assert [(one.index, len(one.heads), len(one.neurons)) for one in first.layers] == [
        (0, 3, 24),
        (1, 4, 32),
        (2, 4, 28),
    ]
    lowest = importances[0].neurons.argsort()[:8].tolist()
    assert sorted({*range(32)} - {*first.layers[0].neurons}) == sorted(lowest)
    # The importances turn round: what is gone does not come back.
    for one in importances:
        one.neurons.neg_()
    last = narrowed(first, goal, importances, whole=whole, share=1.0)
    assert [(one.index, len(one.heads), len(one.neurons)) for one in last.layers] == [(0, 2, 16), (2, 4, 24)]
    assert {*last.layers[0].neurons} < {*first.layers[0].neurons}
    highest = (-importances[0].neurons).argsort(descending=True)[:8].tolist()
    assert not {*highest} & {*last.layers[0].neurons}


def test_the_plan_is_read_back_from_its_text():
    network = zoo.build("bert")
    plan = zoo.random_plan(network, layers=(0, 2))
    removal = Removal(network)
    removal.take(plan)
    saved = built(ShrinkCallback.progress, {"span": [0, 0], "goal": None, "plan": removal.to_list()})
    assert Removal(zoo.build("bert")).plan_of(saved.plan) == plan


@pytest.mark.parametrize("name", ["bert", "mpnet", "beit-shared-bias"])
def test_the_masked_model_answers_like_the_cut_one(name):
    network = zoo.build(name)
    batch = zoo.inputs(network)
    removal = Removal(network)
    removal.take(zoo.random_plan(network, layers=(0, 2)))
    removal.apply()
    masked = zoo.answer(network, batch)
    config = network.config.compression["shrink"]
    assert config == {"cut": False, "dropped_layers": [1]}
    removal.cut()
    assert len(layers_of(network)) == 2
    assert tiny.distance(zoo.answer(network, batch), masked) < tiny.ROUNDING


# ---- a training ----


def test_units_go_by_the_schedule_and_stay_away(tmp_path):
    watch = tiny.Watch(zero_units)
    callback = ShrinkCallback(heads=0.25, ffn=0.5, schedule="linear", every=2, score="magnitude")
    trainer(tmp_path, callback, watch).train()
    counts = [sum(int(neurons.sum()) for _, neurons in step) for step in watch.seen]
    # Of 96 neurons, 48 go: a third after 2 steps, two thirds after 4, all after 6 (each layer rounds for itself).
    assert counts == [0, 16, 16, 32, 32, *([48] * 7)]
    for before, after in zip(watch.seen, watch.seen[1:], strict=False):
        for old, new in zip(before, after, strict=True):
            assert all(bool((~was | now).all()) for was, now in zip(old, new, strict=True))


def test_the_model_is_cut_when_training_ends(tmp_path):
    watch = tiny.Watch(logits)
    run = trained(tmp_path, ShrinkCallback(**BUDGET), watch, logging_steps=1)
    left = widths(run.model)
    assert len(left) == 2
    assert [sum(units) for units in zip(*left, strict=True)] == [6, 32]  # of 8 heads and 64 neurons
    assert tiny.distance(logits(run.model), watch.seen[-1]) < tiny.ROUNDING
    evaluated = run.evaluate()["eval_loss"]
    predictions = run.predict(tiny.texts(10, seed=5))
    assert tiny.distance(predictions.predictions, watch.seen[-1]) < tiny.ROUNDING
    assert predictions.metrics["test_loss"] == pytest.approx(evaluated)
    run.save_model(str(tmp_path / "small"))
    loaded = load_compressed(tmp_path / "small")
    assert tiny.distance(logits(loaded), logits(run.model)) < tiny.ROUNDING
    assert widths(loaded) == left
    logs = [log for log in run.state.log_history if "heads_removed" in log]
    assert len(logs) == 12
    assert [logs[-1][f"{name}_removed"] for name in ("heads", "ffn", "layers")] == [0.25, 0.5, 1]
    assert logs[0]["heads_removed"] < 0.25
    assert "heads_removed" not in run.state.log_history[-1]  # the summary of the training has no loss


def test_a_checkpoint_opens_as_the_model_that_it_stands_for(tmp_path):
    watch = tiny.Watch(logits)
    run = trained(tmp_path, ShrinkCallback(**BUDGET, every=1), watch, save_steps=1)
    sizes = []
    for step, answers in enumerate(watch.seen, 1):
        folder = tmp_path / f"checkpoint-{step}"
        AutoModelForSequenceClassification.from_pretrained(folder)  # of the dense sizes
        small = load_compressed(folder)
        assert tiny.distance(logits(small), answers) < tiny.ROUNDING
        sizes.append(sum(parameter.numel() for parameter in small.parameters()))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == sum(parameter.numel() for parameter in run.model.parameters())
    assert len({*sizes}) > 4


def test_a_uniform_budget_makes_a_stock_checkpoint(tmp_path):
    run = trained(tmp_path, ShrinkCallback(ffn=0.5, n_layers=1, uniform=True))
    run.save_model(str(tmp_path / "small"))
    assert not hasattr(run.model.config, "compression")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert widths(loaded) == [(4, 16), (4, 16)]
    assert tiny.distance(logits(loaded), logits(run.model)) < tiny.ROUNDING


def test_a_target_is_reached(tmp_path):
    batch = tiny.batch(tiny.texts(), "input_ids", "attention_mask")
    dense = count_flops(model(), batch)
    run = trained(tmp_path, ShrinkCallback(target_flops=0.7))
    assert 0.65 * dense < count_flops(run.model, batch) <= 0.7 * dense


def test_dropped_layers_are_passed_by_and_get_no_gradient(tmp_path):
    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            layers = kwargs["model"].bert.encoder.layer
            self.without = [i for i, layer in enumerate(layers) if all(p.grad is None for p in layer.parameters())]

    gradients = Gradients()
    callback = ShrinkCallback(n_layers=1, schedule="constant", score="magnitude")
    trained(tmp_path, callback, gradients, save_steps=12)
    (dropped,) = gradients.without
    compression = load_compressed(tmp_path / "checkpoint-12").config
    assert compression.num_hidden_layers == 2
    dense = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-12")
    assert dense.config.compression == {"version": 1, "shrink": {"cut": False, "dropped_layers": [dropped]}}
    original = model().bert.encoder.layer[dropped]
    assert torch.equal(tiny.flat(dense.bert.encoder.layer[dropped]), tiny.flat(original))


@pytest.mark.parametrize("asked_before", [False, True])
def test_the_state_after_a_layer_that_is_passed_by_is_the_one_before(asked_before):
    network, inputs = model(), tiny.batch(tiny.texts(4), "input_ids")
    if asked_before:
        network(**inputs, output_hidden_states=True)  # what records the states is there first
    removal = Removal(network)
    kept = tuple(one for one in removal.whole.layers if one.index != 1)
    removal.take(ShrinkPlan(kept))
    states = network(**inputs, output_hidden_states=True).hidden_states
    assert torch.equal(states[2], states[1])
    assert not torch.equal(states[1], states[0])


def test_layers_are_passed_by_with_gradient_checkpointing_too(tmp_path):
    runs = [
        trained(tmp_path, ShrinkCallback(n_layers=1, score="magnitude"), gradient_checkpointing=checkpointing)
        for checkpointing in (False, True)
    ]
    assert torch.equal(*(tiny.flat(run.model) for run in runs))


def test_without_training_it_is_what_shrink_does(tmp_path):
    batches = [tiny.batch(tiny.texts())]
    for options in ({"reconstruct": True}, {"reconstruct": False}):
        callback = ShrinkCallback(heads=0.25, ffn=0.5, schedule="constant", calibration=batches, **options)
        run = trained(tmp_path, callback, learning_rate=0.0)
        expected = model()
        shrink_(expected, heads=0.25, ffn=0.5, calibration=batches, **options)
        assert widths(run.model) == widths(expected)
        torch.testing.assert_close(logits(run.model), logits(expected), atol=1e-5, rtol=1e-4)


def test_calibration_leaves_the_training_alone(tmp_path):
    """The batches, and the random numbers of dropout, are those of a training without the callback."""

    runs = []
    for callbacks in ([], [ShrinkCallback(heads=0.25, n_layers=1)], [ShrinkCallback(ffn=0.5, score="magnitude")]):
        run = tiny.Batches(
            model(dropout=0.1), tiny.arguments(tmp_path), train_dataset=tiny.texts(), callbacks=callbacks
        )
        run.train()
        runs.append(run.seen)
    for other in runs[1:]:
        for (ids, state), (other_ids, other_state) in zip(runs[0], other, strict=True):
            assert torch.equal(ids, other_ids)
            assert torch.equal(state, other_state)


def test_a_copy_of_the_teacher_is_judged_by_its_own_loss(tmp_path):
    """The aligned one has no slope there."""
    plans = []
    for how in ({"teacher": model()}, {}):
        callback = ShrinkCallback(ffn=0.5, schedule="constant")
        kind = AlignedDistillationTrainer if how else Trainer
        kind(
            model(),
            tiny.arguments(tmp_path, learning_rate=0.0),
            train_dataset=tiny.texts(),
            callbacks=[callback],
            **how,
        ).train()
        plans.append(callback.plan)
    once = shrink_(model(), ffn=0.5, calibration=tiny.texts(), reconstruct=False).plan
    assert plans == [once, once]


def test_what_is_removed_does_not_count_when_others_are_judged(tmp_path, monkeypatch):
    removed = []

    def watched(network, *args, **how):
        if how["score"] == "taylor":
            removed.append(sum(int(neurons.sum()) for _, neurons in zero_units(network)))
        return unit_scores(network, *args, **how)

    monkeypatch.setattr("hf_compalign.compress.callbacks.shrinking.unit_scores", watched)
    trainer(tmp_path, ShrinkCallback(ffn=0.5, schedule="linear", every=2), learning_rate=0.1).train()
    assert removed == [0, 16, 32]


# ---- the best checkpoint, and an early end ----


def best_of(folder, *callbacks, scores):
    """A training whose steps get these scores, and the model of its best checkpoint."""
    measured = iter(scores)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    run = trainer(folder, *callbacks, eval_steps=1, save_steps=1, **best)
    run.compute_metrics = lambda _: {"score": next(measured)}
    run.train()
    return run, load_compressed(folder / f"checkpoint-{run.state.best_global_step}")


def test_the_best_model_is_one_of_the_final_size(tmp_path):
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.5, 0.3, 0.2, 0.1, 0.0]
    run, best = best_of(tmp_path, ShrinkCallback(**BUDGET), scores=scores)
    assert run.state.best_global_step == 8
    assert tiny.distance(logits(best), logits(run.model)) < tiny.ROUNDING


def test_a_training_that_ends_early_is_cut_as_far_as_it_came(tmp_path, caplog):
    run = trainer(tmp_path, ShrinkCallback(ffn=0.5, schedule="linear", every=1), tiny.Stop(3))
    with caplog.at_level(logging.WARNING):
        run.train()
    assert sum(neurons for _, neurons in widths(run.model)) == 96 - 24
    assert (
        "ended at step 3, before the last removal at step 6: only heads_removed = 0, ffn_removed = 0.25" in caplog.text
    )


def test_nothing_is_cut_before_the_first_removal(tmp_path):
    run = trained(tmp_path, ShrinkCallback(ffn=0.5, begin=0.8, end=1.0), tiny.Stop(3))
    assert widths(run.model) == [(4, 32)] * 3
    assert not hasattr(run.model.config, "compression")


# ---- resuming ----


@pytest.mark.parametrize(
    "options",
    [
        {**BUDGET, "score": "magnitude"},
        {**BUDGET, "begin": 0.2, "end": 0.8},
        {"target_flops": 0.7, "reconstruct": True, "every": 2},
    ],
)
def test_resume_equals_uninterrupted(tmp_path, options):
    whole = trained(tmp_path / "whole", ShrinkCallback(**options), student=model(dropout=0.1), save_steps=1)
    for step in (1, 4, 9, 12):
        checkpoint, student = str(tmp_path / "whole" / f"checkpoint-{step}"), model(dropout=0.1, seed=step)
        run = trained(tmp_path / str(step), ShrinkCallback(**options), student=student, resume=checkpoint)
        assert widths(run.model) == widths(whole.model)
        assert torch.equal(tiny.flat(run.model), tiny.flat(whole.model))
        assert getattr(run.model.config, "compression", None) == getattr(whole.model.config, "compression", None)


def test_another_recipe_is_refused(tmp_path):
    trained(tmp_path, ShrinkCallback(ffn=0.5, score="magnitude"), save_steps=4)
    checkpoint = str(tmp_path / "checkpoint-4")
    for message, options, more in (
        ("another ShrinkCallback: ffn: 0.5 -> 0.25", {"ffn": 0.25, "score": "magnitude"}, {}),
        ("score: 'magnitude' -> 'taylor'", {"ffn": 0.5}, {}),
        (r"steps \[0, 6\], and this run's is \[0, 9\]", {"ffn": 0.5, "score": "magnitude"}, {"num_train_epochs": 3}),
    ):
        with pytest.raises(ValueError, match=message):
            trained(tmp_path / "other", ShrinkCallback(**options), **more, resume=checkpoint)
    trained(tmp_path / "plain", save_steps=4)
    checkpoint = str(tmp_path / "plain" / "checkpoint-4")
    with pytest.raises(ValueError, match="made without a ShrinkCallback"):
        trained(tmp_path / "other", ShrinkCallback(ffn=0.5), resume=checkpoint)


# ---- what is refused, and what is left alone ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "removes nothing"),
        ({"ffn": 50}, "Did you mean 0.5"),
        ({"ffn": 0.5, "score": "size"}, "score must be one of taylor, magnitude. Got 'size'"),
        ({"ffn": 0.5, "begin": 0.5, "end": 0.2}, "begin and end must be shares"),
        ({"ffn": 0.5, "every": 0}, "every must be 1 optimizer step or more, or None. Got 0"),
        ({"ffn": 0.5, "schedule": "fast"}, "schedule must be one of"),
        ({"ffn": 0.5, "score": "magnitude", "calibration": [{}]}, "calibration= would be ignored: .* Leave it out"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ShrinkCallback(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers": 3}, "n_layers must be less than the 3 layers"),
        ({"heads": 0.9}, "heads=0.9 would empty a layer"),
        ({"target_flops": 0.01}, "target_flops=0.01 cannot be reached"),
        ({"ffn": 0.5, "calibration": [{"labels": torch.zeros(2)}]}, "A calibration batch must hold the inputs"),
    ],
)
def test_a_budget_that_does_not_fit_is_refused_before_training(tmp_path, options, message):
    run = trainer(tmp_path, ShrinkCallback(**options, begin=0.9, end=1.0))
    with tiny.unchanged(run.model, config=False), pytest.raises(ValueError, match=message):
        run.train()
    assert run.state.global_step == 0
    assert not hasattr(run.model.config, "compression")


def test_a_second_training_of_the_cut_model_needs_a_new_trainer(tmp_path):
    callback = ShrinkCallback(ffn=0.5)
    run = trained(tmp_path, callback)
    with pytest.raises(ValueError, match="still holds the weights of before.*make a new Trainer"):
        run.train()
    again = trained(tmp_path, ShrinkCallback(ffn=0.5, heads=0.25), student=run.model)
    assert sum(neurons for _, neurons in widths(again.model)) == 24
    other = trained(tmp_path, callback)  # the callback itself can be used for another model
    assert sum(neurons for _, neurons in widths(other.model)) == 48


def test_a_model_with_widths_of_its_own_keeps_them_in_its_checkpoints(tmp_path):
    student = model()
    shrink_(student, ffn=0.5)
    watch = tiny.Watch(logits)
    trained(tmp_path, ShrinkCallback(ffn=0.5, every=1), watch, student=student, save_steps=3)
    assert tiny.distance(logits(load_compressed(tmp_path / "checkpoint-3")), watch.seen[2]) < tiny.ROUNDING
    with pytest.raises(ValueError, match="shrunk before, to widths of its own. .* but no layers"):
        trainer(tmp_path, ShrinkCallback(n_layers=1), student=student).train()


def test_layers_under_ddp_need_unused_parameters_to_be_found(tmp_path):
    class Two:
        """The arguments of one of two processes."""

        def __init__(self, **settings):
            self.inner = tiny.arguments(tmp_path, **settings)

        world_size = 2

        def __getattr__(self, name):
            return getattr(self.inner, name)

    callback = ShrinkCallback(n_layers=1)
    with pytest.raises(ValueError, match="ddp_find_unused_parameters=True.*, which is False here.* Set it"):
        callback._check_training(Two(ddp_find_unused_parameters=False), model())
    checkpointing = model()
    checkpointing.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="off by default with gradient checkpointing"):
        callback._check_training(Two(), checkpointing)
    callback._check_training(Two(ddp_find_unused_parameters=True), checkpointing)
    callback._check_training(Two(), model())


def test_an_unsupported_architecture_is_refused(tmp_path):
    run = trainer(tmp_path, ShrinkCallback(ffn=0.5))
    run.model.config.model_type = "gpt2"
    with pytest.raises(ValueError, match="cannot be removed from .*'gpt2'"):
        run.train()


def test_a_teacher_with_the_same_config_keeps_its_own(tmp_path):
    student = model()
    teacher = type(student)(student.config)
    run = AlignedDistillationTrainer(
        student,
        tiny.arguments(tmp_path),
        teacher=teacher,
        train_dataset=tiny.texts(),
        callbacks=[ShrinkCallback(**BUDGET)],
    )
    run.train()
    assert student.config.num_hidden_layers == 2
    assert teacher.config.num_hidden_layers == 3
    assert not hasattr(teacher.config, "compression")


def test_a_training_that_broke_off_can_be_begun_again(tmp_path):
    callback, interrupt = ShrinkCallback(n_layers=1, score="magnitude"), tiny.Stop(8, interrupt=True)
    run = trainer(tmp_path, callback, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert run.model.config.compression["shrink"]["dropped_layers"]
    other = trained(tmp_path, ShrinkCallback(ffn=0.5, begin=1.0, end=1.0), tiny.Stop(2), student=run.model)
    assert not hasattr(other.model.config, "compression")
    run.remove_callback(interrupt)
    run.train()
    assert len(layers_of(run.model)) == 2
    assert not any(module._forward_hooks for module in run.model.modules())


def test_two_callbacks_in_one_process_share_nothing(tmp_path):
    alone = trained(tmp_path, ShrinkCallback(**BUDGET))
    other, inner = trainer(tmp_path / "b", ShrinkCallback(heads=0.5)), trainer(tmp_path / "a", ShrinkCallback(**BUDGET))

    class Nested(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            if state.epoch == 1:
                inner.train()

    other.add_callback(Nested())
    other.train()
    assert torch.equal(tiny.flat(inner.model), tiny.flat(alone.model))
    assert sum(heads for heads, _ in widths(other.model)) == 6


def test_layer_plans_of_a_resumed_goal_are_those_of_before():
    goal = Goal(((0, 1, 8), (2, 3, 32)), dropped=(1,))
    assert Goal.from_dict(goal.to_dict()) == goal
    plan = ShrinkPlan((LayerPlan(0, (1,), tuple(range(8))),))
    removal = Removal(model())
    removal.take(plan)
    assert removal.dropped == [1, 2]
