"""prune_: every score reaches the sparsity and says so; what it cannot do is refused, the model untouched."""

import copy

import pytest
import tiny
import torch
import zoo
from datasets import Dataset
from test_seen import build as build_of
from torch.utils.data import DataLoader
from transformers import default_data_collator
from transformers.pytorch_utils import Conv1D

from hf_compalign.compress import input_norms, own_loss, prunable_weights, weight_gradients
from hf_compalign.compress.prune import (
    PATTERN_OF,
    Evidence,
    Method,
    check_weights,
    compute_masks,
    prune_,
    prune_weights_,
)

ONE_SHOT = [score for score in PATTERN_OF if score != "movement"]
PATTERNS = [None, "layer", "row", "global", "2:4", "1:4"]
NEVER = ("obs", "global")  # it goes layer by layer


def data_for(model, n=48):
    return tiny.images(n) if model.main_input_name == "pixel_values" else tiny.texts(n)


def given(score, model):
    return {} if score == "magnitude" else {"calibration": data_for(model)}


def batches_of(dataset, size=32):
    return list(DataLoader(dataset, batch_size=size, collate_fn=default_data_collator))


# ---- what is pruned ----


@pytest.mark.parametrize(
    ("build", "score", "pattern"),
    [
        *((tiny.bert, score, pattern) for score in ONE_SHOT for pattern in PATTERNS if (score, pattern) != NEVER),
        *((tiny.vit, score, None) for score in ONE_SHOT),
    ],
)
def test_every_score_reaches_the_sparsity_by_every_pattern(build, score, pattern):
    model = build()
    sparsity = {"2:4": 0.5, "1:4": 0.75}.get(pattern, 0.6)
    summary = prune_(model, sparsity, score=score, pattern=pattern, **given(score, model))
    weights = prunable_weights(model)
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    assert summary.n_zeros == zeros
    assert summary.n_weights == {name: weight.numel() for name, weight in weights.items()}
    assert summary.method == Method(score, pattern or PATTERN_OF[score])
    total = sum(summary.n_weights.values())
    assert summary.sparsity == sum(zeros.values()) / total
    used = summary.method.pattern
    for name, weight in weights.items():
        if used == "layer":
            assert zeros[name] == round(sparsity * weight.numel())
        elif used == "row":
            assert set((weight == 0).sum(1).tolist()) == {round(sparsity * weight.shape[1])}
        elif ":" in used:
            assert set((weight == 0).view(-1, 4).sum(1).tolist()) == {round(4 * sparsity)}
    if used == "global":
        assert sum(zeros.values()) == round(sparsity * total)
        assert len({zeros[name] / weight.numel() for name, weight in weights.items()}) > 2
    assert model(**batches_of(data_for(model))[0]).logits.isfinite().all()


@pytest.mark.parametrize("score", ["magnitude", "wanda", "taylor"])
def test_scores_choose_the_weights_and_leave_the_others(score):
    model, before = tiny.bert(), tiny.bert()
    batches = batches_of(tiny.texts(40), 16)
    weights, layers = prunable_weights(before), zoo.prunable_layers(before)
    if score == "magnitude":
        scores = {name: weight.detach().abs() for name, weight in weights.items()}
    elif score == "wanda":
        norms = input_norms(before, layers, batches)
        scores = {name: weight.detach().abs() * norms[name][None, :] for name, weight in weights.items()}
    else:
        scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for batch in batches:
            before.zero_grad()
            own_loss(before.eval(), batch).backward()
            for name, weight in weights.items():
                scores[name] += (weight.detach() * weight.grad).abs()
    masks = compute_masks(scores, 0.5, pattern=PATTERN_OF[score])
    prune_(model, 0.5, score=score, **({} if score == "magnitude" else {"calibration": batches}))
    agreeing = 0
    for name, parameter in model.named_parameters():
        original = before.get_parameter(name)
        if name in masks:
            assert torch.equal(parameter[parameter != 0], original[parameter != 0])
            agreeing += int(((parameter != 0) == masks[name]).sum())
        else:
            assert torch.equal(parameter, original)
    # Two gradients of two ways to compute them may rank neighbors the other way round.
    assert agreeing >= sum(mask.numel() for mask in masks.values()) - (4 if score == "taylor" else 0)


