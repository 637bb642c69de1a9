"""The audit of two sets of predictions: pairing, numbers, verdicts, storage and text."""

import dataclasses
import io
import json
import math
import re
import tracemalloc
from importlib import metadata

import numpy as np
import pandas
import pytest
import scipy.stats
from rich.console import Console
from scipy.special import softmax

from hf_compalign._visible import one_line
from hf_compalign.cli import auditing as command
from hf_compalign.measure.attribution import Explanation
from hf_compalign.measure.audit import FORMAT_VERSION, Audit, AuditOptions, CostRow, audit, sampled
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.groups import number_bins
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import Cells, per_class

NAMES = ("negative", "neutral", "positive")


def answering(answers, labels, **about):
    """Predictions with the given answers, sure to a different degree for each item."""
    logits = np.eye(3)[list(answers)] * np.linspace(1, 2, len(answers))[:, None]
    return Predictions(logits, list(labels), [f"item {row}" for row in range(len(answers))], NAMES, **about)


# one item per cell, then one without a label that the models answer differently
LABELS = [0, 0, 0, 0, 0, -100]
REFERENCE = answering([0, 0, 1, 1, 1, 2], LABELS, model="bert", model_fingerprint="aaaa")
CANDIDATE = answering([0, 1, 0, 1, 2, 0], LABELS, model="small bert", data_fingerprint="dddd")


def unlabeled(*sides):
    return [dataclasses.replace(side, labels=np.full(len(side), -100)) for side in sides]


UNLABELED = unlabeled(REFERENCE, CANDIDATE)


def as_json(found):
    """nan is not equal to itself; its text is."""
    return json.dumps(found.to_dict(), sort_keys=True)


def random_pair(n=200, seed=0, n_changed=9):
    generator = np.random.default_rng(seed)
    reference, labels = generator.integers(0, 3, n), generator.integers(0, 3, n)
    candidate = reference.copy()
    candidate[:n_changed] = (candidate[:n_changed] + 1) % 3
    return answering(reference, labels), answering(candidate, labels)


def test_numbers_of_a_small_audit():
    found = audit(REFERENCE, CANDIDATE)
    assert (found.n, found.n_labeled) == (6, 5)
    assert found.cells == Cells(1, 1, 1, 1, 1)
    numbers = found.to_dict()["metrics"]
    assert (numbers["cie"], numbers["cie_u"]) == (4, 1)
    assert (numbers["mismatch_rate"], numbers["agreement"]) == (4 / 6, 2 / 6)
    assert (numbers["nfr"], numbers["pfr"], numbers["flip_rate"]) == (0.2, 0.2, 0.4)
    assert (numbers["btc"], numbers["bec"]) == (1 / 2, 2 / 3)
    assert (numbers["accuracy_reference"], numbers["accuracy_candidate"]) == (0.4, 0.4)
    assert (numbers["accuracy_change"], numbers["mcnemar_p"]) == (0, 1)
    assert found.to_dict()["passed"] is True
    p, q = softmax(REFERENCE.logits, axis=1), softmax(CANDIDATE.logits, axis=1)
    assert numbers["kl"] == pytest.approx(scipy.stats.entropy(p, q, axis=1).mean(), rel=1e-5)
    assert 0 < numbers["probability_loyalty"] < 1


def test_every_rate_has_its_interval():
    numbers = audit(*random_pair()).to_dict()["metrics"]
    for name, (k, n) in {"mismatch_rate": (9, 200), "agreement": (191, 200)}.items():
        interval = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert numbers[f"{name}_interval"] == pytest.approx([interval.low, interval.high])
    for name in ("nfr", "pfr", "flip_rate", "btc", "bec", "accuracy_reference", "accuracy_candidate"):
        low, high = numbers[f"{name}_interval"]
        assert low <= numbers[name] <= high
    exact = scipy.stats.binomtest(9, 200, alternative="less").proportion_ci(0.95, method="exact")
    assert numbers["mismatch_rate_upper_bound"] == pytest.approx(exact.high)


def test_a_model_against_itself():
    found = audit(REFERENCE, REFERENCE, limits={"mismatch_rate": 0.5})
    numbers = found.to_dict()["metrics"]
    assert (numbers["agreement"], numbers["mismatch_rate"], numbers["nfr"], numbers["cie"]) == (1, 0, 0, 0)
    assert (numbers["kl"], numbers["probability_loyalty"], numbers["mcnemar_p"]) == (0, 1, 1)
    assert found.to_dict()["passed"]


def test_items_are_paired_by_id_and_labels_by_name():
    reference, candidate = random_pair()
    order = np.random.default_rng(1).permutation(len(reference))
    columns = [2, 0, 1]
    labels = np.argsort(columns)[candidate.labels[order]]
    names = [NAMES[column] for column in columns]
    moved = Predictions(candidate.logits[order][:, columns], labels, candidate.ids[order], names)
    assert as_json(audit(reference, moved)) == as_json(audit(reference, candidate))


