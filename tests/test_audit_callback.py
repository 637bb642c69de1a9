"""Audits while a model trains: where their numbers go, what they equal, and that the training does not notice."""

import dataclasses
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import shipping
import tiny
import torch
from transformers import BertTokenizer, EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState
from transformers.integrations import integration_utils

from hf_compalign._compat import add_to_log
from hf_compalign.align import AlignedDistillationTrainer, AlignmentArguments
from hf_compalign.measure.audit import AuditCallback, AuditOptions, audit
from hf_compalign.measure.predictions import predict

ROWS = tiny.texts(40, seed=5)
GROUPS = ["even", "odd"] * 20
BATCH = 4  # of tiny.arguments
WITHOUT_LABELS = ("mismatch_rate", "mismatch_rate_upper_bound", "agreement", "cie", "kl")
LOGGED = (*WITHOUT_LABELS, "cie_u", "nfr", "accuracy_change")


def trainer(folder, *callbacks, model=None, kind=Trainer, **settings):
    """Two epochs of 6 steps, with an evaluation after each unless told otherwise."""
    # The default alignment would leave a copy of its teacher as it is.
    taught = {"teacher": tiny.bert(seed=1), "alignment": AlignmentArguments(preset="paper")}
    more = taught if kind is AlignedDistillationTrainer else {}
    args = tiny.arguments(folder, **({"eval_strategy": "epoch"} | settings))
    datasets = {"train_dataset": tiny.texts(), "eval_dataset": tiny.texts(8, seed=9)}
    return kind(model or tiny.bert(seed=1, dropout=0.1), args, callbacks=[*callbacks], **datasets, **more)


def audits_in(log_history):
    return [log for log in log_history if "eval_audit_kl" in log]


class Noted(TrainerCallback):
    """Keeps the weights at each evaluation."""

    def __init__(self):
        self.models = []

    def on_evaluate(self, args, state, control, **kwargs):
        model = tiny.bert(seed=1)
        model.load_state_dict(kwargs["model"].state_dict())
        self.models.append(model)


@pytest.mark.parametrize("kind", [Trainer, AlignedDistillationTrainer])
def test_every_evaluation_has_the_numbers_of_its_audit(tmp_path, kind):
    reference, noted = tiny.bert(seed=1), Noted()
    callback = AuditCallback(reference, ROWS, groups=GROUPS, limits={"mismatch_rate": 0.5})
    run = trainer(tmp_path, callback, noted, kind=kind, learning_rate=0.01)
    run.train()
    logs = audits_in(run.state.log_history)
    assert [log["step"] for log in logs] == [6, 12]
    assert all("eval_loss" in log for log in logs)  # beside the Trainer's own
    expected = predict(reference, ROWS, batch_size=BATCH)
    for log, model in zip(logs, noted.models, strict=True):
        found = audit(expected, predict(model, ROWS, batch_size=BATCH), groups=GROUPS, limits={"mismatch_rate": 0.5})
        for name in LOGGED:
            assert log[f"eval_audit_{name}"] == found.metrics[name]
        assert log["eval_audit_passed"] == float(found.passed)
    assert logs[0]["eval_audit_kl"] != logs[1]["eval_audit_kl"]
    assert callback.latest.to_dict()["metrics"]["kl"] == logs[1]["eval_audit_kl"]
    json.dumps(run.state.log_history, allow_nan=False)


def test_the_largest_gap_of_any_attribute_is_logged(tmp_path):
    rows = tiny.texts(80, seed=5)
    groups = {"half": ["a"] * 40 + ["b"] * 40, "parity": ["even", "odd"] * 40, "tiny": ["x", "y"] + [None] * 78}
    callback = AuditCallback(tiny.bert(seed=1), rows, groups=groups)
    metrics = trainer(tmp_path, callback, model=tiny.bert(seed=2)).evaluate()
    gaps = {gap.attribute: gap.mismatch_gap for gap in callback.latest.gaps}
    assert metrics["eval_audit_group_mismatch_gap"] == max(gaps["half"], gaps["parity"]) > 0
    assert np.isnan(gaps["tiny"])


def test_what_needs_labels_groups_or_limits_is_left_out_without(tmp_path):
    metrics = trainer(tmp_path, AuditCallback(tiny.bert(seed=1), tiny.texts(8, labels=False))).evaluate()
    found = {name for name in metrics if name.startswith("eval_audit_")}
    assert found == {f"eval_audit_{name}" for name in WITHOUT_LABELS}
    assert (metrics["eval_audit_mismatch_rate"], metrics["eval_audit_agreement"]) == (0.0, 1.0)


