"""The aligned trainer on every task: the model's own loss, accumulation, the cached teacher, the stock Trainer."""

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from every_task import CASES, batch, padded, rows
from transformers import MixtralConfig, MixtralForCausalLM, Trainer

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments, cache_teacher_logits
from hf_compalign.align import hidden_loss, logits_loss
from hf_compalign.tasks import task_of

pytestmark = pytest.mark.numeric

EVERY = pytest.mark.parametrize("name", CASES)
PLAIN = AlignmentArguments(preset="labels")
VALUES = ("regression", "regression of two")
# A task for each way to count items. Where an example is one item, tests/test_trainer.py does the same.
COUNTED = [
    "token-classification",
    "text-generation",
    "text2text-generation",
    "image-segmentation",
    "question-answering",
    "text-multi-label",
    "regression of two",
]


def terms_for(name):
    """The terms that compare answers: those about classes too, where there are classes."""
    preset = "logits" if name in VALUES else "paper"
    return AlignmentArguments(preset=preset, task_weight=1.0)


def build(
    folder,
    name,
    *,
    student=None,
    teacher="the usual",
    alignment=None,
    dataset=None,
    settings=None,
    collate=padded,
    **trainer,
):
    case = CASES[name]
    return AlignedDistillationTrainer(
        student or case.model(2),
        tiny.arguments(folder, **(settings or {})),
        teacher=case.model(1) if teacher == "the usual" else teacher,
        alignment=alignment or terms_for(name),
        train_dataset=rows(name, 8) if dataset is None else dataset,
        data_collator=collate,
        **trainer,
    )


def loss_of(trainer, given):
    return trainer.compute_loss(trainer.model.train(), given)


@EVERY
def test_the_task_term_is_the_models_own_loss(tmp_path, name):
    trainer, given = build(tmp_path, name, teacher=None, alignment=PLAIN), batch(rows(name, 8, seed=3))
    stock = CASES[name].model(2).train()
    own = stock(**given).loss
    assert tiny.distance(loss_of(trainer, given), own) < tiny.ROUNDING
    # Which the model writes down when it sees labels.
    assert trainer.model.config.problem_type == stock.config.problem_type


def test_targets_of_several_labels_may_lie_between_no_and_yes(tmp_path):
    name = "text-multi-label"
    shares = np.random.default_rng(0).uniform(size=(8, 3)).round(2)
    dataset = columns_of(rows(name, 8), labels=shares.tolist())
    settings = {"label_smoothing_factor": 0.4, "per_device_eval_batch_size": 8}
    with pytest.warns(UserWarning, match="Label smoothing is not compatible with multi-label"):  # so it has no effect
        trainer = build(tmp_path, name, alignment=PLAIN, dataset=dataset, eval_dataset=dataset, settings=settings)
    given = batch(dataset)
    own = trainer.model.train()(**given).loss.item()
    assert loss_of(trainer, given).item() == pytest.approx(own, rel=1e-5)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(own, rel=1e-5)
    with torch.no_grad():
        c, r = ((model.eval()(**given).logits > 0).numpy() for model in (trainer.model, trainer.teacher))
    assert metrics["eval_cie_u"] == ((c != r) & (r == (shares >= 0.5))).sum() > 0


