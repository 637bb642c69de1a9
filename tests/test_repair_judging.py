"""The verdict of a repair: the rows are parted, and the chosen file keeps its limit as often as is said."""

import numpy as np
import pytest
import tiny
from datasets import Dataset
from plotted import point

from hf_compalign.measure.audit import AuditOptions
from hf_compalign.measure.predictions import Columns, Predictions, predict
from hf_compalign.measure.statistics import most_within
from hf_compalign.ship.repair import fixed_sequence
from hf_compalign.ship.repair.judging import chosen_of
from hf_compalign.ship.repair.parts import rows_needed, split
from hf_compalign.tasks import task_of

RUNS, LIMIT, N = 4000, 0.02, 400


def judged_by(mismatches):
    """Judge files by a list of their mismatches, the first for the most layers in float."""
    counts = iter(mismatches)
    return lambda file: point(len(file.kept), next(counts), file.size_bytes)


def test_files_are_judged_up_to_the_first_that_is_beyond_the_limit():
    files = [point(n, 0, 10 * n) for n in (9, 5, 3, 1)]
    found = fixed_sequence(files, judged_by([0, 3, 30, 0]))
    assert [(len(one.kept), one.mismatches, one.passed) for one in found] == [
        (9, 0, True),
        (5, 3, True),
        (3, 30, False),
    ]
    assert len(chosen_of(found).kept) == 5


def test_all_files_within_the_limit_leave_the_last_and_none_leaves_the_first():
    files = [point(n, 0, 10 * n) for n in (9, 5, 3)]
    assert len(chosen_of(fixed_sequence(files, judged_by([0, 0, 0]))).kept) == 3
    found = fixed_sequence(files, judged_by([30, 0, 0]))
    assert [len(one.kept) for one in found] == [9]
    assert chosen_of(found) == found[0]


def test_a_file_beyond_the_limit_is_chosen_in_at_most_five_of_a_hundred_repairs():
    rates = np.array([0.0, 0.004, *[1.0001 * LIMIT] * 8])  # all but two are beyond it, as little as can be
    mismatches = np.random.default_rng(0).binomial(N, rates, size=(RUNS, len(rates)))
    within = mismatches <= most_within(LIMIT, N)
    wrong = 0
    for row in within:
        files = [point(len(rates) - index, 0, 1) for index in range(len(rates))]
        found = fixed_sequence(files, lambda file, row=row: point(len(file.kept), 0 if row[-len(file.kept)] else 99, 1))
        wrong += rates[len(rates) - len(chosen_of(found).kept)] > LIMIT
    tolerance = 3 * np.sqrt(0.05 * 0.95 / RUNS)
    assert 0.01 < wrong / RUNS <= 0.05 + tolerance
    # The smallest that passes, wherever it stands, is wrong far more often.
    assert within[:, 2:].any(axis=1).mean() > 0.1


# ---- the two parts ----


@pytest.fixture(scope="module")
def model():
    return tiny.bert()


def parts_of(model, rows, reference=None, share=0.5, columns=None):
    options = AuditOptions(columns, None, 32)
    reference = predict(model, rows, columns=columns) if reference is None else reference
    return split(rows, reference, share=share, task=task_of(model), limits={"mismatch_rate": 0.9}, options=options)


@pytest.mark.parametrize(("share", "sizes"), [(0.5, (20, 20)), (0.25, (10, 30)), (0.9, (36, 4))])
def test_each_row_is_searched_on_or_judges(model, share, sizes):
    rows = tiny.texts(40)
    searched, judged = parts_of(model, rows, share=share)
    assert (len(searched.rows), len(judged.rows)) == sizes
    texts = [*searched.rows["input_ids"], *judged.rows["input_ids"]]
    assert sorted(texts) == sorted(rows["input_ids"])
    again = parts_of(model, rows, share=share)
    assert [part.rows["input_ids"][:] for part in again] == [part.rows["input_ids"][:] for part in (searched, judged)]


def test_the_rows_of_a_part_are_drawn_at_random(model):
    rows = tiny.texts(200).add_column("row", range(200))
    searched, _ = parts_of(model, rows)
    order = searched.rows["row"][:]
    assert 60 < np.mean(order) < 140
    assert order != list(range(100))


def test_each_part_has_the_answers_to_its_rows_as_a_model_that_is_asked_them_alone(model):
    rows = tiny.texts(40)
    for part in parts_of(model, rows):
        alone = predict(model, part.rows)
        assert part.reference.ids.tolist() == alone.ids.tolist()
        assert part.reference.data_fingerprint == alone.data_fingerprint
        assert tiny.distance(part.reference.logits, alone.logits) < tiny.ROUNDING
        assert part.audit(alone).metrics["cie"] == 0


def test_answers_in_another_order_and_equal_rows_are_told_apart(model):
    rows = tiny.texts(12)
    rows = Dataset.from_dict({name: rows[name][:] * 4 for name in rows.column_names})  # each row four times
    answers = predict(model, rows)
    turned = np.arange(48)[::-1]
    arrays = {name: getattr(answers, name)[turned] for name in ("logits", "labels", "ids")}
    for part in parts_of(model, rows, Predictions(**arrays, label_names=answers.label_names)):
        assert part.reference.data_fingerprint == ""
        assert part.audit(predict(model, part.rows)).metrics["cie"] == 0


def test_a_column_of_ids_names_the_rows(model):
    rows = tiny.texts(40).add_column("name", [f"row {index}" for index in range(40)])
    columns = Columns(id="name")
    for part in parts_of(model, rows, columns=columns):
        assert part.reference.ids.tolist() == part.rows["name"][:]
        assert part.audit(predict(model, part.rows, columns=columns)).metrics["cie"] == 0
    other = predict(model, tiny.texts(40, seed=1).add_column("name", rows["name"][:]), columns=columns)
    with pytest.raises(ValueError, match="The ids match, but the data differ: .* Predict again on this dataset."):
        parts_of(model, rows, other, columns=columns)


def test_a_single_row_cannot_be_parted(model):
    with pytest.raises(ValueError, match="search_share=0.5 of 1 row leaves none to search on. Give more rows."):
        parts_of(model, tiny.texts(1))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 2 / 3, 0.9])
def test_the_rows_that_are_needed_are_the_fewest_that_suffice(share):
    for judged in (1, 2, 29, 299, 300):
        n = rows_needed(judged, share)
        assert n - round(share * n) >= judged > n - 1 - round(share * (n - 1))
