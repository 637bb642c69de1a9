"""The scores of the pruning callback: each ends where it should, resumes exactly, and leaves all else alone."""

import copy
import random
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
import zoo
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, default_data_collator

from hf_compalign import AlignedDistillationTrainer, PruningCallback, prune_
from hf_compalign.compress import own_loss, prunable_weights, sparsity_of, weight_gradients
from hf_compalign.compress.prune import CALIBRATED, SCORES, compute_masks


def aligned(folder, *callbacks, **settings):
    arguments = tiny.arguments(folder, **settings)
    trainer = AlignedDistillationTrainer(
        tiny.bert(seed=2), arguments, teacher=tiny.bert(seed=1), train_dataset=tiny.texts(), callbacks=[*callbacks]
    )
    trainer.train()
    return trainer


def plain(folder, *callbacks, student=None, dataset=None, **settings):
    arguments = tiny.arguments(folder, **settings)
    dataset = tiny.texts() if dataset is None else dataset
    trainer = Trainer(student or tiny.bert(seed=2), arguments, train_dataset=dataset, callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=settings.get("resume_from_checkpoint"))
    return trainer


def zeros_of(model):
    return {name: weight.detach() == 0 for name, weight in prunable_weights(model).items()}


def same(some, others):
    return all(torch.equal(some[name], others[name]) for name in some | others)


@pytest.mark.parametrize(
    ("score", "run"), [*((score, plain) for score in SCORES), ("movement", aligned), ("taylor", aligned)]
)
def test_every_score_ends_at_the_final_sparsity(tmp_path, score, run):
    trainer = run(tmp_path, PruningCallback(0.5, score=score, every=2), save_steps=4)
    gradual = score != "obs"
    for step in (4, 8, 12):
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        share = 0.5 * (1 - (1 - 4 / 6) ** 3) if gradual and step == 4 else 0.5
        # A row of 16 weights is pruned in sixteenths.
        assert sparsity_of(prunable_weights(loaded)) == pytest.approx(share, abs=0.04 if score == "wanda" else 1e-3)
    assert sparsity_of(prunable_weights(trainer.model)) == 0.5
    assert torch.equal(tiny.flat(loaded), tiny.flat(trainer.model))


@pytest.mark.parametrize("score", ["movement", "wanda", "obs"])
def test_n_of_m_on_the_way_and_in_the_end(tmp_path, score):
    schedule = {"schedule": "linear", "begin": 0.0, "end": 1.0, "every": 6}
    plain(tmp_path, PruningCallback(0.5, score=score, pattern="2:4", **schedule), save_steps=6)
    for step, n_pruned in ((6, 1), (12, 2)):
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        for zeros in zeros_of(loaded).values():
            assert set(zeros.view(-1, 4).sum(1).tolist()) == {n_pruned}


@pytest.mark.parametrize(
    ("score", "optimizer"),
    [*((score, "adamw_torch") for score in SCORES), ("movement", "sgd"), ("movement", "adafactor")],
)
def test_every_score_resumes_bitwise(tmp_path, score, optimizer):
    settings = {"optim": optimizer, "save_steps": 5, "learning_rate": 1e-2}

    def run(folder, resume=None):
        student = tiny.bert(seed=2, dropout=0.1)
        callback = PruningCallback(0.6, score=score, schedule="linear", begin=0.1, end=0.8, every=2)
        return plain(folder, callback, student=student, resume_from_checkpoint=resume, **settings)

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-5"))
    assert torch.equal(tiny.flat(whole.model), tiny.flat(resumed.model))


