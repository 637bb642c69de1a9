"""Training with the rounding that a model will have: what goes on untouched, what is rounded, what comes out."""

import copy

import pytest
import tiny
import torch
import torch.distributed as dist
from quantized import LIBRARIES, ONNX, by_scheme, take_away
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from transformers import AutoModelForSequenceClassification, TrainerCallback

from hf_compalign import AlignedDistillationTrainer, PruningCallback, cache_teacher_logits
from hf_compalign.compress import load_compressed, prunable_weights
from hf_compalign.compress.callbacks import QuantizationCallback
from hf_compalign.compress.quantize import quantizable_layers, quantization_of, scheme_of

pytestmark = pytest.mark.numeric

# Of each backend one with and one without rounded activations.
SCHEMES = [ONNX, "torchao-w8a8", "torchao-w4", "quanto-w4", "quanto-w8a8"]


def model(*, seed=2, **config):
    # int4 weights are rounded in groups of 32 or more.
    return tiny.bert(seed=seed, **({"hidden_size": 32, "intermediate_size": 64} | config))


def trainer(folder, *callbacks, student=None, **settings):
    return tiny.trainer(folder, model() if student is None else student, *callbacks, **settings)


def logits(network):
    with torch.no_grad():
        return network.eval()(**tiny.batch(tiny.texts(10, seed=5, labels=False))).logits


def layers(network, scheme=ONNX):
    return list(quantizable_layers(network, scheme_of(scheme)))


def logged(run, name):
    """A number in each line of the log that has a loss."""
    return [log[name] for log in run.state.log_history if "loss" in log]


@pytest.fixture(scope="module")
def answers_in_float(tmp_path_factory):
    """Of every step of a training that quantizes nothing."""
    answers = tiny.Watch(logits)
    trainer(tmp_path_factory.mktemp("float"), answers).train()
    return answers.seen


# ---- the way to the quantized model ----


@pytest.mark.parametrize("scheme", by_scheme(SCHEMES))
def test_what_is_trained_goes_on_untouched(tmp_path, scheme, answers_in_float):
    """The parameters, what the optimizer keeps of them and the learning rate, across the step of the preparation."""

    def look(network):
        parameters = dict(network.named_parameters())
        moments = {name: copy.deepcopy(run.optimizer.state[parameter]) for name, parameter in parameters.items()}
        values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        learning_rate = run.optimizer.param_groups[0]["lr"]
        return {name: id(one) for name, one in parameters.items()}, values, moments, learning_rate

    before, after, answers = tiny.Watch(look), tiny.Watch(look), tiny.Watch(logits)
    run = trainer(tmp_path, before, QuantizationCallback(scheme, begin=0.5), after, answers)
    names = layers(run.model, scheme)
    run.train()
    for earlier, later in zip(before.seen, after.seen, strict=True):
        assert earlier[0] == later[0]
        assert earlier[3] == later[3]
        for one, other in ((earlier[1], later[1]), *zip(earlier[2].values(), later[2].values(), strict=True)):
            assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert before.seen[0][0] == before.seen[-1][0]
    same = [torch.equal(*both) for both in zip(answers_in_float, answers.seen, strict=True)]
    assert same == [True] * 5 + [False] * 7  # the sixth step is the last in float, and the first that is rounded after
    # Each quantized weight goes on learning.
    for name in names:
        assert not torch.equal(before.seen[6][1][f"{name}.weight"], before.seen[-1][1][f"{name}.weight"])