def test_masked_items_do_not_count():
    mask = np.array([True, False, True, True, True, True])
    other = np.array([True, True, True, True, True, False])
    found = audit(dataclasses.replace(REFERENCE, mask=mask), dataclasses.replace(CANDIDATE, mask=other))
    assert (found.n, found.n_labeled) == (4, 4)
    assert found.cells == Cells(1, 0, 1, 1, 1)


def test_masked_items_leave_the_logits_where_they_are():
    n, classes = 20_000, 1000
    labels, ids = np.zeros(n, dtype=int), np.arange(n)
    logits = np.random.default_rng(0).normal(size=(n, classes)).astype(np.float16)
    mask = np.arange(n) != 5
    masked = [Predictions(one, labels, ids, np.arange(classes), mask) for one in (logits, logits[:, ::-1])]
    shorter = [Predictions(one.logits[mask], labels[1:], ids[mask], np.arange(classes)) for one in masked]
    audits, peaks = [], []
    for sides in (shorter, masked):
        tracemalloc.start()
        audits.append(audit(*sides, options=AuditOptions(max_items=0)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert as_json(audits[0]) == as_json(audits[1])
    assert peaks[1] < peaks[0] + logits.nbytes / 4


def test_labels_of_either_side_count():
    bare = UNLABELED[0]
    assert audit(bare, CANDIDATE).cells == audit(REFERENCE, CANDIDATE).cells
    assert audit(CANDIDATE, bare).n_labeled == 5


def test_without_labels_only_the_answers_are_compared():
    found = audit(*UNLABELED, limits={"mismatch_rate": 1.0})
    numbers = found.to_dict()["metrics"]
    assert found.cells is None
    assert found.per_class == ()
    assert (found.n_labeled, numbers["cie"], numbers["mismatch_rate"]) == (0, 4, 4 / 6)
    for name in ("nfr", "cie_u", "btc", "accuracy_reference", "accuracy_change", "mcnemar_p", "nfr_upper_bound"):
        assert math.isnan(numbers[name]), name
    assert all(math.isnan(end) for end in numbers["nfr_interval"])
    assert found.passed
    assert "NFR" not in str(found)


def test_classes_are_those_of_the_comparison():
    reference, candidate = random_pair()
    found = audit(reference, candidate)
    assert list(found.per_class) == per_class(reference.predicted, candidate.predicted, reference.labels, 3)
    assert [row["name"] for row in found.to_dict()["per_class"]] == list(NAMES)


def test_groups():
    first, second = audit(REFERENCE, CANDIDATE, groups=["b", "b", "a", "a", None, "a"]).groups
    assert (first.group, first.n, first.n_labeled, first.mismatches) == ("b", 2, 2, 1)
    assert (first.mismatch_rate, first.nfr) == (0.5, 0.5)
    assert (second.group, second.n, second.n_labeled, second.mismatches) == ("a", 3, 2, 2)
    assert (second.mismatch_rate, second.nfr, second.nfr_interval[0]) == (2 / 3, 0, 0)
    masked = dataclasses.replace(REFERENCE, mask=np.array([False, True, True, True, True, True]))
    found = audit(masked, CANDIDATE, groups=["a", "b", "a", "a", "a", "a"])
    assert {row.group: row.n for row in found.groups} == {"b": 1, "a": 4}


def test_groups_of_several_attributes_may_overlap():
    groups = {"target": [["a", "b"], "a", None, [], ("b",), "b"], "length": ["long"] * 6}
    found = audit(REFERENCE, CANDIDATE, groups=groups, options=AuditOptions(min_group_size=2))
    assert [(row.attribute, row.group, row.n, row.mismatches) for row in found.groups] == [
        ("target", "a", 2, 1),
        ("target", "b", 3, 2),
        ("length", "long", 6, 4),
    ]
    assert [(gap.attribute, gap.n_groups) for gap in found.gaps] == [("target", 2), ("length", 1)]
    assert found.gaps[0].mismatch_gap == pytest.approx(2 / 3 - 1 / 2)
    assert {item.id: item.groups for item in found.items}["item 4"] == ("target: b", "length: long")


def grouped_pair():
    """300 items in three groups of 100, of which 20, 10 and 0 change from right to wrong."""
    labels = np.zeros(300, dtype=int)
    answers = labels.copy()
    answers[:20] = answers[100:110] = 1
    return (answering(labels, labels), answering(answers, labels)), ["a"] * 100 + ["b"] * 100 + ["c"] * 100


def test_limits_on_groups_are_judged_on_upper_bounds():
    sides, groups = grouped_pair()
    found = audit(*sides, groups=groups, limits={"group_mismatch_gap": 0.22, "worst_group_accuracy_drop": 0.9})
    gap, drop = found.limits
    assert gap.value == pytest.approx(0.2)
    assert drop.value == pytest.approx(0.2)  # the reference is right everywhere
    assert gap.upper_bound == found.gaps[0].upper_bound > 0.22
    assert not gap.passed
    assert drop.passed
    assert not found.passed


def test_the_worst_attribute_counts():
    sides, groups = grouped_pair()
    found = audit(*sides, groups={"half": ["x", "y"] * 150, "third": groups}, limits={"group_mismatch_gap": 1.0})
    assert found.limits[0].value == found.gaps[1].mismatch_gap > found.gaps[0].mismatch_gap


def test_limits_on_groups_need_groups_that_are_large_enough():
    sides, groups = grouped_pair()
    with pytest.raises(ValueError, match="group_mismatch_gap needs groups, and there are none. Give groups="):
        audit(*sides, limits={"group_mismatch_gap": 0.1})
    few = "there are too few: the largest group has 100"
    message = f"group_mismatch_gap needs groups of at least 101 items, two of one attribute, and {few}"
    large = AuditOptions(min_group_size=101)
    with pytest.raises(ValueError, match=message):
        audit(*sides, groups=groups, limits={"group_mismatch_gap": 0.1}, options=large)
    with pytest.raises(ValueError, match="worst_group_accuracy_drop needs groups of at least 101 labeled items, and"):
        audit(*sides, groups=groups, limits={"worst_group_accuracy_drop": 0.1}, options=large)
    with pytest.raises(ValueError, match="worst_group_accuracy_drop needs labels"):
        audit(*unlabeled(*sides), groups=groups, limits={"worst_group_accuracy_drop": 0.1})
    assert audit(*unlabeled(*sides), groups=groups, limits={"group_mismatch_gap": 0.5}).passed


def test_a_limit_on_accuracy_says_how_few_items_of_a_group_are_labeled():
    labels = np.where(np.arange(200) % 10 == 0, 0, -100)
    labels[0] = -100
    sides = [answering([0] * 200, labels)] * 2
    message = "needs groups of at least 30 labeled items, and there are too few: the largest group has 10"
    with pytest.raises(ValueError, match=f"worst_group_accuracy_drop {message}"):
        audit(*sides, groups=["a"] * 100 + ["b"] * 100, limits={"worst_group_accuracy_drop": 0.5})
    text = str(audit(*sides, groups=["a"] * 100 + ["b"] * 100))
    assert "\n2 other groups of fewer than 30 labeled items: in nothing that needs labels.\n" in text


def test_a_verdict_names_the_attributes_that_it_could_not_judge():
    sides, groups = grouped_pair()
    groups = {"third": groups, "single": [f"item {row}" for row in range(300)], "all": ["x"] * 300}
    limits = {"group_mismatch_gap": 0.9, "worst_group_accuracy_drop": 0.9, "nfr": 0.5}
    gap, drop, nfr = audit(*sides, groups=groups, limits=limits).limits
    assert (gap.passed, gap.not_judged) == (True, ("single", "all"))  # one group has no gap
    assert (drop.passed, drop.not_judged) == (True, ("single",))
    assert nfr.not_judged == ()


def listed_in(text, attribute):
    """The first cells of the three rows of a table of classes or groups."""
    table = next(part for part in text.split("\n\n") if re.match(rf"{attribute} +n +mismatches", part))
    return [line.split("  ")[0] for line in table.splitlines()[1:4]]


def test_groups_and_classes_come_by_what_they_lost_and_bins_by_their_values():
    labels = np.repeat([0, 1, 2], 100)
    before, after = labels.copy(), labels.copy()
    before[:50], after[:30] = 1, 2  # of class 0 half was wrong, and 30 are wrong in another way now
    after[100:110] = 2  # ten of class 1 are lost
    sides, groups = (answering(before, labels), answering(after, labels)), np.array(["a", "b", "c"])[labels].tolist()
    text = str(audit(*sides, groups={"letter": groups, "size": number_bins(200 - labels)}))
    assert listed_in(text, "class") == ["neutral", "negative", "positive"]
    assert listed_in(text, "letter") == ["b", "a", "c"]
    assert listed_in(text, "size") == ["198", "199", "200"]
    assert listed_in(str(audit(*unlabeled(*sides), groups={"letter": groups})), "letter") == ["a", "b", "c"]


def test_a_wide_spread_of_a_latency_is_said():
    quiet, busy = Latency(10, 9.5, 10.5), Latency(10, 5, 14.7)
    found = dataclasses.replace(audit(REFERENCE, CANDIDATE), costs=(CostRow("latency (ms)", "10", "10", "1.00"),))
    assert "trusted" not in str(dataclasses.replace(found, latency=(quiet, quiet)))
    text = " ".join(str(dataclasses.replace(found, latency=(quiet, busy))).split())
    assert "Not to be trusted: the quartiles of candidate are more than a quarter of the median apart." in text


def test_a_limit_on_groups_names_the_attribute_that_decides_it():
    sides, groups = grouped_pair()
    both = {"half": ["x", "y"] * 150, "third": [*groups[:-5], *["few"] * 5]}
    for limit, words in ((0.02, "exceeded"), (0.15, "not shown to be within"), (0.9, "within")):
        found = audit(*sides, groups=both, limits={"group_mismatch_gap": limit})
        (verdict,) = found.limits
        assert (verdict.attribute, verdict.words, verdict.left_out) == ("third", words, ("third: few",))
        assert (verdict.lower_bound, verdict.upper_bound) == (found.gaps[1].lower_bound, found.gaps[1].upper_bound)
        assert f"{words}; left out as too small: third: few\n" in str(found)
        assert verdict.passed or f"{words} the limit on group_mismatch_gap of third." in str(found)


def test_fairness_measures_take_limits():
    generator = np.random.default_rng(0)
    labels, groups = generator.integers(0, 2, 600), ["a"] * 300 + ["b"] * 300
    answers = np.where(generator.random(600) < np.repeat([0.05, 0.3], 300), 1 - labels, labels)
    sides = answering(labels, labels), answering(answers, labels)
    names = ("demographic_parity_difference", "equal_opportunity_difference", "equalized_odds_difference")
    found = audit(*sides, groups=groups, limits=dict.fromkeys(names, 0.3))
    for verdict in found.limits:
        (row,) = (row for row in found.gaps[0].fairness if row.measure == verdict.name and row.label is None)
        assert (verdict.value, verdict.upper_bound, verdict.lower_bound) == (
            *(row.candidate, row.upper_bound, row.lower_bound),
        )
        assert verdict.passed is (row.upper_bound <= 0.3)
    assert [verdict.passed for verdict in found.limits] == [True, False, False]
    assert audit(*sides, groups=groups, limits={names[1]: 0.01}).limits[0].words == "exceeded"
    with pytest.raises(ValueError, match="equal_opportunity_difference needs labels"):
        audit(*unlabeled(*sides), groups=groups, limits={names[1]: 0.1})
    assert audit(*unlabeled(*sides), groups=groups, limits={names[0]: 0.5}).passed
    message = "equalized_odds_difference needs groups of at least 400 labeled items of a class and of others, two of"
    with pytest.raises(ValueError, match=message):
        audit(*sides, groups=groups, limits={names[2]: 0.1}, options=AuditOptions(min_group_size=400))
    with pytest.raises(ValueError, match="no limit 'demographic_parity_ratio'.*Did you mean 'demographic_parity_diff"):
        audit(*sides, groups=groups, limits={"demographic_parity_ratio": 0.8})


def test_a_text_says_who_is_left_out_of_fairness_measures_and_of_all_groups():
    generator = np.random.default_rng(1)
    groups = [None] * 23 + ["a"] * 100 + ["b"] * 77 + ["rare"] * 40
    labels = np.where(np.array(groups) == "rare", 0, generator.integers(0, 2, 240))
    answers = np.where(generator.random(240) < 0.2, 1 - labels, labels)
    text = str(audit(answering(labels, labels), answering(answers, labels), groups=groups))
    assert "\n23 items are in no group." in text
    left_out = (
        "Fewer than 30 items behind a rate, so left out of the equal opportunity difference and the equalized odds"
    )
    assert f"{left_out} difference and the equalized odds ratio: rare." in " ".join(text.split())
    assert re.search(r"\nequal opportunity difference +0.000 +[0-9.]+ .* 0 +1 +0.000 +[0-9.]+\n", text)


def test_the_scores_of_the_task_stand_beside_each_other():
    labels = np.arange(100) % 2
    sides = [
        Predictions(np.eye(2)[given], labels, np.arange(100).astype(str), ("no", "yes"))
        for given in (labels, np.where(np.arange(100) < 20, 1, labels))
    ]
    found = audit(*sides)
    numbers = found.metrics
    # class 1: 50 right, 10 taken for it, none missed
    assert (numbers["f1_reference"], numbers["f1_candidate"]) == (1, pytest.approx(100 / 110))
    assert numbers["mcc_change"] == pytest.approx(numbers["mcc_candidate"] - numbers["mcc_reference"])
    assert numbers["accuracy_change"] == pytest.approx(-0.1)
    for name in ("accuracy", "f1", "mcc"):
        low, high = numbers[f"{name}_change_interval"]
        assert low < numbers[f"{name}_change"] < high
        assert found.to_pandas().loc[f"{name}_change", ["low", "high"]].tolist() == [low, high]
    lines = str(found).splitlines()
    start = next(row for row, line in enumerate(lines) if line.startswith("score "))
    assert [line.split("  ")[0] for line in lines[start + 1 : start + 4]] == [
        "accuracy",
        "F1 of yes",
        "Matthews' correlation (MCC)",
    ]
    assert "F1 (macro)" in str(audit(REFERENCE, CANDIDATE))
    assert "score " not in str(audit(*UNLABELED))


def test_the_floor_is_another_training():
    reference, candidate = random_pair(n_changed=3)
    rerun = random_pair(n_changed=40)[1]
    order = np.random.default_rng(0).permutation(len(rerun))
    moved = Predictions(rerun.logits[order], rerun.labels[order], rerun.ids[order], NAMES, model="seed 1")
    floor = audit(reference, candidate, floor=moved).floor
    assert (floor.model, floor.n, floor.mismatches) == ("seed 1", 200, 40)
    assert floor.difference.value == pytest.approx((3 - 40) / 200)
    assert floor.below
    words = str(audit(reference, candidate, floor=moved))
    assert "This compressed model differs from the original less than this re-run does" in words
    few = dataclasses.replace(moved, mask=np.arange(200) > 0)
    with pytest.raises(ValueError, match=r"The floor must answer all items.* masks out 1 of 200"):
        audit(reference, candidate, floor=few)


def test_changed_items_come_with_the_most_harmful_first():
    found = audit(REFERENCE, CANDIDATE)
    assert [(item.id, item.cell) for item in found.items] == [
        ("item 1", "lost"),
        ("item 4", "different_wrong"),
        ("item 5", "unlabeled"),
        ("item 2", "gained"),
    ]
    lost, _, bare, _ = found.items
    assert (lost.label, lost.reference, lost.candidate) == (0, 0, 1)
    assert bare.label is None
    p, q = (softmax(side.logits.astype(float), axis=1)[1] for side in (REFERENCE, CANDIDATE))
    assert lost.reference_confidence == pytest.approx(p.max())
    assert lost.candidate_confidence == pytest.approx(q.max())
    assert lost.reference_margin == pytest.approx(np.sort(p)[-1] - np.sort(p)[-2])
    assert lost.kl == pytest.approx(scipy.stats.entropy(p, q))
    fewer = audit(REFERENCE, CANDIDATE, options=AuditOptions(max_items=1))
    assert [item.id for item in fewer.items] == ["item 1"]
    assert fewer.n_items_left_out == 3
    none = audit(REFERENCE, CANDIDATE, options=AuditOptions(max_items=0))
    assert (none.items, none.n_items_left_out) == ((), 4)
    with pytest.raises(ValueError, match=r"max_items must be at least 0. Got -1. With 0 no item is kept"):
        AuditOptions(max_items=-1)


def test_within_a_kind_the_surest_answer_comes_first():
    reference, candidate = random_pair(n_changed=30)
    lost = [item.reference_confidence for item in audit(reference, candidate).items if item.cell == "lost"]
    assert len(lost) > 3
    assert lost == sorted(lost, reverse=True)


def test_tables_as_data_frames():
    found = audit(REFERENCE, CANDIDATE, groups=["a", "a", "b", "b", None, "a"], limits={"mismatch_rate": 0.9})
    metrics = found.to_pandas()
    rate = metrics.loc["mismatch_rate"]
    assert rate["value"] == 4 / 6
    assert [rate["low"], rate["high"]] == found.metrics["mismatch_rate_interval"]
    assert rate["upper_bound"] == found.metrics["mismatch_rate_upper_bound"]
    assert metrics.loc["kl", "value"] == found.metrics["kl"]
    assert found.to_pandas("per_class")["name"].tolist() == list(NAMES)
    assert found.to_pandas("groups")["group"].tolist() == ["a", "b"]
    assert found.to_pandas("items")["id"].tolist() == [item.id for item in found.items]
    assert found.to_pandas("limits")["passed"].tolist() == [False]
    empty = audit(REFERENCE, REFERENCE).to_pandas("items")
    assert len(empty) == 0
    assert "reference_confidence" in empty.columns
    with pytest.raises(ValueError, match="There is no table 'cells'. Allowed: metrics, per_class, groups"):
        found.to_pandas("cells")


def test_a_notebook_shows_tables_and_no_markup_of_the_data():
    named = [dataclasses.replace(side, label_names=("<b>bad</b>", "x", "y")) for side in (REFERENCE, CANDIDATE)]
    shown = audit(*named, groups=["<script>alert(1)</script>"] * 6)._repr_html_()
    assert "<table>" in shown
    assert "&lt;b&gt;bad&lt;/b&gt;" in shown
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown
    assert "<b>" not in shown


@pytest.mark.parametrize("n_changed", [0, 3, 9])
def test_a_limit_is_judged_on_the_upper_bound(n_changed):
    reference, candidate = random_pair(n_changed=n_changed)
    bound = scipy.stats.binomtest(n_changed, 200, alternative="less").proportion_ci(0.95, method="exact").high
    for limit, passed in ((bound + 1e-6, True), (bound - 1e-6, False)):
        found = audit(reference, candidate, limits={"mismatch_rate": limit})
        assert found.passed is passed
        assert found.limits[0].value == n_changed / 200
        assert found.limits[0].upper_bound == pytest.approx(bound)


def test_flips_that_cancel_out_do_not_pass():
    n = 100  # half the items change, the accuracy does not: McNemar sees nothing
    reference = answering([0] * n, [0, 1] * 50)
    found = audit(reference, answering([1] * n, [0, 1] * 50), limits={"nfr": 0.1, "flip_rate": 0.1})
    assert found.metrics["mcnemar_p"] == 1
    assert not found.passed


def test_one_limit_out_of_two_fails():
    found = audit(*random_pair(), limits={"mismatch_rate": 0.5, "pfr": 0.001})
    assert [(verdict.name, verdict.passed) for verdict in found.limits] == [("mismatch_rate", True), ("pfr", False)]
    assert not found.passed
    assert found.to_dict()["passed"] is False


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"missmatch_rate": 0.1}, r"no limit 'missmatch_rate'. Allowed: mismatch_rate, nfr.*Did you mean 'mismatch"),
        (
            {"kl": 1},
            r"no limit 'kl'. Allowed: mismatch_rate, nfr, flip_rate, pfr, .*_gap, worst.*_drop, demogr.*_difference.$",
        ),
        ({"nfr": 2}, r"The limit nfr must be in \[0, 1\]. Got 2. Did you mean 0.02\?"),
        ({"nfr": "5%"}, r"The limit nfr must be a number in \[0, 1\]. Got '5%'.$"),
        (["nfr"], r"limits must be a dict of names and numbers, such as {'mismatch_rate': 0.02}. Got \['nfr'\]"),
        ({"nfr": -0.1}, r"The limit nfr must be in \[0, 1\]. Got -0.1.$"),
        ({"nfr": math.nan}, r"The limit nfr must be in \[0, 1\]. Got nan.$"),
    ],
)
def test_impossible_limits_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        audit(REFERENCE, CANDIDATE, limits=limits)


