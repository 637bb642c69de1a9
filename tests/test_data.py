"""Files as datasets, labels as a model's ids, and rows without labels mixed in."""

import math

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_compalign.data import class_names, label_ids, load_file, mix_unlabeled, sample, with_label_ids
from hf_compalign.labels import IGNORED


def labeled(values, names=None):
    dataset = Dataset.from_dict({"text": [f"row {index}" for index in range(len(values))], "label": values})
    return dataset.cast_column("label", ClassLabel(names=names)) if names else dataset


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl", "CSV"])
def test_the_suffix_tells_how_a_file_is_read(suffix, tmp_path):
    rows = labeled(["a", "b"])
    path = tmp_path / f"rows.{suffix}"
    getattr(rows, {"jsonl": "to_json"}.get(suffix, f"to_{suffix.lower()}"))(path)
    assert load_file(path).to_dict() == rows.to_dict()


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"There is no such file: .*rows.csv.*Give a folder of images or a file: .parquet"
    ):
        load_file(tmp_path / "rows.csv")
    (tmp_path / "rows.txt").write_text("text")
    with pytest.raises(ValueError, match="This is no data file: .*rows.txt"):
        load_file(tmp_path / "rows.txt")
    labeled([0]).select([]).to_parquet(tmp_path / "empty.parquet")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "folder").mkdir()
    for name in ("empty.parquet", "broken.json", "folder"):
        with pytest.raises(ValueError, match=f"No rows could be read from .*{name}'. Give it at least one"):
            load_file(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n\xe9t\xe9,0\n", "No rows could be read from .*rows.csv'.*'utf-8' codec can't decode"),
        ("text,label\na film,0\na, film,0\n", "No rows could be read from .*Expected 2 fields in line 3, saw 3"),
        ("text,label\na, film,0\nb, film,0\n", "more fields than its first line has names. Put quotes around texts"),
    ],
)
def test_a_csv_file_that_is_read_wrongly_is_refused(content, message, tmp_path):
    (tmp_path / "rows.csv").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        load_file(tmp_path / "rows.csv")


def test_a_sample_is_always_the_same_and_not_the_head():
    rows = labeled(list(range(50)))
    drawn = sample(rows, 10)["label"]
    assert drawn == sample(rows, 10)["label"]
    assert len(set(drawn)) == 10
    assert drawn != list(range(10))
    assert sample(rows, None) is rows
    assert sample(rows, 50) is rows


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        (labeled([1, 0], ["no", "yes"]), ("no", "yes")),
        (labeled(["yes", "no", "yes"]), ("no", "yes")),
        (labeled([0, 2]), ("LABEL_0", "LABEL_1", "LABEL_2")),
        (labeled([0.0, 1.0, None]), ("LABEL_0", "LABEL_1")),
        (labeled([True, False]), ("LABEL_0", "LABEL_1")),
        (labeled(["may", "May", None]), ("May", "may")),
    ],
)
def test_the_names_of_classes(dataset, names):
    assert class_names(dataset, "label") == names


@pytest.mark.parametrize(
    ("dataset", "names", "ids"),
    [
        # By name, without regard to case; by number where one side has no names; -1 is datasets' "unknown".
        (labeled([1, 0, 2, -1], ["a", "b", "c"]), ("C", "A", "B"), [2, 1, 0, -100]),
        (labeled([1, None, 0], ["a", "b"]), ("b", "a"), [0, -100, 1]),
        (labeled(["b", "A"]), ("a", "b"), [1, 0]),
        (labeled([1, 0, -1], ["no", "yes"]), ("LABEL_0", "LABEL_1"), [1, 0, -100]),
        (labeled([1, -100]), ("a", "b"), [1, -100]),
        (labeled(np.array([1, 0], dtype=np.int8)), ("a", "b"), [1, 0]),
        # pandas makes floats of integers with a gap.
        (labeled([1.0, float("nan"), 0.0, None, -1.0]), ("a", "b"), [1, -100, 0, -100, -100]),
        (labeled([True, False, None]), ("a", "b"), [1, 0, -100]),
        (labeled([[1], [0]]), ("a", "b"), [1, 0]),
        # Some of the model's classes, and classes that differ in case alone.
        (labeled([0, 1], ["c", "a"]), ("a", "b", "c"), [2, 0]),
        (labeled([0, 1, 2, 1], ["a", "b", "A"]), ("A", "a", "b"), [1, 2, 0, 2]),
        (labeled(["A", "a", "b"]), ("A", "a", "B"), [0, 1, 2]),
        (labeled([1, 0], ["LABEL_1", "LABEL_0"]), ("LABEL_0", "LABEL_1"), [0, 1]),
    ],
)
def test_labels_become_the_ids_of_the_model(dataset, names, ids):
    found = label_ids(dataset, "label", names)
    assert (found.dtype, found.tolist()) == (np.int64, ids)
    prepared = with_label_ids(dataset, "label", names)
    assert prepared["labels"] == ids
    assert prepared.column_names == ["text", "labels"]


