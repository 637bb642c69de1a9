"""On a GPU everything gives what it gives on the CPU, up to rounding."""

import copy

import pytest
import tiny
import torch

from hf_compalign import (
    AlignedDistillationTrainer,
    AlignmentArguments,
    AttributionOptions,
    DeploymentOptions,
    PruningCallback,
    QuantizationCallback,
    WeightAveragingCallback,
    attribution_agreement,
    cache_teacher_logits,
    compare_deployments,
    predict,
    prune_,
    quantize_,
    shrink_,
    suggest_learning_rate,
)
from hf_compalign.align import best_interpolation
from hf_compalign.align.arguments import PRESETS
from hf_compalign.compress import prunable_weights
from hf_compalign.compress.prune import PATTERN_OF

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TEACHER = tiny.bert(seed=1)
EVAL = tiny.texts(40, seed=5)
SCHEMES = ["onnxruntime-w8a8", "torchao-w8a8", "quanto-w8a8"]
CLOSE = 1e-4  # a step of Adam divides by what may be all rounding, so weights drift apart faster than sums round


def build(folder, *callbacks, cpu=False, student=None, alignment=None, teacher=TEACHER, dataset=None, **settings):
    return AlignedDistillationTrainer(
        copy.deepcopy(student) if student is not None else tiny.bert(seed=2),
        tiny.arguments(folder, use_cpu=cpu, dataloader_pin_memory=not cpu, **settings),
        teacher=copy.deepcopy(teacher),
        alignment=alignment,
        train_dataset=tiny.texts() if dataset is None else dataset,
        eval_dataset=None if teacher is None else EVAL,
        callbacks=copy.deepcopy([*callbacks]),
    )


def flat(model):
    return tiny.flat(model).cpu()


def assert_close(first, second, atol=CLOSE):
    torch.testing.assert_close(torch.as_tensor(first), torch.as_tensor(second), atol=atol, rtol=1e-3)


def needs_library_of(scheme):
    library = {"torchao-w8a8": "torchao", "quanto-w8a8": "optimum.quanto"}.get(scheme)
    if library:
        pytest.importorskip(library)


# ---- training ----


@pytest.mark.parametrize("preset", [*PRESETS, "transfer"])
def test_a_training_follows_the_cpus(tmp_path, preset):
    alignment = AlignmentArguments(transfer=0.5) if preset == "transfer" else AlignmentArguments(preset=preset)
    runs = []
    for cpu in (True, False):
        run = build(tmp_path / str(cpu), PruningCallback(0.5, every=2), cpu=cpu, alignment=alignment)
        run.train()
        runs.append(run)
    here, there = runs
    assert next(there.model.parameters()).device.type == DEVICE
    assert_close(flat(here.model), flat(there.model), atol=2e-3)
    assert torch.equal(flat(here.model) == 0, flat(there.model) == 0)
    metrics = [run.evaluate() for run in runs]
    for name in ("eval_loss", "eval_kl", "eval_mismatch_rate", "eval_cie"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=0.02, abs=1e-6)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mixed_precision_trains_and_counts_what_the_model_answers(tmp_path, dtype):
    run = build(tmp_path, PruningCallback(0.5, every=2), alignment=AlignmentArguments(transfer=0.5), **{dtype: True})
    run.train()
    assert torch.isfinite(flat(run.model)).all()
    found = run.predict(EVAL)
    answers = predict(copy.deepcopy(TEACHER).to(DEVICE), EVAL).predicted
    assert found.metrics["test_cie"] == pytest.approx((found.predictions.argmax(-1) != answers).sum(), abs=1)


def test_cached_logits_train_like_a_live_teacher(tmp_path):
    live = build(tmp_path / "live", alignment=AlignmentArguments(preset="logits"))
    cached = build(tmp_path / "cached", teacher=None, dataset=cache_teacher_logits(tiny.texts(), TEACHER.to(DEVICE)))
    TEACHER.cpu()
    for run in (live, cached):
        run.train()
    assert_close(flat(live.model), flat(cached.model), atol=2e-3)


def test_resume_equals_uninterrupted(tmp_path):
    callbacks = [PruningCallback(0.5, every=2), WeightAveragingCallback(begin=0.5)]
    alignment = AlignmentArguments(transfer=0.5, student_dropout=True)
    student = tiny.bert(seed=2, dropout=0.1)
    runs = [build(tmp_path / name, *callbacks, student=student, alignment=alignment, save_steps=4) for name in "ab"]
    runs[0].train()
    runs[1].train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert_close(flat(runs[0].model), flat(runs[1].model), atol=1e-6)


