"""Answers to questions about texts: the standard decoding, windows of long texts, and what two models make of them."""

import itertools

import numpy as np
import pytest
import tiny
import torch
import zoo
from datasets import Dataset

from hf_compalign import Columns, predict
from hf_compalign.measure.audit import compare_spans, words_f1
from hf_compalign.measure.predictions import SpanOptions, Spans, best_span, predict_spans

pytestmark = pytest.mark.numeric

WORDS = tiny.WORDS[2:]


def answerer(seed=1):
    return zoo.build("bert", head="ForQuestionAnswering", seed=seed, pad_token_id=0)


def questions(n=6, *, longest=9, seed=0, answers=True):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, longest + 1))) for _ in range(n)]
    asked = [" ".join(rng.choice(WORDS, 2)) for _ in range(n)]
    columns = {"id": [f"q{row}" for row in range(n)], "question": asked, "context": texts}
    if answers:
        columns["answers"] = [{"text": [text.split()[0]], "answer_start": [0]} for text in texts]
    return Dataset.from_dict(columns)


def by_hand(start, end, allowed, longest):
    """All spans, one by one."""
    spans = [
        (start[i] + end[j], i, j)
        for i, j in itertools.product(range(len(start)), repeat=2)
        if allowed[i] and allowed[j] and i <= j < i + longest
    ]
    return max(spans, default=(-np.inf, 0, 0))


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_is_the_best_of_all(longest):
    rng = np.random.default_rng(longest)
    for _ in range(50):
        start, end, allowed = rng.normal(size=12), rng.normal(size=12), rng.random(12) < 0.6
        first, last, score = best_span(start, end, allowed, longest=longest)
        expected = by_hand(start, end, allowed, longest)
        assert score == pytest.approx(expected[0])
        assert not allowed.any() or (first, last) == expected[1:]


def logits(model, question, words):
    ids = torch.tensor([tiny.tokenizer()(question, " ".join(words))["input_ids"]])
    with torch.no_grad():
        outputs = model(input_ids=ids)
    return outputs.start_logits[0].numpy(), outputs.end_logits[0].numpy()


def test_answers_are_parts_of_the_texts():
    model, dataset = answerer(), questions()
    found = predict_spans(model, dataset, processing_class=tiny.tokenizer(), options=SpanOptions(longest=3, stride=0))
    for row, text, start, score in zip(dataset, found.texts, found.starts, found.scores, strict=True):
        words = row["context"].split()
        first, last = logits(model, row["question"], words)
        allowed = np.arange(len(words) + 2) >= 2
        expected, i, j = by_hand(first, last, allowed, 3)
        assert score == pytest.approx(expected, abs=1e-4)
        assert text == " ".join(words[i - 2 : j - 1]) == row["context"][start : start + len(text)]
    assert found.ids.tolist() == dataset["id"][:]
    assert found.truth[0] == (dataset["context"][0].split()[0],)


def test_long_texts_are_read_in_windows_that_overlap():
    model, dataset = answerer(), questions(3, longest=40, seed=1)
    tokenizer = tiny.tokenizer()
    tokenizer.model_max_length = 12
    found = predict_spans(model, dataset, processing_class=tokenizer, options=SpanOptions(longest=4, stride=5))
    for row, text, score in zip(dataset, found.texts, found.scores, strict=True):
        words, best = row["context"].split(), (-np.inf, 0, 0)
        for begin in range(0, max(len(words) - 5, 1), 5):  # windows of 10 words that share 5
            part = words[begin : begin + 10]
            first, last = logits(model, row["question"], part)
            score_here, i, j = by_hand(first, last, np.arange(len(part) + 2) >= 2, 4)
            best = max(best, (score_here, begin + i - 2, begin + j - 2))
        assert score == pytest.approx(best[0], abs=1e-4)
        assert text == " ".join(words[best[1] : best[2] + 1])


def test_a_text_may_hold_no_answer_where_that_is_said():
    model, dataset = answerer(), questions(12)
    how = {"processing_class": tiny.tokenizer()}
    always = predict_spans(model, dataset, options=SpanOptions(stride=0), **how)
    perhaps = predict_spans(model, dataset, options=SpanOptions(stride=0, may_be_none=True), **how)
    for row, text, whole, score in zip(dataset, perhaps.texts, always.texts, always.scores, strict=True):
        first, last = logits(model, row["question"], row["context"].split())
        assert text == ("" if first[0] + last[0] > score else whole)
    assert "" in perhaps.texts
    assert {*perhaps.texts} > {""}


def answered(*texts, truth=(), mark="x", ids=None):
    n = len(texts)
    names = np.array(ids or [f"q{row}" for row in range(n)])
    return Spans(tuple(texts), np.zeros(n, dtype=np.int64), np.zeros(n), names, truth, data_fingerprint=mark)


def test_answers_are_the_same_but_for_case_punctuation_and_articles():
    reference = answered("The Denver Broncos", "in 1999", "", truth=(("Broncos",), ("1999", "in 1999"), ("x",)))
    candidate = answered("", "1999", "denver broncos!", ids=["q2", "q1", "q0"])
    found = compare_spans(reference, candidate)
    assert (found.n, found.mismatches) == (3, 1)
    assert found.f1 == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert found.reference.exact_match == pytest.approx(1 / 3)
    assert found.candidate.exact_match == pytest.approx(1 / 3)
    assert found.candidate.f1 == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert "1 of 3 questions have another answer: 33.33 %" in str(found)
    assert "Exact match 33.33 %, now 33.33 %" in str(found)
    assert words_f1("a cat", "the cat") == words_f1("", "") == 1
    bare = compare_spans(answered("a b"), answered("a b"))
    assert (bare.reference, bare.mismatches) == (None, 0)
    assert "Exact" not in str(bare)


def test_what_cannot_be_asked_or_compared_is_refused():
    model, dataset, how = answerer(), questions(2), {"processing_class": tiny.tokenizer()}
    with pytest.raises(ValueError, match="same questions. Got 1 and 2 of them, 0 of the reference's missing in the"):
        compare_spans(answered("a"), answered("a", "b"))
    with pytest.raises(ValueError, match="same questions. Got 1 and 1"):
        compare_spans(answered("a"), answered("a", mark="y"))
    with pytest.raises(ValueError, match="There is no column 'passage'"):
        predict_spans(model, dataset, columns=Columns(text=("question", "passage")), **how)
    with pytest.raises(ValueError, match="A question of 2 tokens leaves no room for its text: a window has 32, of w"):
        predict_spans(model, dataset, **how)
    with pytest.raises(ValueError, match="stride must be .* 0"):
        SpanOptions(stride=-1)
    with pytest.raises(ValueError, match="answers with spans of texts, and not with classes. Ask it with predict_sp"):
        predict(model, dataset, **how)
    with pytest.raises(ValueError, match="a head that is not supported.*ForQuestionAnswering"):
        predict_spans(tiny.bert(), dataset, **how)

    class Slow:
        is_fast = False
        model_max_length = 32

    with pytest.raises(ValueError, match="Answers are found in a text with a fast tokenizer. Got Slow. Load it with"):
        predict_spans(model, dataset, processing_class=Slow())
