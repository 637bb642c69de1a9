"""Shrinking, pruning and quantizing in one training: the order, and the sparsity of the model that is left."""

import gc

import pytest
import tiny
import torch
import zoo
from transformers import AutoModelForSequenceClassification, EarlyStoppingCallback, TrainerState

from hf_compalign.compress import load_compressed, prunable_weights, sparsity_of
from hf_compalign.compress.callbacks import (
    PruningCallback,
    QuantizationCallback,
    Removal,
    ShrinkCallback,
    prune_survivors_,
    survivors_of,
)
from hf_compalign.compress.callbacks import order as composition
from hf_compalign.compress.prune import Evidence, Method, prune_
from hf_compalign.compress.quantize import quantizable_layers, quantization_of, scheme_of
from hf_compalign.compress.shrink import cut_, layers_of, zero_units_plan

pytestmark = pytest.mark.numeric

SHRINK = {"ffn": 0.5, "heads": 0.25, "n_layers": 1, "score": "magnitude", "begin": 0.0, "end": 0.3}


def model(*, seed=2, **config):
    return tiny.bert(seed=seed, num_hidden_layers=3, num_attention_heads=4, **config)


def trainer(folder, *callbacks, student=None, **settings):
    return tiny.trainer(folder, model() if student is None else student, *callbacks, **settings)


def trained(folder, *callbacks, resume=None, **settings):
    run = trainer(folder, *callbacks, **settings)
    run.train(resume_from_checkpoint=resume)
    return run


@pytest.fixture(params=zoo.KINDS)
def masked(request):
    """Of an architecture: the masked model, in a training whose callback has removed its units; and the dense one."""
    network = zoo.build(request.param)
    removal = Removal(network)
    removal.take(zoo.random_plan(network, layers=(0, 2)))
    removal.apply()
    state, callback = TrainerState(), ShrinkCallback(**SHRINK)
    callback._removal = removal
    composition.join_shrinking(network, state, callback)
    yield network, removal, zoo.build(request.param)  # noqa: PT022 - keeps alive what the training refers to


# ---- the weights that are left ----


def test_survivors_are_the_weights_of_the_cut_model_in_its_order(masked):
    network, removal, _ = masked
    weights = prunable_weights(network)
    survivors = survivors_of(network, weights)
    values = {one: weight.detach().clone() for one, weight in weights.items()}
    assert survivors_of(network, weights, known=survivors) is survivors
    removal.cut()
    cut = prunable_weights(network)
    assert [*survivors.names.values()] == [*cut]
    for dense, left in survivors.names.items():
        assert torch.equal(values[dense][survivors.masks[dense]], cut[left].detach().flatten())
    gone = weights.keys() - survivors.names.keys()
    assert gone
    assert not any(survivors.masks[one].any() for one in gone)


def test_pruning_the_masked_model_is_pruning_the_cut_one(masked):
    network, removal, expected = masked
    weights = prunable_weights(network)
    survivors = survivors_of(network, weights)
    masks = prune_survivors_(
        network, weights, 0.5, method=Method("magnitude"), evidence=Evidence(), survivors=survivors
    )
    assert survivors.sparsity_of(weights) == pytest.approx(0.5, abs=1e-3)
    assert all(bool(((weight != 0) <= masks[one]).all()) for one, weight in weights.items())
    removal.cut()
    cut_(expected, removal.plan)
    prune_(expected, 0.5)
    assert torch.equal(tiny.flat(network), tiny.flat(expected))


def test_nothing_is_in_the_way_where_no_units_are_removed():
    network = model()
    assert survivors_of(network, prunable_weights(network)) is None


def test_silenced_units_compute_zeros(masked):
    network, removal, _ = masked
    before = zoo.answer(network, zoo.inputs(network))
    removal.silence()
    read = {}
    for layer in layers_of(network):
        for linear in (layer.attention_out, layer.ffn_out):
            linear.register_forward_pre_hook(lambda module, args: read.update({module: args[0]}))
    assert torch.equal(zoo.answer(network, zoo.inputs(network)), before)
    silent = 0
    for one in removal.plan.layers:
        layer = layers_of(network)[one.index]
        heads = read[layer.attention_out].unflatten(-1, (layer.n_heads, -1))
        for values, kept in ((heads.movedim(-2, -1), one.heads), (read[layer.ffn_out], one.neurons)):
            gone = sorted({*range(values.shape[-1])} - {*kept})
            assert not values[..., gone].any()
            assert values[..., list(kept)].any(0).all()
            silent += len(gone)
    assert silent > 10