def test_obs_corrects_what_remains():
    model, before = tiny.bert(), tiny.bert()
    prune_(model, 0.5, score="obs", calibration=tiny.texts(64))
    for name, weight in prunable_weights(model).items():
        kept = weight != 0
        assert not torch.equal(weight[kept], before.get_parameter(name)[kept])


def test_every_form_of_calibration_data_does_the_same():
    dataset = tiny.texts(48)
    forms = [dataset, batches_of(dataset), DataLoader(dataset, batch_size=32, collate_fn=default_data_collator)]
    forms.append(iter(batches_of(dataset)))
    models = [tiny.bert() for _ in forms]
    for model, calibration in zip(models, forms, strict=True):
        prune_(model, 0.5, score="obs", calibration=calibration)
    assert all(torch.equal(tiny.flat(model), tiny.flat(models[0])) for model in models)


def test_taylor_without_labels_takes_the_models_own_predictions():
    labeled, unlabeled = tiny.bert(), tiny.bert()
    batches = batches_of(tiny.texts(32, labels=False))
    with torch.no_grad():
        predicted = [batch | {"labels": labeled.eval()(**batch).logits.argmax(-1)} for batch in batches]
    prune_(unlabeled, 0.5, score="taylor", calibration=batches)
    prune_(labeled, 0.5, score="taylor", calibration=predicted)
    assert torch.equal(tiny.flat(labeled), tiny.flat(unlabeled))
    other = tiny.bert()
    prune_(other, 0.5, score="taylor", calibration=tiny.texts(32))  # with labels of its own
    assert not torch.equal(tiny.flat(other), tiny.flat(unlabeled))


def test_taylor_of_another_loss():
    def first_logit(model, batch):
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].sum()

    model, before = tiny.bert(), tiny.bert()
    batches = batches_of(tiny.texts(32))
    gradients = weight_gradients(before, zoo.prunable_layers(before), batches[0], first_logit)
    scores = {name: (before.get_parameter(name).detach() * gradients[name]).abs() for name in gradients}
    masks = compute_masks(scores, 0.5, pattern="global")
    prune_(model, 0.5, score="taylor", calibration=batches, loss=first_logit)
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)


@pytest.mark.parametrize(
    ("score", "pattern"),
    [(score, pattern) for score in ONE_SHOT for pattern in ("layer", "row", "global") if (score, pattern) != NEVER],
)
def test_what_is_pruned_stays_pruned(score, pattern):
    model = tiny.bert()
    # Neurons that never fire: the scores of what reads them are 0 as those of what is pruned already.
    model.bert.encoder.layer[0].intermediate.dense.bias.data[:8] = -1e4
    calibration = given(score, model)
    prune_(model, 0.3, score=score, pattern=pattern, **calibration)
    zeros = {name: weight == 0 for name, weight in prunable_weights(model).items()}
    summary = prune_(model, 0.6, score=score, pattern=pattern, **calibration)
    for name, weight in prunable_weights(model).items():
        assert (weight[zeros[name]] == 0).all()
    assert summary.sparsity == pytest.approx(0.6, abs=0.03 if pattern == "row" else 1e-3)


def test_sparsity_0_prunes_nothing():
    model = tiny.bert()
    with tiny.unchanged(model):
        assert prune_(model, 0.0).sparsity == 0


def test_layers_are_chosen_by_name():
    model, before = tiny.bert(), tiny.bert()
    summary = prune_(model, 0.5, include=["*attention*"], exclude=["*layer.1*"], score="obs", calibration=tiny.texts())
    assert set(summary.n_weights) == {name for name in prunable_weights(before) if "layer.0.attention" in name}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)) == ("layer.0.attention" not in name or "Norm" in name)


def test_a_head_can_be_asked_for():
    summary = prune_(tiny.bert(), 0.5, include=["classifier"])
    assert summary.n_zeros == {"classifier.weight": 24}


def test_a_convolution_by_its_magnitude():
    summary = prune_(zoo.build("vit"), 0.5, include=["*projection"], pattern="2:4")
    assert summary.n_zeros == {"vit.embeddings.patch_embeddings.projection.weight": 256}


