"""The aligned trainer: its loss, its metrics, and everything a Trainer user does."""

import copy
import inspect
import logging
import math

import numpy as np
import optuna
import pytest
import tiny
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    EarlyStoppingCallback,
    OPTConfig,
    OPTForSequenceClassification,
    ReformerConfig,
    ReformerForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    default_data_collator,
)

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, cache_teacher_logits
from hf_compalign.align import check_setup, hidden_loss, margin_loss
from hf_compalign.measure.statistics import kl_divergence

pytestmark = pytest.mark.numeric

PLAIN = AlignmentArguments(preset="labels")
LOGITS = AlignmentArguments(preset="logits")
PAPER = AlignmentArguments(preset="paper")
HIDDEN = AlignmentArguments(preset="logits", hidden_weight=1.0)
KL = AlignmentArguments(preset="paper", kl_weight=0.5, temperature=3.0)


def build(folder, *, student=None, teacher="the usual", alignment=None, dataset=None, settings=None, **trainer):
    return AlignedDistillationTrainer(
        student or tiny.bert(seed=2),
        tiny.arguments(folder, **(settings or {})),
        teacher=tiny.bert(seed=1) if teacher == "the usual" else teacher,
        alignment=alignment,
        train_dataset=tiny.texts() if dataset is None else dataset,
        **trainer,
    )


def trained(folder, **options):
    trainer = build(folder, **options)
    trainer.train()
    return trainer


def logits(model, dataset):
    with torch.no_grad():
        return model.eval()(**tiny.batch(dataset, "input_ids", "attention_mask")).logits


def loss_of(trainer, dataset):
    return trainer.compute_loss(trainer.model.train(), tiny.batch(dataset))


# ---- the loss ----


def test_the_loss_is_the_sum_of_its_terms(tmp_path):
    dataset = tiny.texts(8)
    trainer = build(tmp_path, dataset=dataset, alignment=KL)
    z_s, z_t = logits(trainer.model, dataset), logits(tiny.bert(seed=1), dataset)
    y = torch.tensor(dataset["labels"][:])
    p, q = (z_t / 3).log_softmax(-1), (z_s / 3).log_softmax(-1)
    expected = (
        F.cross_entropy(z_s, y)
        + F.cross_entropy(z_s, z_t.argmax(-1))
        + F.mse_loss(z_s, z_t)
        + 0.5 * 9 * F.kl_div(q, p, log_target=True, reduction="batchmean")
    )
    assert tiny.distance(loss_of(trainer, dataset), expected) < tiny.ROUNDING


@pytest.mark.parametrize(("model", "dataset"), [(tiny.bert(), tiny.texts(8)), (tiny.vit(), tiny.images(8))])
def test_the_task_term_is_the_models_own_loss(tmp_path, model, dataset):
    trainer = build(tmp_path, student=model, teacher=copy.deepcopy(model), alignment=PLAIN, dataset=dataset)
    batch = tiny.batch(dataset)
    own = model.train()(**batch).loss
    assert tiny.distance(trainer.compute_loss(model, batch), own) < tiny.ROUNDING


def test_without_teacher_terms_training_is_bit_identical_to_the_stock_trainer(tmp_path):
    stock, ours = tiny.bert(seed=2, dropout=0.1), tiny.bert(seed=2, dropout=0.1)
    dataset = tiny.texts(22)
    Trainer(stock, tiny.arguments(tmp_path), train_dataset=dataset).train()
    build(tmp_path, student=ours, alignment=PLAIN, dataset=dataset).train()
    assert torch.equal(tiny.flat(stock), tiny.flat(ours))


