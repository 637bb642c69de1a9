"""Rows that prove are not those that a file was made with, whatever they are called."""

import pytest
import shipping
from datasets import Dataset

from hf_compalign.measure.predictions import Columns, reader_of
from hf_compalign.search.dealing import dealt

ROWS = shipping.raw_texts(60)
# Half of what it asks is asked by the first 30 rows too.
OTHERS = ROWS.select(range(20, 40))
READER = reader_of(shipping.model(), ROWS, processing_class=shipping.tokenizer())


def deal(dataset=None, *, columns=None, most=512, calibration=None, train=None):
    dataset = ROWS.select(range(30)) if dataset is None else dataset
    return dealt(READER, dataset, calibration=calibration, train=train, columns=Columns.of(columns), most=most)


@pytest.mark.parametrize("name", ["calibration", "train"])
def test_rows_that_ask_what_the_dataset_asks_are_left_out_and_said_to_be(name):
    found = deal(**{name: OTHERS})
    assert getattr(found, name)["text"][:] == ROWS["text"][30:40]
    assert found.rows["text"][:] == ROWS["text"][:30]
    assert found.calibration["text"][:] == ROWS["text"][30:40]  # by default those to train on
    assert found.notes == (f"left out  10 of the 20 rows of {name}: they ask what rows of the dataset ask",)


def test_ids_labels_and_names_of_columns_tell_no_rows_apart():
    others = Dataset.from_dict({"idx": [*range(20)], "sentence": OTHERS["text"][:], "label": [2] * 20})
    found = deal(ROWS.select(range(30)).add_column("idx", [*range(100, 130)]), train=others)
    assert found.train["sentence"][:] == ROWS["text"][30:40]


def test_other_rows_stay_as_they_are():
    train, calibration = ROWS.select(range(30, 50)), ROWS.select(range(50, 60))
    found = deal(train=train, calibration=calibration)
    assert (found.train, found.calibration, found.notes) == (train, calibration, ())
    assert len(deal(train=train, most=5).calibration) == 5


@pytest.mark.parametrize(
    ("name", "shared", "words"),
    [
        ("train", 11, r"11 of the 20 rows of train= \(--train\) ask what .*the proof would be .*Give other rows, "),
        ("train", 20, "20 of the 20 rows of train= .*or none, and nothing is trained"),
        ("calibration", 20, r"of calibration= \(--calibration\) .*or none, and some of the dataset calibrate"),
    ],
)
def test_rows_of_which_most_prove_are_refused(name, shared, words):
    with pytest.raises(ValueError, match=words):
        deal(**{name: ROWS.select(range(30 - shared, 50 - shared))})


def test_what_are_no_rows_is_refused():
    with pytest.raises(ValueError, match="The dataset is empty"):
        deal(train=ROWS.select([]))


def test_without_others_a_fifth_calibrates_alone():
    found = deal(ROWS)
    assert len(found.calibration) == 12
    assert {*found.rows["text"]} | {*found.calibration["text"]} == {*ROWS["text"]}
    assert len(found.rows) == 48
    assert len(deal(ROWS, most=3).rows) == 57
