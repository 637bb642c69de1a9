"""Items of groups that may share examples, such as the words of a text: counted and weighted by example."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from hf_compalign.measure.statistics import Array, exact_bounds, example_bounds, example_interval, wilson_interval


@dataclass(frozen=True, eq=False)
class CountedRates:
    """A rate of each of G groups: hits out of so many items."""

    hits: NDArray[np.int64]  # [G]
    sizes: NDArray[np.int64]  # [G]
    by_example: tuple[tuple[Array, Array], ...] | None = None  # the same of each example in a group; None if none share

    def ends(self, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One-sided lower and upper bounds at this level, [G] each."""
        if self.by_example is None:
            return exact_bounds(self.hits, self.sizes, level)
        low, high = np.array([example_bounds(*counts, level) for counts in self.by_example]).reshape(-1, 2).T
        return low, high

    def intervals(self) -> list[tuple[float, float]]:
        """Two-sided 95 % intervals: Wilson's, or a bootstrap of examples."""
        if self.by_example is None:
            return [wilson_interval(k, n) for k, n in zip(self.hits.tolist(), self.sizes.tolist(), strict=True)]
        return [example_interval(*counts) for counts in self.by_example]


@dataclass(frozen=True, eq=False)
class Kinds:
    """Items of T kinds: of a kind all items are alike, and in the same groups."""

    members: sparse.csr_array  # whether a kind is in a group, 0 or 1 [T, G]
    count: NDArray[np.int64]  # items [T]
    contents: sparse.csr_array | None  # items of each kind in each example [E, T]; None if no two items share one

    @classmethod
    def of(cls, kinds: Array, members: sparse.csr_array, examples: Array | None) -> "Kinds":
        """Count the items by their kind, int [N], and their example, int [N] in [0, E)."""
        n_kinds = members.shape[0]
        count = np.bincount(kinds, minlength=n_kinds)
        if examples is None:
            return cls(members, count, None)
        shape = (int(examples.max(initial=-1)) + 1, n_kinds)
        return cls(members, count, sparse.coo_array((np.ones(len(kinds)), (examples, kinds)), shape=shape).tocsr())

    def inside(self, groups: ArrayLike) -> "Kinds":
        """Only these groups, and the kinds in any of them."""
        members = self.members[:, groups]
        rows = np.flatnonzero(members.sum(axis=1))
        contents = None if self.contents is None else self.contents[:, rows]
        return Kinds(members[rows], self.count[rows], contents)

    def rates(self, hits: Array, among: Array, groups: ArrayLike) -> CountedRates:
        """The rates of the kinds that are hits among some kinds, bool [T] both, in these groups."""
        members = self.members[:, groups]
        masks = hits & among, among
        k, n = (np.rint((self.count * mask) @ members).astype(np.int64) for mask in masks)
        if self.contents is None:
            return CountedRates(k, n)
        own, sizes = ((self.contents @ members.multiply(mask[:, np.newaxis])).tocsc() for mask in masks)
        by_example = []
        for group in range(members.shape[1]):
            of_group = sizes[:, [group]].toarray().ravel()
            there = of_group > 0
            counts = own[:, [group]].toarray().ravel()[there], of_group[there]
            by_example.append((counts[0].astype(np.int64), counts[1].astype(np.int64)))
        return CountedRates(k, n, tuple(by_example))

    def largest(self, sums: sparse.csr_array) -> NDArray[np.float64]:
        """The most items of one example in each of the columns that add kinds up [T, K]; 1 if no two share one."""
        if self.contents is None:
            return np.ones(sums.shape[1])
        return np.asarray((self.contents @ sums).max(axis=0).toarray()).ravel()

    def weights(self, n_draws: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Sums of the items' weights by kind [n_draws, T], exponential weights of items or of whole examples."""
        if self.contents is None:
            # Of the exponential weights of n items only the sum matters, and that is Gamma(n).
            return generator.standard_gamma(self.count, size=(n_draws, len(self.count)))
        return np.asarray(generator.standard_exponential((n_draws, self.contents.shape[0])) @ self.contents)

    @property
    def n_drawn(self) -> int:
        """The numbers that a draw takes."""
        return len(self.count) if self.contents is None else max(self.contents.shape)
