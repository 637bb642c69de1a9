"""What two models' logits say of each item: divergences, confidences, margins and proper scores.

``reference`` is the model to be preserved, ``candidate`` the one that should answer like it. Everything is
computed in float64. `ItemScores` reads full logits block by block, so that those of a million items over a
thousand classes need little memory besides their own.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hf_compalign.labels import IGNORED
from hf_compalign.measure.statistics.blocks import each_block, row_blocks

_Floats = NDArray[np.float64]


def softmax(logits: ArrayLike) -> _Floats:
    """Probabilities over the last axis, in float64."""
    return np.exp(_log_softmax(logits))


def kl_divergence(reference_logits: ArrayLike, candidate_logits: ArrayLike) -> _Floats:
    """KL(reference || candidate) = sum_c p_c (log p_c - log q_c) per item, in nats: >= 0, and 0 at equality.

    Logits are [..., C], the result [...]. A logit of -inf is a probability of 0; where the candidate rules
    out what the reference does not, the result is inf.

    >>> kl_divergence([[0.0, 0.0]], [[0.0, 0.0]])
    array([0.])
    """
    log_p, log_q = _log_softmax(reference_logits), _log_softmax(candidate_logits)
    _check_same_shape(log_p, log_q)
    p = np.exp(log_p)
    possible = p > 0
    terms = np.zeros_like(p)
    np.subtract(log_p, log_q, out=terms, where=possible)
    # Rounding can leave a sum a hair below 0, which a divergence never is.
    return np.maximum((p * terms).sum(axis=-1), 0.0)


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
    return _root(parts.sum(axis=-1) / 2)


def probability_loyalty(p: ArrayLike, q: ArrayLike) -> float:
    """Mean over the items of 1 - `js_distance`, for probabilities [N, C].

    1.0 for equal models, 0.0 for models that share nothing. See https://huggingface.co/papers/2109.03228.

    >>> probability_loyalty([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]])
    0.5
    """
    distance = js_distance(p, q)
    return float(1 - distance.mean()) if distance.size else math.nan


@dataclass(frozen=True, eq=False)
class ItemScores:
    """What the logits of both models say of each item, float64 [N] each.

    Attributes:
        kl: KL(reference || candidate) in nats, see `kl_divergence`.
        js_distance: Jensen-Shannon distance in base 2, in [0, 1]; 1 - its mean is `probability_loyalty`.
        logit_error: mean over the classes of the squared difference of the raw logits.
        reference_confidence: probability that the reference gives its own answer.
        candidate_confidence: probability that the candidate gives its own answer.
        reference_margin: the reference's largest probability less its second, in [0, 1].
        reference_nll: -log of the probability that the reference gives the label; nan where that is unknown.
        candidate_nll: the same of the candidate.
        reference_brier: sum_c (p_c - 1[c = label])^2 of the reference, in [0, 2]; nan where the label is unknown.
        candidate_brier: the same of the candidate.
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
        """The scores of logits [N, C] of any float type, memory-mapped ones too, and labels [N], -100 if unknown.

        A logit of -inf is a probability of 0. ``rows``, integers [M], are the items that count, whose scores are then
        [M]; by default all of them. Logits are read in blocks, and never copied as a whole.

        >>> scores = ItemScores.of([[0.0, 0.0]], [[0.0, 0.0]], [1])
        >>> scores.kl, scores.reference_confidence, scores.reference_margin
        (array([0.]), array([0.5]), array([0.]))

        Raises:
            ValueError: not both [N, C], labels that are not integers [N] in [0, C) or -100, or logits that are
                NaN, +inf, or -inf for all classes of an item.
        """
        reference, candidate, y = np.asarray(reference_logits), np.asarray(candidate_logits), np.asarray(labels)
        _check_same_shape(reference, candidate)
        _check_labels(y, reference.shape)
        chosen = np.arange(len(y)) if rows is None else np.asarray(rows, dtype=np.int64)
        parts = row_blocks(len(chosen), reference.shape[1], block_size=1 << 22)
        scores = each_block(lambda part: _part_scores(reference, candidate, y, chosen[part]), parts)
        blocks = [block for part in scores for block in part]
        names = [field.name for field in fields(cls)]
        found = {name: np.concatenate([block[name] for block in blocks] or [np.empty(0)]) for name in names}
        broken = np.isnan(found["reference_confidence"] + found["candidate_confidence"])
        if broken.any():
            raise ValueError(
                f"logits must be finite, or -inf for a probability of 0. {broken.sum()} of {len(broken)} items have "
                f"others, or no class that is possible, the first is item {chosen[broken.argmax()]}. "
                "Check the model's weights and precision."
            )
        return cls(**found)


