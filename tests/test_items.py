"""What a model is asked, item by item, where an example has several: words, labels, choices."""

from dataclasses import asdict

import numpy as np
import pytest
import tiny
import torch
import zoo
from datasets import ClassLabel, Dataset, List
from every_task import CASES, padded, rows

from hf_compalign import (
    AlignedDistillationTrainer,
    AuditCallback,
    AuditOptions,
    Columns,
    Predictions,
    audit,
    compare_candidates,
    fit_deferral,
    predict,
)
from hf_compalign.measure.predictions import FORMAT_VERSION, ask, reader_of, rows_of_items
from hf_compalign.measure.statistics import count_ratio_interval, upper_bound

pytestmark = pytest.mark.numeric

NAMES = {"id2label": {0: "O", 1: "A", 2: "B"}, "label2id": {"O": 0, "A": 1, "B": 2}}
TURNED = {"id2label": {0: "B", 1: "O", 2: "A"}, "label2id": {"B": 0, "O": 1, "A": 2}}


def tagger(seed=1, **config):
    return zoo.build("bert", head="ForTokenClassification", seed=seed, pad_token_id=0, **(NAMES | config))


def sentences(n=12, seed=0):
    """Raw texts as lists of words with a tag each; every word is one token, and [CLS] none of them."""
    rng = np.random.default_rng(seed)
    words = [rng.choice(tiny.WORDS[2:], rng.integers(1, 7)).tolist() for _ in range(n)]
    tags = [rng.integers(0, 3, len(text)).tolist() for text in words]
    found = Dataset.from_dict({"id": [f"s{row}" for row in range(n)], "tokens": words, "tags": tags})
    return found.cast_column("tags", List(ClassLabel(names=["O", "A", "B"])))


def read(model, dataset, **columns):
    return predict(model, dataset, processing_class=tiny.tokenizer(), columns=Columns(**({"label": "tags"} | columns)))


def test_every_word_of_a_text_is_an_item():
    dataset, model = sentences(), tagger()
    found = read(model, dataset)
    words = [(row, place) for row, text in enumerate(dataset["tokens"]) for place in range(len(text))]
    assert found.ids.tolist() == [f"s{row}/{place}" for row, place in words]
    assert found.examples.tolist() == [row for row, _ in words]
    assert found.labels.tolist() == [tag for tags in dataset["tags"] for tag in tags]
    assert found.label_names == ("O", "A", "B")
    ids = torch.tensor([tiny.tokenizer()(dataset["tokens"][3], is_split_into_words=True)["input_ids"]])
    with torch.no_grad():
        own = model(input_ids=ids).logits[0]
    assert tiny.distance(found.logits[found.examples == 3], own) < tiny.ROUNDING


def test_words_of_several_tokens_answer_at_the_first_one_and_other_tokenizers_meet_word_by_word():
    """The pre-tokenizer splits 'a-film', so its three pieces are one word of the text."""
    dataset = Dataset.from_dict({"words": [["a-film", "good"]], "tags": [[1, 2]]})
    found = read(tagger(), dataset)
    assert found.ids.tolist()[0].endswith("/0")
    assert len(found) == 2
    encoded = tiny.tokenizer()(["a-film", "good"], is_split_into_words=True)
    assert encoded.word_ids() == [0, 0, 0, 1]
    with torch.no_grad():
        own = tagger()(input_ids=torch.tensor([encoded["input_ids"]])).logits[0]
    assert tiny.distance(found.logits, own[[0, 3]]) < tiny.ROUNDING


def test_models_are_matched_by_the_names_of_their_classes():
    dataset = sentences()
    ours, theirs = read(tagger(), dataset), read(tagger(**TURNED), dataset)
    moved = theirs.aligned_to(ours)
    assert moved.label_names == ours.label_names
    assert moved.labels.tolist() == ours.labels.tolist()
    assert theirs.label_names == ("B", "O", "A")


