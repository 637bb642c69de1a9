"""Files are whole or not there; fingerprints tell contents apart."""

import os

import numpy as np
import pytest
import tiny
import torch

from hf_compalign._files import atomic_path, staging_prefix, write_text_atomic
from hf_compalign.data import combined_fingerprint, row_fingerprint
from hf_compalign.opening import model_fingerprint

NOBODY = 2**22 + 1  # no process of Linux has such a number


def write_half(where):
    with where as path:
        (path / "half" if path.is_dir() else path).write_text("half")
        raise RuntimeError("killed")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text_atomic(path, "old")
    with pytest.raises(RuntimeError, match="killed"):
        write_half(atomic_path(path))
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_link_stays_one_and_leads_to_the_new_file(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    for text in ("new", "newer"):
        write_text_atomic(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "elsewhere" / "file").read_text() == text


def test_what_a_killed_write_left_is_removed_by_the_next(tmp_path):
    for pid in (NOBODY, os.getpid()):
        (tmp_path / f"{staging_prefix(tmp_path / 'file')}{pid}.x.tmp").write_text("half")
    (tmp_path / f"{staging_prefix(tmp_path / 'other')}{NOBODY}.x.tmp").write_text("half")
    write_text_atomic(tmp_path / "file", "new")
    # What a process writes that is alive stays, and what belongs to another file.
    assert [str(NOBODY) in path.name for path in sorted(tmp_path.glob(".*"))] == [False, True]


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
    with pytest.raises(TypeError, match="cannot fingerprint a value of type complex"):
        row_fingerprint({"a": 1j})


def test_combined_fingerprints_do_not_depend_on_order():
    assert combined_fingerprint(["a", "b"]) == combined_fingerprint(["b", "a"]) != combined_fingerprint(["a"])
