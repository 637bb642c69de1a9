"""Which answers of a small file count: thresholds by hand and by brute force, the guarantee simulated, both as one."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from scipy.stats import beta
from transformers import BertConfig, pipeline

from hf_compalign import AuditOptions, audit, predict
from hf_compalign.measure.audit import ModelInfo
from hf_compalign.measure.footprint import Latency, footprint
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import items_needed, upper_bound, wilson_interval
from hf_compalign.models import runtime_of
from hf_compalign.ship.deferral import SCORES, Deferral, DeferringModel, Traffic, fit_deferral, sureness

NAMES = ("neg", "pos", "other")
LATENCY = Latency(40.0, 39.0, 42.0), Latency(10.0, 9.0, 11.0)


def answers(logits, **about):
    logits = np.asarray(logits, dtype=float)
    ids = [str(item) for item in range(len(logits))]
    return Predictions(logits, [-100] * len(logits), ids, NAMES[: logits.shape[1]], **about)


def pair(logits, differ):
    """A candidate with these logits, and a reference that answers otherwise where they differ."""
    logits = np.asarray(logits, dtype=float)
    return answers(np.where(np.asarray(differ)[:, None], -logits, logits)), answers(logits)


def of_margins(margins, *differ):
    """Two labels, with these margins; the reference answers otherwise where the item is one of ``differ``."""
    logits = [[margin, 0.0] for margin in margins]
    return pair(logits, [place in differ for place in range(len(margins))])


# ---- scores ----


def test_scores_are_those_of_torch():
    logits = torch.randn(50, 4, generator=torch.manual_seed(0), dtype=torch.float64) * 30
    top = logits.topk(2).values
    expected = {"margin": top[:, 0] - top[:, 1], "max_probability": logits.softmax(-1).amax(-1)}
    expected["energy"] = logits.logsumexp(-1)
    for name in SCORES:
        assert sureness(logits.numpy(), name) == pytest.approx(expected[name].numpy(), rel=1e-12)
        shuffled = logits[:, [2, 0, 3, 1]].numpy()
        assert np.array_equal(sureness(shuffled, name), sureness(logits.numpy(), name))


# ---- thresholds ----

# At a budget and a confidence of one half, 2 of 6 may differ: P(Bin(6, 1/2) <= 2) = 22/64, and <= 3 it is 42/64.
HALF = {"budget": 0.5, "confidence": 0.5, "scores": ["margin"]}


@pytest.mark.parametrize(
    ("margins", "differ", "threshold", "answered", "changed"),
    [
        ([6, 5, 4, 3, 2, 1], (1, 3, 4), 2, 4, 2),
        ([6, 5, 4, 3, 2, 1], (0, 1, 2), 4, 2, 2),
        ([6, 5, 4, 3, 2, 1], (4, 5), None, 6, 2),
        ([6, 5, 4, 3, 2, 1], (), None, 6, 0),
        ([6, 4, 4, 4, 2, 1], (0, 1, 2), 4, 1, 1),  # items with the same score go the same way
        ([3, 3, 3, 3, 3, 1], (5,), None, 6, 1),
    ],
)
def test_the_threshold_is_the_lowest_that_lets_so_many_through(margins, differ, threshold, answered, changed):
    found = fit_deferral(*of_margins(margins, *differ), **HALF)
    assert (found.threshold, found.answered, found.changed) == (threshold, answered, changed)
    assert (found.n, found.mismatches, found.score) == (6, len(differ), "margin")
    assert found.bound == upper_bound(2, 6, 0.5)


def by_brute_force(sure, differ, *, budget, level, behind=False):
    """The fixed-sequence test: from the highest threshold down, as long as each is shown to keep the budget.

    What the model behind answers otherwise counts whoever answers it.
    """
    answered = np.zeros(len(sure), dtype=bool)
    for threshold in [*np.unique(sure)[::-1], -np.inf]:
        above = sure > threshold
        k, n = int(((above & differ) | behind).sum()), len(sure)
        if k == n or beta.ppf(level, k + 1, n - k) > budget:
            break
        answered = above
    return answered


@pytest.mark.parametrize("seed", range(8))
def test_the_answered_items_are_those_of_the_fixed_sequence_test(seed):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-6, 7, size=(400, 3)).astype(float)  # many ties
    differ = rng.random(400) < 0.15 * np.exp(-sureness(logits, "margin") / 3)
    reference, candidate = pair(logits, differ)
    differ = reference.predicted != candidate.predicted
    found = fit_deferral(reference, candidate, budget=0.04, confidence=0.9)
    by_score = {
        score: by_brute_force(sureness(candidate.logits, score), differ, budget=0.04, level=1 - 0.1 / 3)
        for score in SCORES
    }
    assert found.answered == max(answered.sum() for answered in by_score.values())
    assert np.array_equal(found.answers(candidate.logits), by_score[found.score])
    assert found.changed == int((by_score[found.score] & differ).sum())
    assert found.changed / 400 <= found.bound <= 0.04


@pytest.mark.parametrize("seed", range(4))
def test_what_the_model_behind_changes_counts_too(seed):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-6, 7, size=(600, 3)).astype(float)
    reference, candidate = pair(logits, rng.random(600) < 0.15 * np.exp(-sureness(logits, "margin") / 3))
    turned = rng.random(600) < 0.01
    fallback = answers(np.where(turned[:, None], -reference.logits, reference.logits))
    differ, behind = (one.predicted != reference.predicted for one in (candidate, fallback))
    found = fit_deferral(reference, candidate, fallback=fallback, budget=0.05, scores=["margin"])
    itself = by_brute_force(sureness(candidate.logits, "margin"), differ, budget=0.05, level=0.95, behind=behind)
    assert np.array_equal(found.answers(candidate.logits), itself)
    assert found.fallback_changed == behind.sum()
    assert found.answered < fit_deferral(reference, candidate, budget=0.05, scores=["margin"]).answered
    of_the_pair = np.where(itself, differ, behind).mean()
    assert of_the_pair <= found.bound <= 0.05


def test_the_guarantee_of_a_pair_holds_over_draws():
    """Budget 3 %: of 400 thresholds fitted on draws of 500 items, at most 5 % (and chance) let more pass."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    reference, candidate = pair(logits, rng.random(20_000) < 0.3 * np.exp(-2 * sureness(logits, "margin")))
    turned = rng.random(20_000) < 0.01 + 0.05 * (sureness(logits, "margin") < 0.3)
    fallback = answers(np.where(turned[:, None], -reference.logits, reference.logits))
    differ, behind = (one.predicted != reference.predicted for one in (candidate, fallback))
    broken = 0
    for _ in range(400):
        drawn = rng.choice(20_000, size=500)
        sides = [answers(one.logits[drawn]) for one in (reference, candidate, fallback)]
        try:
            rule = fit_deferral(*sides[:2], fallback=sides[2], budget=0.03, scores=["margin"])
        except ValueError:
            continue
        broken += np.where(rule.answers(candidate.logits), differ, behind).mean() > 0.03
    assert broken / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_fallback_that_exceeds_the_budget_by_itself_is_refused():
    reference, candidate = of_margins([*range(1, 601)])
    fallback = answers(np.where(np.arange(600)[:, None] < 20, -reference.logits, reference.logits))
    with pytest.raises(ValueError, match=r"fallback by itself exceeds the budget of 1 %: it answers 20 of 600 items"):
        fit_deferral(reference, candidate, fallback=fallback)
    with pytest.raises(ValueError, match="The fallback must be Predictions. Got str"):
        fit_deferral(reference, candidate, fallback="original")