@pytest.mark.parametrize(
    ("sides", "settings", "message"),
    [
        (UNLABELED, {"limits": {"nfr": 0.1}}, "limit nfr needs labels, and no item has a known one"),
        ([REFERENCE, CANDIDATE], {"groups": ["a", "b"]}, "groups must have one entry per item: 6 of them. Got 2"),
        ([dataclasses.replace(REFERENCE, mask=np.zeros(6, bool)), CANDIDATE], {}, "all 6 items are masked out"),
        ([dataclasses.replace(REFERENCE, data_fingerprint="eeee"), CANDIDATE], {}, "same inputs.*eeee against dddd"),
        ([REFERENCE, answering([0, 1], [0, 1])], {}, "must cover the same items"),
    ],
)
def test_what_cannot_be_compared_is_refused(sides, settings, message):
    with pytest.raises(ValueError, match=message):
        audit(*sides, **settings)


def test_models_and_versions_are_kept():
    numbers = audit(REFERENCE, CANDIDATE).to_dict()
    assert numbers["data_fingerprint"] == "dddd"  # unknown on one side
    assert numbers["reference"] == {"model": "bert", "model_fingerprint": "aaaa", "runtime": None}
    assert numbers["candidate"] == {"model": "small bert", "model_fingerprint": "", "runtime": None}
    assert numbers["versions"]["numpy"] == np.__version__
    assert set(numbers["versions"]) == {"python", "hf_compalign", "numpy", "scipy", "torch", "transformers"}