@pytest.mark.parametrize("kind", [Trainer, AlignedDistillationTrainer])
def test_trackers_see_the_audits(tmp_path, monkeypatch, kind):
    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append((state.global_step, integration_utils.rewrite_logs(logs)))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tracker", Tracker)
    callback = AuditCallback(tiny.bert(seed=1), ROWS)
    if kind is Trainer:
        run = trainer(tmp_path, kind=kind, report_to="tracker")
        assert callback.attach(run).attach(run) is callback
        assert run.callback_handler.callbacks.count(callback) == 1
    else:
        run = trainer(tmp_path, callback, kind=kind, report_to="tracker")
    run.train()
    found = [(step, logs["eval/audit_kl"]) for step, logs in seen if "eval/audit_kl" in logs]
    assert found == [(log["step"], log["eval_audit_kl"]) for log in audits_in(run.state.log_history)]
    assert len(found) == 2


@pytest.mark.parametrize("attached", [False, True])
def test_trackers_that_miss_the_audits_are_named(tmp_path, monkeypatch, caplog, attached):
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tracker", TrainerCallback)
    callback = AuditCallback(tiny.bert(seed=1), ROWS)
    run = trainer(tmp_path, callback, report_to="tracker", max_steps=1)
    if attached:
        callback.attach(run)
    run.train()
    told = [record.getMessage() for record in caplog.records if "AuditCallback is not attached" in record.message]
    expected = "For tracker to get them too, say AuditCallback(...).attach(trainer)."
    assert [message.endswith(expected) for message in told] == ([] if attached else [True])