@pytest.mark.parametrize("weighting", ["fixed", "softadapt", "uncertainty"])
def test_one_batch_of_8_equals_4_accumulated_batches_of_2(tmp_path, weighting):
    # Some items have no label, so the terms have different counts in every micro-batch.
    dataset = tiny.texts(32, unknown=3)
    results = []
    for size, accumulation in ((8, 1), (2, 4)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        settings = {"optim": "sgd", "num_train_epochs": 3, "logging_steps": 1}
        alignment = AlignmentArguments(preset="paper", weighting=weighting)
        trainer = trained(tmp_path, alignment=alignment, dataset=dataset, settings=sizes | settings)
        history = trainer.state.log_history[:-1]
        logged = [{k: v for k, v in log.items() if k.endswith(("_loss", "_weight"))} for log in history]
        results.append((tiny.flat(trainer.model), logged))
    (one, first), (four, second) = results
    assert torch.allclose(one, four, atol=1e-6)
    assert len(first) == 12
    for left, right in zip(first, second, strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_unlabeled_items_train_the_teachers_terms_alone(tmp_path):
    labeled = tiny.texts(4)
    mixed = concatenate_datasets([labeled, tiny.texts(4, seed=7, unknown=1)])
    trainer = build(tmp_path, dataset=mixed, alignment=PAPER)
    z_s, z_t = logits(trainer.model, mixed), logits(tiny.bert(seed=1), mixed)
    expected = (
        F.cross_entropy(z_s[:4], torch.tensor(labeled["labels"][:]))
        + F.cross_entropy(z_s, z_t.argmax(-1))
        + F.mse_loss(z_s, z_t)
    )
    assert tiny.distance(loss_of(trainer, mixed), expected) < tiny.ROUNDING


def test_a_run_says_in_its_log_which_preset_it_is(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "hf_compalign"):
        trained(tmp_path, alignment=PAPER)
    assert "Alignment: preset paper: task 1, agreement 1, logits 1." in caplog.messages


def test_a_dataset_without_labels_trains(tmp_path):
    student = tiny.bert(seed=2)
    before = tiny.flat(student)
    settings = {"logging_steps": 1}
    rows = tiny.texts(8, labels=False)
    trainer = trained(tmp_path, student=student, dataset=rows, alignment=PAPER, settings=settings)
    assert not torch.equal(before, tiny.flat(student))
    assert trainer.state.log_history[0]["task_loss"] == 0
    assert trainer.state.log_history[0]["logits_loss"] > 0


@pytest.mark.parametrize("alignment", [None, HIDDEN])
def test_hidden_states_take_part_in_training_and_not_in_evaluation(tmp_path, alignment):
    dataset = tiny.texts(8)
    trainer = build(tmp_path, dataset=dataset, eval_dataset=dataset, alignment=alignment)
    batch = tiny.batch(dataset, "input_ids", "attention_mask")
    with torch.no_grad():
        student, teacher = (
            model.eval()(**batch, output_hidden_states=True) for model in (trainer.model, tiny.bert(seed=1))
        )
    distance = hidden_loss(student.hidden_states, teacher.hidden_states, batch["attention_mask"]).mean()
    logits_distance = F.mse_loss(student.logits, teacher.logits)
    assert distance > 0.01
    assert tiny.distance(loss_of(trainer, dataset), logits_distance + distance) < tiny.ROUNDING
    assert trainer.evaluate()["eval_loss"] == pytest.approx(logits_distance.item(), rel=1e-4)


def test_the_default_leaves_hidden_states_out_where_they_cannot_be_compared(tmp_path, caplog):
    cached = cache_teacher_logits(tiny.texts(8), tiny.bert(seed=1))
    convolutions = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "num_channels": 1, "num_labels": 3}
    resnets = [ResNetForImageClassification(ResNetConfig(**convolutions)) for _ in range(2)]
    cases = {
        "need a live teacher": {"teacher": None, "dataset": cached},
        "num_hidden_layers=2 of the student and 1 of the teacher": {"teacher": tiny.bert(num_hidden_layers=1)},
        "A resnet may not return": {"student": resnets[0], "teacher": resnets[1], "dataset": tiny.images(8)},
    }
    for reason, options in cases.items():
        caplog.clear()
        with caplog.at_level(logging.INFO):
            trainer = trained(tmp_path, settings={"max_steps": 1}, **options)
        assert "Only logits are aligned. " in caplog.text
        assert reason in caplog.text
        assert trainer.alignment == LOGITS
        assert "preset logits: logits 1" in caplog.text
    asked = {**cases["A resnet may not return"], "alignment": AlignmentArguments(hidden_weight=0.5)}
    assert trained(tmp_path, settings={"max_steps": 1}, **asked).alignment.weights() == {"logits": 1.0, "hidden": 0.5}


def test_the_gate_reaches_the_loss(tmp_path):
    dataset, teacher = tiny.texts(16), tiny.bert(seed=1)
    alignment = AlignmentArguments(preset="logits", only_where_teacher_is_right=True)
    trainer = build(tmp_path, dataset=dataset, alignment=alignment)
    z_s, z_t = logits(trainer.model, dataset), logits(teacher, dataset)
    right = z_t.argmax(-1) == torch.tensor(dataset["labels"][:])
    assert 0 < right.sum() < 16
    expected = ((z_s - z_t) ** 2).mean(-1)[right].sum() / 16
    assert tiny.distance(loss_of(trainer, dataset), expected) < tiny.ROUNDING


def test_focal_weights_and_the_margin_reach_the_loss(tmp_path):
    dataset, teacher = tiny.texts(16), tiny.bert(seed=1)
    alignment = AlignmentArguments(
        preset="logits", logits_weight=0.0, margin_weight=2.0, focal_alpha=0.5, focal_beta=1.0
    )
    trainer = build(tmp_path, dataset=dataset, alignment=alignment)
    z_s, z_t = logits(trainer.model, dataset), logits(teacher, dataset)
    right = z_t.argmax(-1) == torch.tensor(dataset["labels"][:])
    expected = (2 * margin_loss(z_s, z_t, None) * (0.5 + right.float())).mean()
    assert tiny.distance(loss_of(trainer, dataset), expected) < tiny.ROUNDING


def test_noise_on_the_embeddings_is_added_with_dropout_on_and_off(tmp_path):
    for alignment in (None, AlignmentArguments(student_dropout=True)):
        noisy, still = (
            tiny.flat(trained(tmp_path, alignment=alignment, settings={"max_steps": 2, **more}).model)
            for more in ({"neftune_noise_alpha": 50.0}, {})
        )
        assert not torch.equal(noisy, still)


def test_student_dropout_is_off_unless_asked_for(tmp_path):
    dataset = tiny.texts(8)
    for on in (False, True):
        student = tiny.bert(seed=2, dropout=0.5)
        trainer = build(tmp_path, student=student, dataset=dataset, alignment=AlignmentArguments(student_dropout=on))
        losses = {trainer.compute_loss(student.train(), tiny.batch(dataset)).item() for _ in range(3)}
        assert (len(losses) > 1) == on
        assert student.config.hidden_dropout_prob == 0.5


def test_a_reversible_model_trains_without_dropout(tmp_path):
    """Reformer's layers refuse to run backward in evaluation mode."""
    sizes = {"hidden_size": 16, "attention_head_size": 8, "num_attention_heads": 2, "feed_forward_size": 16}
    lengths = {"axial_pos_shape": [8, 4], "axial_pos_embds_dim": [8, 8], "local_attn_chunk_length": 8}
    config = ReformerConfig(
        attn_layers=["local"], vocab_size=40, num_labels=3, max_position_embeddings=32, **sizes, **lengths
    )
    student, teacher = ReformerForSequenceClassification(config), ReformerForSequenceClassification(config)
    dataset = tiny.texts(8, length=8)
    trainer = build(tmp_path, student=student, teacher=teacher, dataset=dataset)
    losses = [trainer.compute_loss(student.train(), tiny.batch(dataset)) for _ in range(2)]
    losses[0].backward()
    assert losses[0].item() == losses[1].item()
    assert all(parameter.grad is not None for parameter in student.classifier.parameters())


def test_label_smoothing_and_an_own_loss_function_are_the_task_term(tmp_path):
    dataset = tiny.texts(8)
    z, y = logits(tiny.bert(seed=2), dataset), torch.tensor(dataset["labels"][:])
    smoothed = build(tmp_path, dataset=dataset, alignment=PLAIN, settings={"label_smoothing_factor": 0.2})
    loss = loss_of(smoothed, dataset)
    assert tiny.distance(loss, F.cross_entropy(z, y, label_smoothing=0.2)) < tiny.ROUNDING

    def doubled(outputs, labels, num_items_in_batch=None):
        count = len(labels) if num_items_in_batch is None else num_items_in_batch
        return 2 * F.cross_entropy(outputs.logits, labels, reduction="sum") / count

    models = []
    for size, accumulation in ((8, 1), (2, 4)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "optim": "sgd"}
        trainer = build(tmp_path, dataset=dataset, alignment=PAPER, settings=settings, compute_loss_func=doubled)
        loss = trainer.compute_loss(trainer.model.train(), tiny.batch(dataset), num_items_in_batch=torch.tensor(8))
        z_t = logits(tiny.bert(seed=1), dataset)
        expected = 2 * F.cross_entropy(z, y) + F.cross_entropy(z, z_t.argmax(-1)) + F.mse_loss(z, z_t)
        assert tiny.distance(loss, expected) < tiny.ROUNDING
        trainer.train()
        models.append(tiny.flat(trainer.model))
    assert torch.allclose(*models, atol=1e-6)


def test_a_cached_teacher_trains_like_a_live_one(tmp_path):
    teacher, dataset = tiny.bert(seed=1), tiny.texts(16)
    # Batches of one give both ways the same shapes, and so the same bits.
    settings = {"per_device_train_batch_size": 1}
    live = trained(tmp_path, teacher=teacher, dataset=dataset, settings=settings, alignment=LOGITS)
    cached = cache_teacher_logits(dataset, teacher, batch_size=1)
    for unused in (False, True):
        other = trained(tmp_path, teacher=None, dataset=cached, settings=settings | {"remove_unused_columns": unused})
        assert torch.equal(tiny.flat(live.model), tiny.flat(other.model))


@pytest.mark.parametrize("cached", [False, True])
def test_the_teacher_gets_inputs_that_the_student_does_not_take(tmp_path, cached):
    shape = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 32}
    student = DistilBertForSequenceClassification(DistilBertConfig(vocab_size=40, num_labels=3, **shape))
    teacher = tiny.bert(seed=1)
    # The second half of each row is the second of a pair.
    pairs = tiny.texts(16).add_column("token_type_ids", [[0, 0, 0, 1, 1, 1]] * 16)
    inputs = tiny.batch(pairs.remove_columns("labels"))
    with torch.no_grad():
        right = teacher.eval()(**inputs).logits
        wrong = teacher(**{**inputs, "token_type_ids": torch.zeros(16, 6, dtype=torch.long)}).logits
        own = student.eval()(inputs["input_ids"], inputs["attention_mask"]).logits
    assert tiny.distance(wrong, right) > 100 * tiny.ROUNDING
    dataset = cache_teacher_logits(pairs, teacher) if cached else pairs
    settings = {"learning_rate": 0.0, "logging_steps": 4, "num_train_epochs": 1}
    own_teacher = None if cached else teacher
    data = {"dataset": dataset, "eval_dataset": dataset}
    trainer = trained(tmp_path, student=student, teacher=own_teacher, settings=settings, **data)
    assert trainer.state.log_history[0]["logits_loss"] == pytest.approx(F.mse_loss(own, right).item(), rel=1e-4)
    expected = (own.argmax(-1) != right.argmax(-1)).sum().item()
    assert trainer.evaluate()["eval_cie"] == expected
    if not cached:
        assert trainer.predict(pairs.remove_columns("labels")).metrics["test_cie"] == expected


