"""Two models' answers to questions about texts, compared as SQuAD compares them with the right ones."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_compalign._formats import count, interval, percent
from hf_compalign.measure.predictions import Spans
from hf_compalign.measure.statistics import rate_among

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class SpanScores:
    """A model's answers against the right ones: shares of exact matches, and the mean F1 of their words."""

    exact_match: float
    f1: float


@dataclass(frozen=True)
class SpanComparison:
    """How two models' answers to the same questions relate; ``print`` shows it.

    Attributes:
        n: questions.
        mismatches: those with another answer; case, punctuation and articles do not count, as in SQuAD.
        mismatch_rate_interval: 95 %, Wilson's.
        mismatch_rate_upper_bound: one-sided, 95 %, Clopper-Pearson.
        f1: the mean F1 of the words of both answers; 1 where they are the same.
        reference: against the right answers, as ``candidate``; None where they are not known.
    """

    n: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    mismatch_rate_upper_bound: float
    f1: float
    reference: SpanScores | None
    candidate: SpanScores | None

    def __str__(self) -> str:
        lines = [
            f"{count(self.mismatches)} of {count(self.n)} questions have another answer: {percent(self.mismatch_rate)} "
            f"({interval(self.mismatch_rate_interval)}; at most {percent(self.mismatch_rate_upper_bound)}).",
            f"The answers share words with an F1 of {percent(self.f1)}.",
        ]
        if self.reference is not None and self.candidate is not None:
            before, after = self.reference, self.candidate
            lines.append(
                f"Exact match {percent(before.exact_match)}, now {percent(after.exact_match)}; F1 "
                f"{percent(before.f1)}, now {percent(after.f1)}."
            )
        return "\n".join(lines)


def compare_spans(reference: Spans, candidate: Spans) -> SpanComparison:
    """Compare two models' answers to the same questions, as `predict_spans` gives them.

    Raises:
        ValueError: the questions or texts of the two differ.
    """
    place = {name: row for row, name in enumerate(candidate.ids.tolist())}
    missing = [name for name in reference.ids.tolist() if name not in place]
    if missing or len(reference) != len(candidate) or reference.data_fingerprint != candidate.data_fingerprint:
        raise ValueError(
            f"Both models must be asked the same questions. Got {len(reference)} and {len(candidate)} of them, "
            f"{len(missing)} of the reference's missing in the candidate's. Predict both on the same dataset."
        )
    theirs = [candidate.texts[place[name]] for name in reference.ids.tolist()]
    changed = rate_among([_plain(one) != _plain(other) for one, other in zip(reference.texts, theirs, strict=True)])
    shared = [words_f1(one, other) for one, other in zip(reference.texts, theirs, strict=True)]
    known = all(reference.truth) and bool(reference.truth)
    return SpanComparison(
        n=changed.n,
        mismatches=changed.k,
        mismatch_rate=changed.value,
        mismatch_rate_interval=changed.interval,
        mismatch_rate_upper_bound=changed.bounds[1],
        f1=float(np.mean(shared)),
        reference=_scores(reference.texts, reference.truth) if known else None,
        candidate=_scores(theirs, reference.truth) if known else None,
    )


def words_f1(one: str, other: str) -> float:
    """2 shared words / all words of both answers, as SQuAD counts them; 1 of two empty ones.

    https://huggingface.co/papers/1606.05250

    >>> words_f1("The Denver Broncos", "Broncos!"), words_f1("", "Broncos")
    (0.6666666666666666, 0.0)
    """
    words, others = (_plain(text).split() for text in (one, other))
    if not words or not others:
        return float(words == others)
    shared = sum((Counter(words) & Counter(others)).values())
    return 2 * shared / (len(words) + len(others))


def _plain(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _scores(texts: Sequence[str], truth: Sequence[Sequence[str]]) -> SpanScores:
    exact = [any(_plain(text) == _plain(right) for right in of) for text, of in zip(texts, truth, strict=True)]
    shared = [max(words_f1(text, right) for right in of) for text, of in zip(texts, truth, strict=True)]
    return SpanScores(float(np.mean(exact)), float(np.mean(shared)))
