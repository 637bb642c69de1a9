"""Several candidates and populations of runs: by hand, against scipy and statsmodels."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.stats.multitest import multipletests
from tiny import differing

from hf_compalign.measure.audit import compare_candidates, pruning_identified_exemplars
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import Cells, cie_ratio, wilson_interval

pytestmark = pytest.mark.filterwarnings("error")
N = 60
NAMES = ("pruned", "aligned", "int8")


def answering(answers, *, labels=None, ids=None, names=("a", "b", "c"), **about):
    """Predictions that give these answers."""
    answers = np.asarray(answers)
    return Predictions(
        np.eye(len(names))[answers],
        np.zeros(len(answers), dtype=int) if labels is None else np.asarray(labels),
        np.arange(len(answers)) if ids is None else ids,
        names,
        **about,
    )


@pytest.fixture(scope="module")
def several():
    generator = np.random.default_rng(0)
    labels = np.where(generator.random(N) < 0.2, -100, generator.integers(0, 3, N))
    answers = {name: generator.integers(0, 3, N) for name in ("reference", "pruned", "aligned", "int8")}
    answers["aligned"][:50] = answers["reference"][:50]
    return labels, answers, {name: answering(one, labels=labels, model="bert") for name, one in answers.items()}


def test_rows_are_those_of_the_comparison(several):
    labels, answers, models = several
    found = compare_candidates(models["reference"], {name: models[name] for name in NAMES})
    assert found.reference == "bert"
    assert tuple(row.name for row in found.rows) == NAMES
    for row in found.rows:
        cells = Cells.count(answers["reference"], answers[row.name], labels)
        assert (row.n, row.n_labeled) == (N, cells.n)
        assert row.mismatches == (answers["reference"] != answers[row.name]).sum()
        assert row.mismatch_rate == row.mismatches / N
        assert row.mismatch_rate_interval == wilson_interval(row.mismatches, N)
        assert (row.cie_u, row.nfr, row.nfr_interval) == (cells.lost, cells.nfr, wilson_interval(cells.lost, cells.n))
        assert (row.accuracy, row.accuracy_change) == (cells.accuracy_candidate, cells.accuracy_change)


def test_pairs_have_the_exact_paired_test_and_holm(several):
    _, answers, models = several
    reference = answers["reference"]
    candidates = {name: models[name] for name in NAMES}
    found = compare_candidates(models["reference"], candidates, n_resamples=50, seed=7)
    assert [(row.first, row.second) for row in found.pairs] == [*itertools.combinations(NAMES, 2)]
    for row in found.pairs:
        first, second = answers[row.first] != reference, answers[row.second] != reference
        only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
        assert row.p_value == pytest.approx(scipy.stats.binomtest(only_first, only_first + only_second).pvalue)
        assert row.cie_ratio == cie_ratio(reference, answers[row.first], answers[row.second], n_resamples=50, seed=7)
    expected = multipletests([row.p_value for row in found.pairs], method="holm")[1]
    assert [row.p_adjusted for row in found.pairs] == pytest.approx(expected)


def test_items_and_classes_are_paired_by_name(several):
    reference, straight = several[2]["reference"], several[2]["pruned"]
    order, columns = np.random.default_rng(1).permutation(N), [2, 0, 1]
    shuffled = Predictions(
        straight.logits[order][:, columns], np.full(N, -100), straight.ids[order], ("c", "a", "b"), straight.mask[order]
    )
    assert compare_candidates(reference, {"x": shuffled}) == compare_candidates(reference, {"x": straight})


def test_only_items_that_count_for_all_are_compared():
    mask = np.array([True, True, True, False])
    reference, other = answering([0, 0, 0, 0]), answering([1, 1, 1, 1], mask=mask)
    found = compare_candidates(reference, {"masked": other, "whole": answering([0, 1, 1, 1])})
    assert [(row.n, row.mismatches) for row in found.rows] == [(3, 3), (3, 2)]


def test_a_reference_without_labels_takes_them_from_the_candidates():
    nothing = [-100, -100, -100]
    reference = answering([0, 1, 2], labels=nothing)
    found = compare_candidates(
        reference, {"x": answering([0, 1, 1], labels=nothing), "y": answering([0, 1, 0], labels=[0, 1, -100])}
    )
    assert [(row.n_labeled, row.accuracy) for row in found.rows] == [(2, 1), (2, 1)]
    with pytest.raises(ValueError, match="The same item must have the same label on both sides. 1 of 2 differ"):
        compare_candidates(
            reference, {"x": answering([0, 1, 1], labels=[0, 1, -100]), "y": answering([0, 1, 0], labels=[0, 2, -100])}
        )


def test_without_labels_there_are_mismatches_only():
    nothing = [-100, -100]
    found = compare_candidates(answering([0, 1], labels=nothing), {"x": answering([0, 0], labels=nothing)})
    (row,) = found.rows
    assert (row.mismatches, row.n_labeled, row.cie_u) == (1, 0, 0)
    assert all(map(math.isnan, (row.nfr, *row.nfr_interval, row.accuracy, row.accuracy_change)))
    assert found.pairs == ()
    assert str(found).splitlines()[2].split()[-3:] == ["-", "-", "-"]


def test_candidates_equal_to_the_reference():
    reference = answering([0, 1, 2])
    found = compare_candidates(reference, {"x": reference, "y": reference})
    assert [row.mismatches for row in found.rows] == [0, 0]
    (pair,) = found.pairs
    assert (pair.p_value, pair.p_adjusted) == (1, 1)
    assert math.isnan(pair.cie_ratio.value)


def test_as_text_and_as_plain_data():
    reference = answering(np.zeros(10, dtype=int), model="bert")
    found = compare_candidates(
        reference, {"pruned": answering(differing(10, 0, 1, 2, 3)), "aligned": answering(differing(10, 3))}
    )
    ratio = found.pairs[0].cie_ratio
    assert str(found).splitlines() == [
        "10 items against bert",
        "candidate  mismatches     rate     95 % interval      NFR  accuracy         change",
        "pruned              4  40.00 %  16.82 to 68.73 %  40.00 %   60.00 %  -40.00 points",
        "aligned             1  10.00 %   1.79 to 40.42 %  10.00 %   90.00 %  -10.00 points",
        f"CIE(pruned) / CIE(aligned) = 4.00 ({ratio.low:.2f} to {ratio.high:.2f}), p = 0.25 after Holm",
    ]
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["rows"][1]["mismatches"] == 1
    assert plain["pairs"][0]["cie_ratio"]["value"] == 4


def test_what_cannot_be_compared_is_refused():
    reference = answering([0, 1], data_fingerprint="one")
    with pytest.raises(ValueError, match="There is no candidate to compare"):
        compare_candidates(reference, {})
    with pytest.raises(ValueError, match="must cover the same items"):
        compare_candidates(reference, {"x": answering([0, 1], ids=["5", "6"])})
    with pytest.raises(ValueError, match="the data differ: one against two. Predict again with both"):
        compare_candidates(reference, {"x": reference, "y": answering([0, 1], data_fingerprint="two")})
    with pytest.raises(ValueError, match="nothing to compare: all 2 items are masked out"):
        compare_candidates(reference, {"x": answering([0, 1], mask=[False, False])})


@settings(deadline=None)
@given(arrays(np.int64, (7, 12), elements=st.integers(0, 3)))
def test_exemplars_are_disjoint_sets_of_modal_answers(answers):
    references, candidates = answers[:3], answers[3:]
    found = pruning_identified_exemplars(references, candidates, 4)
    for item in range(12):
        before, after = np.bincount(references[:, item]), np.bincount(candidates[:, item])
        modal = [set(np.flatnonzero(counts == counts.max())) for counts in (before, after)]
        assert found[item] == modal[0].isdisjoint(modal[1])
        if all(len(values) == 1 for values in modal):
            mode = [scipy.stats.mode(side[:, item]).mode for side in (references, candidates)]
            assert found[item] == (mode[0] != mode[1])


def test_ties_do_not_depend_on_the_order_of_the_classes():
    references, candidates = [[0, 0, 0], [1, 1, 1]], [[1, 2, 0], [1, 2, 2]]
    assert pruning_identified_exemplars(references, candidates, 3).tolist() == [False, True, False]
    renamed = [[[2 - answer for answer in model] for model in side] for side in (references, candidates)]
    assert pruning_identified_exemplars(*renamed, 3).tolist() == [False, True, False]


def test_one_model_a_side_gives_the_mismatches():
    reference, candidate = np.array([0, 1, 2, 1]), np.array([0, 2, 2, 0])
    found = pruning_identified_exemplars([reference], [candidate], 3)
    assert found.tolist() == (reference != candidate).tolist()
    assert not pruning_identified_exemplars([reference] * 3, [reference], 3).any()


def test_populations_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least one model on each side"):
        pruning_identified_exemplars([], [[0, 1]], 2)
    with pytest.raises(ValueError, match="the same items. Got 2, 3"):
        pruning_identified_exemplars([[0, 1]], [[0, 1, 1]], 2)
    with pytest.raises(ValueError, match="the same items. Got 2, 1"):
        pruning_identified_exemplars([[0, 1], [0]], [[0, 1]], 2)
    with pytest.raises(ValueError, match=r"candidates must be in \[0, 2\).* Got 2"):
        pruning_identified_exemplars([[0, 1]], [[0, 2]], 2)
