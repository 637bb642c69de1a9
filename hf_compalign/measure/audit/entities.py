"""Entities in labeled words, such as the people and places of a text: which of them a candidate keeps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hf_compalign._formats import count, interval, percent
from hf_compalign.labels import IGNORED
from hf_compalign.measure.predictions import Predictions, same_items
from hf_compalign.measure.statistics import rate, rate_among

_OUTSIDE = "O"
_PREFIXES = ("B", "I", "E", "S")

Entity = tuple[str, int, int]
"""The type of an entity, its first word and its last one."""


@dataclass(frozen=True)
class EntityScores:
    """A model's entities against those of the labels: an entity is right if its type and both ends are."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class EntityComparison:
    """How two models' entities in the same texts relate; ``print`` shows it.

    Attributes:
        n_examples: texts.
        n_reference: entities that the reference finds, as ``n_candidate``.
        n_kept: entities that both find, with the same type and both ends.
        mismatches: entities that one of the two finds alone.
        mismatch_rate: their share of all that either finds, 1 - n_kept / (n_reference + n_candidate - n_kept).
        mismatch_rate_interval: 95 %, over examples.
        mismatch_rate_upper_bound: one-sided, 95 %, over examples.
        agreement_f1: 2 n_kept / (n_reference + n_candidate): the F1 of the candidate if the reference were the truth.
        reference: against the labels, as ``candidate``; None where a word has none.
    """

    n_examples: int
    n_reference: int
    n_candidate: int
    n_kept: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    mismatch_rate_upper_bound: float
    agreement_f1: float
    reference: EntityScores | None
    candidate: EntityScores | None

    def __str__(self) -> str:
        low_high, most = interval(self.mismatch_rate_interval), percent(self.mismatch_rate_upper_bound)
        lines = [
            f"Of {count(self.n_reference)} entities of the reference in {count(self.n_examples)} texts the candidate "
            f"keeps {count(self.n_kept)}, and finds {count(self.n_candidate - self.n_kept)} others.",
            f"Mismatches: {percent(self.mismatch_rate)} of all that either finds ({low_high}; at most {most}).",
        ]
        if self.reference is not None and self.candidate is not None:
            lines.append(f"F1: {percent(self.reference.f1)} before, {percent(self.candidate.f1)} after.")
        return "\n".join(lines)


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities in the tags of a text's words, by the conventions of conlleval and seqeval.

    Tags are ``O`` or a prefix and a type. ``B`` and ``S`` begin an entity, and so does any tag of another type than
    the one before, or behind an end: so ``I-PER`` at the beginning of a text is one too. ``E`` and ``S`` end it.

    >>> entities_of(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])
    [('PER', 0, 1), ('LOC', 3, 3), ('LOC', 4, 4)]

    Raises:
        ValueError: a tag is not of that form.
    """
    parts = [("O", ""), *map(_parted, tags), ("O", "")]
    found, start = [], 0
    for place, ((before, old), (tag, new)) in enumerate(pairwise(parts)):
        inside, changes = before != _OUTSIDE, old != new
        if inside and (before in ("E", "S") or tag in ("B", "S", _OUTSIDE) or changes):
            found.append((old, start, place - 1))
        if tag in ("B", "S") or (tag != _OUTSIDE and (before in ("E", "S", _OUTSIDE) or changes)):
            start = place
    return found


def compare_entities(reference: Predictions, candidate: Predictions) -> EntityComparison:
    """Compare two models' entities in the same texts, from their answers to each word.

    A mismatch of a word may be a slip inside of a long name or a whole name; here each name counts once.

    Args:
        reference: its answers to words, as `hf_compalign.predict` gives them for token classification.
        candidate: the answers to the same words.

    Raises:
        ValueError: the items are not words of texts, their labels are no tags, or whatever pairing refuses.
    """
    paired = same_items(reference, [candidate])
    ours, theirs = paired.models
    names, counted = ours.label_names, paired.counted
    labels, texts = paired.labels[counted], _texts(ours, counted)
    before, after = (_entities(model.predicted[counted], texts, names) for model in (ours, theirs))
    truth = None if (labels == IGNORED).any() else _entities(labels, texts, names)
    kept = before & after
    either = [*(before | after)]
    changed = rate_among([one not in kept for one in either], examples=[one[0] for one in either])
    return EntityComparison(
        n_examples=len(texts),
        n_reference=len(before),
        n_candidate=len(after),
        n_kept=len(kept),
        mismatches=changed.k,
        mismatch_rate=changed.value,
        mismatch_rate_interval=changed.interval,
        mismatch_rate_upper_bound=changed.bounds[1],
        agreement_f1=rate(2 * len(kept), len(before) + len(after)),
        reference=None if truth is None else _scores(before, truth),
        candidate=None if truth is None else _scores(after, truth),
    )


def _texts(words: Predictions, counted: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The places of the words of each text among the counted items, in the order of the text."""
    numbers = [name.rpartition("/")[2] for name in words.ids[counted].tolist()]
    if words.examples is None or not all(map(str.isdecimal, numbers)):
        raise ValueError(
            "Entities are found in the words of texts, whose items are named <text>/<number of the word>. Got "
            f"{str(words.ids[0])!r}. Give predictions of a model for token classification."
        )
    examples = words.examples[counted]
    order = np.lexsort((np.array(numbers, dtype=np.int64), examples))
    return np.split(order, np.flatnonzero(np.diff(examples[order])) + 1)


def _parted(tag: str) -> tuple[str, str]:
    prefix, _, kind = tag.partition("-")
    if tag != _OUTSIDE and (prefix not in _PREFIXES or not kind):
        raise ValueError(
            f"The labels of entities must be O or a prefix and a type, such as B-PER and I-PER. Got {tag!r}. Set "
            "id2label to such names, or compare word by word: audit(reference, candidate)."
        )
    return prefix, kind


def _entities(
    answers: NDArray[np.int64], texts: Iterable[NDArray[np.int64]], names: Sequence[str]
) -> set[tuple[int, str, int, int]]:
    """The entities of all texts, each with the number of its text."""
    return {
        (number, *entity)
        for number, words in enumerate(texts)
        for entity in entities_of([names[answer] for answer in answers[words].tolist()])
    }


def _scores(found: set[tuple[int, str, int, int]], truth: set[tuple[int, str, int, int]]) -> EntityScores:
    right = len(found & truth)
    return EntityScores(rate(right, len(found)), rate(right, len(truth)), rate(2 * right, len(found) + len(truth)))
