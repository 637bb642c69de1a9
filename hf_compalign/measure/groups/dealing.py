"""Permutation tests of groups whose items share examples: examples are dealt anew with all their items."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hf_compalign.measure.groups.sharing import Kinds
from hf_compalign.measure.statistics import Array, divided

PERMUTATIONS, FEWER = 10_000, 1_000  # the latter of more examples than these
_FEW_EXAMPLES = 2_000
_MOST_DEALT = 2_000_000  # at a time

# Hits, items and variances of groups [B, G] each -> how far the groups lie apart [B, ...].
Statistic = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples of several items, to be dealt among G groups.

    A group of long examples has a rate that varies otherwise than that of as many short ones, so the statistics here
    are in units of their variance. An example of m items has k hits with a variance in proportion to
    m (1 + (m - 1) rho), as if its items were alike with one correlation rho, which is that of all examples together.
    Fewer than some 30 examples of a length of their own are still too few for that: where examples change as a whole,
    and 15 long ones stand against 120 short ones, 5 % became 16 % in simulations, and 60 long ones 6 %.
    """

    hits: NDArray[np.float64]  # [E]
    sizes: NDArray[np.float64]  # [E]
    inside: sparse.csr_array  # whether an example is in a group [E, G]
    cut: NDArray[np.bool_]  # the groups that only some items of an example are in [G]

    @classmethod
    def of(cls, kinds: Kinds, hits: Array) -> "Examples":
        """From the items by kind, and the kinds that are hits, bool [T]."""
        if kinds.contents is None:
            raise ValueError("Examples are dealt where items share them. Deal items by their kind.")
        sizes = np.asarray(kinds.contents.sum(axis=1))
        own = (kinds.contents @ kinds.members).tocoo()
        cut = np.zeros(own.shape[1], dtype=bool)
        cut[own.col[own.data != sizes[own.row]]] = True
        inside = sparse.csr_array((np.ones(own.nnz), (own.row, own.col)), shape=own.shape)
        return cls(kinds.contents @ hits.astype(np.float64), sizes, inside, cut)

    def among(self, groups: Array) -> "Examples":
        """Only these groups, and the examples in any of them."""
        inside = self.inside[:, groups]
        kept = inside.sum(axis=1) > 0
        return Examples(self.hits[kept], self.sizes[kept], inside[kept], self.cut[groups])

    def chances(self, statistic: Statistic, generator: np.random.Generator) -> NDArray[np.float64]:
        """How often the statistic of examples that are dealt anew is at least that of the examples as they are [...].

        (1 + permutations with at least the observed value) / (1 + permutations). There are 10,000, or 1,000 of more
        than 2,000 examples.
        """
        values = np.concatenate([np.nan_to_num(statistic(*sums)) for sums in self._dealt(generator)])
        return chance(values)

    def distances(self, hits: Array, sizes: Array, variances: Array) -> Array:
        """Squared differences of the groups' rates to those of all other examples, over their variance [B, G]."""
        share = sizes / self.sizes.sum()
        excess = hits - sizes * self.hits.sum() / self.sizes.sum()
        rest = self._variances.sum() - variances
        return divided(excess**2, (1 - share) ** 2 * variances + share**2 * rest)

    def apart(self, hits: Array, sizes: Array, variances: Array) -> Array:
        """Of all groups together [B], each with the weight of the examples outside it.

        Where each example has one item it is sum_g n_g (rate_g - rate)^2, but for a factor.
        """
        share = sizes / self.sizes.sum()
        return ((1 - share) * np.nan_to_num(self.distances(hits, sizes, variances))).sum(axis=1)

    @property
    def _variances(self) -> NDArray[np.float64]:
        """Of the hits of each example, but for a factor [E]."""
        m = self.sizes
        rate = self.hits.sum() / m.sum()
        pairs, expected = (m * (m - 1)).sum(), rate * (1 - rate)
        alike = 0.0
        if pairs and expected:
            alike = float(np.clip((((self.hits - rate * m) ** 2).sum() / expected - m.sum()) / pairs, 0, 1))
        return np.asarray(m * (1 + (m - 1) * alike))

    def _dealt(self, generator: np.random.Generator) -> Iterator[tuple[Array, ...]]:
        """Hits, sizes and variances of the groups, [B, G] each: as they are, and then block by block dealt anew."""
        own, n = np.stack([self.hits, self.sizes, self._variances]), len(self.sizes)
        yield tuple((one @ self.inside)[np.newaxis] for one in own)
        left, step = PERMUTATIONS if n <= _FEW_EXAMPLES else FEWER, max(1, _MOST_DEALT // max(1, n))
        for start in range(0, left, step):
            places = np.tile(np.arange(n), (min(step, left - start), 1))
            order = generator.permuted(places, axis=1)
            yield tuple(one[order] @ self.inside for one in own)


def spread(hits: Array, sizes: Array, *_: Array) -> Array:
    """The largest rate of a group minus the smallest [B]."""
    rates = hits / sizes
    return np.asarray(rates.max(axis=1) - rates.min(axis=1))


def chance(values: Array) -> NDArray[np.float64]:
    """The share of values [B, ...] at least as large as the first, the observed one."""
    # By chance alone the observed deal is one more permutation. Without it p could be 0, which is too small. Equal
    # values may differ in their last bits.
    return np.asarray((values >= values[0] * (1 - 1e-9) - 1e-12).mean(axis=0))