def test_the_score_that_answers_most_is_taken():
    base = np.arange(10.0)
    same_margins = np.stack([base + 1, base, base], axis=1)
    reference, candidate = pair(same_margins, base < 7)
    found = fit_deferral(reference, candidate, budget=0.5, confidence=0.5)
    assert (found.score, found.answered) == ("energy", 3 + found.changed)
    assert found.scores == ("margin", "max_probability", "energy")
    with pytest.raises(ValueError, match="No threshold keeps a budget of 50 %"):
        fit_deferral(reference, candidate, budget=0.5, confidence=0.5, scores=["margin"])


def test_masked_items_do_not_count_and_labels_are_matched_by_name():
    reference, candidate = of_margins([6, 5, 4, 3, 2, 1, 9, 9], 1, 3, 4, 6, 7)
    found = fit_deferral(replace(reference, mask=np.arange(8) < 6), candidate, **HALF)
    assert (found.n, found.threshold, found.mismatches) == (6, 2, 3)
    turned = Predictions(candidate.logits[::-1, ::-1], candidate.labels, candidate.ids[::-1], NAMES[1::-1])
    assert fit_deferral(replace(reference, mask=np.arange(8) < 6), turned, **HALF) == found


# ---- the guarantee ----


def _population(n, rng):
    """Logits of which the surest differ least, on three scores that order the items differently."""
    logits = rng.normal(size=(n, 3)) * 2
    differ = rng.random(n) < 0.3 * np.exp(-sureness(logits, "margin"))
    return logits, differ


