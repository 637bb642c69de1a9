"""Texts longer than a model, read in windows: how they are cut, and that everything answers with the windows' mean."""

import copy
import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
import zoo
from datasets import Dataset
from every_task import CASES, batch, rows
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer

from hf_compalign import (
    AlignedDistillationTrainer,
    AlignmentArguments,
    AttributionOptions,
    AuditOptions,
    DeferringModel,
    PruningCallback,
    WindowCollator,
    audit,
    export_onnx,
    fit_deferral,
    load_compressed,
    predict,
    prune_,
    read_in_windows,
)
from hf_compalign.compress import calibration_batches
from hf_compalign.data import tokenized_windows
from hf_compalign.measure.predictions import predict_values
from hf_compalign.models import windows_of
from hf_compalign.opening import load_model
from hf_compalign.report.card import CardDetails
from hf_compalign.ship import write_model_card

pytestmark = pytest.mark.numeric

LENGTH, STRIDE = 8, 2


def tokenizer():
    """A word is a token, and a text begins and ends with a special one."""
    found = tiny.tokenizer("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij")
    found.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    found.model_input_names = ["input_ids", "attention_mask", "token_type_ids"]
    return found


def texts(n=9, *, seed=0, longest=30):
    rng = np.random.default_rng(seed)
    words = [" ".join(rng.choice([*"abcdefghij"], rng.integers(1, longest + 1))) for _ in range(n)]
    return Dataset.from_dict({"text": words, "label": rng.integers(0, 3, n)})


def model(seed=0, name="bert", **config):
    return read_in_windows(zoo.build(name, seed=seed, **({"pad_token_id": 0} | config)), length=LENGTH, stride=STRIDE)


def stock(windowed):
    """A model of the stock class with the same weights."""
    plain = copy.deepcopy(windowed)
    plain.__class__ = type(windowed).__mro__[1]
    return plain


def aligned(folder, dataset, **options):
    """A trainer of one model that reads windows after another."""
    given = {"teacher": model(1), "processing_class": tokenizer()} | options
    return AlignedDistillationTrainer(model(2), tiny.arguments(folder), train_dataset=dataset, **given)


def by_hand(windowed, dataset):
    """The mean of the logits of each window, asked alone."""
    plain, cut = stock(windowed).eval(), tokenized_windows(dataset, tokenizer(), ["text"], length=LENGTH, stride=STRIDE)
    with torch.no_grad():
        answers = [[plain(input_ids=torch.tensor([ids])).logits[0] for ids in row] for row in cut["input_ids"]]
    return torch.stack([torch.stack(of_windows).mean(0) for of_windows in answers]).numpy()


# ---- cutting ----


@pytest.mark.parametrize("stride", [0, 2, 4])
def test_windows_hold_the_whole_text_and_share_the_stride(stride):
    dataset = texts(20, longest=40)
    cut = tokenized_windows(dataset, tokenizer(), ["text"], length=LENGTH, stride=stride)
    for text, windows, masks in zip(dataset["text"], cut["input_ids"], cut["attention_mask"], strict=True):
        whole = tokenizer()(text, add_special_tokens=False)["input_ids"]
        inner = [ids[1:-1] for ids in windows]
        assert all(ids[0] == 2 and ids[-1] == 3 and len(ids) <= LENGTH for ids in windows)
        assert all(len(ids) == LENGTH for ids in windows[:-1])
        assert inner[0] + [token for ids in inner[1:] for token in ids[stride:]] == whole
        assert masks == [[1] * len(ids) for ids in windows]


