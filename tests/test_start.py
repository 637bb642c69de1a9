"""The start of a training as a candidate for its best model."""

import copy
import logging
from itertools import chain, repeat

import pytest
import tiny
import torch
from transformers import EarlyStoppingCallback

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, PruningCallback, cache_teacher_logits, prune_

BEST = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
UNDONE = 1.0  # a learning rate that makes any start worse
TEACHER = tiny.bert(seed=1)
KEPT = "No checkpoint after training had"


def build(folder, *callbacks, student=None, alignment=None, **settings):
    """Two epochs of 6 steps from the teacher's own weights, pruned at once unless callbacks are given."""
    given = settings.pop("trainer", {})
    return AlignedDistillationTrainer(
        copy.deepcopy(TEACHER) if student is None else student,
        tiny.arguments(folder, **(BEST | settings)),
        alignment=alignment,
        callbacks=list(callbacks) or [PruningCallback(0.3, schedule="constant")],
        **({"teacher": TEACHER, "train_dataset": tiny.texts(), "eval_dataset": tiny.texts(40, seed=5)} | given),
    )


def run(folder, *callbacks, resume=None, **options):
    trainer = build(folder, *callbacks, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def evaluations(trainer, name="eval_mismatch_rate"):
    return {line["step"]: line[name] for line in trainer.state.log_history if name in line}


@pytest.mark.parametrize("cached", [False, True])
def test_a_start_that_training_makes_worse_is_kept(tmp_path, caplog, cached):
    given = {"teacher": None} if cached else {}
    for split, rows in {"train": tiny.texts(), "eval": tiny.texts(40, seed=5)}.items() if cached else ():
        given[f"{split}_dataset"] = cache_teacher_logits(
            rows, TEACHER, student_labels=["LABEL_0", "LABEL_1", "LABEL_2"]
        )
    with caplog.at_level(logging.WARNING):
        trainer = run(tmp_path, learning_rate=UNDONE, save_total_limit=1, trainer=given)
    start = copy.deepcopy(TEACHER)
    prune_(start, 0.3)
    assert torch.equal(tiny.flat(trainer.model), tiny.flat(start))
    rates = evaluations(trainer)
    assert [*rates] == [0, 6, 12]
    assert 0 < rates[0] < min(rates[6], rates[12])
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (rates[0], 0)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-0"]
    assert torch.equal(tiny.flat(type(start).from_pretrained(tmp_path / "checkpoint-0")), tiny.flat(start))
    assert f"fewer mismatches than the start: keeping the start ({round(40 * rates[0])} of 40)." in caplog.text


def test_a_start_that_training_improves_is_not(tmp_path, caplog):
    trainer = run(tmp_path, student=tiny.bert(seed=2), learning_rate=5e-3, save_strategy="best", num_train_epochs=4)
    rates = evaluations(trainer)
    assert trainer.state.best_metric == min(rates.values()) < rates[0]
    assert rates[trainer.state.best_global_step] == min(rates.values())
    assert trainer.evaluate()["eval_mismatch_rate"] == min(rates.values())
    assert KEPT not in caplog.text


def test_the_training_is_the_one_that_does_not_look_at_its_start(tmp_path):
    """Also where dropout draws random numbers, and where it goes on from the start's checkpoint, or a later one."""
    options = {"alignment": AlignmentArguments(student_dropout=True), "save_total_limit": 4}
    runs = {"plain": {"load_best_model_at_end": False}, "whole": {}, "again": {"resume": 0}, "later": {"resume": 6}}
    weights = {}
    for name, settings in runs.items():
        if (step := settings.pop("resume", None)) is not None:
            settings["resume"] = str(tmp_path / "whole" / f"checkpoint-{step}")
        student = tiny.bert(seed=1, dropout=0.1)
        trainer = run(tmp_path / name, student=student, learning_rate=UNDONE, **options, **settings)
        last = type(student).from_pretrained(tmp_path / name / "checkpoint-12")
        weights[name] = tiny.flat(last)
        if name != "plain":
            assert [*evaluations(trainer)] == [0, 6, 12]
            assert trainer.state.best_global_step == 0
            assert trainer.state.best_model_checkpoint == str(tmp_path / "whole" / "checkpoint-0")
    assert all(torch.equal(weights["plain"], other) for other in weights.values())
    # What is in the start's checkpoint is compressed, and not compressed again.
    other, checkpoint = PruningCallback(0.4, schedule="constant"), str(tmp_path / "whole" / "checkpoint-0")
    with pytest.raises(ValueError, match="checkpoint-0 was made with another PruningCallback: sparsity: 0.3 -> 0.4"):
        run(tmp_path / "whole", other, resume=checkpoint, **options)


@pytest.mark.parametrize(
    ("scores", "ends"),
    [
        ([9, 1, 2, 3, 2, 1, 0], 5),  # better than before three times, then twice worse
        ([0, 1, 2, 1, 3, 3, 3], 6),  # the start is not the best: patience is the Trainer's own
    ],
)
def test_the_start_costs_no_patience(tmp_path, scores, ends):
    values = chain(scores, repeat(0))
    settings = {"metric_for_best_model": "score", "num_train_epochs": 6}
    trainer = build(tmp_path, EarlyStoppingCallback(2), **settings)
    trainer.compute_metrics = lambda _: {"score": next(values)}
    trainer.train()
    assert trainer.state.epoch == ends
    assert trainer.state.best_global_step == 6 * scores.index(max(scores))


@pytest.mark.parametrize("metric", ["eval_loss", "kl", "agreement"])
def test_another_metric_is_kept_and_the_start_counts_for_it(tmp_path, caplog, metric):
    trainer = run(tmp_path, learning_rate=UNDONE, metric_for_best_model=metric, num_train_epochs=1)
    assert trainer.args.metric_for_best_model == metric
    values = evaluations(trainer, f"eval_{metric.removeprefix('eval_')}")
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (0, values[0])
    assert f"{KEPT} a better {metric} than the start: keeping the start ({values[0]:.4g})" in caplog.text


def test_of_several_evaluation_datasets_the_trainers_metric_names_one(tmp_path, caplog):
    several = {"eval_dataset": {"one": tiny.texts(20, seed=5), "two": tiny.texts(30, seed=6)}}
    metric = "two_mismatch_rate"
    trainer = run(tmp_path, learning_rate=UNDONE, metric_for_best_model=metric, trainer=several, num_train_epochs=1)
    assert trainer.state.best_metric == evaluations(trainer, f"eval_{metric}")[0]
    assert f"{KEPT} a better two_mismatch_rate" in caplog.text


PLAIN = {"alignment": AlignmentArguments(preset="labels")}


@pytest.mark.parametrize(
    ("callback", "options", "metric"),
    [
        (PruningCallback(0.3, end=0.4), {}, "mismatch_rate"),  # not all is pruned at the start
        (PruningCallback(0.3, schedule="constant"), PLAIN, "loss"),
        (PruningCallback(0.3, schedule="constant"), PLAIN | {"trainer": {"teacher": None}}, "loss"),
        (PruningCallback(0.3, schedule="constant"), {"load_best_model_at_end": False}, None),
    ],
)
def test_where_the_start_is_no_candidate_it_is_not_evaluated(tmp_path, callback, options, metric):
    trainer = run(tmp_path, callback, **options)
    assert [*evaluations(trainer, "eval_loss")] == [6, 12]
    assert trainer.args.metric_for_best_model == metric
    assert not (tmp_path / "checkpoint-0").exists()


def test_the_choice_of_the_metric_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run(tmp_path, max_steps=1)
    assert (
        "The best model is the one with the lowest mismatch_rate against the teacher. For the loss, set" in caplog.text
    )
