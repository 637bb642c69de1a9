"""A re-run as the floor: how far two models differ without any compression."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from hf_compalign._formats import change, interval, p_words, percent
from hf_compalign.measure.statistics.bootstrap import Estimate, estimate, resampled_counts, resampled_examples
from hf_compalign.measure.statistics.clusters import rate_interval
from hf_compalign.measure.statistics.comparison import closer_p_value, paired
from hf_compalign.measure.statistics.intervals import rate

_RISK = 0.05


@dataclass(frozen=True)
class SeedFloor:
    """How far a re-run, another uncompressed fine-tune, is from the reference, and the candidate beside it.

    All of it is about this one re-run. Intervals over items do not tell how much another seed would change.

    Attributes:
        model: the re-run, for people.
        mismatches: of the n items, those that the re-run answers differently from the reference.
        mismatch_rate_interval: the 95 % interval of mismatches / n, as `rate_interval` has it.
        difference: the candidate's mismatch rate minus the re-run's, with a paired 95 % bootstrap interval.
        p_value: exact and paired, of equal mismatch rates; see `closer_p_value`.
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
        """Whether the candidate is shown to differ from the reference less than this re-run does."""
        # The p-value counts too: where few items differ, the bootstrap interval is too narrow.
        return self.difference.high < 0 and self.p_value < _RISK

    @property
    def above(self) -> bool:
        """Whether the candidate is shown to differ from the reference more than this re-run does."""
        return self.difference.low > 0 and self.p_value < _RISK

    def __str__(self) -> str:
        gap, before = self.difference, self.mismatch_rate
        found = "This compressed model and this re-run cannot be told apart in how much they differ from the original"
        if self.below or self.above:
            how = "less" if self.below else "more"
            found = f"This compressed model differs from the original {how} than this re-run does"
        return (
            f"{found}: {percent(before + gap.value)} of the answers change, against {percent(before)} (difference "
            f"{change(gap.value)}, 95 % interval {interval((gap.low, gap.high), change)}, {p_words(self.p_value)})."
        )


def seed_floor(
    reference: ArrayLike,
    candidate: ArrayLike,
    rerun: ArrayLike,
    *,
    model: str = "",
    n_resamples: int = 1000,
    seed: int = 0,
    examples: ArrayLike | None = None,
) -> SeedFloor:
    """Compare a candidate's answers with those of a re-run, int [N] each, by their mismatches with the reference.

    >>> floor = seed_floor([0] * 100, [1] * 2 + [0] * 98, [0] * 80 + [1] * 20, model="seed 2")
    >>> floor.mismatch_rate, round(floor.difference.value, 2), floor.below
    (0.2, -0.18, True)

    Where items share ``examples`` [N], these are drawn, and the test is of examples: in as many of them the candidate
    has more mismatches as in others the re-run.

    Raises:
        ValueError: not integers of one shape [N], or nothing to draw.
    """
    r, c, other = paired(reference, candidate, rerun)
    c_differs, other_differs = c != r, other != r
    if examples is None:
        # Items on which neither differs, the re-run alone, the candidate alone, both.
        counts = np.bincount(2 * c_differs + other_differs, minlength=4)
        draws = resampled_counts(counts, n_resamples=n_resamples, seed=seed)
        value, drawn = float(counts[2] - counts[1]) / len(r), (draws[:, 2] - draws[:, 1]) / len(r)
    else:
        excess = c_differs.astype(int) - other_differs
        _, places = np.unique(np.asarray(examples), return_inverse=True)
        of_examples = np.bincount(places, weights=excess)
        sums = resampled_examples(
            sparse.csr_array(np.column_stack([of_examples, np.bincount(places)])), n_resamples=n_resamples, seed=seed
        )
        value, drawn = float(excess.mean()), sums[:, 0] / sums[:, 1]
    n, mismatches = len(r), int(other_differs.sum())
    return SeedFloor(
        model=model,
        n=n,
        mismatches=mismatches,
        mismatch_rate=rate(mismatches, n),
        mismatch_rate_interval=rate_interval(other_differs, np.ones(n, dtype=bool), examples),
        difference=estimate(value, drawn),
        p_value=closer_p_value(r, c, other, examples=examples),
    )