@dataclass(frozen=True, eq=False)
class _Softmax:
    """Logits less the largest of their item, z [n, C], and p = exp(z) / sum(exp(z)); log p = z - log_sum."""

    z: _Floats
    p: _Floats
    log_sum: _Floats
    confidence: _Floats

    @classmethod
    def of(cls, logits: _Floats, p: _Floats) -> "_Softmax":
        """Of logits, which become z in place; ``p`` is room for the probabilities."""
        logits -= logits.max(axis=1, keepdims=True)
        total = np.exp(logits, out=p).sum(axis=1)
        confidence = 1 / total  # as z is 0 at the largest logit
        p *= confidence[:, np.newaxis]
        return cls(logits, p, np.log(total), confidence)

    def label_scores(self, labels: NDArray[Any]) -> tuple[_Floats, _Floats]:
        """NLL and Brier score; nan where the label is unknown."""
        known = labels != IGNORED
        rows, columns = np.arange(len(labels)), np.where(known, labels, 0).astype(np.int64)
        nll = self.log_sum - self.z[rows, columns]
        # sum_c (p_c - 1[c = y])^2 = sum_c p_c^2 - p_y^2 + (1 - p_y)^2
        brier = _dot(self.p, self.p) - 2 * self.p[rows, columns] + 1
        return np.where(known, nll, math.nan), np.where(known, np.maximum(brier, 0.0), math.nan)

    def margin(self) -> _Floats:
        """The largest probability less the second; all of it where there is one class only."""
        rows, columns = np.arange(len(self.p)), self.z.argmax(axis=1)
        self.p[rows, columns] = 0.0  # for a moment
        second = self.p.max(axis=1)
        self.p[rows, columns] = self.confidence
        return self.confidence - second


def _part_scores(
    reference: NDArray[Any], candidate: NDArray[Any], labels: NDArray[Any], rows: NDArray[np.int64]
) -> list[dict[str, _Floats]]:
    """The fields of `ItemScores` of these rows, for one block of them after the other."""
    blocks = [rows[block] for block in row_blocks(len(rows), reference.shape[1])]
    # Room that is used again stays in the processor's cache; to ask for new memory each time takes longer.
    room = np.empty((5, len(blocks[0]), reference.shape[1]))
    return [_scores(reference[b], candidate[b], labels[b], room[:, : len(b)]) for b in blocks]


def _scores(
    reference_logits: NDArray[Any], candidate_logits: NDArray[Any], labels: NDArray[Any], room: _Floats
) -> dict[str, _Floats]:
    """The fields of a block; ``room`` [5, n, C] is written over."""
    first, second, p, q, spare = room
    first[:], second[:] = reference_logits, candidate_logits
    # A logit of -inf makes nan of 0 * inf here, and its item is then computed the long way.
    with np.errstate(invalid="ignore"):
        difference = np.subtract(first, second, out=spare)
        logit_error = _dot(difference, difference) / first.shape[1]
        reference, candidate = _Softmax.of(first, p), _Softmax.of(second, q)
        scores = {"logit_error": logit_error, "reference_margin": reference.margin()}
        for name, model in (("reference", reference), ("candidate", candidate)):
            scores[f"{name}_nll"], scores[f"{name}_brier"] = model.label_scores(labels)
            scores[f"{name}_confidence"] = model.confidence
        kl, distance = _divergences(reference, candidate, spare)
        rest = ~np.isfinite(kl + distance)
        if rest.any():
            kl[rest] = kl_divergence(reference_logits[rest], candidate_logits[rest])
            distance[rest] = js_distance(p[rest], q[rest])
    # Where nothing is left of the one, rounding should leave nothing of the other.
    return scores | {"kl": kl, "js_distance": np.where(kl == 0, 0.0, distance)}


def _divergences(reference: _Softmax, candidate: _Softmax, spare: _Floats) -> tuple[_Floats, _Floats]:
    """KL and JS distance, not finite where a logit is -inf; the reference's z are lost.

    KL = sum_c p_c (log p_c - log q_c), exactly 0 at equality; JS = H(m) - (H(p) + H(q)) / 2, m = (p + q) / 2, which
    takes one logarithm, and of which rounding leaves a distance of up to 1e-8.
    """
    p, q = reference.p, candidate.p
    change = _dot(p, np.subtract(reference.z, candidate.z, out=spare))
    # Rounding can leave a sum a hair below 0, which a divergence never is.
    kl = np.maximum(change + candidate.log_sum - reference.log_sum, 0.0)
    inner = _dot(p, reference.z) - reference.log_sum + _dot(q, candidate.z) - candidate.log_sum
    middle = np.add(p, q, out=spare)
    middle /= 2
    # The smallest of floats, so that 0 log 0 is 0.
    logs = np.maximum(middle, np.finfo(np.float64).tiny, out=reference.z)
    return kl, _root(inner / 2 - _dot(middle, np.log(logs, out=logs)))


def _dot(first: _Floats, second: _Floats) -> _Floats:
    return np.einsum("ij,ij->i", first, second)


def _root(divergence: _Floats) -> _Floats:
    """JS distance in base 2 of a divergence in nats."""
    return np.sqrt(np.clip(divergence / math.log(2), 0.0, 1.0))


def _log_softmax(logits: ArrayLike) -> _Floats:
    return special.log_softmax(np.asarray(logits, dtype=np.float64), axis=-1)


def _check_same_shape(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape:
        raise ValueError(
            "Both models must answer the same items over the same classes. "
            f"Got shapes {list(first.shape)} and {list(second.shape)}."
        )


def _check_labels(labels: NDArray[Any], shape: tuple[int, ...]) -> None:
    # np.asarray([]) is a float array, and an empty one has no labels that could be fractional.
    integers = labels.dtype.kind in "iu" or not labels.size
    if len(shape) != 2 or shape[1] < 1 or labels.shape != shape[:1] or not integers:
        shown = f"{list(shape)} and {labels.dtype} of shape {list(labels.shape)}"
        raise ValueError(f"Logits must have shape [N, C], and labels must be integers of shape [N]. Got {shown}.")
    outside = labels[(labels != IGNORED) & ((labels < 0) | (labels >= shape[1]))]
    if outside.size:
        raise ValueError(f"labels must be in [0, {shape[1]}), or -100 where unknown. Got {outside[0]}.")
