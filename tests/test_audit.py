"""The audit of two sets of predictions: pairing, numbers, verdicts, storage and text."""

import dataclasses
import json
import math
from importlib import metadata

import numpy as np
import pytest
import scipy.stats
from scipy.special import softmax

from hf_compalign.measure.audit import FORMAT_VERSION, Audit, audit
from hf_compalign.measure.comparison import Cells, per_class
from hf_compalign.measure.predictions import Predictions

NAMES = ("negative", "neutral", "positive")


def answering(answers, labels, **about):
    """Predictions with the given answers, sure to a different degree for each item."""
    logits = np.eye(3)[list(answers)] * np.linspace(1, 2, len(answers))[:, None]
    ids = [f"item {row}" for row in range(len(answers))]
    return Predictions(logits, list(labels), ids, NAMES, **about)


# one item per cell, then one without a label that the models answer differently
LABELS = [0, 0, 0, 0, 0, -100]
REFERENCE = answering([0, 0, 1, 1, 1, 2], LABELS, model="bert", model_fingerprint="aaaa")
CANDIDATE = answering([0, 1, 0, 1, 2, 0], LABELS, model="small bert", data_fingerprint="dddd")


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
    assert (found.n, found.n_labelled) == (6, 5)
    assert found.cells == Cells(1, 1, 1, 1, 1)
    numbers = found.to_dict()
    assert numbers["cie"] == 4
    assert numbers["cie_u"] == 1
    assert numbers["mismatch_rate"] == 4 / 6
    assert numbers["agreement"] == 2 / 6
    assert (numbers["nfr"], numbers["pfr"], numbers["flip_rate"]) == (0.2, 0.2, 0.4)
    assert (numbers["btc"], numbers["bec"]) == (1 / 2, 2 / 3)
    assert (numbers["accuracy_reference"], numbers["accuracy_candidate"]) == (0.4, 0.4)
    assert numbers["accuracy_change"] == 0
    assert numbers["mcnemar_p"] == 1
    assert numbers["passed"] is True
    p, q = softmax(REFERENCE.logits, axis=1), softmax(CANDIDATE.logits, axis=1)
    assert numbers["kl"] == pytest.approx(scipy.stats.entropy(p, q, axis=1).mean(), rel=1e-5)
    assert 0 < numbers["probability_loyalty"] < 1


def test_every_rate_has_its_interval():
    numbers = audit(*random_pair()).to_dict()
    counts = {"mismatch_rate": (9, 200), "agreement": (191, 200)}
    for name, (k, n) in counts.items():
        interval = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert numbers[f"{name}_interval"] == pytest.approx([interval.low, interval.high])
    for name in ("nfr", "pfr", "flip_rate", "btc", "bec", "accuracy_reference", "accuracy_candidate"):
        low, high = numbers[f"{name}_interval"]
        assert low <= numbers[name] <= high
    exact = scipy.stats.binomtest(9, 200, alternative="less").proportion_ci(0.95, method="exact")
    assert numbers["mismatch_rate_upper_bound"] == pytest.approx(exact.high)


def test_a_model_against_itself():
    numbers = audit(REFERENCE, REFERENCE, limits={"mismatch_rate": 0.5}).to_dict()
    assert (numbers["agreement"], numbers["mismatch_rate"], numbers["nfr"], numbers["cie"]) == (1, 0, 0, 0)
    assert (numbers["kl"], numbers["probability_loyalty"], numbers["mcnemar_p"]) == (0, 1, 1)
    assert numbers["passed"]


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
    assert (found.n, found.n_labelled) == (4, 4)
    assert found.cells == Cells(1, 0, 1, 1, 1)


def test_labels_of_either_side_count():
    unlabelled = dataclasses.replace(REFERENCE, labels=np.full(6, -100))
    assert audit(unlabelled, CANDIDATE).cells == audit(REFERENCE, CANDIDATE).cells
    assert audit(CANDIDATE, unlabelled).n_labelled == 5


def test_without_labels_only_the_answers_are_compared():
    unlabelled = [dataclasses.replace(side, labels=np.full(6, -100)) for side in (REFERENCE, CANDIDATE)]
    found = audit(*unlabelled, limits={"mismatch_rate": 1.0})
    numbers = found.to_dict()
    assert found.cells is None
    assert found.per_class == ()
    assert (numbers["n_labelled"], numbers["cie"], numbers["mismatch_rate"]) == (0, 4, 4 / 6)
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
    found = audit(REFERENCE, CANDIDATE, groups=["b", "b", "a", "a", None, "a"])
    first, second = found.groups
    assert (first.group, first.n, first.n_labelled, first.mismatches) == ("b", 2, 2, 1)
    assert (first.mismatch_rate, first.nfr) == (0.5, 0.5)
    assert (second.group, second.n, second.n_labelled, second.mismatches) == ("a", 3, 2, 2)
    assert (second.mismatch_rate, second.nfr) == (2 / 3, 0)
    assert second.nfr_interval[0] == 0