def test_the_last_line_of_the_log_is_that_of_the_event(tmp_path):
    """What `_compat.add_to_log` relies on. If this fails, look whether the Trainer keeps what a callback adds."""

    class Seen(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            self.check(state, logs)

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            self.check(state, metrics)

        def check(self, state, numbers):
            line = state.log_history[-1]
            assert line["step"] == state.global_step
            assert {name: line[name] for name in numbers} == numbers
            assert line is not numbers, "The Trainer logs what it hands to its callbacks: add_to_log may go."
            seen.append(line)

    seen = []
    trainer(tmp_path, Seen(), logging_strategy="steps", logging_steps=3).train()
    assert sum("loss" in line for line in seen) == 4
    assert sum("eval_loss" in line for line in seen) == 4  # twice each: logged, and evaluated


def test_numbers_go_to_no_line_of_another_step():
    state = TrainerState(global_step=3, log_history=[{"step": 2, "loss": 1.0}])
    add_to_log(state, {"kl": 0.5})
    add_to_log(TrainerState(), {"kl": 0.5})
    assert state.log_history == [{"step": 2, "loss": 1.0}]
    state.log_history.append({"step": 3})
    add_to_log(state, {"kl": 0.5})
    assert state.log_history[-1] == {"step": 3, "kl": 0.5}


def test_columns_say_the_groups_and_contents_are_kept_on_demand(tmp_path):
    rows = shipping.raw_texts(30).add_column("half", ["a", "b"] * 15)
    options = AuditOptions(processing_class=shipping.tokenizer(), bins=["words"], min_group_size=5, contents=True)
    backwards = rows.select(range(30)[::-1])
    turned = predict(tiny.bert(seed=1, **shipping.NAMED), backwards, processing_class=shipping.tokenizer())
    callback = AuditCallback(turned, rows, groups="half", options=options, limits={"group_mismatch_gap": 1.0})
    run = trainer(tmp_path, callback, model=tiny.bert(seed=2, **shipping.NAMED))
    run.evaluate()
    first = callback.latest
    callback.latest = None
    run.evaluate()
    expected = audit(turned, run.model, rows, groups="half", options=dataclasses.replace(options, batch_size=BATCH))
    for found in (first, callback.latest):
        assert str(found.groups) == str(expected.groups)
        assert found.items == expected.items
        assert all(item.texts for item in found.items)
    assert {gap.attribute for gap in expected.gaps} == {"half", "words"}


def test_the_model_that_changed_least_is_the_best_one(tmp_path):
    settings = {"save_strategy": "epoch", "load_best_model_at_end": True, "num_train_epochs": 3, "learning_rate": 0.03}
    best = {"metric_for_best_model": "audit_kl", "greater_is_better": False}
    run = trainer(tmp_path, AuditCallback(tiny.bert(seed=1), ROWS), EarlyStoppingCallback(1), **settings, **best)
    run.train()
    logs = audits_in(run.state.log_history)
    assert run.state.best_metric == min(log["eval_audit_kl"] for log in logs)
    assert run.state.best_global_step == min(logs, key=lambda log: log["eval_audit_kl"])["step"]
    assert len(logs) == 2  # it only got worse, and stopped early
    found = audit(*(predict(one, ROWS, batch_size=BATCH) for one in (tiny.bert(seed=1), run.model)))
    assert found.metrics["kl"] == run.state.best_metric


def test_the_training_is_the_same_to_the_bit(tmp_path):
    tiny.bert(seed=1).save_pretrained(tmp_path / "reference")

    def trained(folder, *callbacks):
        model = tiny.bert(seed=2, dropout=0.3)
        trainer(folder, *callbacks, model=model, eval_strategy="steps", eval_steps=2).train()
        return tiny.flat(model), (torch.rand(3).tolist(), random.random(), np.random.rand())

    with_audit = trained(tmp_path / "one", AuditCallback(tmp_path / "reference", ROWS, groups=GROUPS))
    without = trained(tmp_path / "two")
    assert torch.equal(with_audit[0], without[0])
    assert with_audit[1] == without[1]


def test_every_part_of_the_models_keeps_its_mode(tmp_path):
    model, reference = tiny.bert(seed=2), tiny.bert(seed=1)
    for one in (model, reference):
        one.train()
        one.bert.embeddings.eval()
    modes = [[module.training for module in one.modules()] for one in (model, reference)]
    run = trainer(tmp_path, model=model)
    AuditCallback(reference, ROWS).on_evaluate(run.args, run.state, run.control, model=model, metrics={})
    assert [[module.training for module in one.modules()] for one in (model, reference)] == modes


def test_the_reference_predicts_once_and_before_the_training(tmp_path):
    # The reference is the model that trains: had it been asked again, there would be no mismatches.
    model = tiny.bert(seed=1)
    run = trainer(tmp_path, AuditCallback(model, ROWS), model=model, learning_rate=0.05)
    run.train()
    assert audits_in(run.state.log_history)[-1]["eval_audit_kl"] > 0
    assert run.evaluate()["eval_audit_kl"] == audits_in(run.state.log_history)[-2]["eval_audit_kl"]


def test_a_reference_may_be_predictions_or_any_path(tmp_path):
    reference = tiny.bert(seed=1)
    predictions = predict(reference, ROWS, batch_size=BATCH)
    predictions.save(tmp_path / "reference.npz")
    reference.save_pretrained(tmp_path / "reference")
    found = []
    for kind in (reference, predictions, tmp_path / "reference", str(tmp_path / "reference.npz")):
        run = trainer(tmp_path, AuditCallback(kind, ROWS), model=tiny.bert(seed=2))
        found.append({name: value for name, value in run.evaluate().items() if "audit" in name})
    assert found[0]["eval_audit_mismatch_rate"] > 0
    assert found == [found[0]] * 4


class Counting(BertTokenizer):
    """Counts the texts that it turns into tokens."""

    n_texts = 0

    def __call__(self, text, *more, **settings):
        type(self).n_texts += len(text)
        return super().__call__(text, *more, **settings)


def test_the_rows_are_prepared_once(tmp_path):
    rows = shipping.raw_texts(30)
    tokenizer = Counting(vocab=shipping.tokenizer().get_vocab(), model_max_length=32)
    reference = tiny.bert(seed=1, **shipping.NAMED)
    callback = AuditCallback(reference, rows, options=AuditOptions(processing_class=tokenizer))
    run = trainer(tmp_path, callback, model=tiny.bert(seed=2, **shipping.NAMED), eval_strategy="steps", eval_steps=2)
    Counting.n_texts = 0
    run.train()
    assert Counting.n_texts == 2 * len(rows)  # for the reference and for the model, not for each of 6 evaluations
    assert len(audits_in(run.state.log_history)) == 6
    models, latest = (reference, run.model), callback.latest
    size = run.args.eval_batch_size
    found = audit(*(predict(one, rows, processing_class=tokenizer, batch_size=size) for one in models))
    assert {item.id for item in latest.items} == {item.id for item in found.items} != set()
    for name in ("cells", "data_fingerprint", "candidate"):
        assert getattr(latest, name) == getattr(found, name)


def test_few_of_the_changed_items_are_kept_unless_more_are_wanted(tmp_path):
    callback = AuditCallback(tiny.bert(seed=1), tiny.texts(400, seed=5))
    run = trainer(tmp_path, callback, model=tiny.bert(seed=2))
    run.evaluate()
    cie = callback.latest.metrics["cie"]
    assert cie > 100
    assert (len(callback.latest.items), callback.latest.n_items_left_out) == (100, cie - 100)
    callback.options = AuditOptions(max_items=400)
    callback.latest = None
    run.evaluate()
    assert (len(callback.latest.items), callback.latest.n_items_left_out) == (cie, 0)


def test_several_evaluation_datasets_share_one_audit(tmp_path):
    """Also for the choice of the best model, and never one of a model that has changed since."""
    callback, seen = AuditCallback(tiny.bert(seed=1), ROWS), []

    class Seen(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            seen.append((state.global_step, callback.latest, metrics["eval_audit_kl"]))

    best = {"metric_for_best_model": "audit_kl", "greater_is_better": False, "load_best_model_at_end": True}
    run = trainer(tmp_path, callback, Seen(), eval_strategy="epoch", save_strategy="epoch", learning_rate=0.03, **best)
    run.eval_dataset = {"one": tiny.texts(8, seed=9), "two": tiny.texts(8, seed=10)}
    run.train()
    assert [step for step, *_ in seen] == [6, 6, 12, 12]
    assert seen[0][1] is seen[1][1] is not seen[2][1]
    assert [kl for *_, kl in seen] == [seen[0][2]] * 2 + [seen[2][2]] * 2
    assert seen[0][2] < seen[2][2]  # the first is loaded at the end, and the step is still that of the second
    assert run.state.best_metric == seen[0][2]
    assert run.evaluate()["eval_audit_kl"] == seen[0][2]


def test_two_callbacks_with_names_of_their_own_share_nothing(tmp_path):
    one, two = AuditCallback(tiny.bert(seed=1), ROWS), AuditCallback(tiny.bert(seed=3), ROWS, prefix="floor")
    metrics = trainer(tmp_path, one, two).evaluate()
    assert metrics["eval_audit_kl"] == one.latest.metrics["kl"] == 0.0
    assert metrics["eval_floor_kl"] == two.latest.metrics["kl"] > 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": ["a"]}, "groups must"),
        ({"limits": {"nfr": 0.1}}, "The limit nfr needs labels, and no item has a known one"),
        ({"groups": ["a"] * 8, "limits": {"group_mismatch_gap": 0.1}}, "needs groups of at least 30 items"),
    ],
)
def test_what_no_audit_can_do_is_refused_before_any_step(tmp_path, settings, message):
    model = tiny.bert(seed=2)
    before = tiny.flat(model)
    run = trainer(tmp_path, AuditCallback(tiny.bert(seed=1), tiny.texts(8, labels=False), **settings), model=model)
    with pytest.raises(ValueError, match=message):
        run.train()
    assert torch.equal(tiny.flat(model), before)
    assert run.state.global_step == 0


def test_predictions_of_other_rows_and_a_model_in_parts_are_refused_before_any_step(tmp_path):
    other = predict(tiny.bert(seed=1), tiny.texts(8))
    with pytest.raises(ValueError, match="Both predictions must cover the same items"):
        trainer(tmp_path, AuditCallback(other, ROWS)).train()
    run = trainer(tmp_path)
    args = SimpleNamespace(deepspeed_plugin=object())
    with pytest.raises(ValueError, match="AuditCallback runs the whole model on one process, and FSDP and DeepSpeed"):
        AuditCallback(tiny.bert(seed=1), ROWS).on_train_begin(args, run.state, run.control, model=run.model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefix": ""}, "prefix must be the beginning of a name, such as 'audit'. Got ''."),
        ({"limits": {"nfrr": 0.1}}, "There is no limit 'nfrr'.* Did you mean 'nfr'"),
        ({"limits": {"group_mismatch_gap": 0.1}}, "The limit group_mismatch_gap needs groups, and there are none"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        AuditCallback(tiny.bert(seed=1), ROWS, **settings)