@pytest.mark.parametrize("name", COUNTED)
def test_one_batch_of_8_equals_4_accumulated_batches_of_2(tmp_path, name):
    results = []
    for size, accumulation in ((8, 1), (2, 4)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        settings = {"optim": "sgd", "num_train_epochs": 2, "logging_steps": 1}
        trainer = build(tmp_path, name, dataset=rows(name, 16), settings=sizes | settings)
        trainer.train()
        logged = [log["loss"] for log in trainer.state.log_history[:-1]]
        results.append((tiny.flat(trainer.model), logged))
    (one, first), (four, second) = results
    assert torch.allclose(one, four, atol=1e-5)
    assert not torch.equal(one, tiny.flat(CASES[name].model(2)))
    assert first == pytest.approx(second, rel=1e-4)


def mixture(**config):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_local_experts": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 40}
    routers = {"output_router_logits": True, "router_aux_loss_coef": 0.5, "initializer_range": 0.2}
    return MixtralForCausalLM(MixtralConfig(**(sizes | heads | routers | config)))


def test_the_loss_of_routers_is_part_of_the_models_own(tmp_path):
    dataset, settings = rows("text-generation", 8), {"gradient_accumulation_steps": 2}
    options = {"teacher": None, "dataset": dataset, "settings": settings, "alignment": PLAIN}
    trainer = build(tmp_path, "text-generation", student=mixture(), **options)
    given = batch(dataset)
    own = trainer.model.train()(**given)
    assert own.aux_loss > 0.1
    assert tiny.distance(loss_of(trainer, given), own.loss) < tiny.ROUNDING
    # Of several batches it is the mean, as if they were one.
    batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, trainer.args.device)
    found = sum(trainer.compute_loss(trainer.model, one, num_items_in_batch=count) for one in batches)
    n = [int((one["labels"][:, 1:] != -100).sum()) for one in batches]
    outputs = [trainer.model(**one) for one in batches]
    aux = [0.5 * one.aux_loss for one in outputs]
    plain = sum((one.loss - extra) * k for one, extra, k in zip(outputs, aux, n, strict=True)) / sum(n)
    assert tiny.distance(found, plain + sum(aux) / 2) < tiny.ROUNDING


def test_a_mixture_of_experts_is_evaluated_as_by_the_stock_trainer(tmp_path):
    dataset, settings = rows("text-generation", 8), {"per_device_eval_batch_size": 8}
    teacher = mixture(num_hidden_layers=1)
    options = {"dataset": dataset, "eval_dataset": dataset, "settings": settings, "alignment": PLAIN}
    trainer = build(tmp_path, "text-generation", student=mixture(), teacher=teacher, **options)
    metrics = trainer.evaluate()
    given = batch(dataset)
    with torch.no_grad():
        ours, theirs = (model.eval()(**given) for model in (trainer.model, trainer.teacher))
    assert metrics["eval_loss"] == pytest.approx(ours.loss.item(), rel=1e-5)
    asked = (given["labels"] != -100)[:, 1:]
    differ = (ours.logits.argmax(-1) != theirs.logits.argmax(-1))[:, :-1][asked]
    assert metrics["eval_cie"] == differ.sum() > 0


def test_what_a_model_adds_to_its_loss_in_a_way_of_its_own_is_refused_or_said(tmp_path, caplog):
    model = mixture()
    del model.router_aux_loss_coef
    trainer = build(tmp_path, "text-generation", student=model, teacher=None, alignment=PLAIN)
    with pytest.raises(
        ValueError, match="MixtralForCausalLM gives a loss of its routers, .* no router_aux_loss_coef or"
    ):
        loss_of(trainer, batch(rows("text-generation", 2)))
    model = CASES["text2text-generation"].model(2)
    model.config.output_router_logits = True
    with pytest.raises(ValueError, match="of the routers, which T5ForConditionalGeneration computes from labels alone"):
        build(tmp_path, "text2text-generation", student=model, alignment=PLAIN)
    model = CASES["image-segmentation"].model(2)
    model.auxiliary_head = torch.nn.Identity()
    build(tmp_path, "image-segmentation", student=model, alignment=AlignmentArguments(preset="logits"))
    assert "auxiliary head" not in caplog.text
    build(tmp_path, "image-segmentation", student=model, alignment=PLAIN)
    assert "adds the loss of an auxiliary head to its own when it sees labels. Here that head is not" in caplog.text


