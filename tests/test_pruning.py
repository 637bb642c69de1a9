"""The pruning callback with a plain and an aligned Trainer."""

import json
import logging

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback
from transformers.integrations import integration_utils

from hf_compalign import AlignedDistillationTrainer, PruningCallback
from hf_compalign.compress import prunable_weights, sparsity_of
from hf_compalign.compress.prune import compute_masks, magnitude, prune_


def train(folder, *callbacks, student=None, teacher=None, **settings):
    trainer = AlignedDistillationTrainer(
        student or tiny.bert(seed=2),
        tiny.arguments(folder, **settings),
        teacher=teacher or tiny.bert(seed=1),
        train_dataset=tiny.texts(),
        eval_dataset=tiny.texts(40, seed=4),
        callbacks=list(callbacks),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("pattern", ["layer", "global"])
@pytest.mark.parametrize("model", ["bert", "vit"])
def test_a_plain_trainer_ends_at_the_final_sparsity(tmp_path, pattern, model):
    student, dataset = (tiny.bert(), tiny.texts()) if model == "bert" else (tiny.vit(), tiny.images())
    callback = PruningCallback(0.75, pattern=pattern)
    Trainer(student, tiny.arguments(tmp_path), train_dataset=dataset, callbacks=[callback]).train()
    weights = prunable_weights(student)
    assert sparsity_of(weights) == pytest.approx(0.75, abs=1e-3)
    per_layer = [sparsity_of({name: weight}) for name, weight in weights.items()]
    assert (np.ptp(per_layer) < 0.01) == (pattern == "layer")
    assert not [name for name, _ in student.named_buffers() if "mask" in name]


def test_the_schedule_counts_optimizer_steps(tmp_path):
    # 6 steps an epoch, 2 epochs; from 0.25 to 0.75 is steps 3 to 9, linear.
    callback = PruningCallback(0.6, schedule="linear", begin=0.25, end=0.75, every=2)
    for accumulation in (1, 2):
        settings = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
        trainer = train(tmp_path, callback, logging_steps=1, **settings)
        logged = [log["sparsity"] for log in trainer.state.log_history if "sparsity" in log]
        expected = [0, 0, 0, 0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6]
        assert logged == pytest.approx(expected, abs=1e-3)


def test_constant_prunes_before_the_first_step(tmp_path):
    trainer = train(tmp_path, PruningCallback(0.5, schedule="constant"), max_steps=1, learning_rate=0.0)
    assert sparsity_of(prunable_weights(trainer.model)) == pytest.approx(0.5, abs=1e-3)


def test_pruned_weights_stay_0_and_the_others_train(tmp_path):
    student = tiny.bert(seed=2)
    before = {name: weight.detach().clone() for name, weight in prunable_weights(student).items()}
    train(tmp_path, PruningCallback(0.5, schedule="constant", every=1), student=student)
    masks = compute_masks({name: magnitude(weight) for name, weight in before.items()}, 0.5, pattern="global")
    for name, weight in prunable_weights(student).items():
        assert (weight[~masks[name]] == 0).all()
        assert not torch.equal(weight[masks[name]], before[name][masks[name]])


def test_every_checkpoint_is_an_ordinary_folder(tmp_path):
    trainer = train(tmp_path, PruningCallback(0.5), save_steps=3)
    for step in (3, 6, 9, 12):
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        share = {3: 0.4375, 6: 0.5, 9: 0.5, 12: 0.5}[step]
        assert sparsity_of(prunable_weights(loaded)) == pytest.approx(share, abs=1e-3)
    assert torch.equal(tiny.flat(loaded), tiny.flat(trainer.model))


def test_the_best_model_has_the_final_sparsity(tmp_path):
    # The teacher is the student before pruning, and nothing is learned: the unpruned checkpoints agree with it.
    trainer = train(
        tmp_path,
        PruningCallback(0.8, begin=0.3, end=0.6),
        teacher=tiny.bert(seed=2),
        learning_rate=0.0,
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="mismatch_rate",
    )
    rates = [log["eval_mismatch_rate"] for log in trainer.state.log_history if "eval_mismatch_rate" in log]
    assert rates[0] == 0 < min(rates[-5:])
    assert trainer.state.best_global_step >= 8
    assert sparsity_of(prunable_weights(trainer.model)) == pytest.approx(0.8, abs=1e-3)


def test_trackers_see_the_sparsity(tmp_path, monkeypatch):
    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(dict(logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tracker", Tracker)
    train(tmp_path, PruningCallback(0.5), report_to="tracker", logging_steps=6)
    assert [log.get("sparsity") for log in seen[:2]] == pytest.approx([0.5, 0.5], abs=1e-3)


def test_two_callbacks_share_nothing(tmp_path):
    callbacks = {sparsity: PruningCallback(sparsity) for sparsity in (0.3, 0.7)}
    for sparsity, callback in callbacks.items():
        model = train(tmp_path, callback).model
        assert sparsity_of(prunable_weights(model)) == pytest.approx(sparsity, abs=1e-3)


def test_one_callback_serves_several_trainings(tmp_path):
    callback = PruningCallback(0.5)
    models = [tiny.flat(train(tmp_path, callback).model) for _ in range(2)]
    assert torch.equal(*models)


def test_ending_early_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path, PruningCallback(0.5, schedule="linear"), tiny.Stop(2))
    assert "ended at step 2, before the final sparsity of step 6: the model is 16.7 % sparse" in caplog.text


@pytest.mark.parametrize("pattern", ["row", "layer", "2:4"])
def test_the_zeros_of_a_pruned_model_are_held(tmp_path, pattern):
    student = tiny.bert(seed=2)
    prune_(student, 0.5, pattern=pattern, exclude=["*attention*"])
    before = {name: weight.detach() == 0 for name, weight in prunable_weights(student).items()}
    train(tmp_path, PruningCallback.holding(student), student=student)
    after = {name: weight == 0 for name, weight in prunable_weights(student).items()}
    assert all(torch.equal(before[name], after[name]) for name in after)
    assert {float(zeros.float().mean()) for zeros in after.values()} == {0, 0.5}


def test_there_must_be_zeros_to_hold():
    with pytest.raises(ValueError, match="no zeros to hold. Prune it first, with prune_"):
        PruningCallback.holding(tiny.bert())


def test_a_weight_that_is_0_by_chance_is_not_taken_for_pruned(tmp_path):
    callback = PruningCallback(0.5)
    trainer = train(tmp_path, callback)
    name, weight = next(iter(prunable_weights(trainer.model).items()))
    mask = callback._masks[name].clone()
    kept = mask.nonzero()[0]
    with torch.no_grad():
        weight[tuple(kept)] = 0.0
    saved = json.loads(json.dumps(callback.state()))["progress"]
    assert list(saved["unpruned_zeros"]) == [name]
    callback._restore(callback.progress(**saved))
    assert torch.equal(callback._masks[name], mask)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 80}, r"sparsity must be in \[0, 1\). Got 80. Did you mean 0.8\?"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\). Got 1.0.$"),
        ({"sparsity": -0.1}, r"Got -0.1.$"),
        ({"pattern": "4:2"}, "pattern must be one of layer, row, global, or N:M .* Got '4:2'"),
        ({"pattern": "2:4", "sparsity": 0.6}, "pattern 2:4 has the sparsity 0.5. Got 0.6"),
        ({"begin": 0.6, "end": 0.5}, "begin and end must be shares .* begin <= end <= 1. Got begin=0.6, end=0.5.$"),
        ({"begin": 0, "end": 100}, r"Got begin=0, end=100. Did you mean begin=0, end=1\?"),
        ({"every": 0}, "every must be 1 optimizer step or more, or None. Got 0"),
        ({"schedule": "x"}, "schedule must be one of"),
        ({"score": "x"}, "score must be one of magnitude, movement, taylor, wanda, obs. Got 'x'"),
        ({"score": "obs", "pattern": "global"}, "obs' goes layer by layer"),
        ({"calibration": []}, "calibration= would be ignored: score='magnitude' needs no calibration data"),
        ({"score": "movement", "calibration": []}, "calibration= would be ignored: score='movement'"),
        ({"score": "movement", "schedule": "constant"}, "movement' is learned while .* or a later begin="),
        ({"score": "movement", "begin": 0.0, "end": 0.0}, "movement' is learned while the model trains, and"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PruningCallback(**({"sparsity": 0.5} | arguments))


def test_a_pattern_that_matches_nothing_is_refused_before_the_first_step(tmp_path):
    student = tiny.bert(seed=2)
    with tiny.unchanged(student, config=False), pytest.raises(ValueError, match="matches no linear"):
        train(tmp_path, PruningCallback(0.5, include=["nothing"]), student=student)