@pytest.mark.parametrize("scheme", by_scheme(SCHEMES))
def test_the_model_is_quantized_when_training_ends_and_its_checkpoints_stand_for_it(tmp_path, scheme):
    answers, weights = tiny.Watch(logits), tiny.Watch(lambda network: tiny.flat(network).clone())
    steps = {"save_steps": 3, "logging_steps": 1}
    run = trainer(tmp_path, QuantizationCallback(scheme, begin=0.5), answers, weights, **steps)
    names = layers(run.model, scheme)
    run.train()
    # What was trained is what comes out.
    assert tiny.distance(logits(run.model), answers.seen[-1]) < tiny.ROUNDING
    assert (quantization_of(run.model).scheme, list(quantization_of(run.model).layers)) == (scheme, names)
    predictions = run.predict(tiny.texts(10, seed=5))
    # By fours, and all together: a range of activations is that of a batch.
    torch.testing.assert_close(torch.tensor(predictions.predictions), logits(run.model), atol=0.05, rtol=0.0)
    assert predictions.metrics["test_loss"] == pytest.approx(run.evaluate()["eval_loss"])
    run.save_model(str(tmp_path / "small"))
    assert tiny.distance(logits(load_compressed(tmp_path / "small")), logits(run.model)) < tiny.ROUNDING
    assert logged(run, "quantized_layers") == [0] * 5 + [len(names)] * 7
    for step in (3, 6, 12):
        folder = tmp_path / f"checkpoint-{step}"
        in_float = AutoModelForSequenceClassification.from_pretrained(folder)
        assert torch.equal(tiny.flat(in_float), weights.seen[step - 1])
        opened = load_compressed(folder)
        assert tiny.distance(logits(opened), answers.seen[step - 1]) < tiny.ROUNDING
        record = quantization_of(opened)
        assert (record and list(record.layers)) == (None if step == 3 else names)
        assert (tiny.distance(logits(in_float), logits(opened)) < tiny.ROUNDING) == (step == 3)


def test_the_rounding_begins_with_the_first_step_by_default(tmp_path):
    answers = tiny.Watch(logits)
    run = trainer(tmp_path, QuantizationCallback(ONNX), answers, learning_rate=0.0)
    expected = model()
    run.train()
    assert all(torch.equal(one, answers.seen[0]) for one in answers.seen)
    assert tiny.distance(answers.seen[0], logits(expected)) > 100 * tiny.ROUNDING
    assert torch.equal(tiny.flat(run.model), tiny.flat(expected))


def test_layers_can_be_chosen_and_frozen(tmp_path):
    student = model()
    student.bert.encoder.layer[0].requires_grad_(False)
    frozen = student.bert.encoder.layer[0].intermediate.dense.weight.clone()
    callback = QuantizationCallback(ONNX, include=["*.intermediate.dense", "*.query"], exclude=["*layer.1.*query"])
    run = trainer(tmp_path, callback, student=student)
    run.train()
    assert sorted(quantization_of(run.model).layers) == [
        "bert.encoder.layer.0.attention.self.query",
        "bert.encoder.layer.0.intermediate.dense",
        "bert.encoder.layer.1.intermediate.dense",
    ]
    assert torch.equal(student.bert.encoder.layer[0].intermediate.dense.weight, frozen)


# ---- ranges of activations ----


def test_calibration_looks_at_the_given_data_and_leaves_the_training_alone(tmp_path):
    """The batches, and the random numbers of dropout, are those of a training without the callback."""

    given = [tiny.batch(tiny.texts(8, seed=9, labels=False))]
    callbacks = [QuantizationCallback("quanto-w8a8", begin=0.25, calibration=one) for one in (None, given)]
    runs = []
    for own in ([], *([callback] for callback in callbacks), [QuantizationCallback("torchao-w8a8", begin=0.5)]):
        run = tiny.Batches(model(dropout=0.1), tiny.arguments(tmp_path), train_dataset=tiny.texts(), callbacks=own)
        run.train()
        runs.append(run)
    for other in runs[1:]:
        for (ids, state), (other_ids, other_state) in zip(runs[0].seen, other.seen, strict=True):
            assert torch.equal(ids, other_ids)
            assert torch.equal(state, other_state)
    by_training, by_given = (quantization_of(run.model).ranges for run in runs[1:3])
    assert by_training.keys() == by_given.keys()
    assert by_training != by_given


# ---- resuming ----


