"""Which class turned into which."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hf_compalign.measure.statistics.comparison import paired


@dataclass(frozen=True)
class ClassChange:
    """The items that the reference gives one class and the candidate another.

    Attributes:
        reference: the class that the reference answers, as ``candidate``.
        n: how many items.
        lost: those of them that were right and now are wrong; ``gained`` those that were wrong and now are right.
    """

    reference: int
    candidate: int
    n: int
    lost: int
    gained: int


def class_changes(reference: ArrayLike, candidate: ArrayLike, labels: ArrayLike) -> tuple[ClassChange, ...]:
    """Every pair of classes between which answers [N] moved, the one with the most items first.

    >>> for one in class_changes([0, 0, 0, 1], [1, 1, 0, 2], [0, 2, 0, 2]):
    ...     print(one)
    ClassChange(reference=0, candidate=1, n=2, lost=1, gained=0)
    ClassChange(reference=1, candidate=2, n=1, lost=0, gained=1)

    Raises:
        ValueError: not integers of one shape [N].
    """
    answers = np.stack(paired(reference, candidate, labels))
    r, c, y = answers[:, answers[0] != answers[1]]
    base = 1 + int(answers.max(initial=0))
    pairs, place, counts = np.unique(r * base + c, return_inverse=True, return_counts=True)
    lost, gained = (np.bincount(place[side == y], minlength=len(pairs)) for side in (r, c))
    columns = np.stack([pairs // base, pairs % base, counts, lost, gained], axis=1)
    return tuple(ClassChange(*row) for row in columns[np.argsort(-counts, kind="stable")].tolist())
