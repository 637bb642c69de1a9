"""Predictions: what they accept, how they are stored, how two of them are paired."""

import dataclasses
import json
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from scipy.special import softmax

from hf_compalign.measure.predictions import FORMAT_VERSION, Predictions

NAMES = ("negative", "neutral", "positive")


def made(n=4, **changes):
    generator = np.random.default_rng(0)
    values = {"logits": generator.normal(size=(n, 3)), "labels": [0, 1, 2, -100][:n], "ids": list("abcd")[:n]}
    return Predictions(**({**values, "label_names": NAMES} | changes))


def same(first, second):
    for field in dataclasses.fields(Predictions):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs, field.name
    return True


def test_values_are_converted():
    found = made(ids=[10, 11, 12, 13], label_names=[0, 1, 2])
    assert (found.logits.dtype, found.labels.dtype, found.mask.dtype) == (np.float32, np.int64, np.bool_)
    assert (found.ids.tolist(), found.label_names) == (["10", "11", "12", "13"], ("0", "1", "2"))
    assert found.mask.all()
    assert len(found) == 4


def test_answers_and_probabilities():
    found = made(1, logits=[[1.0, 3.0, 2.0]])
    assert (found.predicted.tolist(), found.predicted.dtype) == ([1], np.int64)
    assert found.predicted is found.predicted  # found once
    assert dataclasses.replace(found, logits=-found.logits).predicted.tolist() == [0]
    assert found.probabilities.dtype == np.float64
    np.testing.assert_allclose(found.probabilities, softmax([[1.0, 3.0, 2.0]], axis=1), rtol=1e-15)


def test_the_first_of_equal_logits_is_the_answer():
    for dtype in (np.float16, np.float32):
        logits = np.random.default_rng(1).integers(0, 3, size=(20_000, 4)).astype(dtype)  # several blocks
        ids = [str(item) for item in range(20_000)]
        found = Predictions(logits, np.zeros(20_000, dtype=int), ids, list("abcd"))
        np.testing.assert_array_equal(found.predicted, logits.argmax(axis=1))


def test_half_floats_are_kept(tmp_path):
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float16)
    found = made(logits=logits)
    assert np.shares_memory(found.logits, logits)
    found.save(tmp_path / "x.npz")
    assert same(Predictions.load(tmp_path / "x.npz"), found)
    other = made(logits=logits.astype(np.float32), label_names=("LABEL_0", "LABEL_1", "LABEL_2"))
    assert other.aligned_to(found).logits.dtype == np.float32


def test_memory_mapped_logits_stay_on_disk(tmp_path):
    np.save(tmp_path / "logits.npy", np.arange(12, dtype=np.float16).reshape(4, 3))
    mapped = np.load(tmp_path / "logits.npy", mmap_mode="r")
    assert np.shares_memory(made(logits=mapped).logits, mapped)
    assert np.shares_memory(made(logits=mapped).aligned_to(made()).logits, mapped)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, bool])
def test_other_numbers_become_single_floats(dtype):
    assert made(logits=np.eye(4, 3).astype(dtype)).logits.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": [0.0] * 4}, r"logits must have shape \[N, C\]. Got \[4\]"),
        ({"logits": np.zeros((0, 3))}, "There are no predictions: logits have 0 rows"),
        ({"logits": np.zeros((4, 1))}, r"at least 2 labels. Got logits with 1 column"),
        ({"labels": [0, 1]}, r"labels must have one entry per row of the 4 logits. Got \[2\]"),
        ({"ids": ["a"]}, r"ids must have one entry per row of the 4 logits. Got \[1\]"),
        ({"mask": [True]}, r"mask must have one entry per row of the 4 logits. Got \[1\]"),
        ({"label_names": ("a", "b")}, "label_names must name the 3 columns of the logits. Got 2"),
        ({"labels": [0.0, 1.0, 2.0, 0.5]}, "labels must be integers, -100 where unknown. Got float64"),
        ({"labels": [0, 3, -1, -100]}, r"in \[0, 3\), or -100 .* 2 are not, the first is 3 at id 'b'"),
        ({"ids": ["a", "b", "b", "c"]}, "ids must differ from each other.* 1 appear more than once, such as 'b'"),
    ],
)
def test_what_cannot_be_predictions_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.filterwarnings("error")
def test_logits_that_are_not_finite_are_refused(value):
    logits = np.zeros((4, 3))
    logits[1, 2] = logits[3] = value
    with pytest.raises(ValueError, match="2 of 4 items have NaN or infinite logits, the first is id 'b'"):
        made(logits=logits)


