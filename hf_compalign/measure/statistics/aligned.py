"""What a training run reports of its student and its teacher, from the items themselves or from sums over them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hf_compalign.measure.statistics.comparison import Cells, paired
from hf_compalign.measure.statistics.intervals import rate


@dataclass(frozen=True)
class AlignmentSums:
    """Sums over the items that both models answered.

    Attributes:
        n: items.
        mismatches: those with two answers.
        cells: the labeled ones.
        kl: the sum of their `kl_divergence`.
    """

    n: int
    mismatches: int
    cells: Cells
    kl: float

    def metrics(self) -> dict[str, float]:
        """Those of `alignment_metrics`."""
        metrics = {
            "mismatch_rate": rate(self.mismatches, self.n),
            "cie": float(self.mismatches),
            "agreement": rate(self.n - self.mismatches, self.n),
            "kl": self.kl / self.n if self.n else math.nan,
        }
        return metrics | {"cie_u": float(self.cells.lost)} if self.cells.n else metrics


def alignment_metrics(reference: ArrayLike, candidate: ArrayLike, labels: ArrayLike, kl: ArrayLike) -> dict[str, float]:
    """What a training run reports of its student (candidate), with its per-item `kl_divergence` [N].

    Over all items: ``mismatch_rate``, ``cie`` (a count), ``agreement`` and the mean ``kl``; over the labeled ones,
    if any: ``cie_u`` (a count).
    """
    r, c, y = paired(reference, candidate, labels)
    total = float(np.asarray(kl, dtype=np.float64).sum())
    return AlignmentSums(len(r), int((r != c).sum()), Cells.count(r, c, y), total).metrics()