# ---- logging ----


def test_every_term_is_logged_as_a_mean_over_the_interval(tmp_path):
    dataset = tiny.texts(16)
    settings = {"learning_rate": 0.0, "num_train_epochs": 1, "logging_steps": 4}
    alignment = AlignmentArguments(preset="paper", task_weight=0.5, logits_weight=2.0)
    trainer = trained(tmp_path, dataset=dataset, settings=settings, alignment=alignment)
    z_s, z_t = logits(trainer.model, dataset), logits(tiny.bert(seed=1), dataset)
    log = trainer.state.log_history[0]
    assert log["task_loss"] == pytest.approx(F.cross_entropy(z_s, torch.tensor(dataset["labels"][:])).item(), rel=1e-5)
    assert log["agreement_loss"] == pytest.approx(F.cross_entropy(z_s, z_t.argmax(-1)).item(), rel=1e-5)
    assert log["logits_loss"] == pytest.approx(F.mse_loss(z_s, z_t).item(), rel=1e-5)
    assert (log["task_weight"], log["agreement_weight"], log["logits_weight"]) == (0.5, 1.0, 2.0)
    parts = 0.5 * log["task_loss"] + log["agreement_loss"] + 2 * log["logits_loss"]
    assert log["loss"] == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize(("value", "logging"), [(math.nan, "steps"), (math.nan, "no"), (1e30, "steps")])