def test_a_package_that_is_not_installed_has_an_unknown_version(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert audit(REFERENCE, CANDIDATE).versions["torch"] == "unknown"


@pytest.mark.parametrize("sides", [[REFERENCE, CANDIDATE], UNLABELED])
def test_saved_and_loaded_is_the_same(tmp_path, sides):
    found = audit(*sides, groups=["ä", "b"] * 3, limits={"mismatch_rate": 0.9})
    found.save(tmp_path / "new" / "audit.json")
    loaded = Audit.load(tmp_path / "new" / "audit.json")
    assert as_json(loaded) == as_json(found)
    assert str(loaded) == str(found)
    assert (loaded.cells, loaded.limits) == (found.cells, found.limits)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["audit.json"]


def test_the_file_is_strict_json(tmp_path):
    audit(REFERENCE, CANDIDATE).save(tmp_path / "audit.json")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    stored = json.loads((tmp_path / "audit.json").read_text(), parse_constant=refuse)
    assert stored["per_class"][1]["nfr"] is None  # there is no item of this class


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "audit.json is not a JSON file"),
        ("[1]", "is JSON, but not that of an audit"),
        ('{"n": 3}', "is JSON, but not that of an audit"),
        (
            '{"kind":"hf_compalign.audit", "format_version":1, "n":3}',
            "audit without n_labeled.*version 1. Audit again",
        ),
        ('{"kind": "hf_compalign.audit"}', "is damaged: its format version is None. Write it again with Audit.save"),
        (f'{{"kind": "hf_compalign.audit", "format_version": {FORMAT_VERSION + 1}}}', r"version 6.*up to 5. Upgrade"),
    ],
)
def test_what_is_not_an_audit_is_refused(tmp_path, text, message):
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Audit.load(tmp_path / "audit.json")


