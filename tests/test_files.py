"""Files are whole or not there; fingerprints tell contents apart."""

import numpy as np
import pytest
import tiny
import torch

from hf_compalign._files import atomic_path, staged_folder, write_text_atomic
from hf_compalign.fingerprint import combined_fingerprint, model_fingerprint, row_fingerprint


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text_atomic(path, "old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_models_are_told_apart_by_their_weights():
    model = tiny.bert(seed=1)
    before = model_fingerprint(model)
    assert before == model_fingerprint(tiny.bert(seed=1))
    assert model_fingerprint(model.to(torch.bfloat16)) != before
    model = tiny.bert(seed=1)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    assert model_fingerprint(model) != before


def test_rows_hash_by_content_not_by_container():
    as_list = {"b": [1, 2], "a": [0.5, 0.25], "t": "x"}
    as_array = {"t": "x", "a": np.array([0.5, 0.25]), "b": torch.tensor([1, 2], dtype=torch.int32)}
    assert row_fingerprint(as_list) == row_fingerprint(as_array)
    assert row_fingerprint({"a": [1, 2]}) != row_fingerprint({"a": [2, 1]})
    assert row_fingerprint({"a": [[1, 2]]}) != row_fingerprint({"a": [1, 2]})
    assert row_fingerprint({"a": ["x", "y"]}) != row_fingerprint({"a": ["xy"]})
    assert row_fingerprint({"a": None}) != row_fingerprint({"a": 0})
    assert row_fingerprint({"a": {"k": b"1"}}) != row_fingerprint({"a": {"k": b"2"}})


def test_a_value_without_content_is_refused():
    with pytest.raises(TypeError, match="cannot fingerprint a value of type complex"):
        row_fingerprint({"a": 1j})


def test_combined_fingerprints_do_not_depend_on_order():
    assert combined_fingerprint(["a", "b"]) == combined_fingerprint(["b", "a"]) != combined_fingerprint(["a"])


def test_a_staged_folder_appears_as_a_whole(tmp_path):
    with staged_folder(tmp_path / "new") as work:
        (work / "onnx").mkdir()
        (work / "onnx" / "model.onnx").write_text("graph")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "onnx" / "model.onnx").read_text() == "graph"
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


def test_a_staged_folder_that_fails_leaves_nothing(tmp_path):
    def write_half():
        with staged_folder(tmp_path / "new") as work:
            (work / "half").write_text("")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_half()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_overwritten_on_demand_only(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty: it holds a, b.*--overwrite"), staged_folder(tmp_path):
        pass
    with staged_folder(tmp_path, overwrite=True) as work:
        (work / "a").write_text("new")
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"a": "new", "b": "mine"}
    with pytest.raises(ValueError, match="is a file"), staged_folder(tmp_path / "a"):
        pass
