"""Whether two models give the classes equally often: tests of paired items, and one that ignores the pairing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special
from scipy.sparse import csgraph, linalg

from hf_compalign.measure.statistics.comparison import check_classes, paired

Array = NDArray[Any]


@dataclass(frozen=True)
class TestResult:
    """A chi-squared statistic with its degrees of freedom; without any of these the p-value is 1."""

    __test__ = False  # pytest would take the name for a class of tests

    statistic: float
    df: int
    p_value: float


@dataclass(frozen=True)
class Frequencies:
    """How often two models give each class, and three tests of whether that changed.

    Attributes:
        reference: the reference's answers per class, n_classes counts.
        candidate: the candidate's.
        stuart_maxwell: of equal frequencies, on paired items: the test of this question.
        bowker: of symmetry, on paired items: whether as many items go from each class to each other one as come
            back. Asymmetric changes can cancel out in the frequencies.
        chi_squared_unpaired: Pearson's test of the two rows of counts. It takes them for answers to different
            items, which they are not, and so misses most changes; reported because others report it.
    """

    reference: tuple[int, ...]
    candidate: tuple[int, ...]
    stuart_maxwell: TestResult
    bowker: TestResult
    chi_squared_unpaired: TestResult


def predicted_frequencies(reference: ArrayLike, candidate: ArrayLike, n_classes: int) -> Frequencies:
    """Count the answers [N] of both models per class and test whether the frequencies changed.

    With n_ij items that go from class i to j, n_i. and n_.i answers i before and after, and d_i = n_i. - n_.i:
    Stuart-Maxwell is d' S^+ d with S_ii = n_i. + n_.i - 2 n_ii and S_ij = -(n_ij + n_ji), df = rank of S; for two
    classes this is McNemar's statistic. Bowker is the sum of (n_ij - n_ji)^2 / (n_ij + n_ji) over the pairs of
    classes between which items move, df = their number. The unpaired df = classes that either model predicts - 1.
    All are approximations for large counts; with few changed items read the p-values with care.

    >>> found = predicted_frequencies([0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 0], 3)
    >>> found.reference, found.candidate
    ((4, 2, 0), (2, 4, 0))
    >>> found.stuart_maxwell.statistic, found.stuart_maxwell.df  # (3 - 1)^2 / (3 + 1)
    (1.0, 1)

    Raises:
        ValueError: the two are not integers of one shape [N], or not in [0, n_classes).
    """
    r, c = paired(reference, candidate)
    check_classes(n_classes, reference=r, candidate=c)
    counts = np.stack([np.bincount(r, minlength=n_classes), np.bincount(c, minlength=n_classes)])
    moves = _Moves.between(r, c)
    return Frequencies(
        reference=tuple(counts[0].tolist()),
        candidate=tuple(counts[1].tolist()),
        stuart_maxwell=_stuart_maxwell(moves),
        bowker=_result(float((moves.net**2 / moves.n).sum()), len(moves.n)),
        chi_squared_unpaired=_chi_squared(counts[:, counts.sum(axis=0) > 0]),
    )


@dataclass(frozen=True, eq=False)
class _Moves:
    """The changed items, by the two classes they move between: first < second, numbered without gaps.

    ``n`` of them move either way, and ``net`` is how many more leave the first than the second.
    """

    first: Array
    second: Array
    n: Array
    net: Array
    n_classes: int

    @classmethod
    def between(cls, r: Array, c: Array) -> "_Moves":
        changed = r != c
        classes, ends = np.unique(np.stack([r[changed], c[changed]]), return_inverse=True)
        start, end = ends.reshape(2, -1)
        n_classes = len(classes)
        pairs, pair = np.unique(np.minimum(start, end) * n_classes + np.maximum(start, end), return_inverse=True)
        return cls(
            first=pairs // n_classes,
            second=pairs % n_classes,
            n=np.bincount(pair, minlength=len(pairs)),
            net=np.bincount(pair, weights=np.sign(end - start), minlength=len(pairs)),
            n_classes=n_classes,
        )


def _stuart_maxwell(moves: _Moves) -> TestResult:
    """The covariance S is the Laplacian of the graph of moves: its rank is classes - connected parts, exactly."""
    size = moves.n_classes
    if not len(moves.n):
        return _result(0.0, 0)
    flow = np.bincount(moves.first, moves.net, size) - np.bincount(moves.second, moves.net, size)
    between = sparse.coo_array((moves.n.astype(np.float64), (moves.first, moves.second)), shape=(size, size))
    n_parts, parts = csgraph.connected_components(between, directed=False)
    covariance = csgraph.laplacian((between + between.T).tocsr()).tocsr()
    # S is singular, but the flow sums to 0 over each part and so lies in its range, where conjugate gradients solve
    # as for a regular matrix. They take milliseconds where a dense inverse of 50,000 classes would not fit in memory.
    solved, stopped = linalg.cg(covariance, flow, rtol=1e-10, M=sparse.diags_array(1 / covariance.diagonal()))
    if stopped:
        # They do so on long chains of classes, of which few move items to one another: elimination is cheap there.
        # Without one class of each part the matrix is regular, and a constant more in a part changes nothing.
        _, first = np.unique(parts, return_index=True)
        rest = np.setdiff1d(np.arange(size), first)
        solved = np.zeros(size)
        solved[rest] = linalg.spsolve(covariance[rest][:, rest].tocsc(), flow[rest])
    return _result(float(flow @ solved), size - n_parts)


def _chi_squared(counts: Array) -> TestResult:
    """Pearson's statistic of a table [2, classes] whose rows have the same sum: both expect their mean."""
    statistic = ((counts[0] - counts[1]) ** 2 / counts.sum(axis=0)).sum()
    return _result(float(statistic), max(counts.shape[1] - 1, 0))


def _result(statistic: float, df: int) -> TestResult:
    return TestResult(statistic, df, float(special.chdtrc(df, statistic)) if df else 1.0)