def test_the_first_text_of_a_pair_stands_in_each_window():
    dataset = Dataset.from_dict({"question": ["a b", "c"], "text": ["d e f g h i j a b c", "d"]})
    cut = tokenized_windows(dataset, tokenizer(), ["question", "text"], length=10, stride=2)
    words = [[" ".join(tokenizer().convert_ids_to_tokens(ids)) for ids in windows] for windows in cut["input_ids"]]
    assert words == [
        [
            "[CLS] a b [SEP] d e f g h [SEP]",
            "[CLS] a b [SEP] g h i j a [SEP]",
            "[CLS] a b [SEP] j a b c [SEP]",
        ],
        ["[CLS] c [SEP] d [SEP]"],
    ]
    assert cut["token_type_ids"][0][2] == [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_a_collator_fills_up_windows_and_their_number():
    cut = tokenized_windows(texts(4), tokenizer(), ["text"], length=LENGTH, stride=STRIDE).remove_columns("text")
    given = WindowCollator(DataCollatorWithPadding(tokenizer()))([*cut])
    sizes = [len(row) for row in cut["input_ids"]]
    assert given["input_ids"].shape[:2] == (4, max(sizes))
    assert given["attention_mask"].any(-1).sum(1).tolist() == sizes
    assert given["labels"].tolist() == cut["label"][:]
    for row, windows in zip(given["input_ids"], cut["input_ids"], strict=True):
        assert [ids[ids != 0].tolist() for ids in row[: len(windows)]] == windows


# ---- answers ----


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert"])
def test_the_answer_is_the_mean_over_the_windows(name):
    windowed, dataset = model(name=name), texts()
    expected = by_hand(windowed, dataset)
    for size in (1, 4):
        found = predict(windowed, dataset, processing_class=tokenizer(), batch_size=size)
        assert tiny.distance(found.logits, expected) < tiny.ROUNDING


def test_it_is_saved_along_and_read_by_whatever_opens_it(tmp_path):
    windowed, dataset = model(), texts()
    expected = by_hand(windowed, dataset)
    windowed.save_pretrained(tmp_path / "torch")
    config = json.loads((tmp_path / "torch/config.json").read_text())
    assert config["text_windows"] == {"length": LENGTH, "stride": STRIDE}
    assert config["architectures"] == ["BertForSequenceClassification"]
    export_onnx(windowed, tmp_path / "onnx")
    for kind in ("torch", "onnx"):
        tokenizer().save_pretrained(tmp_path / kind)
        assert tiny.distance(predict(tmp_path / kind, dataset).logits, expected) < tiny.ROUNDING
    assert type(load_compressed(tmp_path / "torch")).__name__ == "BertForSequenceClassification"
    # Transformers itself opens an ordinary model of the same weights.
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "torch")
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in windowed.state_dict().items())
    assert windows_of(load_model(plain)) == windows_of(windowed)
    assert tiny.distance(predict(plain, dataset, processing_class=tokenizer()).logits, expected) < tiny.ROUNDING


def test_a_batch_of_whole_texts_is_answered_as_by_the_stock_class():
    windowed, given = model(), zoo.inputs(zoo.build("bert"))
    with torch.no_grad():
        assert torch.equal(windowed(**given).logits, stock(windowed)(**given).logits)
        assert torch.equal(windowed(given["input_ids"]).logits, stock(windowed)(given["input_ids"]).logits)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_the_loss_is_that_of_the_mean_logits(problem):
    windowed, given = model(problem_type=problem), batch(rows("windows", 6))
    with torch.no_grad():
        logits = windowed(**{name: value for name, value in given.items() if name != "labels"}).logits
    labels = given["labels"] if problem.startswith("single") else torch.rand(6, 3).round()
    losses = {"single": F.cross_entropy, "multi_": F.binary_cross_entropy_with_logits, "regres": F.mse_loss}
    expected = losses[problem[:6]](logits, labels)
    assert tiny.distance(windowed(**given | {"labels": labels}).loss, expected) < tiny.ROUNDING


def test_a_regression_is_asked_for_the_mean_of_its_values():
    windowed, dataset = model(num_labels=1), texts().remove_columns("label")
    found = predict_values(windowed, dataset, processing_class=tokenizer())
    assert tiny.distance(found.values.ravel(), by_hand(windowed, dataset).ravel()) < tiny.ROUNDING


def test_hidden_states_are_those_of_each_window():
    windowed, given = model(), batch(rows("windows", 5))
    del given["labels"]
    with torch.no_grad():
        states = windowed(**given, output_hidden_states=True).hidden_states[-1]
        n, size = given["input_ids"].shape[:2]
        for row in range(n):
            for window in range(size):
                mask = given["attention_mask"][row, window]
                place = row * size + window
                if not mask.any():
                    assert not states[place].any()
                    continue
                alone = given["input_ids"][row, window][mask.bool()][None]
                own = stock(windowed)(alone, output_hidden_states=True).hidden_states[-1][0]
                assert tiny.distance(states[place][mask.bool()], own) < tiny.ROUNDING


