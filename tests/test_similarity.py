"""Similarities of attributions: by hand, against scipy and scikit-learn, and where they are not defined."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from hf_compalign.measure.attribution import (
    SIMILARITIES,
    cosine,
    similarities,
    spearman,
    top_k_overlap,
    weighted_jaccard,
)

FUNCTIONS = (cosine, spearman, top_k_overlap, weighted_jaccard)


def pairs(n=20):
    rng = np.random.default_rng(0)
    for _ in range(n):
        size = rng.integers(6, 40)
        # rounded, so that there are ties
        yield np.round(rng.normal(size=size), 1), np.round(rng.normal(size=size), 1)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_cosine_and_spearman_are_those_of_scipy():
    for a, b in pairs():
        assert cosine(a, b) == pytest.approx(1 - distance.cosine(a, b))
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_overlap_and_jaccard_by_their_definition():
    for a, b in pairs():
        order = [sorted(range(len(one)), key=lambda part, one=one: (-abs(one[part]), part))[:5] for one in (a, b)]
        assert top_k_overlap(a, b) == len({*order[0]} & {*order[1]}) / 5
        sums = [sum(pick(abs(x), abs(y)) for x, y in zip(a, b, strict=True)) for pick in (min, max)]
        assert weighted_jaccard(a, b) == pytest.approx(sums[0] / sums[1])


def test_the_signs_count_for_cosine_and_spearman_alone():
    a = [0.5, -0.1, 0.3]
    b = [-0.5, 0.1, -0.3]
    assert (cosine(a, b), spearman(a, b)) == (pytest.approx(-1), pytest.approx(-1))
    assert (top_k_overlap(a, b, 2), weighted_jaccard(a, b)) == (1, 1)


def test_an_attribution_and_itself():
    for a, _ in pairs():
        assert similarities(a, a) == pytest.approx(dict.fromkeys(SIMILARITIES, 1.0))


def test_the_scale_of_either_does_not_matter():
    for a, b in pairs(3):
        assert similarities(1e-200 * a, 1e9 * b) == pytest.approx(similarities(a, b))


def test_names_and_functions_go_together():
    a, b = next(pairs())
    unit = [one / np.linalg.norm(one) for one in (a, b)]
    assert similarities(a, b) == pytest.approx(
        {name: function(*unit) for name, function in zip(SIMILARITIES, FUNCTIONS, strict=True)}
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([], [], (math.nan,) * 4),
        ([2.0], [3.0], (1, math.nan, math.nan, 1)),
        ([0.0, 0.0], [0.0, 0.0], (math.nan,) * 4),
        ([0.0, 0.0], [0.0, 2.0], (math.nan, math.nan, math.nan, 0)),
        ([1.0, 1.0], [1.0, 2.0], (3 / math.sqrt(10), math.nan, math.nan, None)),
        ([1.0, math.nan], [1.0, 2.0], (math.nan,) * 4),
        ([1.0, math.inf], [1.0, 2.0], (math.nan,) * 4),
    ],
)
def test_what_is_not_defined_is_nan(a, b, expected):
    found = similarities(a, b)
    for value, wanted in zip(found.values(), expected, strict=True):
        assert wanted is None or value == pytest.approx(wanted, nan_ok=True)


def test_an_overlap_that_is_sure_to_be_full_says_nothing():
    assert math.isnan(top_k_overlap(range(5), range(5), 5))
    assert top_k_overlap(range(6), range(6), 5) == 1


def test_bad_input_is_refused():
    for function in (*FUNCTIONS, similarities):
        with pytest.raises(ValueError, match=r"two rows of equally many scores. Got the shapes \[2\] and \[3\]"):
            function([1, 2], [1, 2, 3])
        with pytest.raises(ValueError, match=r"Got the shapes \[1, 2\] and \[1, 2\]"):
            function([[1, 2]], [[1, 2]])
    with pytest.raises(ValueError, match="top_k must be at least 1. Got 0"):
        similarities([1, 2], [1, 2], top_k=0)