def test_the_budget_is_kept_as_often_as_promised():
    """A trial is a fit on 300 items; what it lets through is counted on a population of 200,000."""
    rng = np.random.default_rng(0)
    logits, differ = _population(200_000, rng)
    reference, candidate = pair(logits, differ)
    differ = reference.predicted != candidate.predicted
    sure = {score: sureness(candidate.logits, score) for score in SCORES}
    all_scores = {score: np.sort(values) for score, values in sure.items()}
    differing = {score: np.sort(values[differ]) for score, values in sure.items()}

    def share(ordered, found):
        """Of the whole population: so many of these scores are above the threshold."""
        above = len(ordered[found.score]) - np.searchsorted(ordered[found.score], found.threshold, side="right")
        return above / len(differ)

    kept = {1: [], 3: []}
    covered = []
    for _ in range(1000):
        rows = rng.integers(len(differ), size=300)
        sides = answers(reference.logits[rows]), answers(candidate.logits[rows])
        for scores in (["margin"], list(SCORES)):
            found = fit_deferral(*sides, budget=0.06, scores=scores)
            kept[len(scores)].append(share(differing, found) <= found.bound)
            low, high = found.answered_rate_interval
            covered.append(low <= share(all_scores, found) <= high)
    error = np.sqrt(0.95 * 0.05 / 1000)
    assert abs(np.mean(kept[1]) - 0.95) < 3 * error  # exact: no more is given away than was asked for
    assert np.mean(kept[3]) > 0.95 - 2 * error
    assert np.mean(covered) > 0.95 - 3 * error


# ---- what is refused ----

ENOUGH = of_margins(range(1, 501))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, r"budget must be a number in \(0, 1\). Got 0"),
        ({"budget": 1}, r"budget must be a number in \(0, 1\). Got 1. Did you mean 0.01\?"),
        ({"budget": "1 %"}, r"budget must be a number in \(0, 1\). Got '1 %'"),
        ({"budget": float("nan")}, r"budget must be a number in \(0, 1\). Got nan"),
        ({"confidence": 95}, r"confidence must be a number in \(0, 1\). Got 95. Did you mean 0.95\?"),
        ({"scores": "margin"}, r"scores must be a list of .*energy. Got 'margin'. Did you mean \['margin'\]\?"),
        ({"scores": []}, r"scores must be a list of margin, max_probability, energy. Got \[\]"),
        ({"scores": ["entropy"]}, "There is no score 'entropy'. Allowed: margin, max_probability, energy"),
        ({"latency": (40.0, 10.0)}, "latency must be two of Latency, the reference's first. Got .*AuditOptions"),
        ({"latency": LATENCY[0]}, "latency must be two of Latency"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit_deferral(*ENOUGH, **options)


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (("my-model", ENOUGH[1]), "The reference must be Predictions. Got str. Ask a model with predict"),
        ((ENOUGH[0], 3), "The candidate must be Predictions. Got int"),
        ((ENOUGH[0], of_margins(range(1, 502))[1]), "must cover the same items"),
        ((ENOUGH[0], replace(ENOUGH[1], label_names=("yes", "no"))), "must answer with the same labels"),
        (
            (replace(ENOUGH[0], data_fingerprint="a"), replace(ENOUGH[1], data_fingerprint="b")),
            "must be asked the same inputs",
        ),
    ],
)
def test_predictions_that_are_no_pair_are_refused(sides, message):
    with pytest.raises(ValueError, match=message):
        fit_deferral(*sides)