def test_files_and_pairs_that_defer_answer_alike(tmp_path):
    reference, candidate, dataset = model(1), model(2), texts(40)
    how = {"processing_class": tokenizer()}
    first, second = (predict(one, dataset, **how) for one in (reference, candidate))
    deferral = replace(fit_deferral(first, second, budget=0.9, confidence=0.5), threshold=1.0)
    both = predict(DeferringModel(candidate, reference, deferral), dataset, **how)
    answered = deferral.answers(second.logits)
    assert 0 < answered.sum() < len(dataset)
    expected = np.where(answered[:, None], second.logits, first.logits)
    assert tiny.distance(both.logits, expected) < tiny.ROUNDING
    found = audit(reference, candidate, dataset, options=AuditOptions(processing_class=tokenizer()))
    assert found.metrics["cie"] == (first.predicted != second.predicted).sum()


def test_outputs_stand_as_in_the_stock_class():
    windowed, given = model(), batch(rows("windows", 4))
    outputs = windowed(**given)
    assert list(outputs) == ["loss", "logits"]
    assert torch.equal(windowed(**given, return_dict=False)[0], outputs.loss)
    other = pickle.loads(pickle.dumps(windowed))
    assert torch.equal(other(**given).logits, outputs.logits)
    assert type(other) is type(windowed)


def test_a_card_says_how_to_ask_it_and_not_how_to_ask_a_part_of_it(tmp_path):
    windowed, dataset = model(), texts(30)
    windowed.config.id2label, windowed.config.label2id = ({0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2})
    windowed.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    found = audit(windowed, tmp_path, dataset, options=AuditOptions(processing_class=tokenizer()))
    write_model_card(tmp_path, found, details=CardDetails("text-classification", "base", "texts", name=str(tmp_path)))
    card = (tmp_path / "README.md").read_text()
    assert "reads long texts in windows" in card
    assert "pipeline(" not in card
    known = {}
    exec(re.search(r"```python\n(.*?)```", card, re.S).group(1), known)
    assert len(known["answers"]) == 2


# ---- training and compressing ----


def test_any_collator_of_single_texts_does_and_the_stock_trainer_trains_the_same(tmp_path):
    cut = tokenized_windows(texts(12), tokenizer(), ["text"], length=LENGTH, stride=STRIDE).remove_columns("text")
    own, ours = model(2), model(2)
    collate = DataCollatorWithPadding(tokenizer())
    Trainer(own, tiny.arguments(tmp_path), train_dataset=cut, data_collator=WindowCollator(collate)).train()
    for given in ({"data_collator": collate}, {"processing_class": tokenizer()}):
        ours = model(2)
        alignment = AlignmentArguments(preset="labels")
        AlignedDistillationTrainer(
            ours, tiny.arguments(tmp_path), train_dataset=cut, alignment=alignment, **given
        ).train()
        assert torch.equal(tiny.flat(own), tiny.flat(ours))


def test_the_default_alignment_prunes_and_saves_a_model_that_reads_windows(tmp_path):
    cut = tokenized_windows(texts(16), tokenizer(), ["text"], length=LENGTH, stride=STRIDE).remove_columns("text")
    plain = stock(model(2))
    assert windows_of(plain)
    trainer = AlignedDistillationTrainer(
        plain,
        tiny.arguments(tmp_path, logging_steps=1),
        teacher=model(1),
        train_dataset=cut,
        eval_dataset=cut,
        processing_class=tokenizer(),
        callbacks=[PruningCallback(0.5, score="obs")],
    )
    trainer.train()
    trainer.save_model()
    assert "hidden_loss" in trainer.state.log_history[0]
    answers = [predict(one, texts(16), processing_class=tokenizer()) for one in (model(1), tmp_path)]
    assert trainer.evaluate()["eval_cie"] == (answers[0].predicted != answers[1].predicted).sum()


