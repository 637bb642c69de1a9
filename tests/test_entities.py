"""Entities in tags, against cases worked out by hand with conlleval's rules, and what two models make of them."""

import math

import numpy as np
import pytest

from hf_compalign.measure.audit import compare_entities, entities_of
from hf_compalign.measure.predictions import Predictions

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")

CASES = {
    "O O": [],
    "": [],
    "B-PER I-PER O B-LOC": [("PER", 0, 1), ("LOC", 3, 3)],
    "B-PER B-PER": [("PER", 0, 0), ("PER", 1, 1)],
    # An inside without a beginning begins one, at the start of a text, behind O and where the type changes.
    "I-PER I-PER": [("PER", 0, 1)],
    "O I-LOC": [("LOC", 1, 1)],
    "B-PER I-LOC I-LOC": [("PER", 0, 0), ("LOC", 1, 2)],
    # IOBES.
    "B-PER I-PER E-PER S-LOC O": [("PER", 0, 2), ("LOC", 3, 3)],
    "S-PER S-PER": [("PER", 0, 0), ("PER", 1, 1)],
    "E-PER E-PER": [("PER", 0, 0), ("PER", 1, 1)],
    "B-PER E-PER I-PER": [("PER", 0, 1), ("PER", 2, 2)],
    "B-one-two I-one-two": [("one-two", 0, 1)],
}


@pytest.mark.parametrize("tags", CASES)
def test_entities_are_those_of_conlleval(tags):
    assert entities_of(tags.split()) == CASES[tags]


@pytest.mark.parametrize("tag", ["PER", "X-PER", "B-", "B", ""])
def test_labels_that_are_no_tags_are_refused(tag):
    with pytest.raises(ValueError, match=f"O or a prefix and a type, such as B-PER and I-PER. Got '{tag}'. Set id2la"):
        entities_of([tag])


def answering(*texts, labels=None, names=NAMES):
    """Predictions of words from the tags of texts."""
    words = [(row, place, tag) for row, text in enumerate(texts) for place, tag in enumerate(text.split())]
    answers = [names.index(tag) for _, _, tag in words]
    truth = [-100] * len(words) if labels is None else [names.index(tag) for text in labels for tag in text.split()]
    ids, examples = [f"{row}/{place}" for row, place, _ in words], [row for row, _, _ in words]
    return Predictions(np.eye(len(names))[answers] * 3, truth, ids, names, examples=examples)


def test_a_name_counts_once_however_many_words_of_it_change():
    labels = ("B-PER I-PER I-PER O", "O B-LOC O B-LOC", "O O")
    reference = answering("B-PER I-PER I-PER O", "O B-LOC O B-LOC", "B-PER O", labels=labels)
    candidate = answering("B-PER I-PER O O", "O B-LOC O O", "B-PER O", labels=labels)
    found = compare_entities(reference, candidate)
    assert (found.n_examples, found.n_reference, found.n_candidate, found.n_kept) == (3, 4, 3, 2)
    # The longer and the shorter person, and the place that is lost.
    assert (found.mismatches, found.mismatch_rate) == (3, 3 / 5)
    assert found.agreement_f1 == 4 / 7
    assert (found.reference.precision, found.reference.recall) == (3 / 4, 1)
    assert found.candidate.f1 == pytest.approx(2 * 1 / (3 + 3))
    assert "keeps 2, and finds 1 others" in str(found)
    assert "F1: 85.71 % before, 33.33 % after." in str(found)
    assert found.mismatch_rate_interval[0] < 0.6 < found.mismatch_rate_interval[1]
    assert found.mismatch_rate_upper_bound > 0.9


def test_models_with_another_order_of_labels_and_texts_are_paired():
    reference = answering("B-PER I-PER", "O B-LOC")
    turned = answering("B-PER I-PER", "O B-LOC", names=NAMES[::-1])._moved(np.array([2, 1, 3, 0]), None)
    for pair in ((reference, turned), (turned, reference)):
        found = compare_entities(*pair)
        assert (found.n_reference, found.mismatches, found.reference) == (2, 0, None)
    nothing = compare_entities(answering("O O"), answering("O O"))
    assert math.isnan(nothing.mismatch_rate)
    assert "F1" not in str(nothing)


def test_items_that_are_no_words_are_refused():
    whole = Predictions([[0.0, 1.0]], [0], ["a"], ["no", "yes"])
    with pytest.raises(ValueError, match="whose items are named <text>/<number of the word>. Got 'a'. Give pred"):
        compare_entities(whole, whole)
