"""Accuracy, F1 and Matthews' correlation: what such tasks are scored by, of one model or of two and their change."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from hf_compalign.labels import IGNORED
from hf_compalign.measure.statistics.blocks import each_block, row_blocks
from hf_compalign.measure.statistics.bootstrap import Estimate, estimate, resampled_counts, resampled_examples
from hf_compalign.measure.statistics.comparison import check_classes, paired
from hf_compalign.measure.statistics.rates import Array, divided

SCORES = ("accuracy", "f1", "mcc")


def task_scores(predicted: ArrayLike, labels: ArrayLike, n_classes: int) -> dict[str, float]:
    """Accuracy, F1 and Matthews' correlation (``mcc``) of the predictions [N], over the labeled items.

    As in GLUE, F1 of two classes is that of class 1: 2 TP / (2 TP + FP + FN). Of more it is the mean over the classes
    that occur as a label or an answer (macro F1). ``mcc`` is the correlation of answers and labels over all classes, in
    [-1, 1]; 0 for a model that always gives one answer. nan where nothing is defined: without labels, F1 of a class
    that never occurs, and ``mcc`` where all labels are one class. See https://huggingface.co/papers/1804.07461.

    >>> found = task_scores([1, 1, 0, 0], [1, 0, 0, 0], 2)
    >>> {name: round(score, 2) for name, score in found.items()}
    {'accuracy': 0.75, 'f1': 0.67, 'mcc': 0.58}

    Raises:
        ValueError: not integers of one shape [N], or not in [0, n_classes); a label may also be -100.
    """
    answered, known = _labeled((predicted, labels), n_classes)
    counts = (np.bincount(of, minlength=n_classes) for of in (known[answered == known], answered, known))
    return dict(zip(SCORES, _scores(*counts).tolist(), strict=True))


def task_score_changes(
    reference: ArrayLike,
    candidate: ArrayLike,
    labels: ArrayLike,
    n_classes: int,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    examples: ArrayLike | None = None,
) -> dict[str, Estimate]:
    """Each of `task_scores` of the candidate minus that of the reference, with its paired bootstrap interval.

    >>> found = task_score_changes([1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0], 2)
    >>> {name: round(change.value, 2) for name, change in found.items()}
    {'accuracy': -0.25, 'f1': -0.33, 'mcc': -0.42}

    Answers and labels are int [N] each. Where items share ``examples`` [N], these are drawn, with all their items.

    Raises:
        ValueError: as `task_scores`, or fewer than one resample.
    """
    known = paired(labels)[0] != IGNORED
    r, c, y = _labeled((reference, candidate, labels), n_classes)
    if not len(y):
        return {name: Estimate(math.nan, math.nan, math.nan) for name in SCORES}
    # An item counts only through its label and both answers.
    kinds, kind, counts = np.unique((r * n_classes + c) * n_classes + y, return_inverse=True, return_counts=True)
    table = None if examples is None else _table(kind, np.asarray(examples)[known])
    both, label = np.divmod(kinds, n_classes)
    sums = [_sums(answer, label, n_classes) for answer in np.divmod(both, n_classes)]

    def changes(drawn: Array) -> NDArray[np.float64]:
        before, after = (_scores(*(drawn @ of for of in one)) for one in sums)
        return np.asarray(after - before)

    def block(rows: slice) -> NDArray[np.float64]:
        draw: dict[str, Any] = {"n_resamples": rows.stop - rows.start, "seed": (seed, rows.start)}
        return changes(resampled_counts(counts, **draw) if table is None else resampled_examples(table, **draw))

    blocks = row_blocks(n_resamples, len(kinds) + n_classes, block_size=1 << 16)
    draws = np.concatenate(each_block(block, blocks)) if blocks else np.empty((0, len(SCORES)))
    found = zip(SCORES, changes(counts), draws.T, strict=True)
    return {name: estimate(value, drawn) for name, value, drawn in found}


def _table(kind: Array, examples: Array) -> sparse.csr_array:
    """How many items of each kind [K] each example [G] has."""
    _, places = np.unique(examples, return_inverse=True)
    return sparse.coo_array((np.ones(len(kind)), (places, kind))).tocsr()


def _labeled(answers: Sequence[ArrayLike], n_classes: int) -> tuple[Array, ...]:
    """The answers and, at the end, the labels of the labeled items."""
    *models, labels = paired(*answers)
    known = labels != IGNORED
    found = [values[known] for values in (*models, labels)]
    for values in found[:-1]:
        check_classes(n_classes, predictions=values)
    check_classes(n_classes, labels=found[-1])
    return tuple(found)


def _sums(answer: Array, label: Array, n_classes: int) -> list[sparse.csr_array]:
    """What adds counts of kinds [..., K] up by class [..., C]: right answers, answers and labels."""
    places = np.arange(len(label))
    shape = (len(label), n_classes)
    weights = ((answer == label, label), (np.ones_like(label), answer), (np.ones_like(label), label))
    return [sparse.csr_array((weight.astype(float), (places, of)), shape=shape) for weight, of in weights]


def _scores(hits: Any, answered: Any, labeled: Any) -> NDArray[np.float64]:
    """`SCORES` [..., 3] from counts by class [..., C]: right answers, answers and labels."""
    hits, answered, labeled = (np.asarray(counts, dtype=np.float64) for counts in (hits, answered, labeled))
    n, right = labeled.sum(axis=-1), hits.sum(axis=-1)
    f1 = divided(2 * hits, answered + labeled)
    if f1.shape[-1] == 2:
        f1 = f1[..., 1]
    else:
        occurs = ~np.isnan(f1)
        f1 = divided(np.where(occurs, f1, 0).sum(axis=-1), occurs.sum(axis=-1))
    spread_answers, spread_labels = (n**2 - (counts**2).sum(axis=-1) for counts in (answered, labeled))
    together = n * right - (answered * labeled).sum(axis=-1)
    mcc = divided(together, np.sqrt(spread_answers * spread_labels))
    mcc = np.where((spread_answers == 0) & (spread_labels > 0), 0.0, mcc)
    return np.stack([divided(right, n), f1, mcc], axis=-1)
