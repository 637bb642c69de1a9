"""Slices: planted ones are found and named, chance finds none, and saved ones are checked on the next candidate."""

import json
import re

import numpy as np
import pytest
import shipping
import tiny
from datasets import ClassLabel, Dataset, Image
from PIL import Image as Pictures

from hf_compalign.measure.audit import AuditOptions, audit
from hf_compalign.measure.predictions import Columns, Predictions, ids_of, predict
from hf_compalign.measure.slices import Condition, SliceOptions, Slices, check_slices, find_slices
from hf_compalign.tasks import MEASURED

N = 1200
VOCABULARY = [f"word{place}" for place in range(60)]
SEEDS = range(20)


def made_rows(seed, n=N):
    """Texts of common words; every eighth or so says "not", one in 20 anything."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(n):
        words = rng.choice(VOCABULARY, size=rng.integers(3, 20)).tolist()
        texts.append(" ".join(words + ["not"] * int(rng.random() < 0.12)))
    topics = rng.choice(["film", "plot", "cast"], n).tolist()
    ids = [str(row) for row in range(n)]
    return Dataset.from_dict({"id": ids, "text": texts, "topic": topics, "score": rng.random(n).tolist()})


def answered(rows, changed, seed=0):
    """A reference's answers of three classes, and a candidate that changes those given."""
    rng = np.random.default_rng(1000 + seed)
    before = rng.integers(0, 3, len(rows))
    after = np.where(changed, (before + 1) % 3, before)
    about = [-100] * len(rows), rows["id"][:], ("a", "b", "c")
    noise = rng.normal(scale=0.1, size=(len(rows), 3))
    return tuple(Predictions(5 * np.eye(3)[side] + noise, *about) for side in (before, after))


def planted(rows, where, seed, *, inside=0.4, outside=0.03):
    """Which answers change: many in a slice, few elsewhere."""
    rng = np.random.default_rng(2000 + seed)
    return rng.random(len(rows)) < np.where(where, inside, outside)


def with_word(rows, word="not"):
    return np.array([word in text.split() for text in rows["text"]])


def test_a_planted_word_is_found_and_named():
    named = 0
    for seed in SEEDS:
        rows = made_rows(seed)
        found = find_slices(*answered(rows, planted(rows, with_word(rows), seed), seed), rows)
        named += "contains 'not'" in map(str, found.rows)
    assert named >= 18


@pytest.mark.parametrize("rate", [0.0, 0.03, 0.2])
def test_changes_at_random_have_no_slice(rate):
    none = 0
    for seed in SEEDS:
        rows = made_rows(seed)
        changed = planted(rows, np.zeros(N, dtype=bool), seed, outside=rate)
        none += not find_slices(*answered(rows, changed, seed), rows).rows
    assert none >= 19


