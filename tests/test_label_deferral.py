"""Deferrals of models with several labels: decided example by example, promised over items with examples drawn."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import zoo
from every_task import CASES, MULTI

from hf_compalign import audit, predict
from hf_compalign._files import write_record
from hf_compalign.measure.audit import ModelInfo
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import cluster_bound, wilson_interval
from hf_compalign.search.climbing import joined
from hf_compalign.ship.deferral import SCORES, Deferral, DeferringModel, Traffic, fit_deferral, sureness
from hf_compalign.tasks import task_of

NAMES = {"id2label": {0: "O", 1: "A", 2: "B"}, "label2id": {"O": 0, "A": 1, "B": 2}}
TURNED = {"id2label": {0: "A", 1: "B", 2: "O"}, "label2id": {"A": 0, "B": 1, "O": 2}}


def several(z, **about):
    """Predictions of several labels, from the logits [G, L] of a model."""
    z = np.asarray(z, dtype=float)
    rows, labels = z.shape
    ids = [f"{row}/{label}" for row in range(rows) for label in range(labels)]
    about = {"examples": np.arange(rows).repeat(labels)} | about
    return Predictions(np.stack([np.zeros(z.size), z.ravel()], axis=1), [-100] * z.size, ids, ("no", "yes"), **about)


def pair(z, differ):
    """A candidate with these logits, and a reference that answers otherwise where they differ, [G, L] both."""
    z = np.asarray(z, dtype=float)
    return several(np.where(differ, -z, z)), several(z)


# ---- how sure, example by example ----


@pytest.mark.parametrize("score", SCORES)
def test_an_example_is_as_sure_as_the_least_sure_of_its_items(score):
    z = np.random.default_rng(0).normal(size=(20, 4)) * 5
    found = several(z)
    alone = sureness(found.logits, score).reshape(20, 4)
    expected = np.repeat([min(row) for row in alone.tolist()], 4)
    assert np.array_equal(sureness(found.logits, score, found.examples), expected)
    order = np.random.default_rng(1).permutation(80)
    assert np.array_equal(sureness(found.logits[order], score, found.examples[order] * 7), expected[order])


def test_an_example_with_a_logit_that_is_nan_is_deferred():
    logits = np.array([[0.0, 5.0], [0.0, np.nan], [0.0, 3.0], [0.0, -4.0]])
    for threshold in (None, 2.0):
        assert made(threshold=threshold).answers(logits, np.array([0, 0, 1, 1])).tolist() == [False, False, True, True]


# ---- thresholds ----

# At a budget and a confidence of one half, `cluster_bound` is within it where the sum over j of 1 / ((j + 1) (j + 2))
# times a product over the examples reaches 2. Each example has two labels, and its factor is 1 + 2^-j if none of them
# is changed, 1 if one is, and 1 - 2^-j if both are.
HALF = {"budget": 0.5, "confidence": 0.5, "scores": ["margin"]}


@pytest.mark.parametrize(
    ("margins", "differ", "threshold", "answered", "changed"),
    [
        # One change of four examples: 2^3 / 2 + ... ; with two more 1 (3/2)^2 (1/2) / 6 + ... < 0.5.
        ([6, 5, 4, 3], {1: [0], 2: [0, 1]}, 4, 2, 1),
        ([6, 5, 4, 3], {3: [0, 1]}, 3, 3, 0),
        ([6, 5, 4, 3], {2: [1], 3: [0]}, None, 4, 2),  # 2^2 / 2 + ... >= 2
        ([6, 5, 4, 3], {}, None, 4, 0),
        ([6, 5, 5, 3], {1: [0, 1]}, 5, 1, 0),  # examples at the same score go the same way
        ([6, 6, 6, 3], {3: [0]}, None, 4, 1),
    ],
)
def test_the_threshold_is_the_lowest_whose_bound_keeps_the_budget(margins, differ, threshold, answered, changed):
    # The surer label of each example is 1 surer, and on the other side; the second one is the less sure one.
    z = np.array([[margin + 1, -margin] for margin in margins], dtype=float)
    where = np.array([[label in differ.get(row, ()) for label in (0, 1)] for row in range(4)])
    found = fit_deferral(*pair(z, where), **HALF)
    assert (found.threshold, found.answered_examples, found.changed) == (threshold, answered, changed)
    assert (found.n, found.examples, found.answered) == (8, 4, 2 * answered)
    assert (found.mismatches, found.bound) == (where.sum(), 0.5)


def by_brute_force(z, differ, behind, counted, *, budget, level):
    """From the highest threshold down, as long as each is shown to keep the budget; which examples are answered."""
    least = [min(abs(value) for value in row) for row in z]
    sizes, answered = counted.sum(axis=1), np.zeros(len(z), dtype=bool)
    for threshold in [*sorted(set(least), reverse=True), -1.0]:
        above = np.array([one > threshold for one in least])
        hits = (np.where(above[:, None], differ | behind, behind) & counted).sum(axis=1)
        if cluster_bound(hits, sizes, level) > budget:
            break
        answered = above
    return answered


@pytest.mark.parametrize("seed", range(6))
def test_the_answered_examples_are_those_of_the_fixed_sequence_test(seed):
    rng = np.random.default_rng(seed)
    z = rng.integers(1, 12, size=(400, 3)) * rng.choice([-1.0, 1.0], size=(400, 3))  # many ties
    differ = rng.random((400, 3)) < 0.15 * np.exp(-np.abs(z).min(axis=1, keepdims=True) / 2)
    turned = rng.random((400, 3)) < (0.01 if seed % 2 else 0)
    counted = rng.random((400, 3)) < (0.8 if seed > 3 else 1)
    reference, candidate = pair(z, differ)
    fallback = several(np.where(turned, -1, 1) * reference.logits[:, 1].reshape(z.shape)) if seed % 2 else None
    asked = replace(reference, mask=counted.ravel())
    found = fit_deferral(asked, candidate, fallback=fallback, budget=0.06, confidence=0.9, scores=["margin"])
    answered = by_brute_force(z, differ, turned, counted, budget=0.06, level=0.9)
    assert 0 < answered.sum() < 400
    assert np.array_equal(found.answers(candidate.logits, candidate.examples), answered.repeat(3))
    assert (found.n, found.examples) == (counted.sum(), counted.any(axis=1).sum())
    assert found.answered == (answered[:, None] & counted).sum()
    assert found.answered_examples == (answered & counted.any(axis=1)).sum()
    assert (found.changed, found.mismatches) == ((answered[:, None] & differ & counted).sum(), (differ & counted).sum())
    assert found.fallback_changed == (turned & counted).sum()


def test_several_scores_share_the_doubt_and_the_order_of_the_items_does_not_matter():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 3)) * 4
    reference, candidate = pair(z, (rng.random((300, 1)) < 0.2) & (np.abs(z) < 0.5))
    found = fit_deferral(reference, candidate, budget=0.04)
    third = fit_deferral(reference, candidate, budget=0.04, confidence=1 - 0.05 / 3, scores=["margin"])
    assert (found.score, found.threshold, found.scores) == ("margin", third.threshold, tuple(SCORES))
    order = rng.permutation(900)
    arrays = {name: getattr(candidate, name)[order] for name in ("logits", "labels", "ids", "mask", "examples")}
    assert fit_deferral(reference, replace(candidate, **arrays), budget=0.04) == found


def test_labels_that_count_alone_have_the_exact_bound():
    """With one item that counts in each example, nothing is shared, and the bound is that of single items."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 1)) * 3
    reference, candidate = pair(z, (rng.random((500, 1)) < 0.2) & (np.abs(z) < 1))
    found = fit_deferral(reference, candidate, budget=0.03)
    alone = fit_deferral(replace(reference, examples=None), replace(candidate, examples=None), budget=0.03)
    assert found == replace(alone, examples=500, answered_examples=alone.answered)
    assert found.bound < 0.03