def test_the_items_of_prepared_rows_are_the_labeled_tokens():
    dataset, model = rows("token-classification", 6), CASES["token-classification"].model(1)
    found = predict(model, dataset, data_collator=padded, batch_size=4)
    labels = [label for row in dataset["labels"] for label in row if label != -100]
    assert found.labels.tolist() == labels
    lengths = [len(row) - 2 for row in dataset["input_ids"]]
    assert found.examples.tolist() == np.repeat(np.arange(6), lengths).tolist()
    without = predict(model, dataset.remove_columns("labels"), data_collator=padded)
    assert len(without) == len(labels) + 2 * 6
    assert (without.labels == -100).all()
    alone = dataset.map(lambda row: {"labels": [-100] * len(row["labels"])})
    with pytest.raises(ValueError, match="No row has a labeled token. Give labels that are not all -100, or none"):
        predict(model, alone, data_collator=padded)


def test_special_tokens_are_no_items_where_the_tokenizer_is_known():
    ids = [[0, 2, 3, 1], [4, 5, 0, 0]]  # of [PAD] and [UNK], which is a word
    dataset = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]]})
    found = predict(tagger(), dataset, processing_class=tiny.tokenizer())
    assert [name.rsplit("/")[-1] for name in found.ids.tolist()] == ["1", "2", "3", "0", "1"]


def test_each_label_of_several_is_a_question():
    dataset, model = rows("text-multi-label", 5), zoo.build("bert", problem_type="multi_label_classification", **NAMES)
    found = predict(model, dataset, data_collator=padded)
    with torch.no_grad():
        own = model(**{name: padded(list(dataset))[name] for name in ("input_ids", "attention_mask")}).logits
    assert found.label_names == ("no", "yes")
    assert [name.rsplit("/")[-1] for name in found.ids.tolist()] == ["O", "A", "B"] * 5
    assert tiny.distance(found.logits[:, 1], own.flatten()) < tiny.ROUNDING
    assert (found.logits[:, 0] == 0).all()
    assert found.predicted.tolist() == (own.flatten() > 0).int().tolist()
    assert found.labels.tolist() == [int(label) for row in dataset["labels"] for label in row]
    soft = [[0.5 + 0.4 * (2 * label - 1) for label in row] for row in dataset["labels"]]
    soft = dataset.remove_columns("labels").add_column("labels", soft)
    assert predict(model, soft, data_collator=padded).labels.tolist() == found.labels.tolist()
    turned = zoo.build("bert", problem_type="multi_label_classification", **TURNED)
    asked = columns_turned(dataset)
    other = predict(turned, asked, data_collator=padded).aligned_to(found)
    assert other.labels.tolist() == found.labels.tolist()


def columns_turned(dataset):
    """The same labels in the order of `TURNED`."""
    labels = [[row[2], row[0], row[1]] for row in dataset["labels"]]
    return dataset.remove_columns("labels").add_column("labels", labels)


def test_images_may_have_several_labels_too():
    dataset, model = rows("image-multi-label", 4), CASES["image-multi-label"].model(1)
    found = predict(model, dataset)
    assert (len(found), found.examples.tolist()[:4]) == (12, [0, 0, 0, 1])