def test_too_few_items_say_how_many_are_needed_and_what_can_be_shown():
    sides = of_margins(range(1, 201))
    shown = "with 200 items and a confidence of 95 % you can show at most 2.03 %. Give at least 408 items, or a budget "
    shown += r"above that. One score alone, such as scores=\['margin'\], needs 299 items.$"
    with pytest.raises(ValueError, match=shown):
        fit_deferral(*sides)
    assert items_needed(0.01, level=1 - 0.05 / 3) == 408
    assert fit_deferral(*of_margins(range(1, 409))).n == 408
    with pytest.raises(ValueError, match="at most 1.49 %. Give at least 299 items, or a budget above that.$"):
        fit_deferral(*sides, scores=["margin"])


def test_a_candidate_that_differs_where_it_is_surest_says_which_budget_would_do():
    margins = [9.0] * 10 + [1.0] * 490
    sides = of_margins(margins, *range(8))
    least = upper_bound(8, 500)
    message = rf"500 items the candidate answers 8 otherwise .* A budget above {100 * least:.2f} % lets it answer some"
    with pytest.raises(ValueError, match=message):
        fit_deferral(*sides, scores=["margin"])
    assert fit_deferral(*sides, scores=["margin"], budget=least + 1e-6).threshold is None
    with pytest.raises(ValueError, match="No budget lets it answer any. Repair the candidate, or ship the reference."):
        fit_deferral(*of_margins([1.0] * 500, *range(500)))


# ---- the record ----


def made(**changes):
    """A deferral of two tiny models."""
    known = {"score": "margin", "threshold": 0.5, "budget": 0.01, "confidence": 0.95, "bound": 0.009}
    counts = {"n": 1000, "answered": 900, "changed": 3, "mismatches": 40, "scores": ("margin",)}
    models = {"reference": ModelInfo("big", ""), "candidate": ModelInfo("small", "")}
    return Deferral(**(known | counts | models | changes))


def test_it_says_who_answers_what_differs_and_what_it_costs():
    assert str(made(latency=LATENCY)).splitlines() == [
        "The candidate answers 900 of 1,000 items itself, where its margin is above 0.5: 90.00 %, 95 % interval 87.98 "
        "to 91.71 %.",
        "With 95 % confidence, at most 0.90 % of all items get another answer than the reference's (budget 1 %).",
        "Here 3 do (0.30 %), and 40 where the candidate answers all (4.00 %).",
        "A pass takes about 14.00 ms: 10.00 (9.00 to 11.00) of the candidate, and 10.00 % of the reference's 40.00 "
        "(39.00 to 42.00).",
        "That is 2.86 times as fast as the reference alone, if that one's time grows with the rows it is given.",
    ]
    everything = str(made(threshold=None, answered=1000, score="max_probability"))
    assert "1,000 of 1,000 items itself, whatever its max probability: 100.00 %" in everything
    assert (made().expected_ms, made().answered_rate) == (None, 0.9)


@pytest.mark.parametrize("threshold", [None, 0.1 + 0.2, -1e-9])
def test_what_is_saved_is_read_back_whole(threshold, tmp_path):
    for latency in (None, LATENCY):
        deferral = made(threshold=threshold, latency=latency)
        deferral.save(tmp_path / "deferral.json")
        assert Deferral.load(tmp_path / "deferral.json") == deferral


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "entropy"}, "There is no score 'entropy'"),
        ({"budget": 1.5}, r"budget must be a number in \(0, 1\)"),
        ({"changed": 41}, "changed cannot be more than answered or mismatches, .* Got changed=41, answered=900"),
        ({"answered": 1001}, "these not more than n. Got changed=3, answered=1001"),
    ],
)
def test_a_record_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_logits_that_are_nan_are_deferred():
    logits = np.array([[np.nan, 1.0], [3.0, 0.0]])
    for threshold in (None, 0.5):
        assert made(threshold=threshold).answers(logits).tolist() == [False, True]


# ---- both as one model ----


