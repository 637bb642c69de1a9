"""Hidden states, attention maps and input gradients in the trainer: layers, projection, what is refused."""

import copy

import pytest
import tiny
import torch
from every_task import CASES, rows
from safetensors.torch import load_file
from transformers import BartConfig, BartForSequenceClassification

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments
from hf_compalign.align import attention_loss, attribution_loss, check_setup, hidden_loss

pytestmark = pytest.mark.numeric

EAGER = {"attn_implementation": "eager"}
MASKED = {"input_ids", "attention_mask"}


def alone(name, **options):
    """Arguments with one term."""
    return AlignmentArguments(preset="labels", task_weight=0.0, **{f"{name}_weight": 1.0}, **options)


def build(folder, alignment, *, student=None, teacher="the usual", dataset=None, settings=None, **trainer):
    return AlignedDistillationTrainer(
        student or tiny.bert(seed=2, **EAGER),
        tiny.arguments(folder, **(settings or {})),
        teacher=tiny.bert(seed=1, **EAGER) if teacher == "the usual" else teacher,
        alignment=alignment,
        train_dataset=dataset or padded(8),
        **trainer,
    )


def padded(n):
    """Texts whose second half has two tokens of padding."""
    dataset = tiny.texts(n)
    masks = [[1] * 6 if index < n // 2 else [1] * 4 + [0] * 2 for index in range(n)]
    return dataset.remove_columns("attention_mask").add_column("attention_mask", masks)


def loss_of(trainer):
    return trainer.compute_loss(trainer.model.train(), tiny.batch(trainer.train_dataset))


def inside(model, dataset):
    with torch.no_grad():
        return model.eval()(**tiny.batch(dataset, *MASKED), output_hidden_states=True, output_attentions=True)


@pytest.mark.parametrize(
    ("given", "in_force"), [(None, [0, 2, 4]), ([0, 1, 2], [0, 1, 2]), ([-1, -1, 4], [-1, -1, 4]), ([0, -1, -1],) * 2]
)
def test_each_layer_follows_one_of_a_deeper_teacher(tmp_path, given, in_force):
    teacher = tiny.bert(seed=1, num_hidden_layers=4, **EAGER)
    trainer = build(tmp_path, alone("hidden", hidden_layers=given), teacher=teacher)
    assert trainer.alignment.hidden_layers == in_force
    ours, theirs = (inside(model, trainer.train_dataset) for model in (trainer.model, teacher))
    pairs = [(ours.hidden_states[own], theirs.hidden_states[one]) for own, one in enumerate(in_force) if one >= 0]
    mask = tiny.batch(trainer.train_dataset)["attention_mask"]
    expected = hidden_loss(*zip(*pairs, strict=True), mask).mean()
    assert tiny.distance(loss_of(trainer), expected) < tiny.ROUNDING
    if in_force[1:] == [-1, -1]:
        return
    trainer = build(tmp_path, alone("attention", hidden_layers=given), teacher=teacher)
    pairs = [(ours.attentions[own], theirs.attentions[one - 1]) for own, one in enumerate(in_force[1:]) if one >= 1]
    assert tiny.distance(loss_of(trainer), attention_loss(*zip(*pairs, strict=True), mask).mean()) < tiny.ROUNDING


def test_layers_of_a_depth_that_is_no_multiple_are_evenly_spaced(tmp_path):
    models = (tiny.bert(num_hidden_layers=3), tiny.bert(seed=1, num_hidden_layers=5))
    trainer = build(tmp_path, alone("hidden"), student=models[0], teacher=models[1])
    assert trainer.alignment.hidden_layers == [0, 2, 3, 5]


def wider(seed=1):
    return tiny.bert(seed=seed, hidden_size=24, num_hidden_layers=4, **EAGER)


PROJECTED = AlignmentArguments(preset="logits", hidden_weight=1.0, hidden_projection=True, attention_weight=0.5)
ATTRIBUTED = AlignmentArguments(preset="logits", attribution_weight=1.0, task_weight=1.0)


def test_a_projection_to_the_teachers_width_is_trained_and_is_no_part_of_the_student(tmp_path):
    settings = {"save_steps": 4, "max_steps": 4, "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant"}
    trainer = build(tmp_path, alone("hidden", hidden_projection=True), teacher=wider(), settings=settings)
    start = copy.deepcopy(trainer._projection)
    ours, theirs = (inside(model, trainer.train_dataset).hidden_states for model in (trainer.model, trainer.teacher))
    expected = hidden_loss(
        [start(state) for state in ours], theirs[::2], tiny.batch(padded(8))["attention_mask"]
    ).mean()
    loss = loss_of(trainer)
    assert tiny.distance(loss, expected) < tiny.ROUNDING
    student = tiny.flat(trainer.model).clone()
    trainer.train()
    checkpoint = tmp_path / "checkpoint-4"
    learned = load_file(checkpoint / "alignment_projection.safetensors")["weight"]
    assert torch.equal(learned, trainer._projection.weight)
    assert not torch.equal(learned, start.weight)
    assert not torch.equal(student, tiny.flat(trainer.model))
    assert loss_of(trainer) < loss
    assert trainer.model.state_dict().keys() == tiny.bert().state_dict().keys()
    assert load_file(checkpoint / "model.safetensors").keys() <= tiny.bert().state_dict().keys()


@pytest.mark.parametrize("alignment", [PROJECTED, ATTRIBUTED])
def test_one_batch_of_8_equals_4_accumulated_batches_of_2(tmp_path, alignment):
    found = []
    for size, accumulation in ((8, 1), (2, 4)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "optim": "sgd"}
        trainer = build(
            tmp_path,
            alignment,
            teacher=wider() if alignment is PROJECTED else tiny.bert(seed=1),
            dataset=padded(16),
            settings=settings | {"learning_rate": 0.01},
        )
        trainer.train()
        learned = [] if trainer._projection is None else [trainer._projection.weight.flatten()]
        found.append(torch.cat([tiny.flat(trainer.model), *learned]))
    assert torch.allclose(*found, atol=1e-6)


def test_a_resumed_training_goes_on_with_its_projection(tmp_path):
    found = []
    for resume in (None, str(tmp_path / "checkpoint-2")):
        folder = tmp_path if resume is None else tmp_path / "resumed"
        settings = {"save_steps": 2, "weight_decay": 0.1}
        trainer = build(folder, PROJECTED, teacher=wider(), dataset=padded(16), settings=settings)
        trainer.train(resume_from_checkpoint=resume)
        found.append(torch.cat([tiny.flat(trainer.model), trainer._projection.weight.flatten()]))
    assert torch.equal(*found)
    (tmp_path / "checkpoint-2" / "alignment_projection.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="alignment_projection.safetensors holds no projection .* Resume from another"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def gradients(model, dataset, answers=None):
    """Of the logit of the teacher's answer, with respect to embeddings that are given in place of the tokens."""
    given = tiny.batch(dataset, *(MASKED & {*dataset.column_names}))
    if "input_ids" in given:
        given["inputs_embeds"] = read = model.get_input_embeddings()(given.pop("input_ids")).detach().requires_grad_()
    else:
        given["pixel_values"] = read = tiny.batch(dataset, "pixel_values")["pixel_values"].requires_grad_()
    logits = model.eval()(**given).logits
    answers = logits.argmax(-1) if answers is None else answers
    chosen = logits.gather(-1, answers[:, None]).sum()
    return torch.autograd.grad(chosen, read)[0], answers


@pytest.mark.parametrize("make", [tiny.bert, tiny.vit])
def test_input_gradients_are_those_of_the_teachers_answer(tmp_path, make):
    dataset = padded(8) if make is tiny.bert else tiny.images(8)
    trainer = build(tmp_path, alone("attribution"), student=make(seed=2), teacher=make(seed=1), dataset=dataset)
    wanted, answers = gradients(trainer.teacher, dataset)
    own, _ = gradients(trainer.model, dataset, answers)
    expected = attribution_loss(own, wanted).mean()
    assert expected > 0.1
    assert tiny.distance(loss_of(trainer), expected) < tiny.ROUNDING
    same = {"student": copy.deepcopy(trainer.teacher), "teacher": trainer.teacher, "dataset": dataset}
    assert loss_of(build(tmp_path, alone("attribution"), **same)) < tiny.ROUNDING


def test_the_loss_of_input_gradients_has_the_gradient_of_its_values(tmp_path):
    """Though it goes through the gradient of a gradient."""
    student, teacher = tiny.bert(seed=2).double(), tiny.bert(seed=1).double()
    trainer = build(tmp_path, alone("attribution"), student=student, teacher=teacher)
    weight = student.bert.encoder.layer[1].attention.self.query.weight
    loss_of(trainer).backward()
    step, moved = 1e-3, []
    for sign in (1, -1):
        with torch.no_grad():
            weight[3, 5] += sign * step
            with torch.enable_grad():
                moved.append(loss_of(trainer).item())
            weight[3, 5] -= sign * step
    assert weight.grad[3, 5].abs() > 1e-3
    assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(weight.grad[3, 5].item(), rel=1e-2)


def test_frozen_embeddings_have_gradients_too(tmp_path):
    losses = []
    for frozen in (False, True):
        student = tiny.bert(seed=2)
        student.get_input_embeddings().requires_grad_(not frozen)
        losses.append(loss_of(build(tmp_path, alone("attribution"), student=student)).item())
    assert losses[0] == losses[1] > 0


def test_the_inside_takes_no_part_in_an_evaluation(tmp_path):
    alignment = AlignmentArguments(hidden_weight=1.0, attention_weight=1.0, attribution_weight=1.0)
    trainer = build(tmp_path, alignment, eval_dataset=padded(8), settings={"max_steps": 1, "logging_steps": 1})
    logits = build(tmp_path, AlignmentArguments(preset="logits"), eval_dataset=padded(8))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(logits.evaluate()["eval_loss"])
    trainer.train()
    line = trainer.state.log_history[0]
    assert min(line[f"{name}_loss"] for name in ("logits", "hidden", "attention", "attribution")) > 0


def test_what_cannot_be_compared_is_refused_before_training(tmp_path):
    hidden, maps, gradient = (alone(name) for name in ("hidden", "attention", "attribution"))
    shape = {"vocab_size": 40, "d_model": 16, "max_position_embeddings": 32, "encoder_layers": 1, "decoder_layers": 1}
    shape |= {f"{part}_{size}": 8 for part in ("encoder", "decoder") for size in ("ffn_dim", "attention_heads")}
    both = [BartForSequenceClassification(BartConfig(**shape, num_labels=3)) for _ in range(2)]
    cases = [
        ("num_hidden_layers=2 of the student and 1 of .* Say with hidden_layers=", hidden, {"num_hidden_layers": 1}),
        ("hidden_size=16 of the student and 24 .* With hidden_projection=True a", hidden, {"hidden_size": 24}),
        (
            "hidden_projection=True would be ignored: .* have the width 16. Leave it out",
            alone("hidden", hidden_projection=True),
            {},
        ),
        (
            r"hidden_layers must hold .* each of its 2 layers, in \[0, 4\] .* Got \[0, 5, 4\]. \[0, 2, 4\], say",
            alone("hidden", hidden_layers=[0, 5, 4]),
            {"num_hidden_layers": 4},
        ),
        (r"Got \[1, 2\]. \[0, 1, 2\], say", alone("hidden", hidden_layers=[1, 2]), {}),
        ("not all -1. Got", alone("hidden", hidden_layers=[-1] * 3), {}),
        ("lets no layer of the student follow", alone("attention", hidden_layers=[0, -1, 0]), {}),
        (
            "Only attn_implementation='eager' returns attention maps. Got 'sdpa' of the teacher. Load both",
            maps,
            {"attn_implementation": "sdpa"},
        ),
        ("head by head. Got 2 heads of the student and 4 of", maps, {"num_attention_heads": 4}),
        ("must have one width. Got 16 of the student and 24", gradient, {"hidden_size": 24}),
    ]
    for message, alignment, config in cases:
        with pytest.raises(ValueError, match=message):
            build(tmp_path, alignment, teacher=tiny.bert(seed=1, **(EAGER | config)))
    others = [
        ("An encoder-decoder has attention maps of three kinds", maps, {"student": both[0], "teacher": both[1]}),
        ("Got None of the student and None", gradient, {"student": both[0], "teacher": both[1]}),
        ("not to be had with gradient_checkpointing", gradient, {"settings": {"gradient_checkpointing": True}}),
        ("Attention maps are not cached with the logits: they need a live", maps, {"teacher": None}),
        (
            "needs attn_implementation='sdpa' or 'eager'. Got 'flex_attention'",
            gradient,
            {"student": tiny.bert(attn_implementation="flex_attention")},
        ),
    ]
    for message, alignment, options in others:
        with pytest.raises(ValueError, match=message):
            build(tmp_path, alignment, **options)
    name = "token-classification"
    models = {"student": CASES[name].model(2), "teacher": CASES[name].model(1)}
    with pytest.raises(ValueError, match="classifiers of texts and images, .* Got a model for token-classification"):
        build(tmp_path, gradient, dataset=rows(name, 4), **models)


def test_a_projection_is_refused_where_it_would_not_be_trained(tmp_path, monkeypatch):
    alignment = alone("hidden", hidden_projection=True)
    student = tiny.bert()
    optimizers = (torch.optim.SGD(student.parameters(), lr=0.1), None)
    with pytest.raises(ValueError, match="hidden_projection=True learns its weights .* or leave it out"):
        build(tmp_path, alignment, student=student, teacher=wider(), optimizers=optimizers)
    trainer = build(tmp_path, alignment, teacher=wider())
    monkeypatch.setattr(trainer, "is_fsdp_enabled", True)
    with pytest.raises(ValueError, match="hidden_projection=True keeps its weights outside the model"):
        check_setup(trainer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layers": [0, 1]}, r"hidden_layers=\[0, 1\] would be ignored: it needs hidden_weight or attention_w"),
        ({"hidden_projection": True}, "hidden_projection=True would be ignored: it needs hidden_weight > 0"),
    ],
)
def test_options_of_terms_that_take_no_part_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AlignmentArguments(preset="logits", **options)