@pytest.mark.parametrize("damage", [{"metrics": 3}, {"limits": [{"name": "nfr"}]}, {"cells": 5}, {"margins": None}])
def test_a_damaged_audit_is_refused(tmp_path, damage):
    stored = json.loads(audit(REFERENCE, CANDIDATE).to_json())
    assert as_json(Audit.from_dict(stored)) == as_json(audit(REFERENCE, CANDIDATE))
    with pytest.raises(ValueError, match="It is a damaged audit"):
        Audit.from_dict(stored | damage)
    (tmp_path / "audit.json").write_text(json.dumps(stored | damage))
    with pytest.raises(ValueError, match=r"audit.json cannot be read. It is a damaged audit"):
        Audit.load(tmp_path / "audit.json")


def test_an_audit_without_one_of_its_metrics_is_shown_or_refused():
    stored = json.loads(audit(REFERENCE, CANDIDATE).to_json())
    refused = set()
    for name in stored["metrics"]:
        less = {key: value for key, value in stored["metrics"].items() if key != name}
        try:
            str(Audit.from_dict(stored | {"metrics": less}))
        except ValueError as error:
            refused |= {name} if f"metrics lacks {name}." in str(error) else set()
    scores = {f"{score}_{end}" for score in ("f1", "mcc") for end in ("reference", "candidate", "change_interval")}
    assert refused > scores


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Audit.load(tmp_path / "none.json")