# ---- the guarantee ----


def test_the_budget_is_kept_as_often_as_promised_however_alike_labels_are():
    """All labels of an example change together: what is promised of 80 % of draws, items taken for single ones break.

    A trial is a fit on 150 examples of 6 labels; what it lets through is counted on a population of 20,000.
    """
    rng = np.random.default_rng(0)
    margins = rng.exponential(2, size=20_000)
    z = margins[:, None] * rng.choice([-1.0, 1.0], size=(20_000, 6))
    differ = rng.random(20_000) < 0.5 * np.exp(-margins)
    broken = {True: 0, False: 0}
    for _ in range(150):
        drawn = rng.integers(20_000, size=150)
        reference, candidate = pair(z[drawn], differ[drawn, None])
        for shared in broken:
            sides = (
                (reference, candidate) if shared else (replace(one, examples=None) for one in (reference, candidate))
            )
            found = fit_deferral(*sides, budget=0.08, confidence=0.8, scores=["margin"])
            let_through = (margins > (found.threshold or 0)) & differ
            broken[shared] += let_through.mean() > found.bound
    assert broken[True] / 150 <= 0.2 + 3 * np.sqrt(0.2 * 0.8 / 150)
    assert broken[False] / 150 > 0.2 + 3 * np.sqrt(0.2 * 0.8 / 150)


