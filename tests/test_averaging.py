"""The average of the last weights: what it is, when it stays, and that the training does not notice."""

import shutil

import pytest
import tiny
import torch
import zoo
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainerCallback

from hf_compalign.align import AlignedDistillationTrainer, WeightAveragingCallback
from hf_compalign.compress import prunable_weights, sparsity_of
from hf_compalign.compress.callbacks import PruningCallback, QuantizationCallback, ShrinkCallback

pytestmark = pytest.mark.numeric
FILE = "weight_average.safetensors"


def answers(model):
    return zoo.answer(model.eval(), tiny.batch(tiny.texts(labels=False)))


class Noted(TrainerCallback):
    """Keeps all weights after each step, in float64, and those that the model has when training ends."""

    def __init__(self):
        self.after = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.after[state.global_step] = {name: value.double().clone() for name, value in model.state_dict().items()}

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.end = {name: value.double().clone() for name, value in model.state_dict().items()}
        self.answers = answers(model) if model.main_input_name == "input_ids" else None

    def mean(self, *steps):
        return {name: sum(self.after[step][name] for step in steps) / len(steps) for name in self.end}

    def ema(self, decay, first, *steps):
        average = dict(self.after[first])
        for step in steps:
            for name, value in self.after[step].items():
                average[name] = decay * average[name] + (1 - decay) * value
        return average


class Sets(TrainerCallback):
    """Gives the model other weights after some steps, as if they had been trained."""

    def __init__(self, weights):
        self.weights = weights

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        weights = self.weights.get(state.global_step + 1)
        if weights is not None:
            torch.nn.utils.vector_to_parameters(weights.clone(), model.parameters())


def trainer(folder, *callbacks, model=None, evaluates=True, **settings):
    """An aligned training of 12 steps."""
    return AlignedDistillationTrainer(
        tiny.bert(seed=2, dropout=0.1) if model is None else model,
        tiny.arguments(folder, **settings),
        teacher=tiny.bert(seed=1),
        train_dataset=tiny.texts(),
        eval_dataset=tiny.texts(40, seed=5) if evaluates else None,
        callbacks=[*callbacks],
    )


def trained(folder, *callbacks, resume=None, **settings):
    run = trainer(folder, *callbacks, **settings)
    run.train(resume_from_checkpoint=resume)
    return run


def distance(found, expected):
    """The largest over all weights, as a share of the largest value of each."""
    return max(tiny.distance(found[name], expected[name]) for name in expected if expected[name].any())


AVERAGES = [
    ({}, lambda noted: noted.mean(*range(6, 13))),
    ({"every": 3, "begin": 0.3}, lambda noted: noted.mean(6, 9, 12)),
    ({"every": 5, "begin": 0.0}, lambda noted: noted.mean(2, 7, 12)),
    ({"kind": "ema", "decay": 0.7}, lambda noted: noted.ema(0.7, *range(6, 13))),
    ({"kind": "ema", "every": 4}, lambda noted: noted.ema(0.99, 8, 12)),
]


@pytest.mark.parametrize(("options", "expected"), AVERAGES)
@pytest.mark.parametrize("stock", [False, True])
def test_a_training_ends_with_the_average_of_its_last_weights(tmp_path, options, expected, stock):
    noted = Noted()
    if stock:
        run = tiny.trainer(tmp_path, tiny.bert(seed=2), noted, save_steps=12)
        run.eval_dataset = None
        WeightAveragingCallback(**options).attach(run)
        run.train()
    else:
        run = trained(tmp_path, noted, WeightAveragingCallback(**options), evaluates=False, save_steps=12)
    assert distance(run.model.state_dict(), expected(noted)) < tiny.ROUNDING
    assert distance(noted.after[12], expected(noted)) > 10 * tiny.ROUNDING
    checkpoint = load_file(tmp_path / "checkpoint-12" / "model.safetensors")
    assert all(torch.equal(checkpoint[name].double(), noted.after[12][name]) for name in checkpoint)
    assert run.state.log_history[-1]["average_kept"] == 1


