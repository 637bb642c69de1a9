"""Rerankers: the order of the rows of each query, and what two models make of it."""

import itertools
import math

import numpy as np
import pytest
import tiny
from datasets import Dataset

from hf_compalign import Columns
from hf_compalign.measure.audit import compare_ranks
from hf_compalign.measure.predictions import Values, predict_values
from hf_compalign.measure.statistics import kendall_tau, top_overlap, upper_bound, wilson_interval

IDS = [str(row) for row in range(60)]
QUERIES = [f"q{row % 12}" for row in range(60)]


def by_hand(before, after):
    """Tau-b, pair by pair."""
    pairs = [*itertools.combinations(range(len(before)), 2)]
    signs = [[np.sign(scores[i] - scores[j]) for i, j in pairs] for scores in (before, after)]
    same = sum(one * other for one, other in zip(*signs, strict=True))
    return same / math.sqrt(math.prod(sum(sign != 0 for sign in side) for side in signs))


@pytest.mark.parametrize("n_scores", [3, 1000])
def test_tau_is_that_of_all_pairs_with_ties_and_without(n_scores):
    rng = np.random.default_rng(n_scores)
    for _ in range(20):
        before, after = rng.integers(0, n_scores, (2, 9)).astype(float)
        assert kendall_tau(before, after) == pytest.approx(by_hand(before, after))
    assert math.isnan(kendall_tau([1, 1], [1, 2]))
    assert math.isnan(top_overlap([2, 1], [1, 2], top=2))


def test_orders_are_compared_query_by_query():
    rng = np.random.default_rng(0)
    before, noise = rng.normal(size=(2, 60))
    reference, after = Values(before, IDS), before + noise
    turned = Values(after[::-1], IDS[::-1])
    found = compare_ranks(reference, turned, queries=QUERIES, top=2)
    rows = [np.arange(query, 60, 12) for query in range(12)]
    flips = sum(before[one].argmax() != after[one].argmax() for one in rows)
    assert 0 < flips < 12
    assert (found.n, found.n_rows, found.n_tied, found.mismatches) == (12, 60, 0, flips)
    assert found.mismatch_rate_interval == wilson_interval(flips, 12)
    assert found.mismatch_rate_upper_bound == pytest.approx(upper_bound(flips, 12))
    assert found.taus == pytest.approx({f"q{q}": by_hand(before[one], after[one]) for q, one in enumerate(rows)})
    assert found.tau.value == pytest.approx(np.mean([*found.taus.values()]))
    assert found.tau.low < found.tau.value < found.tau.high
    first = [[{*np.argsort(scores[one])[-2:].tolist()} for scores in (before, after)] for one in rows]
    assert found.overlap.value == pytest.approx(np.mean([len(one & other) / 2 for one, other in first]))
    assert f"{flips} of 12 queries have another row in the first place" in str(found)
    scaled = compare_ranks(reference, Values(7 * before + 3, IDS), queries=QUERIES, top=5)
    assert (scaled.mismatches, scaled.tau.value) == (0, pytest.approx(1))
    assert math.isnan(scaled.overlap.value), "five of five rows are the same in any order"


def test_equal_scores_are_ranked_in_the_order_of_the_rows():
    tied, split = Values([1.0, 1.0, 0.0], ["a", "b", "c"]), Values([1.0, 2.0, 0.0], ["a", "b", "c"])
    found = compare_ranks(tied, tied, queries=[1] * 3)
    assert (found.mismatches, found.n_tied, found.taus) == (0, 1, {1: pytest.approx(1)})
    assert "Queries with equal scores: 1" in str(found)
    found = compare_ranks(tied, split, queries=[1] * 3)
    assert (found.mismatches, found.taus[1]) == (1, pytest.approx(2 / math.sqrt(6)))
    flat = compare_ranks(tied, Values([0.0] * 3, ["a", "b", "c"]), queries=[1] * 3)
    assert (flat.mismatches, math.isnan(flat.tau.value)) == (0, True)
    assert "Kendall's tau - (-)" in str(flat)


def test_a_cross_encoder_is_asked_with_predict_values():
    pairs = Dataset.from_dict({"query": ["a", "a", "b", "b"], "passage": ["b c", "d", "e f", "a"]})
    how = {"processing_class": tiny.tokenizer(), "columns": Columns(text=("query", "passage"))}
    scores = predict_values(tiny.bert(n_labels=1), pairs, **how)
    found = compare_ranks(scores, scores, queries=pairs["query"])
    assert (found.n, found.n_rows, found.mismatches) == (2, 4, 0)


def test_queries_and_scores_that_cannot_be_compared_are_refused():
    one = Values([1.0, 2.0, 3.0], ["a", "b", "c"])
    cases = {
        "query of each of the 3 rows.* Got 2. Give the column": ["q", "q"],
        "must have a query, a text or a number. Got None for the row 'b'": ["q", None, "q"],
        "Got nan for the row 'c'": [1.0, 1.0, math.nan],
        r"Got \['q'\] for the row 'a'": [["q"]] * 3,
        "two rows or more to rank. 1 of 2 have a single one, such as 'r'": ["q", "q", "r"],
    }
    for message, queries in cases.items():
        with pytest.raises(ValueError, match=message):
            compare_ranks(one, one, queries=queries)
    with pytest.raises(ValueError, match="top must be at least 1. Got 0"):
        compare_ranks(one, one, queries=["q"] * 3, top=0)
    with pytest.raises(ValueError, match="1 of the reference's 3 are missing"):
        compare_ranks(one, Values([1.0, 2.0, 3.0], ["a", "b", "x"]), queries=["q"] * 3)
    several = Values([1.0, 2.0], ["a/x", "a/y"], examples=[0, 0])
    with pytest.raises(ValueError, match="one score. Got several for each of 1 rows. Give the values of a model with"):
        compare_ranks(several, several, queries=["q", "q"])