def test_the_model_keeps_its_mode_and_its_gradients():
    for score in ONE_SHOT:
        model = tiny.bert(dropout=0.5).train()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        prune_(model, 0.5, score=score, **given(score, model))
        assert all(module.training for module in model.modules())
        assert all((parameter.grad == 1).all() for parameter in model.parameters())


def test_the_masks_of_the_movement_that_was_learned():
    model = tiny.bert()
    weights = prunable_weights(model)
    generator = torch.Generator().manual_seed(0)
    learned = {name: torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}
    (first, *_) = weights
    with torch.no_grad():
        weights[first][0] = 0.0  # its scores are no reason to keep it
    masks = prune_weights_(model, weights, 0.4, method=Method("movement", "layer"), evidence=Evidence(learned=learned))
    for name, weight in weights.items():
        assert torch.equal(weight != 0, masks[name])
        assert int((~masks[name]).sum()) == round(0.4 * weight.numel())
        if name != first:
            assert learned[name][~masks[name]].max() < learned[name][masks[name]].min()
    assert not masks[first][0].any()


# ---- what is said ----


def test_the_summary_is_a_table():
    summary = prune_(tiny.bert(), 0.5, pattern="2:4", include=["*layer.0.intermediate.dense", "*layer.1.output.dense"])
    assert str(summary).splitlines() == [
        "score magnitude, pattern 2:4",
        "bert.encoder.layer.0.intermediate.dense.weight         512    50.0%",
        "bert.encoder.layer.1.output.dense.weight               512    50.0%",
        "together                                             1,024    50.0%",
        "left out: 12 layers, like bert.encoder.layer.0.attention.self.query, bert.encoder.layer.0.attention.self.key, "
        "bert.encoder.layer.0.attention.self.value, bert.encoder.layer.0.attention.output.dense, "
        "bert.encoder.layer.0.output.dense, ..., classifier",
    ]
    assert str(prune_(tiny.bert(), 0.5)).endswith("\nleft out: bert.pooler.dense, classifier")
    assert str(prune_(tiny.bert(), 0.5, include=["*"])).endswith("\nleft out: nothing")


# ---- refusals ----


def idle(model):
    model.bert.idle = torch.nn.Linear(16, 16)
    return model


def overflowing(model):
    with torch.no_grad():
        model.bert.encoder.layer[0].output.LayerNorm.weight.fill_(torch.inf)
    return model


REFUSALS = [
    ({"sparsity": 80}, r"sparsity must be in \[0, 1\). Got 80. Did you mean 0.8\?"),
    ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\). Got 1.0.$"),
    ({"sparsity": -0.5}, r"Got -0.5.$"),
    ({"sparsity": float("nan")}, r"Got nan.$"),
    ({"score": "wandas"}, "score must be one of magnitude, movement, taylor, wanda, obs. Got 'wandas'"),
    ({"pattern": "rows"}, "pattern must be one of layer, row, global, or N:M .* Got 'rows'"),
    ({"pattern": "2:4", "sparsity": 0.6}, "pattern 2:4 has the sparsity 0.5. Got 0.6"),
    ({"score": "obs", "pattern": "global"}, "obs' goes layer by layer .* Use the pattern layer, row or N:M"),
    ({"score": "movement"}, r"movement' is learned .* Use PruningCallback\(..., score='movement'\)"),
    ({"score": "wanda"}, "score='wanda' needs calibration data. Give calibration="),
    ({"score": "taylor"}, "score='taylor' needs calibration data"),
    ({"score": "obs"}, "score='obs' needs calibration data"),
    ({"calibration": tiny.texts()}, "calibration= would be ignored: score='magnitude' looks at the weights alone"),
    (
        {"score": "obs", "calibration": tiny.texts(), "loss": lambda model, batch: 0},
        "loss= would be ignored: score='obs' takes no gradients",
    ),
    ({"include": ["*.mlp"]}, r"'\*.mlp' matches no linear"),
    ({"exclude": ["*"]}, "No layer of BertForSequenceClassification is left to prune"),
    (
        {"score": "taylor", "calibration": tiny.texts(), "loss": lambda model, batch: model(**batch).logits},
        r"loss must return a scalar .* Got a tensor of shape \[24, 3\]",
    ),
    ({"score": "taylor", "calibration": tiny.images()}, r"'input_ids' among them. Got .*pixel_values \(Tensor\)"),
    ({"score": "wanda", "calibration": []}, "calibration holds no batch"),
    ({"score": "obs", "calibration": tiny.texts(0)}, "calibration holds no batch"),
    ({"score": "obs", "calibration": Dataset.from_dict({"text": ["a"]})}, "must hold the inputs of BertFor"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_bad_arguments_are_refused(arguments, message):
    model = tiny.bert(problem_type="single_label_classification")  # the model would set it itself
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        prune_(model, **({"sparsity": 0.5} | arguments))


@pytest.mark.parametrize("score", ["wanda", "taylor", "obs"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (idle, "The layer bert.idle.weight does not run on the calibration data"),
        (overflowing, r"The (inputs|gradients) of bert.encoder.* on the calibration data are NaN or infinite"),
    ],
)
def test_models_that_cannot_be_judged_are_refused(score, spoil, message):
    model = spoil(tiny.bert())
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        prune_(model, 0.5, score=score, calibration=tiny.texts())


def test_weights_that_are_nan_are_refused():
    model = tiny.bert()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] = torch.nan
    message = "The weights bert.encoder.layer.1.output.dense.weight hold NaN or infinite values"
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        prune_(model, 0.5, score="obs", calibration=tiny.texts())