def test_the_report_says_it_in_words():
    text = str(audit(REFERENCE, CANDIDATE, groups=["g"] * 6))
    assert text.startswith("The candidate answers 2 of 6 items like the reference and 4 differently.")
    assert "1 that was right is now wrong, 1 that was wrong is now right." in text
    assert "No limit was set" in text
    for shown in ("66.67 %", "KL divergence", "\nnegative ", "2 classes without a labeled item left out."):
        assert shown in text
    assert "Left out of CEV and SDE, without errors of both kinds before: negative, neutral, positive." in text
    assert text.endswith("reference: bert (aaaa)\ncandidate: small bert")
    assert "  g " in text or "\ng " in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_report_says_exceeded_only_of_what_the_items_show():
    reference, candidate = random_pair(n_changed=3)  # 1.5 % observed, 0.5 to 4.3 % shown
    text = str(audit(reference, candidate, limits={"mismatch_rate": 0.004, "flip_rate": 0.009, "nfr": 0.5}))
    assert "NOT PASSED: exceeded the limit on mismatch_rate; not shown to be within the limit on flip_rate." in text
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert lines["mismatch_rate"].endswith("exceeded")
    assert lines["flip_rate"].endswith("0.90 %    1.00 %            3.11 %  not shown to be within")
    assert lines["nfr"].endswith("  within")
    assert "PASSED: shown to be within every limit." in str(audit(reference, reference, limits={"nfr": 0.1}))