def test_a_resumed_training_does_not_prune_again(tmp_path):
    """Its schedule said so at the beginning; the weights of the checkpoint have been trained since."""
    callback = PruningCallback(0.5, score="obs")
    whole = plain(tmp_path / "whole", callback, save_steps=4)
    resumed = plain(tmp_path / "resumed", callback, resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert torch.equal(tiny.flat(whole.model), tiny.flat(resumed.model))


def test_obs_prunes_once_and_at_the_beginning(tmp_path):
    model = tiny.bert(seed=2)
    prune_(model, 0.5, score="obs", calibration=tiny.texts())
    still = plain(tmp_path, PruningCallback(0.5, score="obs"), learning_rate=0.0)
    assert torch.equal(tiny.flat(model), tiny.flat(still.model))
    saving = {"save_steps": 3, "learning_rate": 1e-2}
    plain(tmp_path, PruningCallback(0.5, score="obs"), **saving)
    for step in (3, 6, 9, 12):
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        assert same(zeros_of(model), zeros_of(loaded))


def test_obs_in_stages_prunes_a_tenth_at_a_time(tmp_path):
    """Each stage does with the weights that are there what prune_ does."""
    weights = tiny.Watch(lambda network: tiny.flat(network).clone())
    plain(tmp_path, PruningCallback(0.3, score="obs", schedule="linear", end=1.0), weights, learning_rate=0.0)
    model, expected = tiny.bert(seed=2), []
    for stage in range(4):
        if stage:
            prune_(model, stage / 10, score="obs", calibration=tiny.texts())
        expected += [tiny.flat(model).clone()] * 4
    assert all(map(torch.equal, weights.seen, expected[1:13]))


def test_while_it_is_aligned_obs_prunes_what_it_pruned_before(tmp_path):
    growing = tiny.Watch(zeros_of)
    callback = PruningCallback(0.6, score="obs", schedule="linear", end=1.0, every=1)
    trainer = aligned(tmp_path, callback, growing, learning_rate=1e-2)
    assert sparsity_of(prunable_weights(trainer.model)) == pytest.approx(0.6, abs=1e-3)
    for before, after in pairwise(growing.seen):
        assert sum(int(zeros.sum()) for zeros in before.values()) < sum(int(zeros.sum()) for zeros in after.values())
        assert not any((before[name] & ~after[name]).any() for name in before)


def test_a_model_pruned_before_is_held(tmp_path):
    model = tiny.bert(seed=2)
    prune_(model, 0.5, score="obs", calibration=tiny.texts())
    zeros = zeros_of(model)
    plain(tmp_path, PruningCallback(0.5, score="obs"), student=model, learning_rate=1e-2)
    assert same(zeros, zeros_of(model))


@pytest.mark.parametrize("score", CALIBRATED)
def test_own_calibration_data(tmp_path, score):
    calibration = tiny.texts(16, seed=9)
    model = tiny.bert(seed=2)
    prune_(model, 0.5, score=score, calibration=calibration)
    callback = PruningCallback(0.5, score=score, schedule="constant", calibration=calibration)
    trainer = plain(tmp_path, callback, learning_rate=0.0)
    assert torch.equal(tiny.flat(model), tiny.flat(trainer.model))


def test_a_stream_needs_calibration_data(tmp_path):
    stream = tiny.texts().to_iterable_dataset()
    with pytest.raises(ValueError, match="The training data are a stream"):
        plain(tmp_path, PruningCallback(0.5, score="obs"), dataset=stream, max_steps=3)
    callback = PruningCallback(0.5, score="obs", calibration=tiny.texts())
    trainer = plain(tmp_path, callback, dataset=stream, max_steps=3)
    assert sparsity_of(prunable_weights(trainer.model)) == 0.5


@pytest.mark.parametrize("score", ["movement", "taylor", "obs"])
def test_mixed_precision(tmp_path, score):
    trainer = plain(tmp_path, PruningCallback(0.5, score=score), bf16=True)
    assert sparsity_of(prunable_weights(trainer.model)) == 0.5
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


# ---- what it leaves alone ----


def random_numbers(_):
    """Those that a step leaves."""
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def watched(folder, *callbacks):
    watch, batches = tiny.Watch(random_numbers), []

    def collate(rows):
        batch = default_data_collator(rows)
        batches.append(batch["input_ids"].tolist())
        return batch

    trainer = Trainer(
        tiny.bert(seed=2, dropout=0.1),
        tiny.arguments(folder, logging_steps=1),
        train_dataset=tiny.texts(),
        data_collator=collate,
        callbacks=[*callbacks, watch],
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return {"states": watch.seen, "batches": batches, "losses": losses, "model": tiny.flat(trainer.model).tolist()}


@pytest.fixture(scope="module")
def unpruned(tmp_path_factory):
    """Without any callback."""
    return watched(tmp_path_factory.mktemp("unpruned"))


@pytest.mark.parametrize("data", ["training", "shuffled"])
@pytest.mark.parametrize("score", CALIBRATED)
def test_calibration_changes_neither_batches_nor_random_numbers(tmp_path, unpruned, score, data):
    loader = DataLoader(tiny.texts(16, seed=9), batch_size=4, shuffle=True, collate_fn=default_data_collator)
    calibration = None if data == "training" else loader
    # In the middle of the training: 12 steps, pruned after the 6th, the 8th and so on.
    timing = {"schedule": "linear", "begin": 0.5, "end": 1.0, "every": 2}
    pruned = watched(tmp_path, PruningCallback(0.6, score=score, calibration=calibration, **timing))
    assert pruned["batches"][-12:] == unpruned["batches"]
    assert pruned["states"] == unpruned["states"]
    assert pruned["losses"][:8] == unpruned["losses"][:8]
    assert pruned["losses"][8:] != unpruned["losses"][8:]


@pytest.mark.parametrize("score", ["movement", "obs"])
def test_a_sparsity_of_0_changes_nothing(tmp_path, unpruned, score):
    pruned = watched(tmp_path, PruningCallback(0.0, score=score))
    assert pruned["batches"][-12:] == unpruned["batches"]
    assert pruned | {"batches": []} == unpruned | {"batches": []}


# ---- movement ----


class Ledger(TrainerCallback):
    """Adds up -w * gradient by itself."""

    def __init__(self, model):
        self.weights = prunable_weights(model)
        self.totals = {name: np.zeros(tuple(weight.shape), np.float32) for name, weight in self.weights.items()}
        self.at = {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        for name, weight in self.weights.items():
            self.totals[name] += -weight.detach().numpy() * weight.grad.numpy()
        self.at[state.global_step + 1] = copy.deepcopy(self.totals)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_movement_adds_up_over_the_steps(tmp_path, accumulation):
    student = tiny.bert(seed=2)
    ledger = Ledger(student)
    callback = PruningCallback(0.5, score="movement", schedule="constant", begin=0.5, end=1.0)
    settings = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
    trainer = plain(tmp_path, callback, ledger, student=student, **settings)
    scores = {name: torch.from_numpy(total) for name, total in ledger.at[6].items()}
    for name, zeros in zeros_of(student).items():
        assert torch.equal(zeros, ~compute_masks(scores, 0.5, pattern="global")[name])
        kept = trainer.optimizer.state[ledger.weights[name]]["movement_score"]
        np.testing.assert_allclose(kept, ledger.totals[name], rtol=1e-6, atol=1e-9)
        assert (ledger.totals[name][zeros.numpy()] == ledger.at[6][name][zeros.numpy()]).all()


def test_movement_prunes_what_it_pruned_before(tmp_path):
    growing = tiny.Watch(zeros_of)
    plain(tmp_path, PruningCallback(0.6, score="movement", every=1, begin=0.0, end=1.0), growing, learning_rate=1e-2)
    for before, after in pairwise(growing.seen):
        assert not any((before[name] & ~after[name]).any() for name in before)


def test_movement_needs_weights_that_train(tmp_path):
    student = tiny.bert(seed=2)
    student.bert.encoder.layer[0].requires_grad_(False)
    message = r"bert.encoder.layer.0.attention.self.query.weight does not train.*exclude=\['bert.encoder.layer.0.att"
    with tiny.unchanged(student, config=False), pytest.raises(ValueError, match=message):
        plain(tmp_path, PruningCallback(0.5, score="movement"), student=student)
    callback = PruningCallback(0.5, score="movement", exclude=["*layer.0.*"])
    plain(tmp_path, callback, student=student, save_strategy="epoch")
    assert sparsity_of(prunable_weights(student, exclude=["*layer.0.*"])) == pytest.approx(0.5, abs=1e-3)


def test_frozen_weights_are_pruned_by_the_other_scores(tmp_path):
    for score in ("magnitude", "taylor"):
        student = tiny.bert(seed=2)
        student.bert.encoder.layer[0].requires_grad_(False)
        plain(tmp_path, PruningCallback(0.5, score=score), student=student, save_strategy="epoch")
        assert sparsity_of(prunable_weights(student)) == 0.5


def test_a_gradient_that_overflows_is_not_counted(tmp_path):
    class Overflow(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                for weight in prunable_weights(model).values():
                    weight.grad[0] = torch.nan
                    weight.grad[1] = torch.inf

    student = tiny.bert(seed=2)
    callback = PruningCallback(0.5, score="movement")
    # The Trainer itself would skip such a step, with a scaled loss in float16.
    trainer = plain(tmp_path, Overflow(), callback, student=student, max_steps=2, learning_rate=0.0)
    for weight in prunable_weights(student).values():
        assert trainer.optimizer.state[weight]["movement_score"].isfinite().all()


# ---- taylor ----


def copied(folder, *callbacks, **settings):
    """An aligned training whose student is a copy of the teacher: its loss has no slope there."""
    trainer = AlignedDistillationTrainer(
        tiny.bert(seed=2),
        tiny.arguments(folder, **settings),
        teacher=tiny.bert(seed=2),
        train_dataset=tiny.texts(),
        callbacks=[*callbacks],
    )
    trainer.train()
    return trainer


def test_taylor_takes_the_models_own_loss(tmp_path):
    model = tiny.bert(seed=2)
    weights, layers = prunable_weights(model), zoo.prunable_layers(model)
    gradients = weight_gradients(model, layers, default_data_collator(list(tiny.texts())), own_loss)
    scores = {name: (weight.detach() * gradients[name]).abs() for name, weight in weights.items()}
    expected = {name: ~mask for name, mask in compute_masks(scores, 0.5, pattern="global").items()}
    for run in (plain, aligned, copied):
        callback = PruningCallback(0.5, score="taylor", schedule="constant")
        assert same(zeros_of(run(tmp_path, callback, learning_rate=0.0).model), expected)


def test_where_nothing_moves_magnitude_decides(tmp_path):
    masks = compute_masks(
        {n: w.detach().abs() for n, w in prunable_weights(tiny.bert(seed=2)).items()}, 0.5, pattern="global"
    )
    callback = PruningCallback(0.5, score="movement", schedule="constant", begin=0.5, end=0.5)
    trainer = copied(tmp_path, callback, learning_rate=0.0)
    assert same(zeros_of(trainer.model), {name: ~mask for name, mask in masks.items()})