def test_saved_and_loaded_is_the_same(tmp_path):
    about = {"model": "a/b", "model_fingerprint": "0123", "data_fingerprint": "abcd"}
    original = made(ids=["ä", "日本", "", "x" * 300], mask=[True, False, True, True], **about)
    original.save(tmp_path / "new" / "predictions.npz")
    assert same(Predictions.load(tmp_path / "new" / "predictions.npz"), original)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["predictions.npz"]


def test_wrong_paths_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Predictions are saved as .npz. Got '.*x.json'"):
        made().save(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError):
        Predictions.load(tmp_path / "none.npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut off"])
def test_what_is_not_an_npz_is_refused(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x.npz is not an .npz file of predictions"):
        Predictions.load(path)


def test_other_files_of_numpy_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    np.savez(tmp_path / "x.npz", logits=np.array([{}], dtype=object))  # a pickle
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ValueError, match=r"is not an .npz file of predictions"):
            Predictions.load(tmp_path / name)
    np.savez(tmp_path / "x.npz", logits=np.zeros((2, 2)), labels=np.zeros(2))
    with pytest.raises(ValueError, match="not one of predictions: it lacks about, ids, mask"):
        Predictions.load(tmp_path / "x.npz")


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    made().save(tmp_path / "x.npz")
    good = (tmp_path / "x.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        size = archive.getinfo("logits.npy").file_size
        members = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "x.npz").write_bytes(good.replace(struct.pack("<L", size), struct.pack("<L", 2**31)))
    with pytest.raises(ValueError, match=r"x.npz is not an .*: \w+.npy cannot be 2,147,483,648 bytes in a file of"):
        Predictions.load(tmp_path / "x.npz")
    members["logits.npy"] = members["logits.npy"].replace(b"(4, 3), }            ", b"(4, 3000000000000), }")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"logits.npy does not hold what it says, an array \[4, 3000000000000\] of f"):
        Predictions.load(tmp_path / "x.npz")


def test_a_newer_format_is_refused(tmp_path):
    made().save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as archive:
        arrays = dict(archive)
    about = json.loads(str(arrays["about"])) | {"format_version": FORMAT_VERSION + 1}
    np.savez(tmp_path / "x.npz", **arrays | {"about": np.array(json.dumps(about))})
    with pytest.raises(ValueError, match=r"format version 3, and this version .* reads up to 2. Upgrade"):
        Predictions.load(tmp_path / "x.npz")


def test_items_are_paired_by_id():
    reference, order = made(mask=[True, True, False, True]), [2, 0, 3, 1]
    columns = {name: getattr(reference, name)[order] for name in ("logits", "labels", "ids", "mask")}
    assert same(dataclasses.replace(reference, **columns).aligned_to(reference), reference)
    # The same order copies nothing.
    assert made(logits=reference.logits).aligned_to(reference).logits is reference.logits


def test_many_items_and_columns_move_together():
    n, rng = 30_000, np.random.default_rng(2)  # several blocks
    logits, ids = rng.normal(size=(n, 3)).astype(np.float16), rng.permutation(n).astype(str)
    reference = Predictions(logits, rng.integers(0, 3, size=n), ids, NAMES)
    rows, columns = rng.permutation(n), np.array([2, 0, 1])
    labels = np.argsort(columns)[reference.labels][rows]
    moved = Predictions(logits[rows][:, columns], labels, ids[rows], np.array(NAMES)[columns])
    assert same(moved.aligned_to(reference), reference)


def test_label_columns_are_paired_by_name():
    reference = made()
    columns = [2, 0, 1]  # positive, negative, neutral
    moved = made(
        logits=reference.logits[:, columns],
        labels=[1, 2, 0, -100],
        label_names=[NAMES[column] for column in columns],
    )
    assert same(moved.aligned_to(reference), reference)


def test_placeholder_names_and_unknown_labels_do_not_contradict():
    unnamed = made(label_names=("LABEL_0", "LABEL_1", "LABEL_2"))
    assert same(unnamed.aligned_to(made()), unnamed)
    unlabeled = made(labels=[-100] * 4)
    assert same(unlabeled.aligned_to(made()), unlabeled)
    assert same(made().aligned_to(unlabeled), made())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (made(labels=[0, 2, 1, 0]), "2 of 3 differ, the first is id 'b'"),
        (made(3, ids=[*"abe"]), r"2 of the reference's 4 items are missing \('c', 'd'\), and 1 are not in .* \('e'\)"),
        (made(ids=["e", "f", "g", "h"]), r"missing \('a', 'b', 'c', ...\), and 4 are not in the reference"),
        (made(label_names=("negative", "neutral", "happy")), "must answer with the same labels"),
    ],
)
def test_what_does_not_belong_together_is_refused(other, message):
    with pytest.raises(ValueError, match=message):
        other.aligned_to(made())


def test_predictions_are_compared_without_torch():
    code = "import sys, hf_compalign.measure.audit.comparing; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False"]