def test_a_multiple_choice_is_one_item_with_the_choices_for_classes():
    dataset, model = rows("multiple-choice", 5), CASES["multiple-choice"].model(1)
    tokenizer = tiny.tokenizer("[PAD]", "[UNK]", *map(str, range(2, 40)))
    tokenizer.pad_token = "[UNK]"  # whose id the model has for padding
    found = predict(model, dataset, processing_class=tokenizer)
    assert (found.logits.shape, found.examples) == ((5, 3), None)
    assert found.label_names == ("choice 0", "choice 1", "choice 2")
    assert found.labels.tolist() == dataset["labels"][:]
    again = predict(model, dataset, data_collator=padded)
    assert tiny.distance(found.logits, again.logits) < tiny.ROUNDING
    fewer = dataset.map(lambda row, place: {"input_ids": row["input_ids"][: 2 + place % 2]}, with_indices=True)
    fewer = fewer.map(lambda row: {"attention_mask": row["attention_mask"][: len(row["input_ids"])], "labels": 0})
    with pytest.raises(ValueError, match="All questions must have as many choices. Got 2 and 3. Predict those"):
        predict(model, fewer, processing_class=tokenizer)
    with pytest.raises(ValueError, match="The rows of a batch must have as many choices each. Got 2 and 3"):
        next(iter([reader_of(model, fewer, processing_class=tokenizer).batch(fewer, range(5))]))
    with pytest.raises(ValueError, match="The choices of a question are tokenized before they are asked. Got the col"):
        predict(model, tiny.reviews(), processing_class=tokenizer)


def test_a_changed_model_is_asked_the_same_items_again():
    reader = reader_of(tagger(), sentences(), processing_class=tiny.tokenizer())
    asked = ask(reader, sentences(), columns=Columns(label="tags"), batch_size=5)
    other = tagger(seed=3)
    again = asked.again(other)
    np.testing.assert_allclose(again.logits, read(other, sentences()).logits, atol=1e-5)
    assert again.ids.tolist() == asked.answers.ids.tolist()


def test_predictions_keep_their_examples(tmp_path):
    found = read(tagger(), sentences())
    found.save(tmp_path / "items.npz")
    loaded = Predictions.load(tmp_path / "items.npz")
    assert loaded.examples.tolist() == found.examples.tolist()
    order = np.arange(len(found))[::-1]
    moved = found._moved(order, None)
    assert moved.aligned_to(found).examples.tolist() == found.examples.tolist()
    assert FORMAT_VERSION == 2
    with pytest.raises(ValueError, match="examples must have one entry per row of the 2 logits. Got .3."):
        Predictions([[0.0, 1.0]] * 2, [0, 0], ["a", "b"], ["no", "yes"], examples=[0, 0, 1])


# ---- the audit ----