def test_the_training_does_not_notice(tmp_path):
    runs = {}
    for averages in (False, True):
        noted = runs[averages] = Noted()
        run = tiny.trainer(tmp_path, tiny.bert(seed=2, dropout=0.1), noted, eval_steps=4)
        if averages:
            WeightAveragingCallback("ema").attach(run)
        run.train()
    for step, weights in runs[False].after.items():
        assert all(torch.equal(value, runs[True].after[step][name]) for name, value in weights.items())


BEST = {"load_best_model_at_end": True, "metric_for_best_model": "mismatch_rate", "eval_steps": 4, "save_steps": 4}


@pytest.mark.parametrize(("settings", "step"), [({}, 12), (BEST, 4)])
def test_the_better_of_the_two_stays(tmp_path, settings, step):
    """Of the average and the weights after the last step, or those of the best checkpoint."""
    good = tiny.flat(tiny.bert(seed=1))  # the teacher's
    noise = torch.randn(good.shape, generator=torch.Generator().manual_seed(0))
    runs = {}
    for name, weights in {
        "average": {11: good + noise, 12: good - noise},  # a last learning rate too high: around the minimum
        "own": {11: good + 2 * noise, 12: good + noise} | {step: good},
    }.items():
        run = runs[name] = trained(tmp_path / name, Sets(weights), WeightAveragingCallback(begin=0.9), **settings)
        assert tiny.distance(tiny.flat(run.model), good) < tiny.ROUNDING
        assert run.state.best_global_step == (4 if settings and name == "own" else None)
    assert torch.equal(tiny.flat(run.model), good)
    log = {name: run.state.log_history[-1] for name, run in runs.items()}
    assert log["average"]["average_mismatch_rate"] == log["own"]["own_mismatch_rate"] == 0
    assert log["average"]["own_mismatch_rate"] > 0.1 < log["own"]["average_mismatch_rate"]
    assert [one["average_kept"] for one in log.values()] == [1, 0]
    assert {one["averaged_weights"] for one in log.values()} == {2}


@pytest.mark.parametrize("options", [{"every": 12}, {"begin": 0.0}])
def test_without_a_teacher_the_lower_loss_stays(tmp_path, options):
    """The mean of several datasets; of two equal models it is the average that stays."""
    run = tiny.trainer(tmp_path, tiny.bert(seed=2))
    run.eval_dataset = {name: tiny.texts(8, seed=seed) for name, seed in (("one", 5), ("two", 6))}
    WeightAveragingCallback(**options).attach(run)
    run.train()
    log = run.state.log_history[-1]
    assert log["average_kept"] == (log["average_loss"] <= log["own_loss"])
    assert (log["average_loss"] == log["own_loss"]) == (options == {"every": 12})
    found = run.evaluate()
    mean = (found["eval_one_loss"] + found["eval_two_loss"]) / 2
    assert mean == min(log["average_loss"], log["own_loss"])


def test_averaging_begins_after_the_compression_and_keeps_its_zeros(tmp_path):
    noted = Noted()
    averaging = WeightAveragingCallback(begin=0.0)
    run = trained(tmp_path, noted, averaging, PruningCallback(0.5, end=0.5), evaluates=False)
    expected = noted.mean(*range(7, 13))
    assert distance(run.model.state_dict(), expected) < tiny.ROUNDING
    assert sparsity_of(prunable_weights(run.model)) == pytest.approx(0.5, abs=1e-3)
    assert all(torch.equal(value == 0, expected[name] == 0) for name, value in run.model.state_dict().items())


def test_what_others_set_to_zero_stays_zero(tmp_path):
    weights = tiny.flat(tiny.bert(seed=3))
    weights[::2] = 0
    run = trained(tmp_path, Sets({12: weights}), WeightAveragingCallback(), evaluates=False)
    assert torch.equal(tiny.flat(run.model) == 0, weights == 0)


