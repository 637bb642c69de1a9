"""How far the confidences of two models are from their accuracy.

A calibrated model is right on four in five of the answers that it gives with probability 0.8; see
https://huggingface.co/papers/1706.04599.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_compalign.labels import IGNORED
from hf_compalign.measure.statistics.bootstrap import Estimate, estimate, resampled_sums
from hf_compalign.measure.statistics.comparison import paired
from hf_compalign.measure.statistics.intervals import rate
from hf_compalign.measure.statistics.probabilities import ItemScores
from hf_compalign.measure.statistics.rates import Array

_ERRORS = ("ece", "brier", "nll")


@dataclass(frozen=True)
class ReliabilityBin:
    """The ``n`` labeled items with a confidence in (low, high], in [low, high] for the first bin.

    ``confidence`` is their mean confidence, ``accuracy`` the share of right answers; nan when n is 0.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far one model's probabilities are from the truth, over the labeled items; 0 is best for all three.

    Attributes:
        ece: expected calibration error, sum_b n_b / n |accuracy_b - confidence_b| over the bins, in [0, 1].
        brier: mean of sum_c (p_c - 1[c = label])^2, in [0, 2].
        nll: mean of -log p_label, in nats.
        bins: of equal width, over the confidence of the predicted class.
    """

    ece: float
    brier: float
    nll: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class CalibrationShift:
    """The calibration of both models over the same ``n`` labeled items, and the change: candidate - reference.

    The intervals are those of a paired bootstrap.
    """

    n: int
    n_bins: int
    reference: Calibration
    candidate: Calibration
    ece_change: Estimate
    brier_change: Estimate
    nll_change: Estimate


def calibration_shift(  # noqa: PLR0913 - both models, the truth, and how they are drawn
    reference_predicted: ArrayLike,
    candidate_predicted: ArrayLike,
    labels: ArrayLike,
    scores: ItemScores,
    *,
    n_bins: int = 15,
    n_resamples: int = 1000,
    seed: int = 0,
    examples: ArrayLike | None = None,
) -> CalibrationShift:
    """Calibration of both models' predictions [N], with the probabilities in ``scores``, and its change.

    Where items share ``examples`` [N], these are drawn, with all their items.

    >>> scores = ItemScores.of([[2.0, 0.0], [0.0, 2.0]], [[4.0, 0.0], [0.0, 4.0]], [0, 0])
    >>> found = calibration_shift([0, 1], [0, 1], [0, 0], scores)
    >>> round(found.reference.ece, 3), round(found.ece_change.value, 3)
    (0.381, 0.101)

    Raises:
        ValueError: not the same N items everywhere, or fewer than 1 bin or resample.
    """
    r, c, y = paired(reference_predicted, candidate_predicted, labels)
    if len(scores.kl) != len(y):
        raise ValueError(f"scores must be of the same {len(y)} items. Got those of {len(scores.kl)}.")
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1. Got {n_bins}. 15 is usual.")
    known = y != IGNORED
    models = []
    for side, predicted in (("reference", r), ("candidate", c)):
        columns = (getattr(scores, f"{side}_{name}")[known] for name in ("confidence", *_ERRORS[1:]))
        models.append(_Answers(n_bins, predicted[known] == y[known], *columns))
    before, after = (model.calibration() for model in models)
    shared = None if examples is None else np.asarray(examples)[known]
    draws = _changes(*models, examples=shared, n_resamples=n_resamples, seed=seed)
    changes = (_difference(getattr(after, name), getattr(before, name)) for name in _ERRORS)
    return CalibrationShift(int(known.sum()), n_bins, before, after, *map(estimate, changes, draws))


@dataclass(frozen=True, eq=False)
class _Answers:
    """One model's answers to the labeled items, arrays of shape [n]."""

    n_bins: int
    right: Array
    confidence: Array
    brier: Array
    nll: Array

    @property
    def bins(self) -> Array:
        return np.searchsorted(np.linspace(0, 1, self.n_bins + 1)[1:-1], self.confidence, side="left")

    @property
    def excess(self) -> Array:
        """Its sum over a bin is n_b (confidence_b - accuracy_b)."""
        return self.confidence - self.right

    def calibration(self) -> Calibration:
        counts, confidence, right, excess = (
            np.bincount(self.bins, weights=weights, minlength=self.n_bins)
            for weights in (None, self.confidence, self.right, self.excess)
        )
        n, edges = len(self.right), np.linspace(0, 1, self.n_bins + 1)
        rows = np.column_stack([edges[:-1], edges[1:], confidence, right]).tolist()
        bins = (
            ReliabilityBin(low, high, k, rate(sure, k), rate(hits, k))
            for k, (low, high, sure, hits) in zip(counts.tolist(), rows, strict=True)
        )
        ece, brier, nll = (rate(float(error.sum()), n) for error in (np.abs(excess), self.brier, self.nll))
        return Calibration(ece, brier, nll, tuple(bins))


def _changes(reference: _Answers, candidate: _Answers, *, examples: Array | None, n_resamples: int, seed: int) -> Array:
    """Draws of the change of ECE, Brier score and NLL: [3, R], and [3, 0] without items."""
    n, n_bins = len(reference.right), reference.n_bins
    if not n:
        return np.empty((3, 0))
    columns = [reference.excess, candidate.excess, reference.brier, candidate.brier, reference.nll, candidate.nll]
    cells = reference.bins * n_bins + candidate.bins
    drawn: dict[str, Any] = {"n_cells": n_bins**2, "n_resamples": n_resamples, "seed": seed}
    columns.append(np.ones(n))  # examples do not have the same number of items
    sums = resampled_sums(np.column_stack(columns), cells, examples=examples, **drawn)
    sums = sums.reshape(n_resamples, n_bins, n_bins, len(columns))
    drawn_n = sums[..., -1].sum(axis=(1, 2))
    ece_reference = np.abs(sums[..., 0].sum(axis=2)).sum(axis=1) / drawn_n
    ece_candidate = np.abs(sums[..., 1].sum(axis=1)).sum(axis=1) / drawn_n
    means = sums[..., 2:-1].sum(axis=(1, 2)) / drawn_n[:, np.newaxis]
    changes = [ece_candidate - ece_reference, means[:, 1] - means[:, 0], _difference(means[:, 3], means[:, 2])]
    return np.stack(changes)


def _difference(first: Any, second: Any) -> Any:
    """first - second; inf - inf is nan, without a warning."""
    with np.errstate(invalid="ignore"):
        return np.subtract(first, second)