# ---- what is refused ----


def test_words_are_refused_and_told_from_labels_by_their_logits():
    n = 12
    ids, of = [f"{item // 4}/{item % 4}" for item in range(n)], np.arange(n) // 4
    z = np.random.default_rng(0).normal(size=(n, 2))
    message = "Got items that share examples and are answered {}, .* a model in use is not told where words begin"
    for names in (("O", "B"), ("no", "yes")):
        words = Predictions(z, [-100] * n, ids, names, examples=of)
        with pytest.raises(ValueError, match=message.format(f"{names[0]} or {names[1]}")):
            fit_deferral(words, words, **HALF)
    labels = several(z.reshape(6, 4)[:3])
    for place in range(3):
        sides = [labels] * 3
        sides[place] = replace(labels, logits=labels.logits + 1)
        with pytest.raises(ValueError, match="not told where words begin, and special tokens and later pieces"):
            fit_deferral(*sides[:2], fallback=sides[2], **HALF)


def test_every_example_must_have_all_of_its_labels():
    found = several(np.ones((4, 3)))
    kept = np.arange(12) != 5
    arrays = {name: getattr(found, name)[kept] for name in ("logits", "labels", "ids", "mask", "examples")}
    part = replace(found, **arrays)
    with pytest.raises(ValueError, match="must have an item for each label.* Got 2 to 3 items in an example. Mask out"):
        fit_deferral(part, part, **HALF)


def test_too_few_examples_say_what_can_be_shown_and_about_how_many_would_do():
    z = np.arange(1.0, 601)[:, None] * np.ones(5)
    with pytest.raises(ValueError, match="cannot be shown") as refused:
        fit_deferral(*pair(z[:100], np.zeros((100, 5), dtype=bool)))
    shown = cluster_bound([0] * 100, [5] * 100, 1 - 0.05 / 3)
    expected = (
        "A budget of 1 % cannot be shown to be kept on so few examples: with 500 items of 100 examples and a "
        f"confidence of 95 % you can show at most {100 * shown:.2f} %. Give about 473 examples, or a budget above "
        "that. One score alone, such as scores=['margin'], needs 360 examples."
    )
    assert str(refused.value) == expected
    for n, options in ((473, {}), (360, {"scores": ["margin"]})):
        assert fit_deferral(*pair(z[:n], np.zeros((n, 5), dtype=bool)), **options).examples == n
        with pytest.raises(ValueError, match="cannot be shown"):
            fit_deferral(*pair(z[: n - 1], np.zeros((n - 1, 5), dtype=bool)), **options)


def test_a_fallback_or_a_candidate_that_exceeds_the_budget_says_what_would_do():
    z = np.full((500, 3), 9.0)
    z[10:] = 1 + np.arange(490)[:, None] / 500
    differ = np.zeros((500, 3), dtype=bool)
    differ[:8] = True
    reference, candidate = pair(z, differ)
    with pytest.raises(
        ValueError, match=r"fallback by itself exceeds the budget of 1 %: it answers 24 of 1,500 items of"
    ):
        fit_deferral(reference, several(z), fallback=candidate)
    least = cluster_bound([3] * 8 + [0] * 492, [3] * 500)
    message = rf"1,500 items of 500 examples the candidate answers 24 otherwise .* above {100 * least:.2f} % lets it"
    with pytest.raises(ValueError, match=message):
        fit_deferral(reference, candidate, budget=0.02, scores=["margin"])
    assert fit_deferral(reference, candidate, scores=["margin"], budget=least + 1e-6).threshold is None
    # What the fallback changes elsewhere counts in that too.
    turned = several(np.where(np.arange(500)[:, None] >= 498, -1, 1) * reference.logits[:, 1].reshape(500, 3))
    more = cluster_bound([3] * 10 + [0] * 490, [3] * 500)
    with pytest.raises(ValueError, match=rf"above {100 * more:.2f} % lets it answer some"):
        fit_deferral(reference, candidate, fallback=turned, budget=0.035, scores=["margin"])