@EVERY
def test_the_terms_are_over_the_items(tmp_path, name):
    """Against a second way to compute them, from the raw outputs and row by row."""
    dataset = rows(name, 6, seed=4)
    trainer = build(tmp_path, name, alignment=AlignmentArguments(preset="logits"), dataset=dataset)
    errors = []
    for row in dataset:
        given = padded([row])
        labels = {column: given.pop(column) for column in CASES[name].labels}
        if name == "text2text-generation":
            given["decoder_input_ids"] = trainer.model.prepare_decoder_input_ids_from_labels(labels=labels["labels"])
        with torch.no_grad():
            answers = [model.eval()(**given) for model in (trainer.model, trainer.teacher)]
        errors.append(squared_errors(name, answers, labels))
    expected = torch.cat(errors).mean()
    assert tiny.distance(loss_of(trainer, batch(dataset)), expected) < tiny.ROUNDING


def squared_errors(name, answers, labels):
    """[items]: of one row, the mean over the classes of the squared difference."""
    if name == "question-answering":
        pairs = [[one[f"{end}_logits"] for one in answers] for end in ("start", "end")]
        return torch.cat([logits_loss(*pair, None) for pair in pairs])
    one, other = (answer.logits for answer in answers)
    if name.endswith("multi-label"):
        return ((one - other) ** 2 / 2).flatten()
    if name in VALUES:
        return ((one - other) ** 2).flatten()
    if name == "image-segmentation":
        one, other = (F.interpolate(z, (8, 8), mode="bilinear").movedim(1, -1) for z in (one, other))
        return logits_loss(one, other, None)[labels["labels"] != 255]
    found = logits_loss(one, other, None)
    if name == "text-generation":
        found = found[:, :-1].flatten()  # at the last token there is no next one
    elif name in ("token-classification", "fill-mask", "text2text-generation"):
        found = found[labels["labels"] != -100]
    return found


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.cached])
def test_a_cached_teacher_trains_like_a_live_one(tmp_path, name):
    dataset, teacher = rows(name, 8), CASES[name].model(1)
    cached = cache_teacher_logits(dataset, teacher, data_collator=padded, batch_size=3)
    models = []
    for own, given in ((teacher, dataset), (None, cached)):
        trainer = build(tmp_path, name, teacher=own, dataset=given, settings={"optim": "sgd"})
        trainer.train()
        models.append(tiny.flat(trainer.model))
    assert torch.allclose(*models, atol=1e-5)
    main = task_of(teacher).model_input
    turned = [np.flip(np.array(row), -1).tolist() for row in cached[main]]
    stale = cached.remove_columns(main).add_column(main, turned)
    with pytest.raises(ValueError, match="The cached teacher logits of the train dataset are stale: the inputs of row"):
        build(tmp_path, name, teacher=None, dataset=stale)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.cached])
def test_answers_many_times_larger_than_inputs_are_not_cached(tmp_path, name):
    dataset, teacher = rows(name, 4), CASES[name].model(1)
    with pytest.raises(ValueError, match=f"Answers of {task_of(teacher).name} are not cached: .* Pass teacher= to"):
        cache_teacher_logits(dataset, teacher, data_collator=padded)


def test_a_cache_of_answers_in_which_padding_counts_is_refused_for_rows_of_several_lengths():
    dataset = rows("question-answering", 4)
    uneven = dataset.map(lambda row, index: {"input_ids": row["input_ids"][: 6 + index]}, with_indices=True)
    uneven = uneven.map(lambda row: {"attention_mask": [1] * len(row["input_ids"])})
    with pytest.raises(ValueError, match="rows of one length, .* Got a row of 6 tokens padded to 9. Tokenize with"):
        cache_teacher_logits(uneven, CASES["question-answering"].model(1), data_collator=padded)


def test_cached_answers_stand_where_a_tokenizer_that_pads_on_the_left_puts_the_tokens(tmp_path):
    name = "token-classification"

    def left(given):
        turned = [
            {column: values[::-1] if isinstance(values, list) else values for column, values in row.items()}
            for row in given
        ]
        return {column: values.flip(1) for column, values in padded(turned).items()}

    dataset, teacher = rows(name, 6), CASES[name].model(1)
    cached = cache_teacher_logits(dataset, teacher, data_collator=left)
    losses = []
    for own, given in ((teacher, dataset), (None, cached)):
        trainer = build(tmp_path, name, teacher=own, dataset=given, settings={"per_device_train_batch_size": 6})
        trainer.data_collator = left
        losses.append(loss_of(trainer, next(iter(trainer.get_train_dataloader()))))
    assert tiny.distance(losses[1], losses[0]) < tiny.ROUNDING


