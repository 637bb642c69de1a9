"""How sure a classifier is of an answer, as one number of its logits: the larger, the surer."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_compalign.measure.statistics import each_block, row_blocks

_Floats = NDArray[np.float64]


def _margin(ordered: _Floats) -> _Floats:
    return ordered[:, -1] - ordered[:, -2]


def _max_probability(ordered: _Floats) -> _Floats:
    return 1 / _sum_exp(ordered)


def _energy(ordered: _Floats) -> _Floats:
    return ordered[:, -1] + np.log(_sum_exp(ordered))


def _sum_exp(ordered: _Floats) -> _Floats:
    """sum_c exp(z_c - max z), which cannot overflow."""
    total: _Floats = np.exp(ordered - ordered[:, -1:]).sum(axis=1)
    return total


# Name -> the score of logits [N, C] in ascending order.
SCORES: Mapping[str, Callable[[_Floats], _Floats]] = {
    "margin": _margin,
    "max_probability": _max_probability,
    "energy": _energy,
}


def sureness(
    logits: NDArray[np.floating[Any]], score: str, examples: NDArray[np.integer[Any]] | None = None
) -> _Floats:
    """How sure each answer is, float64 [N], from logits [N, C].

    Where items share ``examples`` [N], each is as sure as the least sure item of its example.

    - ``margin``: the largest logit minus the second.
    - ``max_probability``: max softmax(z) (https://huggingface.co/papers/1610.02136). With two labels it orders items as
      the margin does.
    - ``energy``: log sum_c exp(z_c), minus the energy of https://huggingface.co/papers/2010.03759.

    The order of the labels makes no difference, not even in the last bit.

    >>> logits = np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    >>> sureness(logits, "margin"), sureness(logits, "max_probability").round(3)
    (array([2., 0.]), array([0.844, 0.333]))

    Raises:
        ValueError: there is no such score.
    """
    check_score(score)
    of = SCORES[score]
    blocks = row_blocks(*logits.shape)
    alone = np.concatenate(each_block(lambda rows: of(np.sort(logits[rows].astype(np.float64), axis=1)), blocks))
    if examples is None:
        return alone
    names, places = np.unique(examples, return_inverse=True)
    least = np.full(len(names), np.inf)
    with np.errstate(invalid="ignore"):  # nan where one of them is
        np.minimum.at(least, places, alone)
    return least[places]


def check_score(score: Any) -> None:
    """Raise a ValueError unless there is such a score."""
    if score not in SCORES:
        raise ValueError(f"There is no score {score!r}. Allowed: {', '.join(SCORES)}.")