def test_logits_that_are_nan_or_far_too_large_stop_training_and_name_step_and_term(tmp_path, value, logging):
    dataset = cache_teacher_logits(tiny.texts(16), tiny.bert(seed=1))
    settings = {"logging_strategy": logging, "logging_steps": 3}
    trainer = build(tmp_path, teacher=None, dataset=dataset, settings=settings)
    own = trainer.data_collator
    batches = iter(range(100))

    def broken(rows):
        batch = own(rows)
        if next(batches) == 1:
            batch["teacher_logits"][0, 0] = value
        return batch

    trainer.data_collator = broken
    with pytest.raises(FloatingPointError, match=r"became nan or infinite: .*logits \(step 2\)"):
        trainer.train()


def test_arguments_by_position_mean_what_they_mean_to_a_trainer(tmp_path):
    rows, few, teacher = tiny.texts(8), tiny.texts(4, seed=1), tiny.bert(seed=1)
    given = (tiny.bert(seed=2), tiny.arguments(tmp_path), default_data_collator, rows, few)
    ours, stock = AlignedDistillationTrainer(*given, teacher=teacher), Trainer(*given)
    for name in ("model", "args", "data_collator", "train_dataset", "eval_dataset"):
        assert getattr(ours, name) is getattr(stock, name)
    assert ours.teacher is teacher
    for name in ("teacher", "alignment"):
        assert inspect.signature(AlignedDistillationTrainer).parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


def test_the_count_of_a_step_is_the_trainers_own_or_that_of_its_items(tmp_path):
    labeled = tiny.texts(8, unknown=3)
    for dataset, count in ((labeled, 5), (labeled.remove_columns("labels"), 8)):
        trainer = build(tmp_path, dataset=dataset)
        batches, found = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 4, trainer.args.device)
        assert (len(batches), found) == (2, count)


# ---- evaluation ----


def seen_by_the_user(folder, trainer_class, **settings):
    seen = {}

    def compute_metrics(prediction):
        seen["predictions"], seen["labels"] = prediction.predictions, prediction.label_ids
        return {"accuracy": float((prediction.predictions == prediction.label_ids).mean())}

    def argmax(logits, labels):
        seen["shape"] = tuple(logits.shape)
        return logits.argmax(-1)

    trainer = trainer_class(
        tiny.bert(seed=2),
        tiny.arguments(folder, **settings),
        eval_dataset=tiny.texts(10),
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=argmax,
    )
    return trainer, seen


def test_evaluate_adds_metrics_and_changes_nothing_else(tmp_path):
    def aligned(*args, **kwargs):
        return AlignedDistillationTrainer(*args, teacher=tiny.bert(seed=1), **kwargs)

    stock, expected = seen_by_the_user(tmp_path, Trainer)
    ours, seen = seen_by_the_user(tmp_path, aligned)
    stock_metrics, metrics = stock.evaluate(), ours.evaluate()
    assert seen["shape"] == expected["shape"]
    for name in ("predictions", "labels"):
        np.testing.assert_array_equal(seen[name], expected[name])
    assert metrics["eval_accuracy"] == stock_metrics["eval_accuracy"]

    dataset = tiny.texts(10)
    z_s, z_t = (logits(tiny.bert(seed=seed), dataset).numpy() for seed in (2, 1))
    c, r, y = z_s.argmax(-1), z_t.argmax(-1), np.array(dataset["labels"][:])
    assert metrics["eval_cie"] == (c != r).sum()
    assert metrics["eval_cie_u"] == ((c != y) & (r == y)).sum()
    assert metrics["eval_mismatch_rate"] == pytest.approx((c != r).mean())
    assert metrics["eval_agreement"] == pytest.approx((c == r).mean())
    assert metrics["eval_kl"] == pytest.approx(kl_divergence(z_t, z_s).mean(), rel=1e-4)
    assert 0 < metrics["eval_cie"] < 10