@pytest.mark.parametrize("scheme", [None, "onnxruntime-w8a8", "torchao-w8a8", "quanto-w8"])
def test_the_average_is_there_before_the_model_is_cut_and_converted(tmp_path, scheme):
    noted = Noted()
    compression = [ShrinkCallback(heads=0.5, ffn=0.5, end=0.25, score="magnitude")]
    compression += [] if scheme is None else [QuantizationCallback(scheme, begin=0.4)]
    run = trained(tmp_path, noted, *compression, WeightAveragingCallback(), evaluates=False)
    expected = noted.mean(*range(6, 13))
    # What silences removed units comes after the weights are noted.
    assert distance(noted.end, {name: value * (noted.end[name] != 0) for name, value in expected.items()}) < 1e-5
    assert sum(one.numel() for one in run.model.parameters()) < sum(one.numel() for one in expected.values())
    assert tiny.distance(answers(run.model), noted.answers) < 1e-3


def test_the_statistics_of_batch_norm_are_averaged(tmp_path):
    shape = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "num_channels": 1}
    noted = Noted()
    run = Trainer(
        ResNetForImageClassification(ResNetConfig(num_labels=3, **shape)),
        tiny.arguments(tmp_path),
        train_dataset=tiny.images(),
        callbacks=[noted],
    )
    WeightAveragingCallback().attach(run)
    run.train()
    expected = noted.mean(*range(6, 13))
    found = {name: value for name, value in run.model.state_dict().items() if value.is_floating_point()}
    assert any("running_var" in name for name in found)
    assert distance(found, {name: expected[name] for name in found}) < tiny.ROUNDING


def test_the_average_of_bfloat16_weights_is_kept_in_float32(tmp_path):
    """In their own type a decay of 0.99 would move nothing."""
    noted = Noted()
    averaging = WeightAveragingCallback("ema", begin=0.0)
    run = tiny.trainer(tmp_path, tiny.bert(seed=2).bfloat16(), noted, learning_rate=0.02)
    averaging.attach(run)
    run.eval_dataset = None
    run.train()
    expected = noted.ema(0.99, *range(1, 13))
    same = [value.double() == expected[name].bfloat16() for name, value in run.model.state_dict().items()]
    assert torch.cat([one.flatten() for one in same]).float().mean() > 0.99


# ---- resuming ----


@pytest.mark.parametrize("kind", ["lawa", "ema"])
def test_resume_equals_uninterrupted(tmp_path, kind):
    def run(folder, **settings):
        callbacks = [PruningCallback(0.5, end=0.25), WeightAveragingCallback(kind, every=2)]
        return trained(tmp_path / folder, *callbacks, **settings)

    whole = run("whole", save_steps=1)
    for step in (2, 7, 9, 12):
        # Another output folder: only the checkpoint is left of the first run.
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / f"moved-{step}")
        resumed = run(f"resumed-{step}", resume=str(tmp_path / f"moved-{step}"))
        assert torch.equal(tiny.flat(resumed.model), tiny.flat(whole.model))
        assert resumed.state.log_history[-1] == whole.state.log_history[-1]


