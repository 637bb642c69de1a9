"""More than two models: several candidates side by side, and populations of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_compalign._formats import change, count, interval, p_words, percent, plural
from hf_compalign._tables import Name, Table, as_text
from hf_compalign.measure.predictions import Predictions, same_items
from hf_compalign.measure.statistics import (
    Array,
    Cells,
    Estimate,
    check_classes,
    cie_ratio,
    closer_p_value,
    holm,
    paired,
    rates_of,
)


@dataclass(frozen=True)
class CandidateRow:
    """One candidate against the reference.

    Attributes:
        n: items compared, the same ones for all candidates.
        mismatches: answers that changed, CIE; out of n.
        mismatch_rate_interval: 95 %, see `rate_interval`, as ``nfr_interval``.
        n_labeled: items with a known label; all that follows is of these, its rates nan without any.
        cie_u: right answers that were lost; ``nfr`` is their share.
        accuracy_change: the candidate's accuracy minus the reference's.
    """

    name: str
    n: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    n_labeled: int
    cie_u: int
    nfr: float
    nfr_interval: tuple[float, float]
    accuracy: float
    accuracy_change: float


@dataclass(frozen=True)
class PairRow:
    """Two candidates against each other.

    Attributes:
        cie_ratio: CIE(first) / CIE(second): above 1 the second keeps more of the reference's answers.
        p_value: of equal mismatch rates, or of as many examples for each, as `closer_p_value`.
        p_adjusted: the same, adjusted by Holm for the number of pairs.
    """

    first: str
    second: str
    cie_ratio: Estimate
    p_value: float
    p_adjusted: float

    def __str__(self) -> str:
        low, high = self.cie_ratio.low, self.cie_ratio.high
        # Equal draws, as of a candidate that changes nothing, do not tell how sure the ratio is.
        ends = f"{low:.2f} to {high:.2f}" if low < high else "no interval"
        ratio = f"CIE({self.first}) / CIE({self.second}) = {self.cie_ratio.value:.2f} ({ends})"
        return f"{ratio}, {p_words(self.p_adjusted)} after Holm"


@dataclass(frozen=True)
class Candidates:
    """The result of `compare_candidates`: the candidates in the order given, and every two of them.

    ``print`` shows it as a table.
    """

    reference: str
    rows: tuple[CandidateRow, ...]
    pairs: tuple[PairRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, dicts and tuples."""
        return asdict(self)

    def __str__(self) -> str:
        columns = (
            ("candidate", "name", Name),
            ("mismatches", "mismatches", count),
            ("rate", "mismatch_rate", percent),
            ("95 % interval", "mismatch_rate_interval", interval),
            ("NFR", "nfr", percent),
            ("accuracy", "accuracy", percent),
            ("change", "accuracy_change", change),
        )
        found = f"{plural(self.rows[0].n, 'item')} against {self.reference or 'the reference'}"
        table = Table.of("", [asdict(row) for row in self.rows], columns)
        return "\n".join([found, as_text(table), *map(str, self.pairs)])


def compare_candidates(
    reference: Predictions, candidates: Mapping[str, Predictions], *, n_resamples: int = 1000, seed: int = 0
) -> Candidates:
    """Compare several candidates with one reference and with each other, on the items that count for all of them.

    >>> ids, names = [str(i) for i in range(8)], ["no", "yes"]
    >>> def answering(yes):
    ...     return Predictions([[0.0, 1.0]] * yes + [[0.0, -1.0]] * (8 - yes), [0] * 8, ids, names)
    >>> found = compare_candidates(answering(0), {"pruned": answering(6), "aligned": answering(1)})
    >>> [row.mismatches for row in found.rows]
    [6, 1]
    >>> found.pairs[0].cie_ratio.value, found.pairs[0].p_value
    (6.0, 0.0625)

    ``candidates`` is name -> predictions of a model, paired by id and by class name. The interval of each ratio takes
    ``n_resamples`` draws of the items, with one seed for all pairs. Where items share examples, intervals and tests are
    over these.

    Raises:
        ValueError: no candidate, other items, labels or inputs than the reference's, or nothing to compare.
    """
    if not candidates:
        raise ValueError("There is no candidate to compare with the reference. Give at least one, by name.")
    aligned = same_items(reference, candidates.values())
    labels = aligned.labels[aligned.counted]
    examples = None if reference.examples is None else reference.examples[aligned.counted]
    truth, *answers = (model.predicted[aligned.counted] for model in aligned.models)
    named = dict(zip(candidates, answers, strict=True))
    names = tuple(combinations(named, 2))
    both = [(truth, named[first], named[second]) for first, second in names]
    ratios = [cie_ratio(*three, examples=examples, n_resamples=n_resamples, seed=seed) for three in both]
    p_values = [closer_p_value(*three, examples=examples) for three in both]
    pairs = zip(names, ratios, p_values, holm(p_values), strict=True)
    return Candidates(
        reference=reference.model,
        rows=tuple(_row(name, truth, predicted, labels, examples) for name, predicted in named.items()),
        pairs=tuple(PairRow(*two, ratio, p_value, float(p_adjusted)) for two, ratio, p_value, p_adjusted in pairs),
    )


def pruning_identified_exemplars(
    references: Sequence[ArrayLike] | Array, candidates: Sequence[ArrayLike] | Array, n_classes: int
) -> NDArray[np.bool_]:
    """Which items a population of candidates answers differently from a population of references: bool [N].

    An item is one (PIE) when the modal answers differ: no answer is the most frequent one on both sides. Where answers
    tie for the most frequent, an item does not count if the sides share one of them, whatever the numbering of the
    classes. With one model on each side these are the mismatches. See https://huggingface.co/papers/1911.05248.

    >>> pruning_identified_exemplars([[0, 1], [0, 1], [1, 1]], [[0, 0], [1, 0], [0, 0]], 2)
    array([False,  True])

    ``references`` are the answers of R models, int [R, N], ``candidates`` those of M models, int [M, N].

    Raises:
        ValueError: not integers, not the same items on both sides, no model on a side, or an answer not in
            [0, n_classes).
    """
    before, after = _population(references), _population(candidates)
    paired(before[0], after[0])
    check_classes(n_classes, references=before, candidates=after)
    before_modal, after_modal = _modal(before), _modal(after)
    shared = np.zeros(before.shape[1], dtype=bool)
    for answer, modal in zip(before, before_modal, strict=True):
        shared |= ((after == answer) & after_modal & modal).any(axis=0)
    return ~shared


def _population(answers: Sequence[ArrayLike] | Array) -> Array:
    if not len(answers):
        raise ValueError("A population needs at least one model on each side. Got none on one of them.")
    return np.stack(paired(*answers))


def _modal(answers: Array) -> Array:
    """Whether each answer of [R, N] is a most frequent one of its item, without an array over the classes."""
    votes = np.stack([(answers == answer).sum(axis=0) for answer in answers])
    return votes == votes.max(axis=0)


def _row(name: str, reference: Array, predicted: Array, labels: Array, examples: Array | None) -> CandidateRow:
    rates = rates_of(reference, predicted, labels, examples=examples)
    changed, lost = rates["mismatch_rate"], rates["nfr"]
    cells = Cells.count(reference, predicted, labels)
    return CandidateRow(
        name=name,
        n=changed.n,
        mismatches=changed.k,
        mismatch_rate=changed.value,
        mismatch_rate_interval=changed.interval,
        n_labeled=lost.n,
        cie_u=lost.k,
        nfr=lost.value,
        nfr_interval=lost.interval,
        accuracy=cells.accuracy_candidate,
        accuracy_change=cells.accuracy_change,
    )
