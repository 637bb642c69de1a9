"""The learning rate that `suggest_learning_rate` finds, and the trainer that it leaves alone."""

import copy
import random

import numpy as np
import pytest
import tiny
import torch

from hf_compalign import (
    AlignedDistillationTrainer,
    AlignmentArguments,
    PruningCallback,
    QuantizationCallback,
    ShrinkCallback,
    cache_teacher_logits,
    suggest_learning_rate,
)
from hf_compalign.align import LearningRateSuggestion, RateTrial

pytestmark = pytest.mark.numeric

TEACHER = tiny.bert(seed=1)
EVAL = tiny.texts(40, seed=5)
RATES = [1e-4, 1e-3, 0.5]


def build(folder, *callbacks, student=None, alignment=None, settings=None, **trainer):
    return AlignedDistillationTrainer(
        copy.deepcopy(TEACHER) if student is None else student,
        tiny.arguments(folder, **(settings or {})),
        alignment=alignment,
        callbacks=list(callbacks) or [PruningCallback(0.5, schedule="constant")],
        **({"teacher": TEACHER, "train_dataset": tiny.texts(), "eval_dataset": EVAL} | trainer),
    )


def error_of(model, rows):
    with torch.no_grad():
        inputs = tiny.batch(rows, "input_ids", "attention_mask")
        return (model.eval()(**inputs).logits - TEACHER.eval()(**inputs).logits).pow(2).mean().item()


LOGITS = AlignmentArguments(preset="logits")
UNCERTAIN = AlignmentArguments(preset="paper", weighting="uncertainty")


@pytest.mark.parametrize(("steps", "alignment", "right"), [(3, LOGITS, 1e-3), (5, UNCERTAIN, 1e-4)])  # of 3 in an epoch
def test_each_trial_is_a_training_of_its_own(tmp_path, steps, alignment, right):
    settings = {"gradient_accumulation_steps": 2, "weight_decay": 0.1, "lr_scheduler_type": "constant"}
    options = {"alignment": alignment}
    found = suggest_learning_rate(build(tmp_path, settings=settings, **options), rates=RATES[::-1], steps=steps)
    assert [trial.learning_rate for trial in found.trials] == RATES
    errors = []
    for trial in (found.start, *found.trials):
        trained = build(
            tmp_path, settings=settings | {"learning_rate": trial.learning_rate, "max_steps": steps}, **options
        )
        trained.train()
        errors.append(error_of(trained.model, EVAL))
        assert trial.logit_error == pytest.approx(errors[-1], rel=1e-4)
        assert (trial.mismatches, trial.n) == (trained.evaluate()["eval_cie"], 40)
    assert found.value == right == RATES[errors[1:].index(min(errors))]
    assert found.helps


@pytest.mark.parametrize(
    "callbacks",
    [
        lambda: [PruningCallback(0.5, schedule="constant")],
        lambda: [
            ShrinkCallback(ffn=0.5, n_layers=1, schedule="constant", score="magnitude"),
            QuantizationCallback("onnxruntime-w8a8"),
        ],
    ],
)
def test_the_trainer_is_left_as_it_was(tmp_path, callbacks):
    settings = {
        "max_steps": 4,
        "learning_rate": RATES[1],
        "save_steps": 2,
        "eval_steps": 2,
        "load_best_model_at_end": True,
    }
    options = {"alignment": AlignmentArguments(student_dropout=True), "settings": settings}
    plain, asked = (
        build(tmp_path / name, *callbacks(), student=tiny.bert(seed=2, dropout=0.1), **options) for name in "ab"
    )
    plain.train()
    # What the trainer holds is the same objects after, and they hold the same.
    torch.manual_seed(3)
    held, model = dict(vars(asked)), copy.deepcopy(asked.model.state_dict())
    inside = [(thing, copy.copy(vars(thing))) for thing in (asked.args, *asked.callback_handler.callbacks)]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    suggest_learning_rate(asked, rates=RATES, steps=2, rows=10)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert vars(asked).keys() == held.keys()
    assert all(vars(asked)[name] is value for name, value in held.items())
    assert all(vars(thing) == before for thing, before in inside)
    assert all(torch.equal(asked.model.state_dict()[name], value) for name, value in model.items())
    assert [*(tmp_path / "b").glob("*")] == []
    asked.train()
    assert torch.equal(tiny.flat(asked.model), tiny.flat(plain.model))
    assert [line["step"] for line in asked.state.log_history] == [line["step"] for line in plain.state.log_history]


class Counts(PruningCallback):
    updates = 0

    def _update(self, step):
        Counts.updates += 1
        super()._update(step)