# The task term of every task is held to the model's own loss above. With GPT-2 the Trainer counts the first token of a
# text too, which is asked of nobody.
@pytest.mark.parametrize(
    "name", ["token-classification", "multiple-choice", "text2text-generation", "image-segmentation"]
)
def test_without_teacher_terms_training_is_that_of_the_stock_trainer(tmp_path, name):
    stock, ours = CASES[name].model(2), CASES[name].model(2)
    dataset, given = rows(name, 8), tiny.arguments(tmp_path, per_device_train_batch_size=4, optim="sgd")
    Trainer(stock, given, train_dataset=dataset, data_collator=padded).train()
    settings = {"per_device_train_batch_size": 4, "optim": "sgd"}
    build(tmp_path, name, student=ours, teacher=None, alignment=PLAIN, dataset=dataset, settings=settings).train()
    if name == "image-segmentation":
        assert torch.allclose(tiny.flat(stock), tiny.flat(ours), atol=1e-6)  # another sum of the same terms
    else:
        assert torch.equal(tiny.flat(stock), tiny.flat(ours))


@EVERY
def test_an_evaluation_compares_item_by_item(tmp_path, name):
    dataset = rows(name, 7, seed=5)
    trainer = build(tmp_path, name, eval_dataset=dataset, settings={"per_device_eval_batch_size": 3})
    found, predicted = trainer.evaluate(), trainer.predict(dataset).metrics
    given = batch(dataset)
    labels = {column: given.pop(column) for column in CASES[name].labels}
    if name == "text2text-generation":
        given["decoder_input_ids"] = trainer.model.prepare_decoder_input_ids_from_labels(labels=labels["labels"])
    with torch.no_grad():
        answers = [trainer.task.answer(model.eval()(**given)) for model in (trainer.model, trainer.teacher)]
    stacked = labels["labels"] if len(labels) == 1 else torch.stack([*labels.values()], 1)
    ours, theirs = (trainer.task.items(one, stacked, given, trainer.model.config) for one in answers)
    if name in VALUES:
        shift = (ours.logits - theirs.logits).flatten()
        assert found["eval_mean_shift"] == pytest.approx(shift.mean().item(), rel=1e-4)
        assert found["eval_rms_shift"] == pytest.approx(shift.square().mean().sqrt().item(), rel=1e-4)
        assert found["eval_r2"] < 1
        return
    differ = (ours.logits.argmax(-1) != theirs.logits.argmax(-1))[ours.mask]
    assert found["eval_cie"] == predicted["test_cie"] == differ.sum().item() > 0
    assert found["eval_mismatch_rate"] == pytest.approx(differ.float().mean().item())
    assert found["eval_kl"] > 0


@pytest.mark.parametrize("name", ["token-classification", "multiple-choice", "fill-mask", "regression"])
def test_hidden_states_are_averaged_over_examples(tmp_path, name):
    dataset = rows(name, 5)
    trainer = build(tmp_path, name, alignment=AlignmentArguments(task_weight=0.0), dataset=dataset)
    assert trainer.alignment.weights() == {"logits": 1.0, "hidden": 1.0}
    alone = build(tmp_path, name, alignment=AlignmentArguments(preset="logits"), dataset=dataset)
    given = batch(dataset)
    inputs = {column: values for column, values in given.items() if column != "labels"}
    with torch.no_grad():
        states = [
            model.eval()(**inputs, output_hidden_states=True).hidden_states
            for model in (trainer.model, trainer.teacher)
        ]
    expected = loss_of(alone, given) + hidden_loss(*states, given["attention_mask"]).mean()
    assert tiny.distance(loss_of(trainer, given), expected) < tiny.ROUNDING


