"""Paired statistics of two models that answered the same items.

``reference`` is the model to preserve, ``candidate`` the one that should answer like it. Predictions and labels are
integers of shape [N]; a label of -100 means unknown. A rate without a denominator is nan, never 0.

The items on which a compressed model differs are its *compression-identified exemplars*
(CIE, https://huggingface.co/papers/2010.03058); CIE-U are those that the reference had right. How to train for few of
them: https://huggingface.co/papers/2012.01604.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_compalign.labels import IGNORED
from hf_compalign.measure.statistics.bootstrap import Estimate, estimate, resampled_counts, resampled_sums
from hf_compalign.measure.statistics.clusters import rate_interval
from hf_compalign.measure.statistics.intervals import count_ratio_interval, mcnemar, rate, wilson_interval
from hf_compalign.measure.statistics.rates import Array


@dataclass(frozen=True)
class Cells:
    """The five ways in which two predictions can relate to a label. Every other count derives from them.

    Attributes:
        both_right: reference = label = candidate.
        lost: only the reference is right: a negative flip, CIE-U.
        gained: only the candidate is right: a positive flip.
        same_wrong: both give the same wrong answer.
        different_wrong: both are wrong, in different ways.
    """

    both_right: int
    lost: int
    gained: int
    same_wrong: int
    different_wrong: int

    @classmethod
    def count(cls, reference: ArrayLike, candidate: ArrayLike, labels: ArrayLike) -> "Cells":
        """Count the cells over the labeled items.

        >>> Cells.count([0, 0, 1, 1, 1], [0, 1, 0, 1, 2], [0, 0, 0, 0, 0])
        Cells(both_right=1, lost=1, gained=1, same_wrong=1, different_wrong=1)

        Raises:
            ValueError: not integers of one shape [N].
        """
        r, c, y = paired(reference, candidate, labels)
        return cls(*(int((kind & (y != IGNORED)).sum()) for kind in cls.kinds(r, c, y)))

    @staticmethod
    def kinds(reference: Any, candidate: Any, labels: Any) -> tuple[Any, ...]:
        """Which items belong to each cell, in the order of the fields: bool [...] of arrays or tensors [...]."""
        before, after, same = reference == labels, candidate == labels, reference == candidate
        return before & after, before & ~after, after & ~before, same & ~before, ~(same | before | after)

    @property
    def n(self) -> int:
        """Labeled items."""
        return self.both_right + self.lost + self.gained + self.same_wrong + self.different_wrong

    @property
    def mismatches(self) -> int:
        """Items with two answers: lost + gained + different_wrong."""
        return self.lost + self.gained + self.different_wrong

    @property
    def agreement(self) -> float:
        """Share of items with the same answer, right or wrong (https://huggingface.co/papers/2106.05945)."""
        return rate(self.n - self.mismatches, self.n)

    @property
    def churn(self) -> float:
        """Share of items with another answer: 1 - agreement."""
        return rate(self.mismatches, self.n)

    @property
    def nfr(self) -> float:
        """Negative flip rate: lost / n (https://huggingface.co/papers/2011.09161)."""
        return rate(*self.proportions()["nfr"])

    @property
    def pfr(self) -> float:
        """Positive flip rate: gained / n."""
        return rate(*self.proportions()["pfr"])

    @property
    def flip_rate(self) -> float:
        """(lost + gained) / n, the churn between right and wrong (https://huggingface.co/papers/2407.09141)."""
        return rate(*self.proportions()["flip_rate"])

    @property
    def btc(self) -> float:
        """Backward trust, both_right / (both_right + lost) (https://huggingface.co/papers/2008.04572)."""
        return rate(*self.proportions()["btc"])

    @property
    def bec(self) -> float:
        """Share of the candidate's errors on items that the reference gets wrong too."""
        return rate(*self.proportions()["bec"])

    @property
    def accuracy_reference(self) -> float:
        """(both_right + lost) / n."""
        return rate(*self.proportions()["accuracy_reference"])

    @property
    def accuracy_candidate(self) -> float:
        """(both_right + gained) / n."""
        return rate(*self.proportions()["accuracy_candidate"])

    @property
    def accuracy_change(self) -> float:
        """Candidate minus reference: (gained - lost) / n."""
        return rate(self.gained - self.lost, self.n)

    def proportions(self) -> dict[str, tuple[int, int]]:
        """Every rate that needs labels as (count, out of how many)."""
        wrong = self.same_wrong + self.different_wrong
        return {
            "nfr": (self.lost, self.n),
            "pfr": (self.gained, self.n),
            "flip_rate": (self.lost + self.gained, self.n),
            "btc": (self.both_right, self.both_right + self.lost),
            "bec": (wrong, self.lost + wrong),
            "accuracy_reference": (self.both_right + self.lost, self.n),
            "accuracy_candidate": (self.both_right + self.gained, self.n),
        }


def proportions(reference: ArrayLike, candidate: ArrayLike, labels: ArrayLike) -> dict[str, tuple[int, int]]:
    """Every rate as (count, out of how many): agreement and mismatches over all items, the rest over labeled ones.

    >>> proportions([0, 1], [0, 0], [-100, 1])["mismatch_rate"]
    (1, 2)
    """
    r, c, y = paired(reference, candidate, labels)
    cie = int((r != c).sum())
    overall = {"mismatch_rate": (cie, len(r)), "agreement": (len(r) - cie, len(r))}
    return overall | Cells.count(r, c, y).proportions()


@dataclass(frozen=True)
class ClassRow:
    """The ``n`` items labeled with one class; every rate is out of these n.

    ``mismatch_rate_interval`` and ``nfr_interval`` are 95 % Wilson intervals, ``lost`` and ``gained`` those of `Cells`.
    """

    label: int
    n: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    lost: int
    gained: int
    nfr: float
    nfr_interval: tuple[float, float]
    recall_reference: float
    recall_candidate: float


def per_class(
    reference: ArrayLike,
    candidate: ArrayLike,
    labels: ArrayLike,
    n_classes: int,
    *,
    examples: ArrayLike | None = None,
) -> list[ClassRow]:
    """One row per class of the labels, with rates of nan for empty classes; see `rate_interval` for ``examples``.

    Raises:
        ValueError: not integers of one shape [N], or a label is neither in [0, n_classes) nor -100.
    """
    r, c, y = paired(reference, candidate, labels)
    check_classes(n_classes, labels=y)
    known, r_right, c_right = y != IGNORED, r == y, c == y
    kinds = (known, r != c, r_right & ~c_right, c_right & ~r_right, r_right, c_right)
    counts = [np.bincount(y[known & kind], minlength=n_classes).tolist() for kind in kinds]

    def interval(hits: Array, label: int, k: int, n: int) -> tuple[float, float]:
        return wilson_interval(k, n) if examples is None else rate_interval(hits, y == label, examples)

    return [
        ClassRow(
            label=label,
            n=n,
            mismatches=mismatches,
            mismatch_rate=rate(mismatches, n),
            mismatch_rate_interval=interval(kinds[1], label, mismatches, n),
            lost=lost,
            gained=gained,
            nfr=rate(lost, n),
            nfr_interval=interval(kinds[2], label, lost, n),
            recall_reference=rate(r_hits, n),
            recall_candidate=rate(c_hits, n),
        )
        for label, (n, mismatches, lost, gained, r_hits, c_hits) in enumerate(zip(*counts, strict=True))
    ]


def cie_ratio(  # noqa: PLR0913 - three models, which items, and how they are drawn
    reference: ArrayLike,
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    runs: ArrayLike | None = None,
    examples: ArrayLike | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """CIE(baseline) / CIE(candidate), both against the reference: above 1 the candidate keeps more answers.

    With labels, it is that of the CIE-U. The interval is a paired percentile bootstrap. A denominator of 0 gives inf,
    and 0 / 0 gives nan. Resamples of 0 / 0 do not count. Where a count is 0, it is 0 in every resample, which would say
    nothing: the interval is `count_ratio_interval`'s, of items, or of the examples that have any.

    >>> cie_ratio([0] * 6, [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]).value
    2.0

    Args:
        reference: int [N].
        baseline: int [N].
        candidate: int [N].
        labels: int [N]: count only what the reference had right.
        runs: int [N], the run of each item, where those of several were pooled: items are drawn within their run.
        examples: int [N], the example of each item, where items share them: these are drawn, with all their items.
        n_resamples: how many draws.
        level: of the interval.
        seed: of the draws.

    Raises:
        ValueError: not integers of one shape [N], nothing to draw, or the level is not in (0, 1).
    """
    r, b, c = paired(reference, baseline, candidate)
    counted = np.ones(r.shape, dtype=bool) if labels is None else r == paired(r, labels)[1]
    # An item counts only through which of the two differ, so a draw of N items is a draw of four counts.
    kinds = 3 - 2 * (counted & (b != r)) - (counted & (c != r))
    places = np.zeros_like(r) if runs is None else paired(r, runs)[1]
    of = None if examples is None else paired(r, examples)[1]
    parts = [places == run for run in np.unique(places)] or [places == 0]
    draws = [
        _redrawn(kinds[part], None if of is None else of[part], n_resamples, (seed, run) if run else seed)
        for run, part in enumerate(parts)
    ]
    found = estimate(_cie_ratio(np.bincount(kinds, minlength=4)), _cie_ratio(np.sum(draws, axis=0)), level=level)
    differ = (counted & (model != r) for model in (b, c))
    first, second = (sum(_n_examples(one[part], None if of is None else of[part]) for part in parts) for one in differ)
    return found if first and second else Estimate(found.value, *count_ratio_interval(first, second, level))


def _redrawn(kinds: Array, examples: Array | None, n_resamples: int, seed: int | tuple[int, ...]) -> Array:
    """How many of four kinds of items [N] are among those of each draw [n_resamples, 4]."""
    if examples is None:
        return resampled_counts(np.bincount(kinds, minlength=4), n_resamples=n_resamples, seed=seed)
    ones = np.ones((len(kinds), 1))
    return resampled_sums(ones, kinds, n_cells=4, n_resamples=n_resamples, seed=seed, examples=examples)[..., 0]


def _n_examples(which: Array, examples: Array | None) -> int:
    """The examples with any of these items, bool [N]; the items where each is an example."""
    return int(which.sum()) if examples is None else len(np.unique(examples[which]))


def closer_p_value(
    reference: ArrayLike, first: ArrayLike, second: ArrayLike, *, examples: ArrayLike | None = None
) -> float:
    """Exact two-sided p-value for whether the two keep equally many of the reference's answers, int [N] each.

    This is McNemar's test of keeping an answer instead of being right: an item counts if exactly one of the two
    differs from the reference. Where items share ``examples`` [N] it is a sign test of these: in as many of them the
    first has more mismatches as in others the second.

    >>> closer_p_value([0] * 9, [0] * 9, [1] * 5 + [0] * 4)
    0.0625

    Raises:
        ValueError: not integers of one shape [N].
    """
    r, one, other = paired(reference, first, second)
    excess = (one != r).astype(int) - (other != r)
    if examples is not None:
        _, rows = np.unique(paired(r, examples)[1], return_inverse=True)
        excess = np.bincount(rows, weights=excess)
    return mcnemar(int((excess > 0).sum()), int((excess < 0).sum()))


def _cie_ratio(counts: Array) -> Any:
    """Of counts [..., 4]: items on which both differ, the baseline alone, the candidate alone, neither."""
    both, only_baseline, only_candidate, _ = np.moveaxis(counts, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(both + only_baseline, both + only_candidate)


def paired(*arrays: ArrayLike) -> tuple[Array, ...]:
    """Predictions and labels as int64 arrays of one shape [N].

    Raises:
        ValueError: they are not integers of one shape [N].
    """
    found = tuple(np.asarray(array) for array in arrays)
    # An empty array may be of floats, as np.asarray([]) is.
    if any(array.ndim != 1 or (array.size and array.dtype.kind not in "iu") for array in found):
        shown = ", ".join(f"{array.dtype} of shape {list(array.shape)}" for array in found)
        raise ValueError(
            f"Predictions and labels must be integers of shape [N]. Got {shown}. Take the argmax of logits first."
        )
    if len({len(array) for array in found}) > 1:
        lengths = ", ".join(str(len(array)) for array in found)
        raise ValueError(f"Both models must answer the same items. Got {lengths} predictions and labels.")
    return tuple(array.astype(np.int64, copy=False) for array in found)


def check_classes(n_classes: int, **answers: Array) -> None:
    """Refuse integers outside [0, n_classes) in named arrays of any shape; ``labels`` may also be -100."""
    for name, values in answers.items():
        wrong = (values < 0) | (values >= n_classes)
        if name == "labels":
            wrong &= values != IGNORED
        if wrong.any():
            allowed, advice = "one number per class", " Compare models that answer with the same classes."
            if name == "labels":
                allowed, advice = "or -100 where unknown", ""
            raise ValueError(f"{name} must be in [0, {n_classes}), {allowed}. Got {values[wrong][0]}.{advice}")