def test_what_is_chosen_by_mismatches(tmp_path):
    student = copy.deepcopy(TEACHER)
    prune_(student, 0.5)
    run = build(
        tmp_path, student=student, save_steps=4, eval_steps=4, load_best_model_at_end=True, metric_for_best_model="loss"
    )
    before = flat(run.model)
    found = suggest_learning_rate(run, rates=[1e-4, 1e-3], steps=3)
    assert found.value in (1e-4, 1e-3)
    assert torch.equal(flat(run.model), before)
    run.train()
    start = copy.deepcopy(student)
    assert 0 <= best_interpolation(run, start) <= 1


# ---- compression ----


@pytest.mark.parametrize("score", [score for score in PATTERN_OF if score != "movement"])
@pytest.mark.parametrize(("build_model", "rows"), [(tiny.bert, tiny.texts), (tiny.vit, tiny.images)])
def test_pruning_chooses_the_cpus_weights(build_model, rows, score):
    models = [build_model(), build_model().to(DEVICE)]
    for model in models:
        prune_(model, 0.5, score=score, **({} if score == "magnitude" else {"calibration": rows(32)}))
    zeros = [
        torch.cat([(weight == 0).flatten().cpu() for weight in prunable_weights(model).values()]) for model in models
    ]
    assert (zeros[0] == zeros[1]).float().mean() > 0.99
    assert next(models[1].parameters()).device.type == DEVICE


def test_shrinking_cuts_the_cpus_units():
    models = [tiny.bert(), tiny.bert().to(DEVICE)]
    here, there = (shrink_(model, ffn=0.5, heads=0.5, calibration=tiny.texts(32)) for model in models)
    assert here.layers == there.layers
    assert_close(flat(models[0]), flat(models[1]), atol=1e-3)


@pytest.mark.parametrize("reconstruct", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantized_models_answer_alike(scheme, reconstruct):
    needs_library_of(scheme)
    models = [tiny.bert(), tiny.bert().to(DEVICE)]
    calibration = {"calibration": tiny.texts(32)} if reconstruct or scheme.startswith("quanto") else {}
    for model in models:
        quantize_(model, scheme, reconstruct=reconstruct, **calibration)
    here, there = (predict(model, EVAL).logits for model in models)
    assert abs(here - there).max() < 0.05 * abs(here).max()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_training_is_quantized_when_it_ends(tmp_path, scheme):
    needs_library_of(scheme)
    run = build(tmp_path, QuantizationCallback(scheme, begin=0.5))
    run.train()
    here, there = (predict(model, EVAL).logits for model in (run.model, run.model.cpu()))
    assert abs(here - there).max() < 0.05 * abs(here).max()


# ---- measurement ----


@pytest.mark.parametrize(("build_model", "rows"), [(tiny.bert, tiny.texts), (tiny.vit, tiny.images)])
def test_answers_are_the_cpus(build_model, rows):
    model = build_model()
    here = predict(model, rows(30))
    there = predict(model.to(DEVICE), rows(30))
    assert_close(here.logits, there.logits)
    assert (here.predicted == there.predicted).all()


def test_attributions_are_the_cpus():
    rows, candidate = tiny.texts(12), tiny.bert(seed=3)
    found = [
        attribution_agreement(TEACHER.to(device), candidate.to(device), rows, options=AttributionOptions(n_steps=8))[0]
        for device in ("cpu", DEVICE)
    ]
    TEACHER.cpu()
    for here, there in zip(*(agreement.rows for agreement in found), strict=True):
        assert here.all.value == pytest.approx(there.all.value, abs=1e-3)


def test_half_precision_and_compiled_models_are_compared():
    original = tiny.bert().to(DEVICE).eval()
    compiled = copy.deepcopy(original)
    compiled.compile()
    candidates = {"float32": original, "float16": copy.deepcopy(original).half(), "compiled": compiled}
    options = DeploymentOptions(timed_batch_sizes=(4,), n_runs=3)
    found = compare_deployments(original, candidates, EVAL, options=options)
    assert found["compiled"].mismatches == 0
    assert found["float16"].mismatches <= 2
    assert found["float16"].runtime.precision == "float16"
    assert torch.cuda.get_device_name() in found.machine