def test_the_gate_of_an_example_with_several_items_is_the_share_that_passes(tmp_path):
    name, dataset = "token-classification", rows("token-classification", 6)
    gated = AlignmentArguments(logits_weight=0.0, only_where_teacher_is_right=True)
    trainer, given = build(tmp_path, name, alignment=gated, dataset=dataset), batch(dataset)
    inputs = {column: values for column, values in given.items() if column != "labels"}
    with torch.no_grad():
        ours, theirs = (model.eval()(**inputs, output_hidden_states=True) for model in (trainer.model, trainer.teacher))
    items = given["labels"] != -100
    right = (theirs.logits.argmax(-1) == given["labels"]) & items
    share = right.sum(1) / items.sum(1)
    assert 0 < share.sum() < 6
    distance = hidden_loss(ours.hidden_states, theirs.hidden_states, given["attention_mask"])
    assert tiny.distance(loss_of(trainer, given), (distance * share).mean()) < tiny.ROUNDING


def test_texts_without_labels_have_an_item_for_each_token_but_padding(tmp_path):
    dataset = rows("token-classification", 5).remove_columns("labels")
    trainer = build(tmp_path, "token-classification", alignment=AlignmentArguments(preset="logits"), dataset=dataset)
    given = batch(dataset)
    with torch.no_grad():
        ours, theirs = (model.eval()(**given).logits for model in (trainer.model, trainer.teacher))
    expected = logits_loss(ours, theirs, None)[given["attention_mask"].bool()].mean()
    assert tiny.distance(loss_of(trainer, given), expected) < tiny.ROUNDING
    trainer.train()


def test_tokens_are_labeled_by_name(tmp_path):
    name, names = "token-classification", {0: "O", 1: "B-A", 2: "I-A"}
    ids = rows(name, 8)
    text = [["" if label < 0 else names[label] for label in row] for row in ids["labels"]]
    named = ids.remove_columns("labels").add_column("labels", [[one or None for one in row] for row in text])
    trainers = []
    for dataset in (ids, named):
        student = CASES[name].model(2)
        student.config.id2label = names
        trainer = build(tmp_path, name, student=student, dataset=dataset, alignment=PLAIN)
        trainer.train()
        trainers.append(tiny.flat(trainer.model))
    assert torch.equal(*trainers)


def columns_of(dataset, **columns):
    for column, values in columns.items():
        dataset = dataset.remove_columns(column).add_column(column, values)
    return dataset


def test_labels_that_are_not_those_of_the_task_are_refused_before_training(tmp_path):
    spans = rows("question-answering", 2)
    cases = [
        (
            "token-classification",
            columns_of(rows("token-classification", 2), labels=[[0], [1]]),
            "Each token must have a label.*Got 1 labels in column 'labels' for the . tokens of row 0. Align",
        ),
        (
            "token-classification",
            columns_of(rows("token-classification", 2), labels=[0, 1]),
            "must hold a list of labels in each row, one for each token. Got 0. Name the column",
        ),
        (
            "text-multi-label",
            columns_of(rows("text-multi-label", 2), labels=[[1.0, 0.0], [1.0, 0.0]]),
            r"a list of 3 numbers in each row, 1 for each label that holds.*Got \[1.0, 0.0\] in column 'labels', row 0",
        ),
        (
            "text-multi-label",
            columns_of(rows("text-multi-label", 2), labels=[[1.5, 0.0, 1.0]] * 2),
            r"in between where nobody is sure. Got \[1.5, 0.0, 1.0\] in column 'labels', row 0. Fix that column, or",
        ),
        (
            "regression",
            columns_of(rows("regression", 2), labels=["high", "low"]),
            "The labels of a regression are 1 number in each row. Got 'high' in column 'labels', row 0",
        ),
        (
            "multiple-choice",
            columns_of(rows("multiple-choice", 2), labels=[0, 3]),
            r"the number of the right one, in \[0, 3\) where there are 3. Got 3 in column 'labels', row 1",
        ),
        (
            "question-answering",
            columns_of(spans, start_positions=[5, 5], end_positions=[6, 4]),
            r"goes from the token at start_positions to the one at end_positions. Got \(5, 4\) in row 1.*offsets",
        ),
        (
            "question-answering",
            spans.remove_columns("end_positions"),
            "Got no column 'end_positions' among .*Give both start_positions and end_positions",
        ),
    ]
    for name, dataset, message in cases:
        with pytest.raises(ValueError, match=message):
            build(tmp_path, name, dataset=dataset)
    without = spans.remove_columns(["start_positions", "end_positions"])
    with pytest.raises(ValueError, match="has no labels .* and the task term is the only one in use"):
        build(tmp_path, "question-answering", dataset=without, teacher=None, alignment=PLAIN, collate=None)
    nobody_knows = columns_of(rows("regression", 2), labels=[np.nan, np.nan])
    with pytest.raises(ValueError, match="has no labels .* and the task term is the only one in use"):
        build(tmp_path, "regression", dataset=nobody_knows, teacher=None, alignment=PLAIN)
    # Collators of the user's own may make labels, which their first batch shows.
    trainer = build(tmp_path, "question-answering", dataset=without, teacher=None, alignment=PLAIN)
    with pytest.raises(ValueError, match="has none under 'start_positions' and 'end_positions'. Got input_ids, attent"):
        trainer.train()