# ---- a training ----


@pytest.mark.parametrize("options", [{}, {"score": "wanda"}, {"score": "taylor"}, {"score": "obs"}])
def test_without_training_it_is_shrinking_and_then_pruning(tmp_path, options):
    """What the two callbacks do at the learning rate 0, and the two functions one after the other."""
    data = {"calibration": [tiny.batch(tiny.texts())]} if options else {}
    shrinking = ShrinkCallback(**SHRINK)
    pruning = PruningCallback(0.5, begin=0.5, end=0.5, **options, **data)
    watch = tiny.Watch(lambda _: shrinking.plan)
    run = trained(tmp_path, shrinking, pruning, watch, learning_rate=0.0)
    expected = model()
    cut_(expected, watch.seen[-1])
    prune_(expected, 0.5, **options, **data)
    assert sparsity_of(prunable_weights(run.model)) == pytest.approx(0.5, abs=1e-3)
    for (name, weight), other in zip(run.model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(weight, other, atol=1e-5, rtol=1e-4, msg=name)
        assert torch.equal(weight == 0, other == 0)


@pytest.mark.parametrize("score", ["magnitude", "movement", "obs"])
def test_the_sparsity_is_that_of_the_small_model(tmp_path, score):
    run = trained(
        tmp_path,
        ShrinkCallback(**SHRINK),
        PruningCallback(0.5, score=score, schedule="cubic", begin=0.3, end=0.8, every=2),
        logging_steps=1,
        save_steps=1,
    )
    weights = prunable_weights(run.model)
    n_weights = sum(weight.numel() for weight in weights.values())
    assert n_weights < sum(weight.numel() for weight in prunable_weights(model()).values()) / 2
    assert sparsity_of(weights) == pytest.approx(0.5, abs=1e-3)
    logged = [log["sparsity"] for log in run.state.log_history if "sparsity" in log]
    assert logged == sorted(logged)
    assert logged[:4] == [0.0] * 4  # the zeros of removed units do not count
    assert logged[-1] == sparsity_of(weights)
    for step, sparsity in enumerate(logged, 1):
        opened = load_compressed(tmp_path / f"checkpoint-{step}")
        # A unit that nothing reads after the pruning is not there either.
        assert sparsity_of(prunable_weights(opened)) == pytest.approx(sparsity, abs=0.01)
    assert tiny.distance(answers(opened), answers(run.model)) < tiny.ROUNDING


@pytest.mark.parametrize("score", ["magnitude", "movement", "obs"])
def test_resume_equals_uninterrupted(tmp_path, score):
    def run(folder, **settings):
        return trained(
            tmp_path / folder,
            ShrinkCallback(**SHRINK),
            PruningCallback(0.5, score=score, schedule="cubic", begin=0.3, end=0.8, every=2),
            student=model(dropout=0.1),
            **settings,
        )

    whole = run("whole", save_steps=1)
    for step in (3, 5, 11):
        resumed = run(str(step), resume=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert torch.equal(tiny.flat(resumed.model), tiny.flat(whole.model))


# ---- quantizing what is left ----

# Those that round a row of weights, or more of them, together: what is cut has no part in it.
SCHEMES = ["onnxruntime-w8a8", "torchao-w8a8", "quanto-w8", "quanto-w8a8"]
OVERFLOW = "products of int8 matrices overflow"


def answers(network):
    return zoo.answer(network.eval(), tiny.batch(tiny.texts(labels=False)))


def differ(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_cut_model_answers_like_the_masked_one_that_rounds(tmp_path, scheme, caplog):
    for order, begin in ((1, 0.0), (-1, 0.0), (-1, 0.2), (1, 0.5)):
        watch = tiny.Watch(answers)
        shrinking, quantizing = ShrinkCallback(**SHRINK), QuantizationCallback(scheme, begin=begin)
        folder = tmp_path / f"{order}-{begin}"
        run = trainer(folder, *[shrinking, quantizing][::order], watch, save_steps=4)
        dense = len(quantizable_layers(run.model, scheme_of(scheme)))
        run.train()
        if OVERFLOW in caplog.text:
            pytest.skip(f"{OVERFLOW} on this CPU, and those of the masked model otherwise than those of the cut one")
        assert len(layers_of(run.model)) == 2
        record = quantization_of(run.model)
        assert (record.scheme, len(record.layers)) == (scheme, dense - 6)  # of the layer that is gone
        assert {*record.layers} <= {name for name, _ in run.model.named_modules()}
        assert differ(answers(run.model), watch.seen[-1]) < 1e-3
        for step in (4, 8, 12):
            # A rounding more or less, where a sum of floats is added in another order.
            assert differ(answers(load_compressed(folder / f"checkpoint-{step}")), watch.seen[step - 1]) < 1e-3
        in_float = AutoModelForSequenceClassification.from_pretrained(folder / "checkpoint-12")
        cut_(in_float, zero_units_plan(in_float, in_float.config.compression["shrink"]["dropped_layers"]))
        assert differ(answers(in_float), watch.seen[-1]) > 5e-3
        run.save_model(str(tmp_path / "small"))
        opened = load_compressed(tmp_path / "small")
        assert tiny.distance(answers(opened), answers(run.model)) < tiny.ROUNDING


@pytest.mark.parametrize("scheme", ["onnxruntime-w8a8", "torchao-w8a8", "quanto-w8a8"])
def test_shrinking_pruning_and_quantizing_in_one_training(tmp_path, scheme, caplog):
    def run(folder, *callbacks, **settings):
        return trained(
            tmp_path / folder,
            QuantizationCallback(scheme, begin=0.6),
            ShrinkCallback(**SHRINK),
            PruningCallback(0.5, schedule="linear", begin=0.3, end=0.8, every=2),
            *callbacks,
            student=model(dropout=0.1),
            **settings,
        )

    watch = tiny.Watch(answers)
    whole = run("whole", watch, save_steps=1, logging_steps=1)
    assert differ(answers(whole.model), watch.seen[-1]) < 1e-3 or OVERFLOW in caplog.text
    logged = whole.state.log_history[-2]
    assert logged["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert logged["quantized_layers"] == len(quantization_of(whole.model).layers) + 6
    for step in (3, 7, 8, 11, 12):
        resumed = run(str(step), resume=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert torch.equal(answers(resumed.model), answers(whole.model))
        assert resumed.model.config.compression == whole.model.config.compression


# ---- unfinished is not best ----


def falling(folder, *callbacks, resume=None, **settings):
    """A training that is evaluated and saved at each of its 12 steps, and whose score falls every time."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    run = trainer(folder, *callbacks, eval_steps=1, save_steps=1, **(best | settings))
    run.compute_metrics = lambda _: {"score": -run.state.global_step}
    run.train(resume_from_checkpoint=resume)
    return run


@pytest.mark.parametrize(
    "callbacks",
    [
        lambda: [EarlyStoppingCallback(1), PruningCallback(0.5)],
        lambda: [ShrinkCallback(ffn=0.5, score="magnitude"), EarlyStoppingCallback(1)],
        lambda: [EarlyStoppingCallback(1), QuantizationCallback("onnxruntime-w8a8", begin=0.5)],
        lambda: [
            QuantizationCallback("onnxruntime-w8a8", begin=0.4),
            ShrinkCallback(**SHRINK),
            EarlyStoppingCallback(1),
            PruningCallback(0.5, begin=0.4, end=0.5),
        ],
    ],
)
def test_patience_and_the_best_model_count_from_the_final_stage(tmp_path, callbacks):
    for resume in (None, str(tmp_path / "checkpoint-4")):
        run = falling(tmp_path, *callbacks(), resume=resume, eval_on_start=resume is not None)
        assert (run.state.global_step, run.state.best_global_step) == (7, 6)


@pytest.mark.parametrize(
    ("callback", "unfinished"),
    [
        (ShrinkCallback(ffn=0.5, schedule="linear", every=1, score="magnitude"), lambda left: left.num_parameters()),
        (PruningCallback(0.5, schedule="linear", every=1), lambda left: sparsity_of(prunable_weights(left))),
    ],
)
def test_a_training_that_is_stopped_goes_back_to_no_unfinished_checkpoint(tmp_path, callback, unfinished):
    run = falling(tmp_path, callback, tiny.Stop(4))
    assert run.state.best_model_checkpoint is None
    assert unfinished(run.model) == unfinished(load_compressed(tmp_path / "checkpoint-4"))


@pytest.mark.parametrize("order", [1, -1])
def test_a_training_that_had_ended_ends_in_the_same_model_when_it_is_resumed(tmp_path, order):
    def model_of(resume):
        callbacks = [ShrinkCallback(**SHRINK), QuantizationCallback("quanto-w8a8", begin=0.5)]
        return trained(tmp_path, *callbacks[::order], resume=resume, save_steps=12).model

    first, again = model_of(None), model_of(True)
    assert torch.equal(answers(again), answers(first))
    assert again.config.compression == first.config.compression


# ---- the order ----


def test_an_order_that_makes_no_sense_is_refused(tmp_path):
    early, late = {"begin": 0.0, "end": 0.5}, {"begin": 0.5, "end": 0.8}
    message = (
        r"The ShrinkCallback ends at 0.5 of the training \(step 6\), and the PruningCallback begins at 0 \(step 0\)"
        r".*\[ShrinkCallback\(..., begin=0, end=0.5\), PruningCallback\(..., begin=0.5, end=0.8\)\]"
    )
    for callbacks in (
        [ShrinkCallback(ffn=0.5, **early), PruningCallback(0.5, **early)],
        [PruningCallback(0.5, **early), ShrinkCallback(ffn=0.5, **early)],
    ):
        run = trainer(tmp_path, *callbacks)
        with tiny.unchanged(run.model, config=False), pytest.raises(ValueError, match=message):
            run.train()
    for callbacks in (
        [PruningCallback(0.5, **late), ShrinkCallback(ffn=0.5, **early)],  # in the same step, the wrong way round
        [PruningCallback(0.5, **early), ShrinkCallback(ffn=0.5, **late)],
    ):
        with pytest.raises(ValueError, match=r"Name the ShrinkCallback first.*begin=(0.5|0.8), end=(0.8|0.92)\)\]"):
            trainer(tmp_path, *callbacks).train()
    with pytest.raises(ValueError, match=r"Two ShrinkCallbacks .* ShrinkCallback\(heads=..., ffn=..., n_layers=...\)"):
        trainer(tmp_path, ShrinkCallback(ffn=0.5), ShrinkCallback(heads=0.25)).train()


def test_an_order_that_makes_sense_is_not(tmp_path):
    early, late = {"begin": 0.0, "end": 0.5}, {"begin": 0.6, "end": 0.8}
    for callbacks in (
        [ShrinkCallback(ffn=0.5, **early), PruningCallback(0.5, **late)],
        [PruningCallback(0.5, **late), ShrinkCallback(ffn=0.5, **early)],
        [ShrinkCallback(ffn=0.5, schedule="constant"), PruningCallback(0.5, **early)],
        [ShrinkCallback(ffn=0.5, schedule="constant"), PruningCallback(0.5, schedule="constant")],
    ):
        run = trained(tmp_path, *callbacks)
        assert sparsity_of(prunable_weights(run.model)) == pytest.approx(0.5, abs=1e-3)


def test_a_scheme_that_does_not_keep_what_is_removed_is_refused(tmp_path):
    for scheme, other, message in (
        (
            "torchao-w4a8",
            ShrinkCallback(ffn=0.5),
            "torchao-w4a8 rounds neighboring weights together.* int8 weights, or two",
        ),
        ("quanto-w4", PruningCallback(0.5), "quanto-w4 has no level for 0, so pruned .* Use torchao-w4 or"),
    ):
        for order in (1, -1):
            callbacks = [other, QuantizationCallback(scheme, begin=0.5)][::order]
            run = trainer(tmp_path, *callbacks, student=model(hidden_size=32, intermediate_size=64))
            with tiny.unchanged(run.model, config=False), pytest.raises(ValueError, match=message):
                run.train()
            assert run.state.global_step == 0


def test_a_training_that_broke_off_is_forgotten(tmp_path):
    student = model()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, ShrinkCallback(ffn=0.5), tiny.Stop(1, interrupt=True), student=student)
    trained(tmp_path, PruningCallback(0.5), student=student)
    assert sparsity_of(prunable_weights(student)) == pytest.approx(0.5, abs=1e-3)
    trainer(tmp_path, ShrinkCallback(ffn=0.5), student=student).train()


def test_nothing_is_kept_of_a_training_that_ended(tmp_path):
    before = len(composition._RUNS)
    trained(tmp_path, ShrinkCallback(ffn=0.5, schedule="constant"), PruningCallback(0.5))
    gc.collect()
    assert len(composition._RUNS) <= before