# ---- the record ----


def made(**changes):
    known = {"score": "margin", "threshold": 0.5, "budget": 0.01, "confidence": 0.95, "bound": 0.01}
    counts = {"n": 3000, "answered": 2700, "changed": 3, "mismatches": 40, "scores": ("margin",)}
    models = {"reference": ModelInfo("big", ""), "candidate": ModelInfo("small", "")}
    return Deferral(**(known | counts | models | {"examples": 1000, "answered_examples": 900} | changes))


def test_it_says_how_many_examples_are_answered_and_how_many_items_differ():
    assert str(made()).splitlines() == [
        "The candidate answers 900 of 1,000 examples itself, where its margin is above 0.5 for each of their labels: "
        "90.00 %, 95 % interval 87.98 to 91.71 %.",
        "With 95 % confidence, at most 1.00 % of all items get another answer than the reference's (budget 1 %).",
        "Of 3,000 items 3 do here (0.10 %), and 40 where the candidate answers all (1.33 %).",
    ]
    assert "whatever its margin: 100.00 %" in str(made(threshold=None, answered=3000, answered_examples=1000))
    assert made().answered_rate == 0.9
    assert made().answered_rate_interval == wilson_interval(900, 1000)


def test_it_is_saved_with_its_examples_and_older_files_have_none(tmp_path):
    made().save(tmp_path / "deferral.json")
    assert Deferral.load(tmp_path / "deferral.json") == made()
    older = made().to_dict()
    del older["examples"], older["answered_examples"]
    write_record(tmp_path / "older.json", older)
    assert Deferral.load(tmp_path / "older.json") == made(examples=None, answered_examples=None)


@pytest.mark.parametrize(
    "changes", [{"answered_examples": None}, {"examples": None}, {"answered_examples": 1001}, {"examples": 3001}]
)
def test_a_record_that_cannot_be_is_refused(changes):
    with pytest.raises(ValueError, match="examples and answered_examples are known together.* Got"):
        made(**changes)


# ---- both as one model ----


def models_of(kind):
    """A candidate, and a reference whose labels are in another order."""
    return [zoo.build(kind, seed=seed, **MULTI, **names) for seed, names in ((1, NAMES), (2, TURNED))]


@pytest.fixture(params=["bert", "vit"])
def both(request):
    """A candidate, a reference and rows of texts or images."""
    rows = tiny.texts(60) if request.param == "bert" else tiny.images(60)
    return *models_of(request.param), rows.remove_columns("labels")


def test_a_deferral_that_was_fitted_holds_where_it_is_used(both, tmp_path, caplog):
    small, large, rows = both
    theirs = predict(large, rows)
    ours = predict(small, rows)
    found = fit_deferral(theirs, ours, budget=0.25, confidence=0.6, scores=["margin"])
    assert (found.n, found.examples) == (180, 60)
    assert 0 < found.answered_examples < 60
    found.save(tmp_path / "deferral.json")
    pair = DeferringModel(small, large, tmp_path / "deferral.json")
    assert not caplog.records
    assert task_of(pair) == task_of(large)
    answers = predict(pair, rows)
    assert answers.ids.tolist() == theirs.ids.tolist()
    assert answers.examples.tolist() == theirs.examples.tolist()
    assert pair.traffic == Traffic(answered=found.answered_examples, deferred=60 - found.answered_examples)
    moved = ours.aligned_to(theirs)
    least = np.abs(moved.logits[:, 1]).reshape(60, 3).min(axis=1)
    itself = (least > found.threshold).repeat(3)
    expected = np.where(itself[:, None], moved.logits, theirs.logits)
    np.testing.assert_allclose(answers.logits, expected, atol=1e-4)
    np.testing.assert_allclose(joined(found, moved, theirs).logits, expected, atol=0)
    weighed = audit(theirs, answers)
    assert weighed.metrics["cie"] == found.changed < found.mismatches
    assert weighed.n_examples == 60