def test_the_report_has_no_unknown_number_and_no_signed_zero():
    same = random_pair(n_changed=0)
    text = str(audit(*same, groups={"a": ["x", "y"] * 100, "none": [None] * 200}, limits={"group_mismatch_gap": 0.01}))
    assert "nan" not in text
    assert not re.search(r"[+-]0[.]?0* ", text)
    assert "none: no item is in a group.\n" in text
    assert re.search(r"\nmismatch rate, gap +0.00 points +at most [0-9.]+ points +1 +x - x\n", text)
    assert re.search("\ngroup_mismatch_gap of a .* not shown to be within; not judged: none\n", text)
    assert "nan" not in str(audit(*unlabeled(*same), groups=["x", "y"] * 100))


def test_the_report_counts_sampled_items_and_more_mismatches_apart():
    counts = {"n_items": 60, "n_agreeing": 56, "seed": 0}
    drawn = "60 items drawn at random (seed 0; 56 answered alike)"
    assert sampled(counts | {"n_mismatches": 60}) == f"{drawn}, and 56 more that the two answer differently"
    assert sampled(counts | {"n_mismatches": 4}) == drawn


def test_of_many_classes_and_groups_the_most_harmful_are_listed():
    names = [f"class {k:02}" for k in range(21)]
    labels = np.arange(63) // 3
    answers = labels.copy()
    answers[[15, 30, 31]] = 0  # one of class 05, two of class 10
    sides = [Predictions(np.eye(21)[given], labels, [str(k) for k in range(63)], names) for given in (labels, answers)]
    lines = str(audit(*sides, groups=[names[label] for label in labels])).splitlines()
    for title in ("class ", "group "):
        start = next(row for row, line in enumerate(lines) if line.startswith(title) and " NFR " in line)
        listed = [line[:8] for line in lines[start + 1 : start + 21]]
        assert listed[:2] == ["class 10", "class 05"]
        assert len({*listed} & {*names}) == 20
        assert "1 more, less harmed, are in the JSON and on the page." in lines[start + 21]
    assert "less harmed" not in str(audit(*random_pair()))