def test_groups_follow_the_items_when_some_are_masked():
    masked = dataclasses.replace(REFERENCE, mask=np.array([False, True, True, True, True, True]))
    found = audit(masked, CANDIDATE, groups=["a", "b", "a", "a", "a", "a"])
    assert {row.group: row.n for row in found.groups} == {"b": 1, "a": 4}


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
    candidate = answering([1] * n, [0, 1] * 50)
    found = audit(reference, candidate, limits={"nfr": 0.1, "flip_rate": 0.1})
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
        ({"kl": 0.1}, r"There is no limit 'kl'. Allowed: mismatch_rate, nfr, flip_rate, pfr.$"),
        ({"nfr": 2}, r"The limit nfr must be in \[0, 1\]. Got 2. Did you mean 0.02\?"),
        ({"nfr": -0.1}, r"The limit nfr must be in \[0, 1\]. Got -0.1.$"),
        ({"nfr": math.nan}, r"The limit nfr must be in \[0, 1\]. Got nan.$"),
    ],
)
def test_impossible_limits_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        audit(REFERENCE, CANDIDATE, limits=limits)


def test_limits_that_need_labels_are_refused_without_them():
    unlabelled = dataclasses.replace(REFERENCE, labels=np.full(6, -100))
    with pytest.raises(ValueError, match="The limit nfr needs labels, and no item has a known one"):
        audit(unlabelled, unlabelled, limits={"nfr": 0.1})


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"one group per item: 6 of them. Got 2"):
        audit(REFERENCE, CANDIDATE, groups=["a", "b"])


def test_nothing_to_compare_is_refused():
    nothing = dataclasses.replace(REFERENCE, mask=np.zeros(6, dtype=bool))
    with pytest.raises(ValueError, match="all 6 items are masked out"):
        audit(nothing, CANDIDATE)


def test_other_inputs_under_the_same_ids_are_refused():
    changed = dataclasses.replace(REFERENCE, data_fingerprint="eeee")
    with pytest.raises(ValueError, match=r"asked the same inputs.*eeee against dddd"):
        audit(changed, CANDIDATE)
    assert audit(REFERENCE, CANDIDATE).data_fingerprint == "dddd"  # unknown on one side


def test_other_items_are_refused():
    with pytest.raises(ValueError, match="must cover the same items"):
        audit(REFERENCE, answering([0, 1], [0, 1]))


def test_models_and_versions_are_kept():
    numbers = audit(REFERENCE, CANDIDATE).to_dict()
    assert numbers["reference"] == {"model": "bert", "model_fingerprint": "aaaa"}
    assert numbers["candidate"] == {"model": "small bert", "model_fingerprint": ""}
    assert numbers["versions"]["numpy"] == np.__version__
    assert set(numbers["versions"]) == {"python", "hf_compalign", "numpy", "scipy", "torch", "transformers"}


def test_a_package_that_is_not_installed_has_an_unknown_version(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert audit(REFERENCE, CANDIDATE).versions["torch"] == "unknown"


@pytest.mark.parametrize("labelled", [True, False])
def test_saved_and_loaded_is_the_same(tmp_path, labelled):
    sides = [REFERENCE, CANDIDATE]
    if not labelled:
        sides = [dataclasses.replace(side, labels=np.full(6, -100)) for side in sides]
    found = audit(*sides, groups=["ä", "b"] * 3, limits={"mismatch_rate": 0.9})
    found.save(tmp_path / "new" / "audit.json")
    loaded = Audit.load(tmp_path / "new" / "audit.json")
    assert as_json(loaded) == as_json(found)
    assert str(loaded) == str(found)
    assert loaded.cells == found.cells
    assert loaded.limits == found.limits
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
        ('{"kind": "hf_compalign.audit", "format_version": 1, "n": 3}', r"is an audit without n_labelled, cells"),
        (f'{{"kind": "hf_compalign.audit", "format_version": {FORMAT_VERSION + 1}}}', r"version 2.*up to 1. Upgrade"),
    ],
)
def test_what_is_not_an_audit_is_refused(tmp_path, text, message):
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Audit.load(tmp_path / "audit.json")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Audit.load(tmp_path / "none.json")


def test_the_report_says_it_in_words():
    text = str(audit(REFERENCE, CANDIDATE, groups=["g"] * 6))
    assert text.startswith("The candidate answers 2 of 6 items like the reference and 4 differently.")
    assert "1 that was right is now wrong, 1 that was wrong is now right." in text
    assert "No limit was set" in text
    for shown in ("66.67 %", "KL divergence", "neutral", "reference: bert (aaaa)", "candidate: small bert\n"):
        assert shown in f"{text}\n"
    assert "  g " in text or "\ng " in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_report_tells_a_broken_limit_from_too_few_items():
    reference, candidate = random_pair(n_changed=3)  # 1.5 % observed, at most 3.8 % shown
    text = str(audit(reference, candidate, limits={"mismatch_rate": 0.01, "flip_rate": 0.02, "nfr": 0.5}))
    assert "NOT PASSED: not shown to be within the limit on mismatch_rate, flip_rate." in text
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert lines["mismatch_rate"].endswith("exceeded")
    assert lines["flip_rate"].endswith("too few items to show it")
    assert lines["nfr"].endswith("kept")
    assert "PASSED: shown to be within every limit." in str(audit(reference, reference, limits={"nfr": 0.1}))


def test_many_classes_are_not_listed():
    names = [f"class {k}" for k in range(21)]
    many = Predictions(np.eye(21), list(range(21)), [str(k) for k in range(21)], names)
    found = audit(many, many)
    assert len(found.per_class) == 21
    assert "class 3" not in str(found)