def test_it_is_audited_like_a_model_and_may_stand_behind_another(both):
    small, large, rows = both
    theirs, ours = predict(large, rows), predict(small, rows)
    rule = fit_deferral(theirs, ours, budget=0.25, confidence=0.6, scores=["margin"])
    pair = DeferringModel(small, large, rule)
    assert audit(large, pair, rows).metrics["cie"] == rule.changed
    three = DeferringModel(small, DeferringModel(small, large, rule), replace(rule, threshold=np.inf))
    assert np.array_equal(predict(three, rows).predicted, predict(pair, rows).predicted)
    assert three.traffic == Traffic(deferred=60)
    assert three.reference.traffic.n == 60


def test_traffic_counts_rows_and_of_the_checked_ones_labels(both):
    small, large, rows = both
    theirs = predict(large, rows)
    ours = predict(small, rows).aligned_to(theirs)
    least = np.abs(ours.logits[:, 1]).reshape(60, 3).min(axis=1)
    threshold = float(np.sort(least)[19])
    pair = DeferringModel(small, large, made(threshold=threshold), check_rate=1)
    answers = predict(pair, rows)
    differ = (theirs.predicted != ours.predicted).reshape(60, 3)[least > threshold].sum()
    assert differ > 0
    assert pair.traffic == Traffic(40, 20, checked=40, changed=int(differ), checked_labels=120)
    # What it tells is the share of the budget.
    assert pair.traffic.changed_rate == pytest.approx((answers.predicted != theirs.predicted).mean())
    assert pair.traffic.answered_rate == 40 / 60


def test_the_rates_of_traffic_are_of_labels_and_their_interval_as_if_those_of_a_row_changed_together():
    counted = Traffic(answered=900, deferred=100, checked=90, changed=4, checked_labels=450)
    assert (counted.n, counted.answered_rate, counted.changed_rate) == (1000, 0.9, pytest.approx(0.9 * 4 / 450))
    assert counted.changed_rate_interval == pytest.approx([0.9 * end for end in wilson_interval(0.8, 90)])
    together = Traffic(answered=900, deferred=100, checked=90, changed=5, checked_labels=450)
    single = Traffic(answered=900, deferred=100, checked=90, changed=1)
    assert together.changed_rate_interval == pytest.approx(single.changed_rate_interval)
    assert counted + counted == Traffic(1800, 200, 180, 8, 900)
    assert str(counted).endswith(
        "\nOf 90 that were checked, the reference answers 4 of 450 labels otherwise: 0.80 % of all labels, 95 % "
        "interval 0.12 to 5.10 %."
    )


def test_what_makes_no_pair_is_refused():
    small, large = models_of("bert")
    single = zoo.build("bert", seed=2, **NAMES)
    of_items = made(examples=None, answered_examples=None)
    for models, deferral, message in (
        ((small, single), made(), r"have the same task. Got text-classification \(multi_label_cla.*\) and text-class"),
        ((small, large), of_items, "fitted for models with one class for each example, and these have several labels"),
        ((single, single), made(), "fitted for models with several labels, and these have one class for each example"),
    ):
        with pytest.raises(ValueError, match=message):
            DeferringModel(*models, deferral)
    words = CASES["token-classification"].model(1)
    with pytest.raises(ValueError, match="BertForTokenClassification has a head that is not supported"):
        DeferringModel(words, words, made())
    values = CASES["regression of two"].model(1)
    with pytest.raises(ValueError, match="problem that is not supported. Got regression"):
        DeferringModel(values, values, made())


def test_what_is_returned_are_the_logits_of_every_row():
    small, large = models_of("vit")
    pixels = torch.randn(5, 1, 8, 8, generator=torch.manual_seed(0))
    pair = DeferringModel(small, large, made(threshold=None))
    with torch.no_grad():
        own = small(pixel_values=pixels).logits
    assert torch.equal(pair(pixel_values=pixels)["logits"], own[:, [1, 2, 0]])
