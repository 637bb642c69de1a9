"""Attributions of words and of labels: by hand, complete, and of one item of each example."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import tiny
import torch
import zoo
from commands import call
from datasets import ClassLabel, Dataset, List
from every_task import CASES, padded, rows

from hf_compalign import AttributionOptions, AuditOptions, Columns, attribution_agreement, audit, predict, write_report
from hf_compalign.labels import IGNORED
from hf_compalign.measure.attribution import METHODS, Attributor, Batch, explain
from hf_compalign.measure.attribution.items import drawn
from hf_compalign.measure.audit import Audit
from hf_compalign.measure.predictions import YES_NO, RowItems

TAGS = {"id2label": {0: "O", 1: "A", 2: "B"}, "label2id": {"O": 0, "A": 1, "B": 2}}
TURNED = {"id2label": {0: "B", 1: "O", 2: "A"}, "label2id": {"B": 0, "O": 1, "A": 2}}
SEVERAL = {"problem_type": "multi_label_classification"}
COLUMNS = Columns(label="tags")


def tagger(name="bert", seed=1, **config):
    return zoo.build(name, head="ForTokenClassification", seed=seed, **({"pad_token_id": 0} | TAGS | config))


def labeler(name="bert", seed=1, **config):
    return zoo.build(name, seed=seed, **({"pad_token_id": 0} | SEVERAL | TAGS | config))


def sentences(n=12):
    """Texts of 1 to 6 words with a tag each; every word but the first two of the first text is one token."""
    rng = np.random.default_rng(0)
    words = [
        ["a-film", "good-book", "the"],
        *(rng.choice(tiny.WORDS[2:], rng.integers(1, 7)).tolist() for _ in range(n)),
    ]
    tags = [rng.integers(0, 3, len(text)).tolist() for text in words[:n]]
    found = Dataset.from_dict({"id": [f"s{row}" for row in range(n)], "tokens": words[:n], "tags": tags})
    return found.cast_column("tags", List(ClassLabel(names=["O", "A", "B"])))


def texts(n=12):
    """Tokens of several lengths without labels: each text is asked for all three."""
    return rows("text-multi-label", n).remove_columns("labels")


def images(n=6):
    return rows("image-multi-label", n)


def options(**settings):
    return AttributionOptions(**({"n_items": 8, "n_steps": 8, "top_k": 2} | settings))


def given(dataset, **settings):
    """What the functions need besides the models and these rows."""
    found = {"options": options(**settings)}
    if "pixel_values" in dataset.column_names:
        return found
    named = {"columns": COLUMNS} if "tags" in dataset.column_names else {}
    return found | named | {"processing_class": tiny.tokenizer()}


KINDS = {
    "words": (tagger, sentences, "text"),
    "labels of texts": (labeler, texts, "text"),
    "labels of images": (lambda **config: labeler("vit", **config), images, "image"),
}
EACH_METHOD = [(kind, method) for kind, (_, _, what) in KINDS.items() for method in METHODS[what]]


@pytest.mark.parametrize(("kind", "method"), EACH_METHOD)
def test_a_model_and_itself_look_at_the_same(kind, method):
    make, data, _ = KINDS[kind]
    found, explanations = attribution_agreement(make(), make(), data(), **given(data(), method=method))
    n = min(8, len(data()))
    assert (found.n_items, found.n_agreeing, found.n_mismatches, len(explanations)) == (n, n, 0, n)
    for row in found.rows:
        assert row.all.value == pytest.approx(1)
        assert row.floor.value < 1
    assert all(one.reference == one.candidate for one in explanations.values())


# ---- by hand ----


def scaled(scores):
    return scores / np.abs(scores).max()


def saliency(model, ids, place, column):
    """Of each token of a text, for a logit of one of its tokens, or of the whole text where place is None."""
    read = model.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_()
    answer = model(inputs_embeds=read).logits[0]
    logit = answer[column] if place is None else answer[place, column]
    return torch.autograd.grad(logit, read)[0].abs().sum(-1)[0].numpy()


def test_the_saliency_of_each_word():
    model, other, dataset, tokenizer = tagger(), tagger(seed=2), sentences(4), tiny.tokenizer()
    found = explain(model, other, dataset, **given(dataset, method="saliency", batch_size=3))
    answers = predict(model, dataset, processing_class=tokenizer, columns=COLUMNS)
    items = iter(zip(found, answers.ids, answers.predicted, strict=True))
    for row, words in enumerate(dataset["tokens"]):
        encoded = tokenizer(words, is_split_into_words=True)
        for word in range(len(words)):
            one, name, target = next(items)
            assert (name, one.target) == (f"s{row}/{word}", target)
            assert one.tokens == tuple(tokenizer.convert_ids_to_tokens(encoded["input_ids"]))
            place = encoded.word_ids().index(word)
            for scores, who in ((one.reference, model), (one.candidate, other)):
                expected = saliency(who, encoded["input_ids"], place, target)
                np.testing.assert_allclose(scores, scaled(expected), atol=2e-4)
    assert next(items, None) is None


def test_words_of_texts_that_are_padded_on_the_left():
    """RoBERTa numbers its positions from the first token on that is no padding."""
    model, dataset, tokenizer = tagger("roberta"), sentences(5), tiny.tokenizer()
    right = explain(model, model, dataset, **given(dataset, method="saliency"))
    tokenizer.padding_side = "left"
    left = explain(model, model, dataset, **(given(dataset, method="saliency") | {"processing_class": tokenizer}))
    assert [(one.target, one.tokens) for one in left] == [(one.target, one.tokens) for one in right]
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one.reference, other.reference, atol=2e-4)


def test_the_saliency_of_each_label_of_a_text():
    model, dataset = labeler(), texts(4)
    found = explain(model, model, dataset, **given(dataset, method="saliency"))
    assert len(found) == 4 * 3
    for item, one in enumerate(found):
        expected = saliency(model, dataset[item // 3]["input_ids"], None, item % 3)
        assert one.target == YES_NO.index("yes")
        np.testing.assert_allclose(one.reference, scaled(expected), atol=2e-4)


def test_the_saliency_of_each_label_of_an_image():
    model, dataset = labeler("vit"), images(3)
    found = explain(model, model, dataset, **given(dataset, method="saliency"))
    assert len(found) == 3 * 3
    for item, one in enumerate(found):
        pixels = torch.tensor(dataset[item // 3]["pixel_values"])[None].requires_grad_()
        (gradient,) = torch.autograd.grad(model(pixels).logits[0, item % 3], pixels)
        cells = gradient.abs().sum(1).reshape(2, 4, 2, 4).sum((1, 3)).flatten().numpy()
        np.testing.assert_allclose(one.reference, scaled(cells), atol=2e-4)


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v2", "modernbert"])
def test_the_scores_of_a_text_add_up_to_the_difference_of_the_logit_at_the_word(name):
    model = zoo.build(name, head="ForTokenClassification").double()
    inputs, targets, places = zoo.inputs(model), torch.arange(5) % 3, torch.tensor([2, 7, 1, 3, 4])
    content = inputs["attention_mask"].bool()
    content[:, 0] = False  # as a special token would be
    batch = Batch(inputs, targets, range(5), content, places, pad_id=4)
    found = Attributor(model, "layer_integrated_gradients", options(n_steps=200, batch_size=500)).explain(batch)
    blank = torch.where(content, 4, inputs["input_ids"])
    with torch.no_grad():
        before, after = (model(**(inputs | {"input_ids": ids})).logits for ids in (blank, inputs["input_ids"]))
    expected = (after - before)[torch.arange(5), places, targets]
    np.testing.assert_allclose([one.scores.sum() for one in found], expected, atol=2e-3)
    np.testing.assert_allclose([one.difference for one in found], expected, atol=1e-9)


@pytest.mark.parametrize("make", [tagger, labeler])
def test_classes_and_labels_are_matched_by_name(make):
    reference, candidate, dataset = make(), make(**TURNED), sentences() if make is tagger else texts()
    candidate.load_state_dict(reference.state_dict())
    with torch.no_grad():
        candidate.classifier.weight.copy_(reference.classifier.weight[[2, 0, 1]])
        candidate.classifier.bias.copy_(reference.classifier.bias[[2, 0, 1]])
    found, _ = attribution_agreement(reference, candidate, dataset, **given(dataset))
    assert found.n_mismatches == 0
    assert all(row.all.value == pytest.approx(1) for row in found.rows)


def test_classes_to_explain_are_of_items():
    model, dataset = tagger(), sentences(3)
    n = sum(map(len, dataset["tokens"]))
    targets = (np.arange(n) % 3).tolist()
    found = explain(model, model, dataset, targets=targets, **given(dataset, method="saliency"))
    assert [one.target for one in found] == targets
    with pytest.raises(ValueError, match=rf"one class in \[0, 3\) for each of the {n} items. Got 3"):
        explain(model, model, dataset, targets=[0, 1, 2], **given(dataset))
    with pytest.raises(ValueError, match="A label has one logit, which is explained. Leave targets= out"):
        explain(labeler(), labeler(), texts(2), targets=[0] * 6, **given(texts(2)))


# ---- which items ----


def items_of(sizes):
    """The items of rows that hold so many."""
    found = np.repeat(np.arange(len(sizes)), sizes)
    names = [f"{place}" for size in sizes for place in range(size)]
    return RowItems(None, np.full(len(found), IGNORED), names, found, np.zeros_like(found), ("a", "b"))


def test_an_example_is_drawn_as_often_whether_it_is_long_or_short():
    """And each of its items as often as the others."""
    items, nothing, n = items_of([9, 1]), np.zeros(10, dtype=bool), 2000
    samples = [drawn(nothing, np.arange(10), items, options(n_items=1, seed=seed))[0] for seed in range(n)]
    counts = np.bincount(np.ravel(samples), minlength=10)
    assert counts.sum() == n
    assert abs(counts[9] - n / 2) < 4 * np.sqrt(n / 4)
    assert (abs(counts[:9] - n / 18) < 4 * np.sqrt(n / 18)).all()


def test_one_counted_item_of_each_example():
    items, counted = items_of([3, 5, 1, 2, 4]), np.array([0, 2, 3, 4, 9, 11, 12])
    for seed in range(20):
        sample, more = drawn(np.zeros(15, dtype=bool), counted, items, options(seed=seed))
        assert {*sample} <= {*counted}
        assert sorted(items.rows[sample]) == [0, 1, 3, 4]
        assert more == []
        assert drawn(np.zeros(15, dtype=bool), counted, items, options(seed=seed))[0] == sample
    assert len(drawn(np.zeros(15, dtype=bool), counted, items, options(n_items=2))[0]) == 2


def test_no_two_mismatches_are_of_one_example():
    """Where the drawn item of an example is none, one of its others counts for the mismatches alone."""
    items, counted = items_of([4] * 10), np.arange(40)
    changed = counted % 4 < 2
    changed[:8] = False
    for seed in range(20):
        sample, more = drawn(changed, counted, items, options(n_items=6, seed=seed))
        assert not {*sample} & {*more}
        assert changed[more].all()
        mismatches = [item for item in sample if changed[item]] + more
        assert sorted(items.rows[mismatches]) == [2, 3, 4, 5, 6, 7, 8, 9]
        few = drawn(changed, counted, items, options(n_items=6, n_mismatches=5, seed=seed))
        assert few == (sample, more[: 5 - sum(changed[sample])])


def test_items_of_their_own_are_drawn_as_ever():
    n, counted = 40, np.arange(3, 40)
    items, changed = replace(items_of([1] * n), names=None), np.arange(n) % 3 == 0
    sample, more = drawn(changed, counted, items, options(n_mismatches=7, seed=5))
    order = np.random.default_rng(5).permutation(counted)
    assert sample == order[:8].tolist()
    assert more == [item for item in order[8:] if changed[item]][: 7 - sum(changed[sample])]


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_says_which_item_of_each_example(kind):
    make, data, _ = KINDS[kind]
    dataset = data()
    how = [given(dataset, method="saliency", n_mismatches=0, n_items=100, seed=seed) for seed in (0, 0, 1)]
    runs = [attribution_agreement(make(), make(seed=2), dataset, **one) for one in how]
    np.testing.assert_equal(asdict(runs[0][0]), asdict(runs[1][0]))
    assert runs[0][1] == runs[1][1]
    names = [sorted(found) for _, found in runs]
    assert names[0] != names[2]
    examples = [[name.rsplit("/", 1)[0] for name in one] for one in names]
    assert len(examples[0]) == len({*examples[0]}) == len(dataset)
    assert {*examples[0]} == {*examples[2]}


def test_masked_items_are_not_explained():
    model, dataset = tagger(), sentences()
    answers = predict(model, dataset, processing_class=tiny.tokenizer(), columns=COLUMNS)
    answers.mask[np.char.endswith(answers.ids, "/0")] = False
    found, explanations = attribution_agreement(
        model, model, dataset, predictions=(answers, answers), **given(dataset, n_items=100)
    )
    assert found.n_items == sum(len(words) > 1 for words in dataset["tokens"]) > 3
    assert {*explanations} <= {*answers.ids[answers.mask]}


def test_predictions_must_be_of_these_words():
    model, dataset = tagger(), sentences(4)
    answers = predict(model, dataset, processing_class=tiny.tokenizer(), columns=COLUMNS)
    turned = dataset.select([1, 0, 2, 3])
    with pytest.raises(ValueError, match="of the 4 rows of the dataset, in its order. Got those of other rows, or in"):
        attribution_agreement(model, model, turned, predictions=(answers, answers), **given(turned))
    fewer = dataset.select(range(3))
    n, left = len(answers), sum(map(len, fewer["tokens"]))
    with pytest.raises(
        ValueError, match=f"of the 3 rows of the dataset, in its order. Got {n} items in place of {left}"
    ):
        attribution_agreement(model, model, fewer, predictions=(answers, answers), **given(fewer))


def test_prepared_words_are_the_labeled_tokens():
    dataset, model = rows("token-classification", 5), CASES["token-classification"].model(1)
    tokenizer = tiny.tokenizer("[PAD]", "[UNK]", *map(str, range(2, 40)))
    tokenizer.pad_token = "[UNK]"  # whose id the model has for padding
    answers = predict(model, dataset, data_collator=padded)
    found = explain(model, model, dataset, processing_class=tokenizer, options=options(method="saliency"))
    assert [one.target for one in found] == answers.predicted.tolist()
    first = dataset[0]["input_ids"]
    np.testing.assert_allclose(found[0].reference, scaled(saliency(model, first, 1, found[0].target)), atol=2e-4)


# ---- what is refused ----


@pytest.mark.parametrize("name", ["multiple-choice", "audio-classification"])
def test_other_answers_are_not_explained(name):
    model, dataset = CASES[name].model(1), rows(name, 3)
    with pytest.raises(
        ValueError, match=f"of a class of a text or image, of one of its labels.* Got a model for {name}"
    ):
        attribution_agreement(model, model, dataset)


def test_models_that_answer_other_questions_are_refused():
    for other in (labeler(), tagger()):
        with pytest.raises(
            ValueError, match=r"the same questions. Got text-classification and t.*\(multi_label|token-"
        ):
            attribution_agreement(zoo.build("bert"), other, texts(2))


# ---- the audit ----


@pytest.fixture(scope="module")
def audited():
    how = AuditOptions(columns=COLUMNS, processing_class=tiny.tokenizer(), contents=True)
    return audit(tagger(), tagger(seed=2), sentences(20), attribution=options(n_items=10, n_mismatches=10), options=how)


def test_an_audit_explains_words(audited, tmp_path):
    found, examples = audited.attribution, {item.id.split("/")[0] for item in audited.items}
    assert (found.n_items, found.n_mismatches) == (10, len(examples))
    assert found.n_agreeing > 10 - len(examples)  # so more were drawn
    explained = [item for item in audited.items if item.explanation]
    assert len(explained) == len(examples) == len({item.id.split("/")[0] for item in explained}) < len(audited.items)
    for item in explained:
        assert item.explanation.target == item.reference
        pieces = item.texts[0].replace("-", " - ").split()
        assert item.explanation.tokens == tuple(piece if piece in tiny.WORDS else "[UNK]" for piece in pieces)
    shown = " ".join(str(audited).split())
    more = found.n_mismatches - (10 - found.n_agreeing)
    assert f"of an item of each of 10 examples drawn at random (seed 0; {found.n_agreeing} answered alike)" in shown
    assert f"and {more} more that the two answer differently" in shown
    audited.save(tmp_path / "audit.json")
    assert asdict(Audit.load(tmp_path / "audit.json").attribution) == asdict(found)
    page = write_report(tmp_path / "page.html", [audited]).read_text()
    assert "an item of each of 10 examples" in page


def test_an_audit_explains_labels():
    dataset, how = texts(), AuditOptions(processing_class=tiny.tokenizer(), contents=True)
    found = audit(labeler(), labeler(seed=2), dataset, attribution=options(), options=how)
    assert found.attribution.n_items == 8
    explained = [item for item in found.items if item.explanation]
    assert len(explained) == found.attribution.n_mismatches > 0
    assert {item.explanation.target for item in explained} == {1}


def test_the_command_explains_words(tmp_path):
    for seed, name in enumerate(("one", "two")):
        tagger(seed=seed).save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
    sentences(20).to_parquet(tmp_path / "rows.parquet")
    files = ["--output", tmp_path / "audit.json", "--report", tmp_path / "page.html"]
    how = ["--dataset", tmp_path / "rows.parquet", "--label-column", "tags", "--attribution", "saliency"]
    result = call("audit", tmp_path / "one", tmp_path / "two", *how, "--attribution-items", 6, *files)
    assert result.exit_code == 0, result.output
    assert "an item of each of 6 examples" in " ".join(result.stdout.split())
    assert any(item.explanation for item in Audit.load(tmp_path / "audit.json").items)
