"""A re-run as the floor: how far two models are apart without any compression, and the candidate beside that."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hf_compalign._formats import change, interval, p_words, percent
from hf_compalign.measure.statistics.bootstrap import Estimate, estimate, resampled_counts
from hf_compalign.measure.statistics.comparison import closer_p_value, paired
from hf_compalign.measure.statistics.intervals import rate, wilson_interval

_RISK = 0.05


@dataclass(frozen=True)
class SeedFloor:
    """How far a re-run, another uncompressed fine-tune, is from the reference, and the candidate beside it.

    All of it is about this one re-run: another seed gives another, and intervals over items do not tell how far.

    Attributes:
        model: the re-run, for people.
        n: items compared.
        mismatches: items that the re-run answers differently from the reference.
        mismatch_rate: mismatches / n.
        mismatch_rate_interval: its 95 % Wilson interval.
        difference: the candidate's mismatch rate minus the re-run's, with a paired 95 % bootstrap interval.
        p_value: exact and paired, of equal mismatch rates, see `hf_compalign.measure.statistics.closer_p_value`.
    """

    model: str
    n: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    difference: Estimate
    p_value: float

    @property
    def below(self) -> bool:
        """Whether the candidate is shown to differ from the reference less than this re-run does.

        The interval must be below 0, and the p-value below 0.05: where few items differ an interval of draws from
        them is too narrow.
        """
        return self.difference.high < 0 and self.p_value < _RISK

    @property
    def above(self) -> bool:
        """Whether the candidate is shown to differ from the reference more than this re-run does, as ``below``."""
        return self.difference.low > 0 and self.p_value < _RISK

    def __str__(self) -> str:
        gap, before = self.difference, self.mismatch_rate
        sure = f"95 % interval {interval((gap.low, gap.high), change)}, {p_words(self.p_value)}"
        rates = f"{percent(before + gap.value)} of the answers change, against {percent(before)}"
        numbers = f"{rates} (difference {change(gap.value)}, {sure})."
        if self.below or self.above:
            how = "less" if self.below else "more"
            return f"This compressed model differs from the original {how} than this re-run does: {numbers}"
        return (
            "This compressed model and this re-run cannot be told apart in how much they differ from the original: "
            f"{numbers}"
        )


def seed_floor(
    reference: ArrayLike,
    candidate: ArrayLike,
    rerun: ArrayLike,
    *,
    model: str = "",
    n_resamples: int = 1000,
    seed: int = 0,
) -> SeedFloor:
    """Judge a candidate's mismatches by those of a fine-tune that differs from the reference only in its seed.

    >>> floor = seed_floor([0] * 100, [1] * 2 + [0] * 98, [0] * 80 + [1] * 20, model="seed 2")
    >>> floor.mismatch_rate, round(floor.difference.value, 2), floor.below
    (0.2, -0.18, True)

    Args:
        reference: the reference's answers, int [N].
        candidate: the candidate's.
        rerun: the re-run's.
        model: the re-run's name.
        n_resamples: draws of N items.
        seed: of the draws.

    Raises:
        ValueError: not integers of one shape [N], or nothing to draw.
    """
    r, c, other = paired(reference, candidate, rerun)
    c_differs, other_differs = c != r, other != r
    # An item counts only through which of the two differ: neither, the re-run alone, the candidate alone, both.
    counts = np.bincount(2 * c_differs + other_differs, minlength=4)
    draws = resampled_counts(counts, n_resamples=n_resamples, seed=seed)
    n, mismatches = len(r), int(other_differs.sum())
    return SeedFloor(
        model=model,
        n=n,
        mismatches=mismatches,
        mismatch_rate=rate(mismatches, n),
        mismatch_rate_interval=wilson_interval(mismatches, n),
        difference=estimate(float(counts[2] - counts[1]) / n, (draws[:, 2] - draws[:, 1]) / n),
        p_value=closer_p_value(r, c, other),
    )