def test_pixels_that_are_nan_are_refused():
    model, batch = tiny.vit(), batches_of(tiny.images())[0]
    batch["pixel_values"][3, 0, 0, 0] = torch.nan
    message = "calibration data hold NaN or infinite values in 'pixel_values'"
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        prune_(model, 0.5, score="obs", calibration=[batch])


def test_convolutions_are_refused_by_scores_that_look_at_inputs():
    model, name = zoo.build("vit"), "vit.embeddings.patch_embeddings.projection"
    model.vit.more = torch.nn.Conv2d(1, 4, 2)
    message = f"score='obs' prunes linear layers, and not convolutions: {name}, vit.more. Take the linear layers "
    message += rf"alone, with exclude=\['{name}', 'vit.more'\], or use the score magnitude"
    with tiny.unchanged(model), pytest.raises(ValueError, match=message):
        prune_(model, 0.5, score="obs", include=["*"], calibration=tiny.images())
    with pytest.raises(ValueError, match="not convolutions: .* No other layer is there to prune: use the score magn"):
        prune_(model, 0.5, score="obs", include=["*.projection", "vit.more"], calibration=tiny.images())


@pytest.mark.parametrize(
    ("score", "pattern"), [("magnitude", "row"), ("wanda", "2:4"), ("taylor", "row"), ("obs", "layer"), ("obs", "2:4")]
)
def test_layers_of_gpt2_are_pruned_like_linear_ones(score, pattern):
    """Their weights are [in, out]."""
    model, _ = build_of("GPT2ForSequenceClassification")
    twin = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if isinstance(layer, Conv1D):
            linear = torch.nn.Linear(*layer.weight.shape)
            linear.weight.data, linear.bias.data = layer.weight.detach().T.contiguous(), layer.bias.detach().clone()
            twin.set_submodule(name, linear)
    options = {"score": score, "pattern": pattern, **given(score, model)}
    for one in (model, twin):
        assert len(prune_(one, 0.5, **options).n_weights) == 4
    for name, weight in prunable_weights(twin).items():
        found = model.get_parameter(name).T
        assert torch.equal(found == 0, weight == 0)
        assert tiny.distance(found, weight) < 10 * tiny.ROUNDING


def test_rows_that_a_pattern_does_not_divide_are_refused():
    model = tiny.bert()
    model.bert.extra = torch.nn.Linear(6, 4)
    with pytest.raises(ValueError, match=r"2:4 needs rows of a multiple of 4 weights. bert.extra.weight has 6"):
        prune_(model, 0.5, pattern="2:4")
    check_weights(model, prunable_weights(model), Method("magnitude", "row"))


def test_an_interrupted_loss_leaves_the_model_alone():
    model, batches = tiny.bert(), []

    def interrupted(model, batch):
        batches.append(batch)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return own_loss(model, batch)

    with tiny.unchanged(model), pytest.raises(KeyboardInterrupt):
        prune_(model, 0.5, score="taylor", calibration=batches_of(tiny.texts(), 8), loss=interrupted)
