"""shrink_: what it leaves equals the masked model, is corrected on the calibration data, and fails without a trace."""

import copy

import pytest
import tiny
import torch
from torch.utils.data import DataLoader

from hf_compalign.compress import run_model
from hf_compalign.compress.shrink import layers_of, mask_, removal_masks, shrink_, unit_scores

pytestmark = pytest.mark.numeric

MODELS = {"bert": (tiny.bert, tiny.texts), "vit": (tiny.vit, tiny.images)}


def logits(model, batch):
    with torch.no_grad():
        return run_model(model.eval(), batch).logits


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("uniform", [False, True])
def test_the_answers_are_those_of_the_masked_model(kind, uniform):
    build, rows = MODELS[kind]
    model = build(seed=1, num_attention_heads=4)
    masked, batch = copy.deepcopy(model), tiny.batch(rows(8))
    summary = shrink_(model, heads=0.5, ffn=0.5, uniform=uniform, calibration=[batch], reconstruct=False)
    mask_(masked, summary.plan)
    assert tiny.distance(logits(model, batch), logits(masked, batch)) < tiny.ROUNDING
    assert (summary.layers, summary.heads, summary.neurons) == ((2, 2), (8, 4), (64, 32))
    if uniform:
        assert [(layer.n_heads, layer.n_neurons) for layer in layers_of(model)] == [(2, 16)] * 2


def test_parameters_by_hand():
    model = tiny.bert(num_attention_heads=4, num_hidden_layers=3)
    n_before = tiny.flat(model).numel()
    summary = shrink_(model, heads=0.25, ffn=0.5, n_layers=1, uniform=True)
    head, neuron = 3 * (16 * 4 + 4) + 4 * 16, 16 + 1 + 16
    layer = 4 * head + 32 * neuron + 2 * 16 + 2 * 2 * 16  # with the two output biases and LayerNorms
    assert summary.parameters == (n_before, n_before - layer - 2 * (head + 16 * neuron))
    assert summary.parameters[1] == tiny.flat(model).numel()
    assert str(summary).splitlines() == [
        "           before  after",
        "layers          3      2",
        "heads          12      6",
        "neurons        96     32",
        f"parameters {summary.parameters[0]:>6} {summary.parameters[1]:>6}",
    ]


def test_only_what_is_asked_for_goes():
    model = tiny.bert(seed=1)
    before = copy.deepcopy(model)
    summary = shrink_(model, ffn=0.25)
    assert summary.heads == (4, 4)
    for old, new in zip(layers_of(before), layers_of(model), strict=True):
        assert torch.equal(old.attention_out.weight, new.attention_out.weight)
    assert [len(layer.heads) for layer in summary.plan.layers] == [2, 2]


def first_logit(model, batch):
    return run_model(model, batch).logits[:, 0].mean()


@pytest.mark.parametrize("options", [{"score": "taylor"}, {"score": "magnitude"}, {"loss": first_logit}])
def test_the_score_and_the_loss_decide_what_matters(options):
    data, model = [tiny.batch(tiny.texts(8))], tiny.bert(seed=1)
    plan = shrink_(copy.deepcopy(model), ffn=0.5, uniform=True, calibration=data, **options).plan
    for layer, one in zip(plan.layers, unit_scores(model, data, **options), strict=True):
        assert set(layer.neurons) == set(one.neurons.topk(16).indices.tolist())


def test_taylor_is_asked_where_there_are_data():
    data, model = [tiny.batch(tiny.texts(8))], tiny.bert(seed=1)
    assert shrink_(copy.deepcopy(model), ffn=0.5, calibration=data).plan != shrink_(copy.deepcopy(model), ffn=0.5).plan


def test_shrinking_twice_composes():
    model, batch = tiny.bert(seed=1, num_attention_heads=4, num_hidden_layers=3), tiny.batch(tiny.texts(8))
    masked = copy.deepcopy(model)
    first = shrink_(model, ffn=0.25, heads=0.25, calibration=[batch], reconstruct=False)
    second = shrink_(model, ffn=0.5, calibration=[batch], reconstruct=False)
    mask_(masked, first.plan)
    assert second.neurons == (72, 36)
    assert second.heads == (9, 9)
    assert second.parameters[0] == first.parameters[1]
    # The neurons of the second plan, by their first numbers.
    kept = [
        [before.neurons[number] for number in after.neurons]
        for before, after in zip(first.plan.layers, second.plan.layers, strict=True)
    ]
    for layer, neurons in zip(layers_of(masked), kept, strict=True):
        with torch.no_grad():
            layer.ffn_out.weight[:, [number for number in range(32) if number not in neurons]] = 0
    assert tiny.distance(logits(model, batch), logits(masked, batch)) < tiny.ROUNDING


