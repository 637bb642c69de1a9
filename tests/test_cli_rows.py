"""The rows that a command line names: which configuration and which split."""

import json
import re

import pytest
from commands import call, error_of
from datasets import Dataset, DatasetDict

from hf_compalign.cli.rows import are_audited, load_rows, rows_to_make_with

CARD = """---
configs:
- config_name: en
  default: true
  data_files:
  - {split: train, path: en/train.jsonl}
  - {split: test, path: en/test.jsonl}
- config_name: de
  data_files:
  - {split: train, path: de/train.jsonl}
  - {split: test, path: de/test.jsonl}
---
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two datasets of two configurations and two splits, one as a file, and one that was saved."""
    folder = tmp_path_factory.mktemp("rows")
    for name in ("texts", "others"):
        for part in ("en/train", "en/test", "de/train", "de/test"):
            path = folder / name / f"{part}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(json.dumps({"text": f"{name} {part} {row}"}) for row in range(3)))
        (folder / name / "README.md").write_text(CARD)
    rows = Dataset.from_dict({"text": ["a", "b"]})
    rows.to_parquet(folder / "rows.parquet")
    DatasetDict(train=rows, test=rows).save_to_disk(folder / "saved")
    rows.save_to_disk(folder / "single")
    return folder


@pytest.mark.parametrize(
    ("where", "dataset", "config", "first"),
    [
        ("texts", "texts", "de", "texts de/train 0"),
        ("texts/", "./texts", "de", "texts de/train 0"),
        ("texts", "texts", None, "texts en/train 0"),
        ("others", "texts", "de", "others en/train 0"),  # its own default
        ("texts", None, None, "texts en/train 0"),
    ],
)
def test_the_configuration_is_that_of_the_dataset_of_the_same_name(place, monkeypatch, where, dataset, config, first):
    monkeypatch.chdir(place)
    assert rows_to_make_with(where, {"dataset": dataset, "config": config})[0]["text"] == first
    assert load_rows("texts", "de")[0]["text"] == "texts de/test 0"
    assert rows_to_make_with(None, {"dataset": dataset, "config": config}) is None


@pytest.mark.parametrize(
    ("where", "dataset", "split", "audited"),
    [
        ("texts", "texts", None, False),  # test and train
        ("texts", "texts", "train", True),
        ("texts", "others", "train", False),
        ("saved", "saved", None, False),
        ("saved", "saved", "train", True),
        ("single", "single", None, True),
        ("rows.parquet", "rows.parquet", None, True),
    ],
)
def test_rows_are_those_that_are_audited_by_their_name_and_split(place, monkeypatch, where, dataset, split, audited):
    monkeypatch.chdir(place)
    assert are_audited(where, {"dataset": dataset, "config": None, "split": split}) == audited


def test_an_export_calibrates_on_another_split_but_not_on_the_same_one(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    words = ["export", "no-model", tmp_path / "out", "--quantize", "static", "--calibration", "saved"]
    assert "are the same data" in error_of(call(*words, "--dataset", "saved", "--split", "train"))
    assert not re.search("same data", error_of(call(*words, "--dataset", "saved")))