def test_predict_works_with_labels_without_and_with_loss_only(tmp_path):
    dataset = tiny.texts(10)
    trainer = build(tmp_path)
    with_labels, without = trainer.predict(dataset), trainer.predict(dataset.remove_columns("labels"))
    np.testing.assert_array_equal(with_labels.predictions, without.predictions)
    assert without.label_ids is None
    assert "test_cie_u" not in without.metrics
    assert without.metrics["test_cie"] == with_labels.metrics["test_cie"]
    loss_only = build(tmp_path, settings={"prediction_loss_only": True}, eval_dataset=dataset).evaluate()
    assert loss_only["eval_cie"] == with_labels.metrics["test_cie"]


def test_a_teacher_that_only_measures(tmp_path):
    trainer = build(tmp_path, alignment=PLAIN, eval_dataset=tiny.texts(10))
    assert "eval_mismatch_rate" in trainer.evaluate()


def test_several_eval_datasets_and_the_users_own_metric_of_that_name(tmp_path):
    eval_datasets = {"one": tiny.texts(6), "two": tiny.texts(9, seed=4)}
    trainer = build(tmp_path, eval_dataset=eval_datasets, compute_metrics=lambda prediction: {"agreement": 7.0})
    metrics = trainer.evaluate()
    assert metrics["eval_one_cie"] <= 6
    assert metrics["eval_two_mismatch_rate"] == metrics["eval_two_cie"] / 9
    assert metrics["eval_one_agreement"] == 7.0


def test_the_best_model_is_the_one_with_the_fewest_mismatches(tmp_path):
    settings = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "mismatch_rate",
        "num_train_epochs": 4,
        "learning_rate": 5e-3,
    }
    trainer = build(tmp_path, eval_dataset=tiny.texts(30, seed=8), settings=settings)
    trainer.add_callback(EarlyStoppingCallback(3))
    trainer.train()
    rates = [log["eval_mismatch_rate"] for log in trainer.state.log_history if "eval_mismatch_rate" in log]
    assert len(set(rates)) > 1
    assert trainer.state.best_metric == min(rates)
    assert trainer.evaluate()["eval_mismatch_rate"] == min(rates)


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("cie", False), ("eval_kl", False), ("eval_one_mismatch_rate", False), ("agreement", True), ("accuracy", True)],
)
def test_fewer_mismatches_are_better(tmp_path, metric, greater):
    settings = {"eval_strategy": "epoch", "metric_for_best_model": metric, "greater_is_better": True}
    trainer = build(tmp_path, eval_dataset=tiny.texts(4), settings=settings)
    assert trainer.args.greater_is_better == greater


# ---- what Trainer users do ----


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"auto_find_batch_size": True},
        {"remove_unused_columns": False},
        {"max_grad_norm": 0.0},
        {"train_sampling_strategy": "group_by_length"},
    ],
)
def test_the_trainers_own_options_work(tmp_path, settings):
    student = tiny.bert(seed=2)
    before = tiny.flat(student).clone()
    trainer = trained(tmp_path, student=student, settings=settings, eval_dataset=tiny.texts(5))
    assert torch.isfinite(tiny.flat(student)).all()
    assert not torch.equal(before, tiny.flat(student))
    assert "eval_cie" in trainer.evaluate()


def test_a_compiled_student_trains(tmp_path):
    student = tiny.bert(seed=2, dropout=0.3)
    before = tiny.flat(student).clone()
    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager", "max_steps": 3}
    trainer = trained(tmp_path, student=student, settings=settings, eval_dataset=tiny.texts(4))
    assert not torch.equal(before, tiny.flat(student))
    assert "eval_cie" in trainer.evaluate()


