"""Whether two models give the classes equally often: two paired tests, and one that ignores the pairing."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse, special
from scipy.sparse import csgraph, linalg

from hf_compalign.measure.statistics.comparison import check_classes, paired
from hf_compalign.measure.statistics.rates import Array


@dataclass(frozen=True)
class TestResult:
    """A chi-squared statistic with its degrees of freedom; with none of them the p-value is 1."""

    __test__ = False  # pytest would take it for a test class

    statistic: float
    df: int
    p_value: float


@dataclass(frozen=True)
class Frequencies:
    """How often two models give each class, and three tests of whether that changed.

    Attributes:
        reference: its answers per class, n_classes counts.
        stuart_maxwell: equal frequencies, on paired items: the test of this question.
        bowker: symmetry, on paired items: as many items go from each class to each other one as come back.
            Asymmetric changes can cancel out in the frequencies.
        chi_squared_unpaired: Pearson's test of the two rows of counts. It assumes answers to different items and so
            misses most changes; it is here because others report it.
    """

    reference: tuple[int, ...]
    candidate: tuple[int, ...]
    stuart_maxwell: TestResult
    bowker: TestResult
    chi_squared_unpaired: TestResult


def predicted_frequencies(
    reference: ArrayLike, candidate: ArrayLike, n_classes: int, *, tested: bool = True
) -> Frequencies:
    """Count the answers [N] of both models per class, and test whether the frequencies changed.

    With n_ij items that go from class i to j, n_i. and n_.i answers i before and after, and d_i = n_i. - n_.i:
    Stuart-Maxwell is d' S^+ d with S_ii = n_i. + n_.i - 2 n_ii and S_ij = -(n_ij + n_ji), df = rank of S; for two
    classes this is McNemar's statistic. Bowker is the sum of (n_ij - n_ji)^2 / (n_ij + n_ji) over the pairs of
    classes between which items move, df = their number. The unpaired df = classes that either model predicts - 1.
    All three approximate large counts: read the p-values with care where few items changed. They are for independent
    items; unless ``tested`` the p-values are nan.

    >>> found = predicted_frequencies([0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 0], 3)
    >>> found.reference, found.candidate
    ((4, 2, 0), (2, 4, 0))
    >>> found.stuart_maxwell.statistic, found.stuart_maxwell.df  # (3 - 1)^2 / (3 + 1)
    (1.0, 1)

    Raises:
        ValueError: not integers of one shape [N], or not in [0, n_classes).
    """
    r, c = paired(reference, candidate)
    check_classes(n_classes, reference=r, candidate=c)
    counts = np.stack([np.bincount(r, minlength=n_classes), np.bincount(c, minlength=n_classes)])
    moves = _moves(r, c)
    tests = [_stuart_maxwell(moves), _bowker(moves), _chi_squared(counts[:, counts.sum(axis=0) > 0])]
    if not tested:
        tests = [replace(test, p_value=math.nan) for test in tests]
    return Frequencies(tuple(counts[0].tolist()), tuple(counts[1].tolist()), *tests)


def _moves(r: Array, c: Array) -> sparse.csr_array:
    """How many items go from class to class, [K, K] over the K classes that any changed item leaves or enters."""
    # Of many classes, few may occur, and few pairs of those: hence sparse, and without empty classes.
    changed = r != c
    classes, ends = np.unique(np.stack([r[changed], c[changed]]), return_inverse=True)
    start, end = ends.reshape(2, -1)
    return sparse.coo_array((np.ones(len(start)), (start, end)), shape=(len(classes), len(classes))).tocsr()


def _stuart_maxwell(moves: sparse.csr_array) -> TestResult:
    if not moves.nnz:
        return _result(0.0, 0)
    either, flow = moves + moves.T, (moves - moves.T).sum(axis=1)
    covariance = sparse.diags_array(either.sum(axis=1), format="csr") - either
    # S is singular once for each set of classes that moves connect, since what leaves the set's classes arrives in
    # them. Without one class of each set it is regular and d' S^+ d is the same. Its rank then is a count, and needs no
    # threshold for singular values.
    _, connected = csgraph.connected_components(either, directed=False)
    _, first = np.unique(connected, return_index=True)
    kept = np.delete(np.arange(len(flow)), first)
    solved = linalg.spsolve(covariance[kept][:, kept].tocsc(), flow[kept], permc_spec="MMD_AT_PLUS_A")
    return _result(float(flow[kept] @ solved), len(kept))


def _bowker(moves: sparse.csr_array) -> TestResult:
    n, net = moves + moves.T, moves - moves.T
    # Each pair of classes is in both triangles.
    return _result(float(net.power(2).multiply(n.power(-1)).sum() / 2), n.nnz // 2)


def _chi_squared(counts: Array) -> TestResult:
    """Pearson's statistic of a table [2, classes] whose rows have the same sum: both expect their mean."""
    statistic = ((counts[0] - counts[1]) ** 2 / counts.sum(axis=0)).sum()
    return _result(float(statistic), max(counts.shape[1] - 1, 0))


def _result(statistic: float, df: int) -> TestResult:
    return TestResult(statistic, df, float(special.chdtrc(df, statistic)) if df else 1.0)