@pytest.mark.parametrize("terms", [{"hidden_weight": 1.0}, {"attention_weight": 1.0}])
def test_a_short_text_counts_as_much_beside_a_long_one(tmp_path, terms):
    """One batch of a text of three windows and one of one, and the two accumulated."""
    ids = [[[5, 6, 7]] * 3, [[8, 9, 10]]]
    columns = {"input_ids": ids, "attention_mask": [[[1] * 3] * len(row) for row in ids], "labels": [0, 1]}
    logged = []
    for size in (2, 1):
        trainer = AlignedDistillationTrainer(
            model(2, attn_implementation="eager"),
            tiny.arguments(
                tmp_path,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=2 // size,
                max_steps=1,
                logging_steps=1,
            ),
            teacher=model(1, attn_implementation="eager"),
            alignment=AlignmentArguments(preset="logits", **terms),
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer(),
        )
        trainer.train()
        logged.append(trainer.state.log_history[0])
    name = next(iter(terms)).replace("weight", "loss")
    assert logged[0][name] == pytest.approx(logged[1][name], rel=1e-4)


@pytest.mark.parametrize("form", ["collated already", "numpy", "no mask"])
def test_rows_and_collators_of_every_form_are_read(tmp_path, form):
    dataset, expected = texts(8), by_hand(model(), texts(8))
    cut = tokenized_windows(dataset, tokenizer(), ["text"], length=LENGTH, stride=STRIDE).remove_columns("text")
    reader, collate = tokenizer(), None
    if form == "collated already":
        collate = WindowCollator(DataCollatorWithPadding(reader))
    elif form == "numpy":
        cut = cut.with_format("numpy")
    else:
        reader.model_input_names = ["input_ids"]
        cut = cut.select_columns(["input_ids", "label"])
    found = predict(model(), cut, processing_class=reader, data_collator=collate)
    assert tiny.distance(found.logits, expected) < tiny.ROUNDING
    trainer = AlignedDistillationTrainer(
        model(2),
        tiny.arguments(tmp_path, max_steps=1),
        teacher=model(1),
        train_dataset=cut,
        eval_dataset=cut,
        processing_class=reader,
        data_collator=collate,
    )
    answers = [predict(one, dataset, processing_class=tokenizer()).predicted for one in (model(1), model(2))]
    assert trainer.evaluate()["eval_cie"] == (answers[0] != answers[1]).sum()


def test_a_model_that_is_made_anew_reads_windows_too(tmp_path):
    made = []

    def make():
        made.append(stock(model(2)))
        return made[-1]

    trainer = AlignedDistillationTrainer(
        None,
        tiny.arguments(tmp_path, max_steps=1),
        model_init=make,
        teacher=model(1),
        train_dataset=rows("windows", 4),
        processing_class=tokenizer(),
    )
    trainer.train()
    assert len(made) == 2


def test_adapters_around_a_model_that_was_loaded_as_stock_read_windows_too():
    peft = pytest.importorskip("peft")
    windowed, dataset = model(), texts()
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"])  # changes nothing yet
    adapted = peft.get_peft_model(stock(windowed), config)
    found = predict(adapted.eval(), dataset, processing_class=tokenizer())
    assert tiny.distance(found.logits, by_hand(windowed, dataset)) < tiny.ROUNDING


def test_calibration_sees_each_window_with_the_label_of_its_text():
    windowed, given = model(), batch(rows("windows", 5))
    (found,) = calibration_batches([given], windowed)
    places = given["attention_mask"].any(-1)
    owners = [row for row in range(5) for _ in range(int(places[row].sum()))]
    assert torch.equal(found["input_ids"], given["input_ids"][places])
    assert torch.equal(found["labels"], given["labels"][owners])
    pruned = [prune_(model(), 0.5, score="obs", calibration=[one]) for one in (given, found)]
    assert pruned[0] == pruned[1]


# ---- what is refused ----


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (CASES["token-classification"].model, {"stride": 2}, "or regression of whole texts .* predict_spans"),
        (lambda seed: zoo.build("vit"), {"stride": 2}, "of whole texts can read them in windows. Got ViTFor"),
        (lambda seed: zoo.build("bert"), {"length": 41, "stride": 2}, "length must be at most 40, .* Got 41"),
        (lambda seed: zoo.build("bert"), {"length": 8, "stride": 5}, "of 8 tokens cannot share 5: .* at most 4"),
        (lambda seed: zoo.build("bert"), {"length": 3, "stride": 0}, "length must be at least 4. Got 3"),
        (lambda seed: zoo.build("bert"), {"stride": -1}, "stride must be at least 0"),
        (lambda seed: zoo.build("modernbert"), {"stride": 2}, "takes texts of any length. Say with length="),
    ],
)
def test_what_cannot_read_windows_is_refused(build, options, message):
    windowless = build(0)
    with pytest.raises(ValueError, match=message):
        read_in_windows(windowless, **options)
    assert windows_of(windowless) is None


