"""Divergences, confidences, margins and proper scores of each item, from the logits of two models.

``reference`` is the model to preserve, ``candidate`` the one that should answer like it. All of it is in float64.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hf_compalign.labels import IGNORED
from hf_compalign.measure.statistics.blocks import each_block, row_blocks
from hf_compalign.measure.statistics.comparison import check_classes

_Floats = NDArray[np.float64]


def kl_divergence(reference_logits: ArrayLike, candidate_logits: ArrayLike) -> _Floats:
    """KL(reference || candidate) = sum_c p_c (log p_c - log q_c) per item, in nats: >= 0, and 0 at equality.

    Logits are [..., C], the result [...]. A logit of -inf is a probability of 0. The result is inf where only the
    candidate rules out a class.

    >>> kl_divergence([[0.0, 0.0]], [[0.0, 0.0]])
    array([0.])
    """
    log_p, log_q = _log_softmax(reference_logits), _log_softmax(candidate_logits)
    _check_same_shape(log_p, log_q)
    return _kl(np.exp(log_p), log_p, log_q)


def js_distance(p: ArrayLike, q: ArrayLike) -> _Floats:
    """Jensen-Shannon distance (base 2) of probabilities [..., C] per item: in [0, 1], and 0 at equality.

    sqrt(KL(p || m) / 2 + KL(q || m) / 2), m = (p + q) / 2.

    >>> js_distance([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]])
    array([1., 0.])
    """
    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    _check_same_shape(first, second)
    middle = (first + second) / 2
    parts = special.rel_entr(first, middle) + special.rel_entr(second, middle)
    return np.sqrt(np.clip(parts.sum(axis=-1) / 2 / math.log(2), 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class ItemScores:
    """What the logits of both models say of each item, float64 [N] each.

    Attributes:
        kl: KL(reference || candidate) in nats, see `kl_divergence`.
        js_distance: Jensen-Shannon distance in base 2, in [0, 1]; 1 - its mean is the probability loyalty
            (https://huggingface.co/papers/2109.03228).
        logit_error: mean over the classes of the squared difference of the raw logits.
        reference_confidence: the largest probability; as all that follows, of one model.
        reference_margin: the largest probability minus the second, in [0, 1].
        reference_nll: -log of the probability of the label; nan where the label is unknown.
        reference_brier: sum_c (p_c - 1[c = label])^2, in [0, 2]; nan where the label is unknown.
    """

    kl: _Floats
    js_distance: _Floats
    logit_error: _Floats
    reference_confidence: _Floats
    candidate_confidence: _Floats
    reference_margin: _Floats
    reference_nll: _Floats
    candidate_nll: _Floats
    reference_brier: _Floats
    candidate_brier: _Floats

    @classmethod
    def of(
        cls,
        reference_logits: ArrayLike,
        candidate_logits: ArrayLike,
        labels: ArrayLike,
        *,
        rows: ArrayLike | None = None,
    ) -> "ItemScores":
        """The scores of logits [N, C] of any float type, memory-mapped or not, and labels [N], -100 if unknown.

        A logit of -inf is a probability of 0. ``rows``, integers [M], selects the items that count; the scores are
        then [M]. Logits are read in blocks and never copied as a whole.

        >>> scores = ItemScores.of([[0.0, 0.0]], [[0.0, 0.0]], [1])
        >>> scores.kl, scores.reference_confidence, scores.reference_margin
        (array([0.]), array([0.5]), array([0.]))

        Raises:
            ValueError: not both [N, C]; labels that are not integers [N] in [0, C) or -100; or logits that are NaN,
                +inf, or -inf for all classes of an item.
        """
        reference, candidate, y = np.asarray(reference_logits), np.asarray(candidate_logits), np.asarray(labels)
        _check_same_shape(reference, candidate)
        _check_labels(y, reference.shape)
        chosen = np.arange(len(y)) if rows is None else np.asarray(rows, dtype=np.int64)
        parts = (chosen[block] for block in row_blocks(len(chosen), reference.shape[1]))
        blocks = each_block(lambda rows: _block_scores(reference[rows], candidate[rows], y[rows]), parts)
        names = [field.name for field in fields(cls)]
        found = {name: np.concatenate([block[name] for block in blocks] or [np.empty(0)]) for name in names}
        broken = np.isnan(found["reference_confidence"] + found["candidate_confidence"])
        if broken.any():
            raise ValueError(
                f"logits must be finite, or -inf for a probability of 0. {broken.sum()} of {len(broken)} items have "
                f"others, or no possible class. The first is item {chosen[broken.argmax()]}. Check the model's weights "
                "and precision."
            )
        return cls(**found)


def _block_scores(
    reference_logits: NDArray[Any], candidate_logits: NDArray[Any], labels: NDArray[Any]
) -> dict[str, _Floats]:
    """The fields of `ItemScores` of one block of items."""
    reference, candidate = (logits.astype(np.float64) for logits in (reference_logits, candidate_logits))
    # inf - inf is nan, and no reason to warn: a confidence of nan tells `ItemScores.of` of impossible logits, and the
    # logit error is undefined for a class that both models rule out.
    with np.errstate(invalid="ignore"):
        log_p, log_q = _log_softmax(reference), _log_softmax(candidate)
        p, q = np.exp(log_p), np.exp(log_q)
        scores = {
            "kl": _kl(p, log_p, log_q),
            "js_distance": js_distance(p, q),
            "logit_error": np.square(reference - candidate).mean(axis=1),
            "reference_margin": _margin(p),
        }
    for name, log_probabilities, probabilities in (("reference", log_p, p), ("candidate", log_q, q)):
        scores[f"{name}_confidence"] = probabilities.max(axis=1)
        scores[f"{name}_nll"], scores[f"{name}_brier"] = _label_scores(log_probabilities, probabilities, labels)
    return scores


def _kl(p: _Floats, log_p: _Floats, log_q: _Floats) -> _Floats:
    # From logarithms: a probability too small for a float is 0, which as q would make the divergence inf. Terms with
    # p = 0 are 0.
    terms = np.subtract(log_p, log_q, out=np.zeros_like(p), where=p > 0)
    # Rounding can leave a sum slightly below 0.
    return np.maximum((p * terms).sum(axis=-1), 0.0)


def _margin(p: _Floats) -> _Floats:
    """The largest probability minus the second."""
    with_impossible = np.pad(p, ((0, 0), (0, 1)))  # with a class of probability 0 there always is a second one
    second, largest = np.partition(with_impossible, -2, axis=1)[:, -2:].T
    return np.asarray(largest - second)


def _label_scores(log_p: _Floats, p: _Floats, labels: NDArray[Any]) -> tuple[_Floats, _Floats]:
    """NLL and Brier score; nan where the label is unknown."""
    known = np.flatnonzero(labels != IGNORED)
    columns = labels[known].astype(np.int64)
    nll, brier = np.full((2, len(labels)), math.nan)
    nll[known] = -log_p[known, columns]
    errors = p[known]
    errors[np.arange(len(known)), columns] -= 1
    brier[known] = np.square(errors).sum(axis=1)
    return nll, brier


def _log_softmax(logits: ArrayLike) -> _Floats:
    return special.log_softmax(np.asarray(logits, dtype=np.float64), axis=-1)


def _check_same_shape(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape:
        raise ValueError(
            "Both models must answer the same items over the same classes. "
            f"Got shapes {list(first.shape)} and {list(second.shape)}."
        )


def _check_labels(labels: NDArray[Any], shape: tuple[int, ...]) -> None:
    # An empty array may be of floats, as np.asarray([]) is.
    integers = labels.dtype.kind in "iu" or not labels.size
    if len(shape) != 2 or shape[1] < 1 or labels.shape != shape[:1] or not integers:
        shown = f"{list(shape)} and {labels.dtype} of shape {list(labels.shape)}"
        raise ValueError(f"Logits must have shape [N, C], and labels must be integers of shape [N]. Got {shown}.")
    check_classes(shape[1], labels=labels)