def test_the_teacher_computes_in_the_students_autocast(tmp_path):
    teacher = tiny.bert(seed=1)
    settings = {"bf16": True, "learning_rate": 0.0, "logging_steps": 1, "max_steps": 1}
    trainer = trained(tmp_path, student=tiny.bert(seed=1), teacher=teacher, settings=settings)
    # Equal weights give equal logits only if both are computed in bfloat16.
    assert trainer.state.log_history[0]["logits_loss"] == 0
    batch = tiny.batch(tiny.texts(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = trainer.teacher(**batch).logits
    assert tiny.distance(low, trainer.teacher(**batch).logits) > tiny.ROUNDING


def test_gradient_checkpointing_stays_on_with_dropout_off(tmp_path):
    """OPT's layers drop out by a function, and not by modules."""
    sizes = {"hidden_size": 16, "ffn_dim": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 2, "dropout": 0.5}
    torch.manual_seed(2)
    student = OPTForSequenceClassification(
        OPTConfig(vocab_size=40, num_labels=3, num_attention_heads=2, pad_token_id=0, init_std=0.2, **sizes)
    )
    runs = []
    student.model.decoder.layers[0].fc1.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    settings = {"gradient_checkpointing": True, "learning_rate": 0.0, "max_steps": 3, "logging_steps": 1}
    trainer = trained(tmp_path, student=student, teacher=copy.deepcopy(student), settings=settings)
    assert [log["logits_loss"] for log in trainer.state.log_history if "loss" in log] == [0, 0, 0]
    assert runs.count(True) == 6  # and the teacher's without gradients
    assert student.config.dropout == 0.5


def unnamed(rows):
    """A collator that calls a column of its own `labels`."""
    return default_data_collator([{OWN.get(name, name): value for name, value in row.items()} for row in rows])


OWN = {"fine": "labels"}


@pytest.mark.parametrize(
    ("column", "names", "collator"),
    [("sentiment", True, None), ("label", True, None), ("fine", True, unnamed), ("fine", False, unnamed)],
)
def test_labels_under_another_name(tmp_path, column, names, collator):
    """The default collators, too, call a column `label` by the name that models have for it."""
    found = []
    named = {"label_names": [column]} if names else {}
    settings = {"max_steps": 3, "remove_unused_columns": collator is None}
    for dataset, more, collate in (
        (tiny.texts(), {}, None),
        (tiny.texts().rename_column("labels", column), named, collator),
    ):
        options = {"dataset": dataset, "eval_dataset": dataset, "data_collator": collate, "alignment": PLAIN}
        trainer = trained(tmp_path, settings=settings | more, **options)
        metrics = trainer.evaluate()
        found.append((tiny.flat(trainer.model), metrics["eval_loss"], metrics["eval_cie_u"]))
    (ours, *measured), (theirs, *expected) = found[::-1]
    assert torch.equal(ours, theirs)
    assert measured == expected


def test_a_training_batch_that_lost_its_labels_is_refused(tmp_path):
    def without(rows):
        return default_data_collator([{name: row[name] for name in row if name != "labels"} for row in rows])

    def misnamed(rows):
        batch = default_data_collator(rows)
        return {("target" if name == "labels" else name): value for name, value in batch.items()}

    rows, unlabeled = tiny.texts(), tiny.texts(labels=False)
    message = "a batch of the training has none under 'labels'. Got input_ids, attention_mask.*Let the data_collator"
    cases = [
        (message, {"dataset": rows, "data_collator": without, "alignment": PLAIN}),
        (message, {"dataset": rows, "data_collator": misnamed, "alignment": PAPER}),
        (message, {"dataset": list(unlabeled), "alignment": PLAIN}),
        (message, {"dataset": unlabeled, "data_collator": without, "alignment": PLAIN}),
        (message, {"dataset": unlabeled.with_transform(dict), "alignment": PLAIN}),
        (
            "none under 'target' or 'labels'",
            {"dataset": list(unlabeled), "alignment": PLAIN, "settings": {"label_names": ["target"]}},
        ),
    ]
    for expected, options in cases:
        trainer = build(tmp_path, **options)
        with pytest.raises(ValueError, match=expected):
            trainer.train()
    assert "eval_cie" in trainer.evaluate(unlabeled)


def test_a_transform_may_make_the_labels(tmp_path):
    def numbered(batch):
        batch["labels"] = [int(name) for name in batch.pop("label")]
        return batch

    names = [str(label) for label in tiny.texts()["labels"]]
    dataset = tiny.texts(labels=False).add_column("label", names).with_transform(numbered)
    trainer = trained(tmp_path, dataset=dataset, settings={"remove_unused_columns": False, "max_steps": 2})
    assert trainer.state.global_step == 2


def test_an_iterable_dataset(tmp_path):
    stream = tiny.texts().to_iterable_dataset()
    settings = {"max_steps": 4}
    trainer = trained(tmp_path, dataset=stream, settings=settings, eval_dataset=tiny.texts(5))
    assert trainer.state.global_step == 4


def test_hyperparameter_search_starts_every_trial_afresh(tmp_path):
    learned = AlignmentArguments(preset="paper", weighting="uncertainty")
    trainer = AlignedDistillationTrainer(
        None,
        tiny.arguments(tmp_path, num_train_epochs=1),
        teacher=tiny.bert(seed=1),
        alignment=learned,
        model_init=lambda: tiny.bert(seed=2),
        train_dataset=tiny.texts(8),
        eval_dataset=tiny.texts(8, seed=3),
    )
    weightings = []
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-3])},
        compute_objective=lambda metrics: (
            weightings.append(trainer.weighting.weights().tolist()) or metrics["eval_loss"]
        ),
        n_trials=2,
        direction="minimize",
    )
    assert best.hyperparameters == {"learning_rate": 1e-3}
    assert len(weightings) == 2
    # Two trials with the same settings: the learned weights of the first are not carried into the second.
    assert weightings[0] == weightings[1]