def test_the_numbers_are_of_the_half_that_was_not_searched():
    rows = made_rows(0)
    where, changed = with_word(rows), planted(made_rows(0), with_word(rows), 0)
    found = find_slices(*answered(rows, changed), rows)
    assert (found.n_searched, found.n_tested) == (N // 2, N // 2)
    tested = np.ones(N, dtype=bool)
    tested[np.random.default_rng(0).permutation(N)[: N // 2]] = False
    row = found.rows[0]
    assert (row.n, row.mismatches) == ((where & tested).sum(), (where & changed & tested).sum())
    assert row.rest_rate == pytest.approx(changed[~where & tested].mean())
    assert row.p_value <= row.p_adjusted <= 0.05


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (lambda rows: np.array(rows["topic"]) == "plot", "topic is 'plot'"),
        (lambda rows: np.array([len(text.split()) for text in rows["text"]]) > 15, "more than 15 words"),
        (
            lambda rows: np.array(rows["score"]) > np.quantile(rows["score"], 0.8, method="inverted_cdf"),
            "score above 0.79",
        ),
    ],
)
def test_columns_and_lengths_are_found_and_named(where, name):
    rows = made_rows(3)
    found = find_slices(*answered(rows, planted(rows, where(rows), 3)), rows)
    assert str(found.rows[0]).startswith(name)


def words_of(rows, where, seed, *, inside=0.4, outside=0.03):
    """Two answers to each word of the texts; every word changes for itself, more of them in a slice."""
    sizes = [len(text.split()) for text in rows["text"]]
    of = np.repeat(np.arange(len(rows)), sizes)
    names = [f"{rows['id'][row]}/{word}" for row, size in enumerate(sizes) for word in range(size)]
    changed = np.random.default_rng(3000 + seed).random(len(of)) < np.where(where, inside, outside)[of]
    sides = np.zeros(len(of), dtype=int), changed.astype(int)
    return [Predictions(np.eye(2)[side], [-100] * len(of), names, ("O", "B"), examples=of) for side in sides]


def test_slices_of_words_are_found_by_one_word_of_each_text():
    rows = made_rows(4)
    found = find_slices(*words_of(rows, with_word(rows), 4), rows)
    assert (found.of_examples, found.n_searched + found.n_tested) == (True, N)
    assert str(found.rows[0]) == "contains 'not'"
    assert 0.25 < found.rows[0].mismatch_rate < 0.55
    again = check_slices(found, *words_of(rows, with_word(rows), 5), rows)
    assert (again.of_examples, again.rows[0].n) == (True, with_word(rows).sum())
    assert again.rows[0].worse


def test_long_texts_are_not_found_for_having_more_words():
    """Every word changes alike, so most long texts hold one that does, and few short ones."""
    n_found = 0
    for seed in range(4):
        rows = made_rows(seed)
        n_found += bool(find_slices(*words_of(rows, np.zeros(N, dtype=bool), seed, outside=0.1), rows).rows)
    assert n_found <= 1


def test_lists_of_words_are_texts_and_their_tags_tell_slices():
    rows = made_rows(5)
    words = [text.split() for text in rows["text"]]
    answers = words_of(rows, with_word(rows), 5)
    alone = Dataset.from_dict({"id": rows["id"], "words": words})
    columns = Columns(text="words")
    assert "contains 'not'" in {str(row) for row in find_slices(*answers, alone, columns=columns).rows}
    tagged = alone.add_column("tags", [["B" if word == "not" else "O" for word in text] for text in words])
    found = {str(row) for row in find_slices(*answers, tagged, columns=columns).rows}
    assert found & {"contains 'not'", "tags is 'B'"}
    audited = audit(*answers, tagged, options=AuditOptions(columns=columns, slices=True))
    assert re.search("candidates? from 600 examples, tested on 600 others", " ".join(str(audited).split()))


def test_words_may_be_the_only_column():
    texts = Dataset.from_dict({"words": [["not" if row % 4 == 0 else "so", f"w{row}"] for row in range(400)]})
    answers = [predict_words(texts, changed=changed) for changed in (False, True)]
    assert str(find_slices(*answers, texts).rows[0]) == "contains 'not'"


def predict_words(texts, *, changed):
    """Answers under the names that `predict` gives; those to texts with "not" change."""
    task = next(task for task in MEASURED if task.label_depth == 1)
    names = ids_of(texts, task, Columns())
    sides = [int(changed and row["words"][0] == "not") for row in texts for _ in range(2)]
    ids = [f"{name}/{word}" for name in names for word in range(2)]
    return Predictions(np.eye(2)[sides], [-100] * 800, ids, ("O", "B"), examples=np.repeat(np.arange(400), 2))


def test_the_reference_answers_that_change_are_found():
    rows = made_rows(4)
    before, _ = answered(rows, np.zeros(N, dtype=bool))
    order = np.argsort(-before.logits, axis=1)[:, :2]
    where = (order == [2, 0]).all(axis=1)
    found = find_slices(*answered(rows, planted(rows, where, 4)), rows)
    assert str(found.rows[0]) == "the reference answers 'c' before 'a'"


def test_classes_lists_and_truth_values_are_named():
    rows = made_rows(5).remove_columns("text")
    rng = np.random.default_rng(5)
    kinds = rng.integers(0, 2, N).tolist()
    rows = rows.add_column("kind", kinds).cast_column("kind", ClassLabel(names=["old", "new"]))
    tags = [["x", "y"] if kind and row % 2 else ["x"] for row, kind in enumerate(kinds)]
    rows = rows.add_column("tags", tags).add_column("long", [row % 3 == 0 for row in range(N)])
    rows = rows.add_column("text", ["same"] * N)
    for where, name in (
        (np.array(kinds) == 1, "kind is 'new'"),
        (np.array(["y" in one for one in tags]), "tags is 'y'"),
        (np.arange(N) % 3 == 0, "long is 'True'"),
    ):
        assert str(find_slices(*answered(rows, planted(rows, where, 5)), rows).rows[0]) == name


def test_dark_images_are_found(tmp_path):
    rng = np.random.default_rng(0)
    light = rng.random(400) < 0.75
    paths = []
    for row, is_light in enumerate(light):
        pixels = rng.integers(150, 250, (4, 4, 3)) if is_light else rng.integers(0, 60, (4, 4, 3))
        paths.append(str(tmp_path / f"{row}.png"))
        Pictures.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    rows = Dataset.from_dict({"id": [str(row) for row in range(400)], "image": paths}).cast_column("image", Image())
    found = find_slices(*answered(rows, planted(rows, ~light, 0)), rows)
    assert str(found.rows[0]).startswith("brightness at most")


def test_masked_items_and_other_orders_do_not_matter():
    rows = made_rows(6)
    both = answered(rows, planted(rows, with_word(rows), 6))
    expected = find_slices(*both, rows)
    turned = find_slices(*both, rows.select(range(N)[::-1]))
    assert turned == expected
    mask = np.arange(N) % 2 == 0
    half = [Predictions(one.logits, one.labels, one.ids, one.label_names, mask) for one in both]
    assert find_slices(*half, rows).n_tested == N // 4


def test_models_are_asked(tmp_path):
    rows = shipping.raw_texts(80)
    for seed, name in enumerate(("one", "two")):
        shipping.saved(tmp_path / name, tiny.bert(seed=seed, **shipping.NAMED))
    found = find_slices(tmp_path / "one", tmp_path / "two", rows)
    assert found == find_slices(*(predict(tmp_path / name, rows) for name in ("one", "two")), rows)
    assert (found.n_searched, found.n_tested) == (40, 40)


# ---- saved, checked, and in an audit ----


@pytest.fixture(scope="module")
def found():
    rows = made_rows(0)
    return find_slices(*answered(rows, planted(rows, with_word(rows), 0)), rows)


def test_saved_slices_are_checked_on_the_next_candidate(found, tmp_path):
    found.save(tmp_path / "slices.json")
    saved = Slices.load(tmp_path / "slices.json")
    assert saved.rows[0].condition == found.rows[0].condition
    rows = made_rows(7)
    bad = check_slices(saved, *answered(rows, planted(rows, with_word(rows), 7)), rows)
    good = check_slices(saved, *answered(rows, planted(rows, np.zeros(N, dtype=bool), 7)), rows)
    assert bad.checked
    assert (bad.passed, good.passed, found.passed) == (False, True, True)
    assert bad.rows[0].n == with_word(rows).sum()
    assert [str(row) for row in good.rows] == [str(row) for row in found.rows]


def test_an_audit_finds_and_checks_slices(found):
    rows = made_rows(7)
    both = answered(rows, planted(rows, with_word(rows), 7))
    looked = audit(*both, rows, options=AuditOptions(slices=True))
    assert looked.slices == find_slices(*both, rows)
    assert looked.passed
    text = str(looked)
    assert "contains 'not'" in text
    assert "Slices were looked for, not given" in text
    checked = audit(*both, rows, limits={"mismatch_rate": 0.5}, options=AuditOptions(slices=found))
    assert not checked.passed
    assert "NOT PASSED: worse than elsewhere in 1 slice." in str(checked)
    assert audit(both[0], both[0], rows, options=AuditOptions(slices=found)).passed
    none = audit(both[0], both[0], rows, options=AuditOptions(slices=True))
    assert "No slice was found." in str(none)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (Condition("value", "topics", "film"), "There is no column 'topics'.*Did you mean 'topic'"),
        (Condition("number", "scores", threshold=0.5), "There is no column 'scores'.*Did you mean 'score'"),
        (Condition("number", "topic", threshold=0.5), "A slice is told by the numbers of 'topic', and it holds none"),
        (Condition("image", "brightness", threshold=0.5), "A slice is told by raw images, and the dataset has none"),
        (Condition("answers", value="a", second="z"), "There is no label 'z'. Allowed: a, b, c"),
    ],
)
def test_what_no_row_can_tell_is_refused(found, condition, message):
    rows = made_rows(0)
    row = found.rows[0]
    slices = Slices((type(row)(**vars(row) | {"condition": condition}),), 1, 1, 1, 0.05)
    with pytest.raises(ValueError, match=message):
        check_slices(slices, *answered(rows, np.zeros(N, dtype=bool)), rows)