def test_a_config_that_says_something_else_is_refused():
    damaged = zoo.build("bert")
    damaged.config.text_windows = {"size": 3}
    with pytest.raises(ValueError, match="config.text_windows must hold length and stride. Got {'size': 3}"):
        load_model(damaged)


def test_texts_that_cannot_be_cut_are_refused():
    dataset = Dataset.from_dict({"question": ["a b c d"], "text": ["d e f g h i j"]})
    with pytest.raises(ValueError, match="4 tokens in the column 'question' leaves no room .* name the longer column"):
        tokenized_windows(dataset, tokenizer(), ["question", "text"], length=LENGTH, stride=STRIDE)
    fits = tokenized_windows(dataset, tokenizer(), ["question", "text"], length=14, stride=8)
    assert [len(windows) for windows in fits["input_ids"]] == [1]
    with pytest.raises(ValueError, match="Windows of 8 tokens, of which 2 are special, cannot share 6: .* at most 5"):
        tokenized_windows(dataset, tokenizer(), ["text"], length=LENGTH, stride=6)
    slow = tokenizer()
    slow.__class__ = type("Slow", (type(slow),), {"is_fast": False})
    with pytest.raises(ValueError, match="by a fast tokenizer. Got Slow"):
        tokenized_windows(dataset, slow, ["text"], length=LENGTH, stride=STRIDE)


def test_a_teacher_that_reads_other_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="read long texts in windows, or neither: .* Got teacher none, student Win"):
        aligned(tmp_path, rows("windows", 4), teacher=zoo.build("bert"))


def test_two_models_that_read_other_parts_of_a_text_are_not_compared():
    with pytest.raises(ValueError, match="Got reference Windows.length=8, stride=2., candidate none"):
        audit(model(1), zoo.build("bert"), texts(), options=AuditOptions(processing_class=tokenizer()))


def test_rows_of_windows_are_refused_by_a_model_that_reads_none(tmp_path):
    plain = zoo.build("bert")
    with pytest.raises(ValueError, match="Each row holds several texts in 'input_ids', .* BertForS.* reads"):
        predict(plain, rows("windows", 4), processing_class=tokenizer())
    with pytest.raises(ValueError, match="Each row holds several texts in 'input_ids'"):
        AlignedDistillationTrainer(
            plain, tiny.arguments(tmp_path), teacher=zoo.build("bert", seed=1), train_dataset=rows("windows", 4)
        )


def test_whole_texts_are_read_as_they_are_and_that_is_said(caplog):
    whole = Dataset.from_dict({"input_ids": [[5, 6, 7], [8, 9, 10]]})
    predict(model(), whole, processing_class=tokenizer())
    assert "each of these rows holds one text, as it is" in caplog.text


def test_a_window_longer_than_the_model_is_named(tmp_path):
    long = Dataset.from_dict({"input_ids": [[[5] * 50], [[6] * 3]], "labels": [0, 1]})
    trainer = aligned(tmp_path, long)
    with pytest.raises(ValueError, match="Row [01] of a batch has 50 tokens, and the model has positions for 40"):
        trainer.train()


def test_what_a_training_has_wrapped_is_refused():
    wrapped = zoo.build("bert")
    wrapped.forward = wrapped.forward
    with pytest.raises(ValueError, match="wrapped for a training, by Accelerate. Call read_in_windows before it"):
        read_in_windows(wrapped, stride=2)


def test_texts_are_not_made_up_of_windows(tmp_path):
    with pytest.raises(ValueError, match="transfer makes texts that are read at once"):
        aligned(tmp_path, rows("windows", 4), alignment=AlignmentArguments(transfer=0.5))


def test_reasons_are_not_compared_over_windows(tmp_path):
    options = AuditOptions(processing_class=tokenizer())
    with pytest.raises(ValueError, match="Texts that are read in windows are not explained"):
        audit(model(1), model(2), texts(), options=options, attribution=AttributionOptions())
    with pytest.raises(ValueError, match="Gradients of inputs are compared for texts that are read at once"):
        aligned(tmp_path, rows("windows", 4), alignment=AlignmentArguments(attribution_weight=1.0))