HOSTILE = ("\x1b]0;pwn\x07", "\x1b[2J\x9b31m", "two\nPASSED: lines", "turned \u202e", "w" * 3000)


def test_names_from_the_data_neither_steer_a_terminal_nor_wreck_the_tables():
    names = HOSTILE[:3]
    sides = [
        Predictions(side.logits, side.labels, side.ids, names, model=model)
        for side, model in zip((REFERENCE, CANDIDATE), HOSTILE[3:], strict=True)
    ]
    judged = AuditOptions(min_group_size=1)
    found = audit(*sides, groups={HOSTILE[0]: [*HOSTILE, None]}, options=judged, limits={"nfr": 0.9})
    plain = [one_line(name) for name in HOSTILE]
    sides = [dataclasses.replace(side, label_names=tuple(plain[:3])) for side in (REFERENCE, CANDIDATE)]
    harmless = audit(*sides, groups={"x": [*plain, None]}, options=judged)
    for text in (str(found), found._repr_html_()):
        assert not {*text} & {*"\x1b\x07\x9b\u202e\r"}
        assert "w" * 500 not in text
        assert "two PASSED: lines" in text
    assert len(str(found).splitlines()) == len(str(harmless).splitlines()) + 3  # the limit's table
    tables = str(found).split("\nreference: ")[0]
    assert max(map(len, tables.splitlines()[2:])) < 150


def test_the_verdict_alone_is_colored(monkeypatch):

    for limit, style in ((1.0, "1;32m"), (0.01, "1;31m")):
        console = Console(record=True, force_terminal=True, width=200, file=io.StringIO(), color_system="standard")
        monkeypatch.setattr(command, "stdout", lambda shown=console: shown)
        found = audit(REFERENCE, CANDIDATE, groups=["PASSED: not at all"] * 6, limits={"mismatch_rate": limit})
        command.print_audit(found)
        colored = [line for line in console.export_text(styles=True).splitlines() if "\x1b[" in line]
        assert len(colored) == 1
        assert style in colored[0]
        assert "PASSED: " in colored[0]


def test_a_table_is_made_without_the_others(monkeypatch):
    found = audit(*random_pair(), groups=["a", "b"] * 100)
    expected = found.to_pandas("groups")
    text, shown = str(found), found._repr_html_()

    def refuse(kind):
        raise AssertionError(f"{kind} was converted")

    empty = dataclasses.replace(found, items=(), group_rates=())
    assert (str(empty), empty._repr_html_()) == (text, shown)
    monkeypatch.setattr(Audit, "to_dict", refuse)
    pandas.testing.assert_frame_equal(found.to_pandas("groups"), expected)


def test_the_file_has_a_line_for_each_row_and_keeps_every_text(tmp_path):
    ids = [f"item {row} \ud83d {row}" for row in range(6)]
    sides = [dataclasses.replace(side, ids=ids) for side in (REFERENCE, CANDIDATE)]
    found = audit(*sides, groups=["ä\n", "\udc00"] * 3, limits={"mismatch_rate": 0.9})
    explained = Explanation("text", 0, ("a", "b"), None, (1.0, -1 / 3), (0.1 + 0.2, 1e-300))
    items = (dataclasses.replace(found.items[0], explanation=explained), *found.items[1:])
    found = dataclasses.replace(found, items=items)
    found.save(tmp_path / "audit.json")
    text = (tmp_path / "audit.json").read_text(encoding="utf-8")
    assert "ä" in text
    values = found.to_dict().values()
    tables = [value for value in values if isinstance(value, list) and value and isinstance(value[0], dict)]
    assert len(text.splitlines()) == 2 + len(values) + sum(map(len, tables)) + len(tables) + len(found.metrics) + 1
    loaded = Audit.load(tmp_path / "audit.json")
    assert (loaded.items, loaded.items[0].id) == (found.items, ids[1])
    assert as_json(loaded) == as_json(found)
    assert loaded.to_json() == found.to_json()