@pytest.fixture(scope="module")
def models():
    """A small one, and a large one whose labels are in another order."""
    names = {"n_labels": 3, "id2label": dict(enumerate(NAMES))}
    turned = names | {"id2label": dict(enumerate(NAMES[::-1]))}
    return tiny.bert(**names).eval(), tiny.bert(seed=1, num_hidden_layers=3, **turned).eval()


@pytest.fixture
def asked(models):
    """How many rows the reference was given, call by call."""
    sizes = []
    hook = models[1].register_forward_hook(
        lambda _, __, kwargs, ___: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    yield sizes
    hook.remove()


def test_each_item_is_answered_by_the_one_or_the_other(models, asked):
    small, large = models
    rows = tiny.texts(24, labels=False)
    theirs = predict(large, rows)
    ours = predict(small, rows).aligned_to(theirs)
    margins = sureness(ours.logits, "margin")
    ordered = np.sort(margins)
    asked.clear()
    for threshold in (ordered[9], ordered[23], None):
        both = DeferringModel(small, large, made(threshold=threshold))
        sure = margins > (-np.inf if threshold is None else threshold)
        found = predict(both, rows, batch_size=24)
        assert found.label_names == NAMES[::-1]
        assert np.array_equal(found.logits[sure], ours.logits[sure])
        if not sure.all():
            assert tiny.distance(found.logits[~sure], theirs.logits[~sure]) < tiny.ROUNDING
        assert both.traffic == Traffic(answered=int(sure.sum()), deferred=int((~sure).sum()))
    assert asked == [10, 24]  # one batch each, and none where nothing is deferred
    asked.clear()
    both = DeferringModel(small, large, made(threshold=ordered[9]))
    found = predict(both, rows, batch_size=5)
    assert tiny.distance(found.logits[margins <= ordered[9]], theirs.logits[margins <= ordered[9]]) < tiny.ROUNDING
    assert sum(asked) == both.traffic.deferred == 10


def test_a_deferral_that_was_fitted_holds_where_it_is_used(models, tmp_path):
    small, large = models
    rows = tiny.texts(60, labels=False)
    theirs, ours = predict(large, rows), predict(small, rows)
    found = fit_deferral(theirs, ours, budget=0.3, confidence=0.8)
    found.save(tmp_path / "deferral.json")
    both = DeferringModel(small, large, tmp_path / "deferral.json")
    of_both = audit(theirs, predict(both, rows))
    assert of_both.metrics["cie"] == found.changed < found.mismatches
    assert (both.traffic.answered, both.traffic.n) == (found.answered, found.n)


def test_some_answers_are_checked_and_stay_the_candidates(models, asked):
    small, large = models
    rows = tiny.texts(24)
    deferral = made(threshold=float(np.median(sureness(predict(small, rows).logits, "margin"))))
    plain = DeferringModel(small, large, deferral)
    expected = predict(plain, rows, batch_size=24)
    asked.clear()
    checking = DeferringModel(small, large, deferral, check_rate=1)
    assert tiny.distance(predict(checking, rows, batch_size=24).logits, expected.logits) < tiny.ROUNDING
    assert asked == [24]
    sure = deferral.answers(predict(small, rows).logits)
    differ = predict(large, rows).predicted != expected.predicted
    assert checking.traffic == Traffic(12, 12, checked=12, changed=int(differ[sure].sum()))
    drawn = []
    for seed in (0, 0, 1):
        some = DeferringModel(small, large, deferral, check_rate=0.5, seed=seed)
        for _ in range(10):
            predict(some, rows, batch_size=24)
        assert (some.traffic.n, some.traffic.answered) == (240, 120)
        drawn.append(some.traffic.checked)
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(40 < n < 80 for n in drawn)


def test_traffic_says_what_became_of_the_items():
    counted = Traffic(answered=900, deferred=100, checked=90, changed=1)
    assert (counted.n, counted.answered_rate, counted.changed_rate) == (1000, 0.9, pytest.approx(0.01))
    assert counted.changed_rate_interval == pytest.approx([0.9 * end for end in wilson_interval(1, 90)])
    assert str(counted) == (
        "The candidate answered 900 of 1,000 rows itself: 90.00 %, 95 % interval 87.98 to 91.71 %.\nOf 90 that were "
        "checked, the reference answers 1 otherwise: 1.00 % of all rows, 95 % interval 0.18 to 5.43 %."
    )
    assert str(Traffic(1, 1)).endswith("None of these answers were checked.")
    assert counted + Traffic(1, 2, 1, 1) == Traffic(901, 102, 91, 2)


def test_it_is_audited_weighed_and_piped_like_a_model():
    small, large = tiny.bert(**tiny.NAMED), tiny.bert(seed=1, **tiny.NAMED)
    both = DeferringModel(small, large, made(threshold=0.05))
    tokenizer = tiny.tokenizer()
    found = audit(large, both, tiny.reviews(), options=AuditOptions(processing_class=tokenizer, latency=True))
    expected = predict(both, tiny.reviews(), processing_class=tokenizer)
    assert found.metrics["cie"] == (expected.predicted != found.predictions["reference"].predicted).sum()
    assert footprint(both).parameters == small.num_parameters() + large.num_parameters()
    classify = pipeline("text-classification", model=both, tokenizer=tokenizer, device="cpu")
    said = [one["label"] for one in classify(tiny.reviews()["text"][:])]
    assert said == [tiny.NAMED["id2label"][label] for label in expected.predicted.tolist()]


def test_its_fingerprint_is_of_both_models_and_the_rule(models):
    small, large = models
    pairs = [
        DeferringModel(small, large, made()),
        DeferringModel(small, large, made(threshold=0.6)),
        DeferringModel(small, large, made(score="energy")),
        DeferringModel(large, small, made()),
    ]
    assert len({both.fingerprint for both in pairs}) == 4
    assert DeferringModel(small, large, made()).fingerprint == pairs[0].fingerprint
    assert predict(pairs[0], tiny.texts(2)).model_fingerprint == pairs[0].fingerprint


# ---- several in a row ----


class Table(torch.nn.Module):
    """The logits of each item by its first token, and which items it was asked."""

    architectures = ("TableForSequenceClassification",)

    def __init__(self, logits, names=("no", "yes")):
        super().__init__()
        self.config = BertConfig(id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)})
        self.logits = torch.nn.Parameter(torch.tensor(logits))
        self.asked = []

    def forward(self, input_ids):
        self.asked += input_ids[:, 0].tolist()
        return {"logits": self.logits[input_ids[:, 0]]}