# ---- reconstruction ----


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("layers", [0, 1])
def test_reconstruction_brings_the_outputs_nearer(kind, layers):
    build, rows = MODELS[kind]
    data = DataLoader(rows(64).with_format("torch"), batch_size=16)
    dense = build(seed=1, num_hidden_layers=3)
    plain, corrected = copy.deepcopy(dense), copy.deepcopy(dense)
    plans = [
        shrink_(model, heads=0.25, ffn=0.5, n_layers=layers, calibration=data, reconstruct=correct).plan
        for model, correct in ((plain, False), (corrected, True))
    ]
    assert plans[0] == plans[1]
    if layers:
        shrink_(dense, n_layers=1, calibration=data)  # what a dropped layer did is not made up for
    batch = tiny.batch(rows(64))
    wanted = logits(dense, batch)
    errors = [float((logits(model, batch) - wanted).square().mean()) for model in (plain, corrected)]
    assert errors[1] < 0.75 * errors[0]


def test_masks_of_what_is_read():
    model = tiny.bert(num_attention_heads=4)
    plan = shrink_(copy.deepcopy(model), heads=0.125, ffn=0.25).plan
    masks = removal_masks(model, plan)
    masked = copy.deepcopy(model)
    mask_(masked, plan)
    for name, weight in masked.named_parameters():
        if name in masks:
            assert torch.equal(masks[name], weight != 0)
        else:
            assert torch.equal(weight, model.get_parameter(name))
    assert len(masks) == 3  # one head of one layer, neurons of both


# ---- the model around it ----


def test_the_model_object_and_its_modes_stay():
    model = tiny.bert(seed=1).train()
    model.classifier.eval()
    encoder, word_embeddings = model.bert.encoder, model.bert.embeddings.word_embeddings.weight
    word_embeddings.requires_grad_(False)
    shrink_(model, heads=0.5, ffn=0.5, calibration=tiny.texts(16))
    assert model.training
    assert not model.classifier.training
    assert model.bert.encoder is encoder
    assert model.bert.embeddings.word_embeddings.weight is word_embeddings
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        "bert.embeddings.word_embeddings.weight"
    ]
    model(**tiny.batch(tiny.texts(4))).loss.backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "weight", "ffn": 0.5}, "score must be one of taylor, magnitude. Got 'weight'"),
        ({"score": "taylor", "ffn": 0.5}, "score='taylor' needs calibration data. Pass calibration="),
        ({"reconstruct": True, "ffn": 0.5}, "reconstruct=True needs calibration data"),
        ({"target_flops": 0.5}, "target_flops needs calibration data"),
        ({"ffn": 0.5, "loss": print}, "loss= would be ignored: score='magnitude' takes no gradients"),
        (
            {"ffn": 0.5, "calibration": tiny.texts(4), "score": "magnitude", "reconstruct": False},
            "calibration= would be ignored",
        ),
        ({}, "removes nothing"),
        ({"ffn": 50}, "ffn must be a share .* Did you mean 0.5"),
        ({"n_layers": 2}, "n_layers must be less than the 2 layers"),
        ({"ffn": 0.5, "calibration": []}, "calibration holds no batch"),
        ({"ffn": 0.5, "calibration": tiny.images(4)}, "must hold the inputs of BertForSequenceClassification"),
        ({"target_flops": 0.01, "calibration": tiny.texts(4)}, "target_flops=0.01 cannot be reached"),
    ],
)
def test_what_cannot_be_done_is_refused_and_the_model_untouched(arguments, message):
    model = tiny.bert(seed=1, problem_type="single_label_classification")  # the model would set it itself
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        shrink_(model, **arguments)


def test_a_failed_correction_leaves_the_model_untouched(monkeypatch):
    def fail(model, masks, calibration):
        raise ValueError("no solution")

    monkeypatch.setattr("hf_compalign.compress.shrink.one_shot.reconstruct_", fail)
    model = tiny.bert(seed=1, problem_type="single_label_classification")
    with tiny.unchanged(model), pytest.raises(ValueError, match="no solution"):
        shrink_(model, ffn=0.5, n_layers=1, calibration=tiny.texts(4))