def test_a_column_of_more_values_than_before_is_still_checked(found):
    rows = made_rows(0).add_column("size", [row % 100 for row in range(N)])
    few, many = (Condition("value", "size", "7"), Condition("number", "size", threshold=7.0))
    slices = Slices(
        tuple(type(found.rows[0])(**vars(found.rows[0]) | {"condition": one}) for one in (few, many)), 1, 1, 2, 0.01
    )
    checked = check_slices(slices, *answered(rows, np.arange(N) % 100 == 7), rows)
    assert {str(row): (row.n, row.worse) for row in checked.rows} == {
        "size is '7'": (12, True),
        "size at most 7": (96, True),
    }


def test_words_need_texts(found):
    rows = tiny.texts(40, seed=3)
    both = [predict(tiny.bert(seed=seed), rows) for seed in (1, 2)]
    with pytest.raises(ValueError, match="A slice is told by raw texts, and the dataset has none"):
        check_slices(found, *both, rows)
    assert find_slices(*both, rows).rows == ()


def test_bad_slices_and_options_are_refused(found, tmp_path):
    rows = made_rows(0)
    both = answered(rows, np.zeros(N, dtype=bool))
    with pytest.raises(ValueError, match="There is no slice to check: none was found. Leave it out."):
        check_slices(Slices((), 1, 1, 0, 0.05), *both, rows)
    with pytest.raises(ValueError, match="min_size must be at least 1. Got 0"):
        SliceOptions(min_size=0)
    with pytest.raises(ValueError, match=r"level must be a number in \(0, 1\). Got 5"):
        SliceOptions(level=5)
    with pytest.raises(ValueError, match="must hold the rows that the predictions are of. 600 of their 1200 items"):
        find_slices(*both, rows.select(range(600)))
    with pytest.raises(ValueError, match="slices are of what was asked, and there is no dataset"):
        audit(*both, options=AuditOptions(slices=True))
    found.save(tmp_path / "slices.json")
    stored = json.loads((tmp_path / "slices.json").read_text())
    stored["rows"][0]["condition"]["kind"] = "wrod"
    (tmp_path / "slices.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="There is no kind of condition 'wrod'.*Did you mean 'word'"):
        Slices.load(tmp_path / "slices.json")


def test_columns_are_named_as_everywhere():
    rows = made_rows(8).rename_column("text", "said").add_column("other", ["x"] * N)
    found = find_slices(*answered(rows, np.zeros(N, dtype=bool)), rows, columns=Columns(text="said"))
    assert found.rows == ()