ITEMS = Dataset.from_dict({"input_ids": [[item, 9] for item in range(6)]})


@pytest.fixture
def three():
    """Two of labels in one order, and an original whose labels are in the other."""
    small = Table([[5.0, 0.0], [0.0, 4.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 0.2]])
    middle = Table([[0.0, 9.0], [9.0, 0.0], [0.0, 3.0], [0.0, 4.0], [1.0, 0.0], [0.5, 0.0]])
    original = Table([[8.0, 8.5], [8.0, 8.5], [8.0, 8.5], [8.0, 8.5], [1.0, 0.0], [0.0, 2.0]], names=("yes", "no"))
    return small, middle, original


def cascade(models, **outer):
    small, middle, original = models
    return DeferringModel(small, DeferringModel(middle, original, made(threshold=2.0)), made(threshold=2.0), **outer)


@pytest.mark.parametrize("batch_size", [1, 6])
def test_a_pair_may_be_the_reference_of_another(three, batch_size):
    """Items 0 and 1 are the small one's, 2 and 3 the middle one's, and 4 and 5 the original's."""
    all_three = cascade(three)
    found = predict(all_three, ITEMS, batch_size=batch_size)
    assert found.label_names == ("yes", "no")
    assert found.logits.tolist() == [[0, 5], [4, 0], [3, 0], [4, 0], [1, 0], [0, 2]]
    assert found.predicted.tolist() == [1, 0, 0, 0, 0, 1]
    assert [one.asked for one in three] == [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5], [4, 5]]
    assert all_three.traffic == Traffic(answered=2, deferred=4)
    assert all_three.reference.traffic == Traffic(answered=2, deferred=2)