@pytest.mark.parametrize(
    "column",
    [
        pytest.param([0, -1, 1], id="as in the test sets of GLUE"),
        pytest.param([0, None, 1], id="null"),
        pytest.param(["no", None, "yes"], id="null among names"),
    ],
)
def test_a_label_that_is_not_known_is_ignored(column):
    rows = Dataset.from_dict({"label": column})
    assert label_ids(rows, "label", ("no", "yes")).tolist() == [0, IGNORED, 1]
    assert class_names(rows, "label") == (("no", "yes") if isinstance(column[0], str) else ("LABEL_0", "LABEL_1"))


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        (["no", "c"], None, r"must be names of the model's labels \(no, yes\). Got c"),
        (
            [0],
            ["no", "yess"],
            "classes of column 'label' must be .* Got no, yess against the model's no, yes. Name ",
        ),
        (["YES", "Yes"], None, r"must be names of the model's labels \(no, yes\). Got YES, Yes"),
        ([0], ["no", "maybe"], "Got no, maybe against the model's no, yes"),
        ([0], ["a", "b", "c"], "Got a, b, c against the model's no, yes"),
        ([0.5], None, "must be class ids or names. Got float.* a regression is not supported"),
        ([float("inf")], None, "must be class ids or names. Got float"),
        ([[0, 1]], None, "must be class ids or names. Got list"),
        ([0, 2], None, r"must lie in \[0, 2\), or be -100 or -1 where unknown. Got 2 in column 'label'"),
        ([0, -2], None, "Got -2 in column 'label'"),
        (np.array([2**63], dtype=np.uint64), None, f"Got {2**63} in column 'label'"),
    ],
)
def test_labels_of_another_task_are_refused(values, names, message):
    with pytest.raises(ValueError, match=message):
        label_ids(labeled(values, names), "label", ("no", "yes"))


def test_classes_of_a_model_without_names_are_trusted_by_position_and_that_is_said_once(caplog):
    model, rows = ("LABEL_0", "LABEL_1", "LABEL_2"), labeled([1, 0], ["first", "second"])
    for _ in range(2):
        assert label_ids(rows, "label", model).tolist() == [1, 0]
    (said,) = caplog.messages
    assert said.startswith("Only one of the model and the dataset has names for its labels, so they are matched by pos")
    with pytest.raises(ValueError, match="Got a, b, c, d against the model's LABEL_0, LABEL_1, LABEL_2"):
        label_ids(labeled([0], [*"abcd"]), "label", model)


def test_a_column_without_a_known_label_names_no_classes():
    with pytest.raises(ValueError, match="column 'label' holds no known label"):
        class_names(labeled([-1, -1]), "label")


def test_mixing_keeps_every_row_with_its_label():
    features = Features({"text": Value("string"), "labels": ClassLabel(names=["a", "b"])})
    train = Dataset.from_dict({"text": ["t0", "t1", "t2"], "labels": [0, 1, 1]}, features=features)
    extra = Dataset.from_dict({"label": [1.5, 2.5], "text": ["u0", "u1"]})
    mixed = mix_unlabeled(train, extra, seed=3)
    rows = dict(zip(mixed["text"], mixed["labels"], strict=True))
    assert rows == {"t0": 0, "t1": 1, "t2": 1, "u0": -100, "u1": -100}
    assert mixed.to_dict() == mix_unlabeled(train, extra, seed=3).to_dict()
    orders = {tuple(mix_unlabeled(train, extra, seed=seed)["text"]) for seed in range(5)}
    assert len(orders) > 1


def test_unlabeled_rows_beside_numbers_have_nan():
    train = Dataset.from_dict({"text": ["t0", "t1"], "labels": [4.0, -100.0]})
    mixed = mix_unlabeled(train, Dataset.from_dict({"text": ["u0"]}), seed=3)
    rows = dict(zip(mixed["text"], mixed["labels"], strict=True))
    assert math.isnan(rows.pop("u0"))
    assert rows == {"t0": 4.0, "t1": -100.0}


def test_mixing_needs_the_same_inputs():
    train = Dataset.from_dict({"premise": ["p"], "hypothesis": ["h"], "labels": [0]})
    with pytest.raises(ValueError, match="Got premise; missing: hypothesis. Rename its columns"):
        mix_unlabeled(train, Dataset.from_dict({"premise": ["q"]}), seed=0)


def test_a_share_of_the_mixed_rows_is_unlabeled():
    train = Dataset.from_dict({"text": [f"t{i}" for i in range(6)], "labels": [0, 1] * 3})
    extra = Dataset.from_dict({"text": [f"u{i}" for i in range(20)]})
    drawn = []
    for seed in range(3):
        mixed = mix_unlabeled(train, extra, seed=seed, share=0.6)
        assert sorted(mixed["labels"]) == [IGNORED] * 9 + [0] * 3 + [1] * 3
        drawn.append({text for text in mixed["text"] if text.startswith("u")})
        assert len(drawn[-1]) == 9  # no row twice
    assert drawn[0] != drawn[1]
    for share, message in (
        (60, r"share must be in \(0, 1\), of the mixed rows. Got 60. Did you mean 0.6\? None takes all"),
        (0, "Got 0. None takes all unlabeled rows"),
        (0.8, "share=0.8 of rows .* with 6 labeled ones needs 24 unlabeled rows. Got 20. .* at most share=0.77"),
    ):
        with pytest.raises(ValueError, match=message):
            mix_unlabeled(train, extra, seed=0, share=share)