def test_what_a_task_cannot_be_trained_with_is_refused(tmp_path):
    other = CASES["text-multi-label"].model(1)
    cases = [
        ("regression", {"teacher": other}, r"same task. Got text-classification \(multi_label_classification\) and"),
        ("token-classification", {"teacher": other}, r"same task. Got text-classification \(multi.*token-class"),
        ("question-answering", {"settings": {"label_names": ["labels"]}}, "label_names must be .*'end_positions'] for"),
        ("regression", {"alignment": AlignmentArguments(preset="paper")}, "The agreement term compares classes, and"),
        ("regression", {"alignment": AlignmentArguments(preset="kd")}, "The kl term compares classes, and a regress"),
        (
            "regression",
            {"alignment": AlignmentArguments(preset="logits", only_where_teacher_is_right=True)},
            "ask whether the teacher's class is the label, and a regression has no",
        ),
        ("regression", {"settings": {"label_smoothing_factor": 0.1}}, "over the other classes, and a regression has"),
        (
            "token-classification",
            {"alignment": AlignmentArguments(transfer=0.5)},
            "that have one class each. Got a model for token-classification. Leave transfer out",
        ),
    ]
    for name, options, message in cases:
        with pytest.raises(ValueError, match=message):
            build(tmp_path, name, **options)


def test_language_models_with_other_numbers_of_embeddings_are_refused(tmp_path):
    """Their tokenizer may be the same, and the embeddings of one be padded."""
    teacher, tokenizer = CASES["fill-mask"].model(1), tiny.tokenizer()
    teacher.resize_token_embeddings(48)
    for one in (teacher, tokenizer):
        one.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="Got logits for 48 tokens of the teacher and for 40 of the student. Resize"):
        build(tmp_path, "fill-mask", teacher=str(tmp_path / "teacher"), processing_class=tokenizer)


def test_an_encoder_decoder_without_a_target_is_explained(tmp_path):
    dataset = rows("text2text-generation", 4)
    trainer = build(tmp_path, "text2text-generation", dataset=dataset)
    with pytest.raises(ValueError, match="answers token by token of a target text, and the batch holds none under"):
        trainer.predict(dataset.remove_columns("labels"))


def test_a_segmentation_without_label_maps_is_explained(tmp_path):
    dataset = rows("image-segmentation", 4)
    trainer = build(tmp_path, "image-segmentation", dataset=dataset)
    with pytest.raises(ValueError, match="are the pixels of its label maps, and the batch holds none under 'labels'"):
        trainer.predict(dataset.remove_columns("labels"))
