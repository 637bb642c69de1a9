"""Several teachers as one: the mean of their logits in the loss, the metrics and the cache."""

import logging

import pytest
import tiny
import torch
import torch.nn.functional as F

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, cache_teacher_logits

pytestmark = pytest.mark.numeric

NAMES = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
TURNED = {"id2label": {0: "c", 1: "a", 2: "b"}, "label2id": {"c": 0, "a": 1, "b": 2}}


def pair():
    return [tiny.bert(seed=1, **NAMES), tiny.bert(seed=3, hidden_size=24, num_hidden_layers=1, **TURNED)]


def build(folder, *, teacher="the usual", alignment=None, settings=None, **trainer):
    return AlignedDistillationTrainer(
        tiny.bert(seed=2, **NAMES),
        tiny.arguments(folder, **(settings or {})),
        teacher=pair() if teacher == "the usual" else teacher,
        alignment=alignment or AlignmentArguments(preset="logits"),
        **({"train_dataset": tiny.texts(8)} | trainer),
    )


def logits(model, dataset):
    with torch.no_grad():
        return model.eval()(**tiny.batch(dataset, "input_ids", "attention_mask")).logits


@pytest.mark.parametrize(("weights", "shares"), [(None, (0.5, 0.5)), ([1.0, 3.0], (0.25, 0.75))])
def test_the_mean_of_the_logits_teaches_and_is_what_answers_are_compared_with(tmp_path, weights, shares):
    dataset = tiny.texts(8)
    alignment = AlignmentArguments(preset="logits", teacher_weights=weights)
    trainer = build(tmp_path, alignment=alignment, eval_dataset=dataset)
    one, other = (logits(model, dataset) for model in trainer.teacher)
    mean = shares[0] * one + shares[1] * other[:, [1, 2, 0]]
    own = logits(trainer.model, dataset)
    loss = trainer.compute_loss(trainer.model.train(), tiny.batch(dataset))
    assert tiny.distance(loss, F.mse_loss(own, mean)) < tiny.ROUNDING
    assert trainer.evaluate()["eval_cie"] == (own.argmax(-1) != mean.argmax(-1)).sum().item()


def test_cached_teachers_train_like_live_ones(tmp_path):
    settings = {"per_device_train_batch_size": 1}
    live = build(tmp_path, settings=settings)
    live.train()
    cached = cache_teacher_logits(tiny.texts(8), pair(), batch_size=1)
    from_column = build(tmp_path, teacher=None, settings=settings, train_dataset=cached)
    from_column.train()
    assert torch.equal(tiny.flat(live.model), tiny.flat(from_column.model))
    # What stands there twice counts twice, and who they are does not depend on their order.
    one, other = pair()
    twice = cache_teacher_logits(tiny.texts(8), [one, other, one])
    weighted = AlignmentArguments(preset="logits", teacher_weights=[1.0, 2.0])
    build(tmp_path, teacher=[other, one], alignment=weighted, train_dataset=twice)
    with pytest.raises(ValueError, match="of another teacher: got"):
        build(tmp_path, teacher=[other, one], train_dataset=twice)


def test_the_default_leaves_hidden_states_out(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "hf_compalign"):
        trainer = build(tmp_path, alignment=AlignmentArguments())
    assert "Only logits are aligned. Hidden states of 2 teachers have no mean, since" in caplog.text
    assert trainer.alignment == AlignmentArguments(preset="logits")


def test_inputs_that_only_teachers_can_answer_are_answered_by_all(tmp_path):
    alignment = AlignmentArguments(preset="logits", transfer=1.0, transfer_kinds=["splice", "replace"])
    trainer = build(tmp_path, alignment=alignment, settings={"max_steps": 1})
    trainer.train()
    assert trainer.state.global_step == 1


def test_teachers_that_cannot_teach_together_are_refused(tmp_path):
    one, other = pair()
    hidden = AlignmentArguments(preset="logits", hidden_weight=1.0, attribution_weight=1.0)
    cases = [
        ("Hidden states and Gradients of inputs of 2 teachers have no mean", {"alignment": hidden}),
        ("same labels", {"teacher": [one, tiny.bert(id2label={0: "a", 1: "b", 2: "d"})]}),
        ("must do the same task. Got image-classification and text", {"teacher": [one, tiny.vit()]}),
        (r"must be a model, or a list with some. Got \[\]", {"teacher": []}),
    ]
    for weights, teacher in (([1.0], [one, other]), ([1.0, 0.0], [one, other]), ([1.0], one), ([1.0, 2.0], None)):
        alignment = AlignmentArguments(preset="logits", teacher_weights=weights)
        cases.append(
            ("a finite number > 0 for each of several teachers. Got", {"teacher": teacher, "alignment": alignment})
        )
    for message, options in cases:
        with pytest.raises(ValueError, match=message):
            build(tmp_path, **options)
    with pytest.raises(ValueError, match="All teachers must do the same task. Got text-class.* and image"):
        cache_teacher_logits(tiny.texts(8), [one, tiny.vit()])