def test_a_search_without_an_objective_is_for_the_fewest_mismatches(tmp_path):
    teacher = tiny.bert(seed=1)

    def student(trial):
        made = copy.deepcopy(teacher)
        if trial is not None and trial.suggest_categorical("seed", [1, 2]) == 2:  # answers the opposite
            made.classifier.weight.data.neg_()
            made.classifier.bias.data.neg_()
        return made

    def search(evaluated, **options):
        trainer = AlignedDistillationTrainer(
            None,
            tiny.arguments(tmp_path, max_steps=1, learning_rate=1e-9, eval_steps=1),
            teacher=options.pop("teacher", teacher),
            alignment=options.pop("alignment", None),
            model_init=student,
            train_dataset=tiny.texts(8),
            eval_dataset=evaluated,
            compute_metrics=lambda _: {"score": 1.0},
        )
        return trainer.hyperparameter_search(
            hp_space=lambda trial: {"seed": trial.suggest_categorical("seed", [1, 2])},
            sampler=optuna.samplers.GridSampler({"seed": [1, 2]}),
            n_trials=2,
            **options,
        )

    rows = tiny.texts(8, seed=3)
    for evaluated in (rows, {"one": rows, "two": tiny.texts(4, seed=5)}):
        best = search(evaluated)
        assert (best.hyperparameters, best.objective) == ({"seed": 1}, 0.0)
    # The objective and its direction are one thing: neither is taken without the other.
    for direction in ("maximize", ["minimize", "maximize"]):
        with pytest.raises(ValueError, match="is to be minimized. Got direction=.* give compute_objective="):
            search(rows, direction=direction)
    assert search(rows, direction="maximize", compute_objective=lambda metrics: metrics["eval_cie"]).objective > 0
    # Without a teacher it is the Trainer's own: the sum of the user's metrics.
    assert search(rows, direction="maximize", teacher=None, alignment=PLAIN).objective == 1.0


@pytest.mark.parametrize(("seed", "said"), [(1, False), (2, True)])
def test_a_teacher_that_is_far_behind_is_said_once(tmp_path, caplog, seed, said):
    student = tiny.bert(seed=2)
    rows = tiny.texts(40, labels=False)
    rows = rows.add_column("labels", logits(tiny.bert(seed=seed), rows).argmax(-1).tolist())
    for alignment, counts in ((None, True), (PLAIN, False)):
        caplog.clear()
        trainer = build(tmp_path, student=student, alignment=alignment, eval_dataset=rows)
        trainer.evaluate()
        trainer.evaluate()
        warnings = [record for record in caplog.records if "far ahead of its teacher" in record.message]
        assert len(warnings) == (said and counts)


def test_learned_weights_are_trained_and_the_teacher_is_not(tmp_path):
    teacher = tiny.bert(seed=1)
    before = tiny.flat(teacher).clone()
    trainer = trained(tmp_path, teacher=teacher, alignment=AlignmentArguments(preset="paper", weighting="uncertainty"))
    assert not torch.equal(trainer.weighting.log_variance.detach(), torch.zeros(3))
    assert torch.equal(before, tiny.flat(teacher))
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(parameter) for parameter in teacher.parameters()}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_learned_weights_follow_their_gradient(tmp_path, accumulation):
    settings = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 0.1, "logging_strategy": "steps"}
    settings |= {"logging_steps": 1, "max_steps": 3, "gradient_accumulation_steps": accumulation}
    trainer = trained(
        tmp_path, alignment=AlignmentArguments(preset="paper", weighting="uncertainty"), settings=settings
    )
    s = np.zeros(3)
    for log in trainer.state.log_history[:3]:
        losses = np.array([log[f"{name}_loss"] for name in ("task", "agreement", "logits")])
        s -= 0.1 * (1 - np.exp(-s) * losses) / 2
    np.testing.assert_allclose(trainer.weighting.log_variance.detach(), s, rtol=1e-4)


def test_the_checkpoint_is_the_student_alone(tmp_path):
    trainer = trained(tmp_path, settings={"save_strategy": "epoch"})
    checkpoint = tmp_path / "checkpoint-12"
    loaded = type(trainer.model).from_pretrained(checkpoint)
    assert torch.equal(tiny.flat(loaded), tiny.flat(trainer.model))
    assert "alignment.json" in {path.name for path in checkpoint.iterdir()}


# ---- what is refused ----


class Empty(torch.utils.data.Dataset):
    def __len__(self):
        return 0