def test_a_quantized_training_resumes_with_its_average(tmp_path):
    def run(folder, **settings):
        callbacks = [QuantizationCallback("quanto-w8", begin=0.25), WeightAveragingCallback()]
        return trained(tmp_path / folder, *callbacks, evaluates=False, **settings)

    whole = run("whole", save_steps=8)
    resumed = run("resumed", resume=str(tmp_path / "whole" / "checkpoint-8"))
    assert torch.equal(answers(resumed.model), answers(whole.model))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a training with the default average, after 8 of its steps."""
    folder = tmp_path_factory.mktemp("whole")
    trained(folder, WeightAveragingCallback(), save_steps=8)
    return folder / "checkpoint-8"


def without(path):
    path.unlink()


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-4])


def without_record(path):
    save_file(load_file(path), path)


def of_another_model(path):
    run = trained(path.parents[1] / "other", WeightAveragingCallback(), model=tiny.bert(hidden_size=32), save_steps=8)
    shutil.copy(f"{run.args.output_dir}/checkpoint-8/{FILE}", path)


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (without, {}, f"checkpoint-8 was made without a WeightAveragingCallback: it has no {FILE}.*load the model"),
        (None, {"begin": 0.25}, "checkpoint-8 was made with another WeightAveragingCallback: begin: 0.5 -> 0.25.*same"),
        (None, {"kind": "ema"}, "kind: 'lawa' -> 'ema'; decay: None -> 0.99"),
        (cut_off, {}, f"{FILE} cannot be read.*Resume from another checkpoint, or copy this one again"),
        (without_record, {}, f"{FILE} cannot be read.*Resume from another"),
        (of_another_model, {}, f"{FILE} cannot be read. It is not the average of this model's weights. Resume"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, checkpoint, damage, options, message):
    copy = tmp_path / "copy" / "checkpoint-8"
    shutil.copytree(checkpoint, copy)
    if damage is not None:
        damage(copy / FILE)
    with pytest.raises(ValueError, match=message):
        trained(tmp_path / "resumed", WeightAveragingCallback(**options), resume=str(copy))


def test_a_checkpoint_of_a_longer_training_is_refused(tmp_path, checkpoint):
    with pytest.raises(ValueError, match="n_steps: 12 -> 18"):
        trained(tmp_path, WeightAveragingCallback(), resume=str(checkpoint), num_train_epochs=3)


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mean"}, "kind must be one of lawa, ema. Got 'mean'"),
        ({"begin": 50}, r"begin must be a share of the training in \[0, 1\). Got 50. Did you mean 0.5\?"),
        ({"begin": -0.1}, r"in \[0, 1\). Got -0.1.$"),
        ({"every": 0}, "every must be at least 1. Got 0"),
        ({"every": 0.5}, "every must be a whole number. Got 0.5"),
        ({"decay": 0.9}, "decay=0.9 would be ignored: it is of kind='ema'"),
        ({"kind": "ema", "decay": 1.0}, "decay must be above 0 and below 1. Got 1. 0.99 averages"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WeightAveragingCallback(**options)


def test_it_must_be_attached_to_the_trainer_that_trains(tmp_path):
    callback = WeightAveragingCallback()
    run = tiny.trainer(tmp_path, tiny.bert(), callback)
    with pytest.raises(ValueError, match=r"not attached to the Trainer.*say WeightAveragingCallback\(...\).attach"):
        run.train()
    callback.attach(tiny.trainer(tmp_path, tiny.bert()))
    with pytest.raises(ValueError, match="not attached to the Trainer whose model"):
        run.train()


def test_two_or_a_model_in_parts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Two WeightAveragingCallbacks in one training.*Give one"):
        trainer(tmp_path, WeightAveragingCallback(), WeightAveragingCallback("ema"))
    for name in ("is_fsdp_enabled", "is_deepspeed_enabled"):
        run = tiny.trainer(tmp_path, tiny.bert())
        setattr(run, name, True)
        with pytest.raises(ValueError, match="FSDP and DeepSpeed split them.*Train with DDP"):
            WeightAveragingCallback().attach(run)


def test_a_compression_up_to_the_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="PruningCallback compresses up to optimizer step 12 of 12.*end=0.5"):
        trained(tmp_path, WeightAveragingCallback(), PruningCallback(0.5, end=1.0))


def test_a_training_that_ends_too_early_keeps_its_weights_and_says_so(tmp_path, caplog):
    noted = Noted()
    run = trained(tmp_path, noted, tiny.Stop(4), WeightAveragingCallback())
    assert "Training ended at step 4, before the first weights to average, those of step 6" in caplog.text
    assert all(torch.equal(value.double(), noted.after[4][name]) for name, value in run.model.state_dict().items())