def of_items(n_examples=40, each=5, changed=(), ids=None):
    """Predictions of items that share examples; those of the `changed` examples are all answered otherwise."""
    n = n_examples * each
    answers = np.isin(np.arange(n) // each, changed).astype(int)
    names = [f"{item // each}/{item % each}" for item in range(n)]
    return Predictions(np.eye(2)[answers] * 4, [0] * n, names, ["no", "yes"], examples=np.arange(n) // each)


def test_intervals_and_limits_are_over_examples():
    """Two of 40 texts are misread wholly: that is two of 40, and not ten independent ones of 200."""
    reference, candidate = of_items(), of_items(changed=[3, 9])
    found = audit(reference, candidate, limits={"mismatch_rate": 0.12, "nfr": 0.5})
    assert (found.n, found.n_examples, found.metrics["cie"]) == (200, 40, 10)
    alone = audit(*(Predictions(one.logits, one.labels, one.ids, one.label_names) for one in (reference, candidate)))
    assert alone.n_examples is None
    low, high = found.metrics["mismatch_rate_interval"]
    narrow = alone.metrics["mismatch_rate_interval"]
    assert low < narrow[0] < narrow[1] < high
    assert alone.metrics["mismatch_rate_upper_bound"] < 0.12 < found.metrics["mismatch_rate_upper_bound"]
    assert [verdict.passed for verdict in found.limits] == [False, True]
    assert np.isnan(found.metrics["mcnemar_p"])
    assert np.isnan(found.frequencies.bowker.p_value)
    assert "The items belong to 40 examples, and those of one are alike." in " ".join(str(found).split())
    assert type(found).from_dict(found.to_dict()).n_examples == 40
    stored = found.to_dict()
    del stored["n_examples"]
    assert type(found).from_dict(stored).n_examples is None


def test_an_audit_of_a_model_against_itself_and_beside_a_rerun():
    reference = of_items()
    same = audit(reference, reference, floor=of_items(changed=[1, 2, 3, 4, 5, 6, 7, 8]), limits={"mismatch_rate": 0.2})
    assert same.metrics["agreement"] == 1
    assert same.passed
    assert same.floor.below
    assert same.floor.p_value == pytest.approx(2 / 2**8)
    assert same.floor.mismatch_rate_interval[0] < 0.2 < same.floor.mismatch_rate_interval[1]


def test_texts_are_audited_word_by_word_with_their_contents():
    dataset, options = (
        sentences(20),
        AuditOptions(columns=Columns(label="tags"), processing_class=tiny.tokenizer(), contents=True),
    )
    found = audit(tagger(), tagger(seed=2), dataset, options=options)
    n = sum(map(len, dataset["tokens"]))
    assert (found.n, found.n_labeled, found.n_examples) == (n, n, 20)
    changed = found.items[0]
    row = int(changed.id.split("/")[0].removeprefix("s"))
    assert changed.texts == (" ".join(dataset["tokens"][row]),)
    saved = [read(model, dataset) for model in (tagger(), tagger(seed=2))]
    again = audit(*saved, dataset, options=options)
    assert again.items == found.items
    assert again.metrics["mismatch_rate_upper_bound"] == found.metrics["mismatch_rate_upper_bound"]


def test_groups_of_words_are_those_of_their_texts():
    dataset = sentences(20)
    lengths = [len(words) for words in dataset["tokens"]]
    dataset = dataset.add_column("length", [f"{length} words" for length in lengths])
    options = AuditOptions(columns=Columns(label="tags"), processing_class=tiny.tokenizer())
    found = audit(tagger(), tagger(seed=2), dataset, groups=["length"], options=options)
    assert {row.group: row.n for row in found.groups} == {
        f"{length} words": length * lengths.count(length) for length in dict.fromkeys(lengths)
    }
    assert sum(row.mismatches for row in found.groups) == found.metrics["cie"]
    both = [read(model, dataset) for model in (tagger(), tagger(seed=2))]
    by_item = [f"{lengths[example]} words" for example in both[0].examples]
    np.testing.assert_equal(
        [*map(asdict, audit(*both, groups={"length": by_item}).groups)], [*map(asdict, found.groups)]
    )
    in_halves = audit(*both, groups=["start" if item % 2 else "rest" for item in range(len(both[0]))])
    assert "nan" not in str(in_halves)


def test_a_training_reports_the_groups_of_words(tmp_path):
    dataset = sentences(20)
    dataset = dataset.add_column("length", ["short" if len(words) < 4 else "long" for words in dataset["tokens"]])
    options = AuditOptions(columns=Columns(label="tags"), processing_class=tiny.tokenizer())
    watching = AuditCallback(tagger(), dataset, groups=["length"], options=options)
    trainer = AlignedDistillationTrainer(
        tagger(seed=2),
        tiny.arguments(tmp_path, max_steps=1, eval_strategy="no"),
        teacher=tagger(),
        train_dataset=rows("token-classification", 8),
        data_collator=padded,
        callbacks=[watching],
    )
    trainer.train()
    trainer.evaluate(rows("token-classification", 8))
    assert watching.latest.metrics["cie"] > 0
    alone = audit(tagger(), trainer.model, dataset, groups=["length"], options=options)
    np.testing.assert_equal([*map(asdict, watching.latest.groups)], [*map(asdict, alone.groups)])


def test_candidates_are_compared_over_examples():
    """One misreads four texts whole, the other one of these and another: a sign test of three texts to one."""
    reference, candidates = of_items(), {"one": of_items(changed=[1, 2, 3, 4]), "two": of_items(changed=[4, 5])}
    found = compare_candidates(reference, candidates)
    assert [row.mismatches for row in found.rows] == [20, 10]
    for row, candidate in zip(found.rows, candidates.values(), strict=True):
        alone = audit(reference, candidate)
        assert [*row.mismatch_rate_interval] == alone.metrics["mismatch_rate_interval"]
        assert [*row.nfr_interval] == alone.metrics["nfr_interval"]
    (pair,) = found.pairs
    assert pair.cie_ratio.value == 2
    assert pair.p_value == pytest.approx(2 * (1 + 4) / 2**4)
    whole = [
        Predictions(one.logits[::5], one.labels[::5], one.ids[::5], one.label_names)
        for one in (reference, *candidates.values())
    ]
    alone = compare_candidates(whole[0], dict(zip(candidates, whole[1:], strict=True)))
    assert pair.cie_ratio.high == alone.pairs[0].cie_ratio.high == np.inf
    assert pair.cie_ratio.low == pytest.approx(alone.pairs[0].cie_ratio.low, abs=0.25)


def test_a_ratio_to_no_mismatch_is_bounded_by_how_many_examples_there_were():
    reference, first = of_items(), of_items(changed=[1, 2, 3, 4])
    (pair,) = compare_candidates(reference, {"one": first, "none": reference}).pairs
    assert (pair.cie_ratio.low, pair.cie_ratio.high) == count_ratio_interval(4, 0)


def test_a_training_counts_the_mismatches_that_its_audit_counts(tmp_path):
    name = "token-classification"
    student, teacher = (CASES[name].model(seed) for seed in (2, 1))
    evaluated, options = rows(name, 6, seed=5), AuditOptions(processing_class=tiny.tokenizer())
    trainer = AlignedDistillationTrainer(
        student,
        tiny.arguments(tmp_path, eval_steps=2, max_steps=2),
        teacher=teacher,
        train_dataset=rows(name, 8),
        eval_dataset=evaluated,
        data_collator=padded,
        callbacks=[AuditCallback(CASES[name].model(1), evaluated, options=options)],
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_cie"] == metrics["eval_audit_cie"] > 0
    assert metrics["eval_cie_u"] == metrics["eval_audit_cie_u"]
    upper = metrics["eval_audit_mismatch_rate_upper_bound"]
    assert upper > upper_bound(int(metrics["eval_cie"]), len(predict(student, evaluated, data_collator=padded)))


def test_what_is_not_known_for_items_that_share_examples_is_refused():
    reference, candidate = of_items(), of_items(changed=[3])
    with pytest.raises(ValueError, match="Each word must have a label. Got 1 for 2 words in row 0. Give the column of"):
        read(tagger(), Dataset.from_dict({"words": [["a", "film"]], "tags": [[1]]}))
    with pytest.raises(ValueError, match="A deferral is decided example by example: give predictions with one item"):
        fit_deferral(reference, candidate, budget=0.2)
    for task in ("fill-mask", "text-generation", "text2text-generation"):
        with pytest.raises(
            ValueError, match=f"ask models for {task}, .* for every token. .* evaluate.. says eval_mismatch_rate"
        ):
            predict(CASES[task].model(1), sentences())


def test_items_are_of_the_row_that_all_of_their_example_begin_with():
    """A name may hold slashes, and the name of an item may make that of another row."""
    examples = [0, 0, 1]
    assert rows_of_items(["a/0", "a/1", "a/1/0"], ["a", "a/1"], examples) == [0, 0, 1]
    assert rows_of_items(["x/art", "x/sci/tech"], ["x", "x/sci"], [0, 0]) == [0, 0]
    assert rows_of_items(["x/sci/tech"], ["x", "x/sci"], [7]) == [1]
    assert rows_of_items(["b", "a"], ["a", "b"]) == [1, 0]
    with pytest.raises(ValueError, match="1 of their 3 items are not among them, such as 'c/0'"):
        rows_of_items(["a/0", "c/0", "a/1"], ["a", "b"], [0, 1, 0])