def test_bad_input_is_refused_before_training(tmp_path):
    named = {"id2label": {0: "x", 1: "y", 2: "z"}, "label2id": {"x": 0, "y": 1, "z": 2}}
    other = {"id2label": {0: "x", 1: "y", 2: "q"}, "label2id": {"x": 0, "y": 1, "q": 2}}
    student = tiny.bert()
    column = [0.5] * 24
    cases = [
        ("same labels. Got 3 labels .* against 2", {"teacher": tiny.bert(n_labels=2)}),
        ("same labels. Got x, y, z against x, y, q", {"student": tiny.bert(**named), "teacher": tiny.bert(**other)}),
        ("must not be the student", {"student": student, "teacher": student}),
        ("must share a tokenizer. Got vocabularies of 41 and 40", {"teacher": tiny.bert(vocab_size=41)}),
        ("same task. Got image-classification and text", {"teacher": tiny.vit()}),
        ("No model could be loaded from 'no/where'", {"teacher": "no/where"}),
        ("need a live teacher. Pass teacher=", {"teacher": None, "alignment": HIDDEN}),
        ("num_hidden_layers=2 of the student and 1", {"teacher": tiny.bert(num_hidden_layers=1), "alignment": HIDDEN}),
        ("The train dataset is empty", {"dataset": Empty()}),
        ("Got DatasetDict. It has the splits 'a': give one", {"dataset": DatasetDict(a=tiny.texts())}),
        ("The eval dataset is empty", {"eval_dataset": tiny.texts().select([])}),
        (r"must lie in \[0, 3\), or be -100.* Got 4 in column 'labels'", {"dataset": tiny.texts(n_labels=5)}),
        (
            "train dataset does not fit the model.*must be class ids or names. Got float",
            {"dataset": tiny.texts().remove_columns("labels").add_column("labels", column)},
        ),
        ("has no labels .* only one in use", {"dataset": tiny.texts().remove_columns("labels"), "alignment": PLAIN}),
        ("label_names must hold one name. Got", {"settings": {"label_names": ["a", "b"]}}),
        (
            "cannot with optimizers=",
            {
                "student": student,
                "alignment": AlignmentArguments(preset="paper", weighting="uncertainty"),
                "optimizers": (torch.optim.SGD(student.parameters(), lr=0.1), None),
            },
        ),
    ]
    cases += [
        (
            "label_smoothing_factor would be ignored.*no part in preset default",
            {"settings": {"label_smoothing_factor": 0.1}},
        ),
        ("compute_loss_func would be ignored.*no part in preset default", {"compute_loss_func": F.cross_entropy}),
    ]
    for message, settings in cases:
        with pytest.raises(ValueError, match=message):
            build(tmp_path, **settings)


@pytest.mark.parametrize("strategy", ["is_deepspeed_enabled", "is_fsdp_enabled"])
def test_learned_weights_are_refused_where_they_would_not_be_trained(tmp_path, monkeypatch, strategy):
    trainer = build(tmp_path, alignment=AlignmentArguments(preset="paper", weighting="uncertainty"))
    monkeypatch.setattr(trainer, strategy, True)
    with pytest.raises(ValueError, match="keeps its weights outside the model, which DeepSpeed and FSDP do not"):
        check_setup(trainer)


def test_a_mean_for_each_process_is_refused(tmp_path, monkeypatch):
    trainer = build(tmp_path, settings={"average_tokens_across_devices": False})
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    with pytest.raises(ValueError, match="average_tokens_across_devices=False would be ignored"):
        check_setup(trainer)


def test_teacher_terms_without_a_teacher_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is none for the train dataset. Pass teacher=, or fill the column"):
        build(tmp_path, teacher=None)
    cached = cache_teacher_logits(tiny.texts(), tiny.bert(seed=1))
    with pytest.raises(ValueError, match="there is none for the eval dataset"):
        build(tmp_path, teacher=None, dataset=cached, eval_dataset=tiny.texts())
    other = cache_teacher_logits(tiny.texts(), tiny.bert(seed=5))
    with pytest.raises(ValueError, match="carry the logits of different teachers"):
        build(tmp_path, teacher=None, dataset=cached, eval_dataset=other)
    with pytest.raises(ValueError, match="of another teacher"):
        build(tmp_path, dataset=cached, teacher=tiny.bert(seed=6))


def test_a_collator_that_drops_the_cached_logits_is_named(tmp_path):
    cached = cache_teacher_logits(tiny.texts(), tiny.bert(seed=1))

    def forgetful(rows):
        names = ("input_ids", "attention_mask", "labels")
        return {name: torch.tensor([row[name] for row in rows]) for name in names}

    trainer = build(tmp_path, teacher=None, dataset=cached, data_collator=forgetful)
    with pytest.raises(ValueError, match="has no 'teacher_logits'.*data_collator or a transform drops it"):
        trainer.train()


def test_label_names_given_on_one_side_only_are_said_to_be_trusted(tmp_path, caplog):
    named = {"id2label": {0: "x", 1: "y", 2: "z"}, "label2id": {"x": 0, "y": 1, "z": 2}}
    build(tmp_path, teacher=tiny.bert(seed=1, **named))
    assert "matched by position: teacher ['x', 'y', 'z']" in caplog.text


def test_a_teacher_loads_from_a_folder(tmp_path):
    tiny.bert(seed=1).save_pretrained(tmp_path / "teacher")
    live = build(tmp_path, eval_dataset=tiny.texts(10)).evaluate()
    loaded = build(tmp_path, teacher=str(tmp_path / "teacher"), eval_dataset=tiny.texts(10)).evaluate()
    assert tiny.distance(loaded["eval_loss"], live["eval_loss"]) < tiny.ROUNDING


def test_plain_datasets_of_torch_work(tmp_path):
    rows = [{k: torch.tensor(v) for k, v in row.items()} for row in tiny.texts(8)]
    trainer = trained(tmp_path, dataset=rows)
    assert trainer.state.global_step == 4
    assert isinstance(tiny.texts(1), Dataset)