@pytest.mark.parametrize("scheme", [ONNX, "torchao-w4a8", "quanto-w8a8"])
def test_resume_equals_uninterrupted(tmp_path, scheme):
    def run(folder, save_steps):
        callback, student = QuantizationCallback(scheme, begin=0.5), model(dropout=0.1)
        return trainer(tmp_path / folder, callback, student=student, save_steps=save_steps)

    whole = run("whole", 3)
    whole.train()
    for step in (3, 6, 9, 12):
        resumed = run(str(step), 12)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        if step < 12:
            last, expected = (tmp_path / folder / "checkpoint-12" for folder in (str(step), "whole"))
            assert (last / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
        assert torch.equal(logits(resumed.model), logits(whole.model))
        assert resumed.model.config.compression == whole.model.config.compression


def test_another_recipe_is_refused(tmp_path):
    trainer(tmp_path / "rounded", QuantizationCallback(ONNX, begin=0.5), save_steps=4).train()
    trainer(tmp_path / "plain", save_steps=4).train()
    for message, saved, callback, epochs in (
        ("another QuantizationCallback: begin: 0.5 -> 0.25", "rounded", QuantizationCallback(ONNX, begin=0.25), 2),
        (f"scheme: '{ONNX}' -> 'torchao-w8a8'", "rounded", QuantizationCallback("torchao-w8a8", begin=0.5), 2),
        (r"steps \[6, 6\], and this run's is \[9, 9\]", "rounded", QuantizationCallback(ONNX, begin=0.5), 3),
        ("made without a QuantizationCallback", "plain", QuantizationCallback(ONNX), 2),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path / "other", callback, num_train_epochs=epochs).train(
                resume_from_checkpoint=str(tmp_path / saved / "checkpoint-4")
            )


# ---- the best checkpoint, and an early end ----


def test_the_best_model_is_a_quantized_one(tmp_path):
    measured = iter([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.5, 0.3, 0.2, 0.1, 0.0])
    run = trainer(
        tmp_path,
        QuantizationCallback(ONNX, begin=0.5),
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        eval_steps=1,
        save_steps=1,
    )
    run.compute_metrics = lambda _: {"score": next(measured)}
    run.train()
    assert run.state.best_global_step == 8
    assert tiny.distance(logits(load_compressed(tmp_path / "checkpoint-8")), logits(run.model)) < tiny.ROUNDING


def test_a_training_that_ends_early_is_not_quantized(tmp_path, caplog):
    run = trainer(tmp_path, QuantizationCallback("torchao-w8a8", begin=0.5), tiny.Stop(3))
    run.train()
    assert "ended at step 3, before the model was to be prepared at step 6: it is not quantized" in caplog.text
    assert not hasattr(run.model.config, "compression")
    assert {type(module) for module in run.model.modules()} == {type(module) for module in model().modules()}
    run.callback_handler.pop_callback(tiny.Stop)
    run.train()  # nothing is in the way of another try
    assert quantization_of(run.model).scheme == "torchao-w8a8"


# ---- ways to train ----


def losses(folder, *callbacks, **settings):
    """Of 6 optimizer steps."""
    sgd = {"optim": "sgd", "learning_rate": 0.05, "num_train_epochs": 1}
    run = trainer(folder, *callbacks, student=model(num_hidden_layers=1), logging_steps=1, **sgd, **settings)
    run.train()
    return torch.tensor(logged(run, "loss"))


@pytest.mark.parametrize("scheme", [ONNX, "torchao-w8a8"])
def test_the_rounding_reaches_a_compiled_model(tmp_path, scheme):
    """One step in float and one that rounds."""
    eager = losses(tmp_path, QuantizationCallback(scheme, begin=0.5), max_steps=2)
    compiling = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    compiled = losses(tmp_path, QuantizationCallback(scheme, begin=0.5), max_steps=2, **compiling)
    in_float = losses(tmp_path, max_steps=2)
    assert tiny.distance(compiled[0], in_float[0]) < tiny.ROUNDING
    # Compiled, a scale may have another last bit.
    assert (compiled - eager)[1].abs() < 0.2 * (eager - in_float)[1].abs()


@pytest.mark.parametrize("scheme", [ONNX, "torchao-w8a8", "quanto-w8a8"])
def test_it_works_in_mixed_precision(tmp_path, scheme):
    mixed, exact = (losses(tmp_path, QuantizationCallback(scheme), bf16=on) for on in (True, False))
    torch.testing.assert_close(mixed, exact, atol=0.02, rtol=0.0)
    assert tiny.distance(mixed, exact) > tiny.ROUNDING


@pytest.mark.parametrize("scheme", by_scheme([ONNX, "torchao-w8a8", "quanto-w4"]))
def test_gradient_checkpointing_changes_nothing(tmp_path, scheme):
    plain, checkpointed = (
        losses(tmp_path, QuantizationCallback(scheme, begin=0.5), gradient_checkpointing=on) for on in (False, True)
    )
    assert torch.equal(plain, checkpointed)


def test_begin_counts_optimizer_steps(tmp_path):
    run = trainer(tmp_path, QuantizationCallback(ONNX, begin=0.5), gradient_accumulation_steps=2, logging_steps=1)
    run.train()
    n_layers = len(quantization_of(run.model).layers)
    assert logged(run, "quantized_layers") == [0] * 2 + [n_layers] * 4


@pytest.mark.parametrize(
    ("kind", "scheme"), [("live", "torchao-w8a8"), ("cached", "quanto-w8a8"), ("same config", ONNX)]
)
def test_the_teacher_is_never_quantized(tmp_path, kind, scheme):
    student, data = model(), tiny.texts()
    teacher = type(student)(student.config) if kind == "same config" else model(seed=1)
    before = logits(teacher)
    if kind == "cached":
        data = cache_teacher_logits(data, teacher)
    run = AlignedDistillationTrainer(
        student,
        tiny.arguments(tmp_path),
        teacher=None if kind == "cached" else teacher,
        train_dataset=data,
        callbacks=[QuantizationCallback(scheme, begin=0.5)],
    )
    run.train()
    assert quantization_of(student).scheme == scheme
    assert quantization_of(teacher) is None
    assert torch.equal(logits(teacher), before)
    assert run.evaluate(data)["eval_agreement"] > 0


# ---- pruned weights ----


@pytest.mark.parametrize("scheme", [ONNX, "torchao-w4", "quanto-w8a8"])
def test_pruned_weights_are_zeros_of_the_quantized_model(tmp_path, scheme):
    for order, share, begin in ((1, (0.0, 0.3), 0.5), (-1, (0.5, 0.5), 0.5), (1, (0.5, 0.8), 0.25), (-1, (0, 0), 0.0)):
        pruning = PruningCallback(0.5, begin=share[0], end=share[1], schedule="linear")
        callbacks = [pruning, QuantizationCallback(scheme, begin=begin)]
        run = trainer(tmp_path, *callbacks[::order], save_steps=12)
        run.train()
        float_model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-12")
        zeros = {name: weight == 0 for name, weight in prunable_weights(float_model).items()}
        assert sum(int(zero.sum()) for zero in zeros.values()) == pytest.approx(
            0.5 * sum(zero.numel() for zero in zeros.values()), rel=1e-3
        )
        for name, zero in zeros.items():
            weight = run.model.get_submodule(name.removesuffix(".weight")).weight
            values = weight if scheme == ONNX else weight.dequantize()
            assert not values[zero].any()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "onnxruntime-w8"}, "scheme must be one of .* Did you mean 'onnxruntime-w8a8'"),
        ({"begin": 30}, r"begin must be a share of the training in \[0, 1\). Got 30. Did you mean 0.3\?"),
        ({"begin": 1.0}, "Got 1. To quantize a model when it is trained, use quantize_"),
        ({"begin": -0.5}, "Got -0.5. To"),
        ({"calibration": [{}]}, f"calibration= would be ignored: the scheme {ONNX} needs no data. Leave it out, or"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        QuantizationCallback(**({"scheme": ONNX} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": ["*.missing"]}, "The pattern '\\*.missing' matches no"),
        (
            {"scheme": "quanto-w8a8", "calibration": [{"labels": torch.zeros(2)}]},
            "A calibration batch must hold the inputs",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_training(tmp_path, options, message):
    run = trainer(tmp_path, QuantizationCallback(**({"scheme": ONNX, "begin": 0.9} | options)))
    with tiny.unchanged(run.model, config=False), pytest.raises(ValueError, match=message):
        run.train()
    assert run.state.global_step == 0
    assert not hasattr(run.model.config, "compression")


@pytest.mark.parametrize("scheme", [ONNX, "torchao-w8a8"])
def test_a_quantized_model_is_not_quantized_again(tmp_path, scheme):
    callback = QuantizationCallback(scheme)
    run = trainer(tmp_path, callback, save_steps=12)
    run.train()
    with pytest.raises(ValueError, match="This QuantizationCallback has quantized the model.* make a new Trainer"):
        run.train()
    with pytest.raises(ValueError, match=f"quantized already, by {scheme}"):
        trainer(tmp_path, QuantizationCallback("torchao-w4"), student=run.model).train()
    opened = load_compressed(tmp_path / "checkpoint-12")
    with pytest.raises(ValueError, match="quantized already"):
        trainer(tmp_path, QuantizationCallback(ONNX), student=opened).train()
    trainer(tmp_path, callback).train()  # the callback itself can be used for another model


@pytest.mark.parametrize("scheme", [ONNX, "torchao-w8a8", "quanto-w8a8"])
def test_a_training_that_broke_off_can_be_begun_again(tmp_path, scheme):
    whole = trainer(tmp_path / "whole", QuantizationCallback(scheme, begin=0.5))
    whole.train()
    interrupt = tiny.Stop(8, interrupt=True)
    run = trainer(tmp_path, QuantizationCallback(scheme, begin=0.5), interrupt, save_steps=3)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.remove_callback(interrupt)
    # From a checkpoint before the preparation, into a model that is prepared already.
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(logits(run.model), logits(whole.model))


def test_a_float_model_with_the_record_of_an_earlier_training_is_a_float_model(tmp_path):
    trainer(tmp_path, QuantizationCallback(ONNX), save_steps=12).train()
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-12")
    run = trainer(tmp_path / "b", QuantizationCallback("quanto-w8", begin=0.5), student=student, save_steps=1)
    run.train()
    assert quantization_of(load_compressed(tmp_path / "b" / "checkpoint-5")) is None
    assert quantization_of(load_compressed(tmp_path / "b" / "checkpoint-6")).scheme == "quanto-w8"


@pytest.mark.parametrize(("scheme", "module", "extra"), LIBRARIES)
def test_a_missing_library_is_named_before_training(tmp_path, monkeypatch, scheme, module, extra):
    take_away(module, monkeypatch)
    run = trainer(tmp_path, QuantizationCallback(scheme, begin=0.9))
    with pytest.raises(ImportError, match=rf"pip install 'hf-compalign\[{extra}\]'"):
        run.train()
    assert run.state.global_step == 0


@pytest.mark.parametrize(
    ("scheme", "settings", "message"),
    [
        ("quanto-w8", {"bf16": True}, "quanto-w8 cannot be trained in mixed precision.* Leave bf16 and fp16 out"),
        ("quanto-w4", {"torch_compile": True}, "quanto-w4 cannot be trained with torch_compile.* Leave torch_com"),
    ],
)
def test_what_optimum_quanto_cannot_do_is_refused(tmp_path, scheme, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, QuantizationCallback(scheme, begin=0.9), **settings).train()


def test_models_in_shards_are_refused(tmp_path):
    arguments, callback = tiny.arguments(tmp_path), QuantizationCallback(ONNX)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        sharded = model()
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        for network in (sharded, FullyShardedDataParallel(model(), device_id=torch.device("cpu"))):
            with pytest.raises(ValueError, match="does not work under FSDP, .* Use DDP or one process"):
                callback.on_train_begin(arguments, None, None, model=network)
    finally:
        dist.destroy_process_group()
    arguments.deepspeed_plugin = object()
    with pytest.raises(ValueError, match="does not work under DeepSpeed, .* Use DDP or one process"):
        callback.on_train_begin(arguments, None, None, model=model())


def test_two_in_one_training_are_refused(tmp_path):
    run = trainer(tmp_path, QuantizationCallback(ONNX, begin=0.5), QuantizationCallback("quanto-w8", begin=0.5))
    with pytest.raises(ValueError, match=r"Two QuantizationCallbacks .* QuantizationCallback\(scheme, include="):
        run.train()


def test_two_trainings_in_one_process_share_nothing(tmp_path):
    alone = trainer(tmp_path, QuantizationCallback(ONNX, begin=0.5))
    alone.train()
    other = trainer(tmp_path / "b", QuantizationCallback("torchao-w8a8", begin=0.25))
    inner = trainer(tmp_path / "a", QuantizationCallback(ONNX, begin=0.5))

    class Nested(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            if state.epoch == 1:
                inner.train()

    other.add_callback(Nested())
    other.train()
    assert torch.equal(tiny.flat(inner.model), tiny.flat(alone.model))
    assert [quantization_of(run.model).scheme for run in (other, inner)] == ["torchao-w8a8", ONNX]