def test_where_training_undoes_the_start_the_lowest_rate_is_suggested(tmp_path):
    trainer = build(tmp_path, Counts(0.3, schedule="constant"))
    found = suggest_learning_rate(trainer, rates=[0.3, 0.5, 1e30], steps=2, rows=25)
    assert Counts.updates == 1  # the start is compressed once, not for each rate
    assert (found.value, found.helps, found.start.n) == (0.3, False, 25)
    assert found.start.mismatches < min(trial.mismatches for trial in found.trials[:2])
    assert not np.isfinite(found.trials[2].logit_error)  # a rate that breaks the training is reported like the others
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["learning", "start", "0.3", "0.5", "1e+30", "Training"]
    assert (
        "Training would undo the start: no rate makes the student more like its teacher. The lowest, 0.3" in lines[-1]
    )


def test_cached_logits_and_all_of_several_evaluation_datasets(tmp_path):
    names = ["LABEL_0", "LABEL_1", "LABEL_2"]
    train, one, two = (
        cache_teacher_logits(rows, TEACHER, student_labels=names)
        for rows in (tiny.texts(), EVAL.select(range(15)), EVAL.select(range(15, 40)))
    )
    several = build(tmp_path, teacher=None, train_dataset=train, eval_dataset={"one": one, "two": two})
    trainers = several, build(tmp_path, alignment=LOGITS)
    found, whole = (suggest_learning_rate(trainer, rates=RATES[1:2], steps=2) for trainer in trainers)
    for ours, theirs in zip((found.start, *found.trials), (whole.start, *whole.trials), strict=True):
        assert (ours.mismatches, ours.n) == (theirs.mismatches, 40)
        assert ours.logit_error == pytest.approx(theirs.logit_error, rel=1e-5)


@pytest.mark.parametrize(
    ("outcomes", "value"),
    [
        ([(40, 9), (20, 2), (24, 1), (10, 3), (13, 2.5)], 4),  # fewest 10, and 13 is within one standard error
        ([(40, 9), (20, 2), (24, 1), (10, 3), (14, 2.5)], 3),
        ([(3, 0.1), (0, 0.3), (1, 0.2)], 2),
        ([(10, 0.1), (9, 0.2)], 1),  # the start: the lowest rate
        ([(10, 0.1), (0, float("nan")), (9, 0.05)], 2),
    ],
)
def test_the_rule(outcomes, value):
    start, *trials = [RateTrial(rate, mismatches, 1000, error) for rate, (mismatches, error) in enumerate(outcomes)]
    assert LearningRateSuggestion.of(start, trials).value == value


def test_models_without_finite_logits_are_no_start():
    with pytest.raises(ValueError, match="The start's logits or its teacher's are not finite"):
        LearningRateSuggestion.of(*[RateTrial(0, 0, 9, float("nan"))], [RateTrial(1, 0, 9, float("inf"))])


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"eval_dataset": None}, {}, r"A suggestion needs an evaluation set .* Give the trainer an eval_dataset="),
        ({"teacher": None, "alignment": AlignmentArguments(preset="labels")}, {}, "needs the teacher's answers to"),
        ({}, {"rates": [1e-3, 0.0]}, r"rates must be finite numbers > 0\. Got \[0\.001, 0\.0\]\. The default is"),
        ({}, {"rates": [float("inf")]}, r"rates must be finite numbers > 0\. Got \[inf\]"),
        ({}, {"rates": []}, r"rates must be finite numbers > 0\. Got \[\]"),
        ({}, {"steps": 0}, r"steps must be at least 1\. Got 0"),
        ({}, {"steps": 2.5}, r"steps must be a whole number\. Got 2\.5"),
        ({}, {"rows": 0}, r"rows must be at least 1\. Got 0"),
        ({"optimizers": (torch.optim.SGD([torch.ones(1)], lr=1.0), None)}, {}, "An optimizer given with optimizers="),
    ],
)
def test_what_gives_no_suggestion_is_refused(tmp_path, given, options, message):
    with pytest.raises(ValueError, match=message):
        suggest_learning_rate(build(tmp_path, **given), **options)


def test_a_trainer_without_a_compressed_start_is_refused(tmp_path):
    gradual = build(tmp_path, PruningCallback(0.5))
    with pytest.raises(ValueError, match="The PruningCallback compresses while the model trains, so there is no"):
        suggest_learning_rate(gradual)
    gradual.args.max_steps = 1
    gradual.train()
    with pytest.raises(ValueError, match=r"The trainer has trained for 1 steps.* before train\(\)"):
        suggest_learning_rate(gradual)
    with pytest.raises(ValueError, match=r"about an AlignedDistillationTrainer, which knows a teacher\. Got Trainer"):
        suggest_learning_rate(tiny.trainer(tmp_path, tiny.bert()))
    sharded = build(tmp_path)
    sharded.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="which FSDP and DeepSpeed keep in parts"):
        suggest_learning_rate(sharded)