def test_checks_of_the_first_ask_the_whole_rest(three):
    """The middle one answers items 0 and 1 otherwise, and counts them among those it was asked."""
    all_three = cascade(three, check_rate=1)
    assert predict(all_three, ITEMS).predicted.tolist() == [1, 0, 0, 0, 0, 1]
    assert all_three.traffic == Traffic(answered=2, deferred=4, checked=2, changed=2)
    assert all_three.reference.traffic == Traffic(answered=4, deferred=2)
    assert sorted(three[2].asked) == [4, 5]


def test_a_cascade_is_audited_and_weighed_whole_and_has_a_fingerprint_of_its_own(three):
    small, middle, original = three
    all_three = cascade(three)
    assert footprint(all_three).parameters == 3 * 12
    assert footprint(all_three).size_bytes == 3 * 12 * 4
    # Of items 0 to 5 the original answers no, no, no, no, yes, no; the cascade no, yes, yes, yes, yes, no.
    assert audit(original, all_three, ITEMS).metrics["cie"] == 3
    tail = DeferringModel(middle, original, made(threshold=2.0))
    others = [
        all_three,
        cascade((small, original, middle)),
        DeferringModel(small, tail, made(threshold=1.5)),
        DeferringModel(small, DeferringModel(middle, original, made(threshold=1.5)), made(threshold=2.0)),
        DeferringModel(DeferringModel(small, middle, made(threshold=2.0)), original, made(threshold=2.0)),
    ]
    assert len({one.fingerprint for one in others}) == len(others)
    assert cascade(three).fingerprint == all_three.fingerprint
    engine = runtime_of(all_three).engine
    assert engine.count("PyTorch") == 3
    assert engine.count(", and for deferred items PyTorch") == 2


def test_a_deferral_may_be_fitted_against_a_pair(three, caplog):
    small, middle, original = three
    tail = DeferringModel(middle, original, made(threshold=2.0))
    options = {"budget": 0.5, "confidence": 0.5, "scores": ["margin"]}
    found = fit_deferral(predict(tail, ITEMS), predict(small, ITEMS), **options)
    # All but item 3 are answered otherwise, with margins of 5, 4, 1, 0.5 and 0.2, and 2 of 6 may be.
    assert (found.mismatches, found.threshold, found.changed, found.answered) == (5, 1.0, 2, 2)
    both = DeferringModel(small, tail, found)
    assert not caplog.records
    assert audit(predict(tail, ITEMS), predict(both, ITEMS)).metrics["cie"] == found.changed


def test_another_candidate_is_refused_and_another_reference_is_said(models, caplog):
    small, large = models
    fitted = ModelInfo("small", predict(small, tiny.texts(2)).model_fingerprint)
    deferral = made(candidate=fitted, reference=ModelInfo("big", "0" * 16))
    DeferringModel(small, large, deferral)
    assert "was fitted for big (0000000000000000). The guarantee is about that one's answers" in caplog.text
    with pytest.raises(ValueError, match=r"This candidate is Bert.* fitted for small \(.*the candidate comes first"):
        DeferringModel(large, small, deferral)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"check_rate": 2}, r"check_rate must be a number in \[0, 1\]. Got 2. Did you mean 0.02\?"),
        ({"candidate": tiny.vit()}, "must have the same task. Got image-classification and text-classification"),
        ({"candidate": tiny.bert(n_labels=2)}, "must answer with the same labels"),
        ({"deferral": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_what_makes_no_pair_is_refused(models, change, message):
    given = {"candidate": models[0], "reference": models[1], "deferral": made()} | change
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DeferringModel(**given)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "need input_ids. Got nothing"),
        ({"attention_mask": torch.ones(2, 3)}, "need input_ids. Got attention_mask"),
        (
            {"input_ids": torch.ones(2, 3).long(), "labels": torch.ones(2)},
            "The two models take input_ids.* Got .*labels",
        ),
        (
            {"input_ids": torch.ones(2, 3).long(), "position_ids": torch.arange(3)},
            r"row for each of the 2 items. Got position_ids of shape \[3\]. Repeat it for each item",
        ),
    ],
)
def test_inputs_that_it_cannot_take_are_refused(models, inputs, message):
    with pytest.raises(ValueError, match=message):
        DeferringModel(*models, made())(**inputs)
