"""Files are whole or not there; fingerprints tell contents apart."""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from hf_compalign._files import atomic_path, staged_folder, write_text_atomic
from hf_compalign.data import combined_fingerprint, row_fingerprint
from hf_compalign.opening import model_fingerprint


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


def test_a_staged_folder_appears_as_a_whole(tmp_path):
    with staged_folder(tmp_path / "new") as work:
        (work / "onnx").mkdir()
        (work / "onnx" / "model.onnx").write_text("graph")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "onnx" / "model.onnx").read_text() == "graph"
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


def test_a_staged_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        write_half(staged_folder(tmp_path / "new"))
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


def write_and_list(folder, **options):
    """What lies in the folder while something is staged for it."""
    with staged_folder(folder, **options) as work:
        (work / "onnx").mkdir()
        (work / "onnx" / "model.onnx").write_text("graph")
        return sorted(
            path.name for path in folder.resolve().rglob("*") if path.is_file() and not path.is_relative_to(work)
        )


def test_a_folder_on_another_file_system_is_written_as_a_whole(tmp_path):
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        for name in ("there", "not yet there"):
            target = Path(elsewhere, name)
            link = tmp_path / name
            link.symlink_to(target)
            if name == "there":
                target.mkdir()
            assert write_and_list(link) == []
            assert [path.relative_to(target).as_posix() for path in target.rglob("*")] == ["onnx", "onnx/model.onnx"]
        assert sorted(os.listdir(elsewhere)) == ["not yet there", "there"]


def test_a_folder_that_exists_needs_nothing_of_the_one_above(tmp_path):
    """As where the folder alone is mounted, and what is above cannot be written."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    with staged_folder(folder) as work:
        assert os.listdir(tmp_path) == ["mounted"]
        assert work.name.startswith(".")
        (work / "a").write_text("new")
    assert os.listdir(folder) == ["a"]


def killed(folder):
    """Leave a staging folder behind, as a process does that is killed."""
    code = (
        "import os, sys; from hf_compalign._files import staged_folder\n"
        "with staged_folder(sys.argv[1], overwrite=True) as work:\n"
        "    (work / 'half').write_text('')\n"
        "    print(work, flush=True)\n"
        "    os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    left = Path(done.stdout.strip())
    assert (left / "half").is_file()
    return left


def test_what_a_killed_process_left_is_no_content_and_is_removed(tmp_path):
    folder = tmp_path / "out"
    beside = killed(folder)
    folder.mkdir()
    inside = killed(folder)
    assert (beside.exists(), inside.parent) == (False, folder)  # the second removed what the first had left
    of_another_folder = killed(tmp_path / "out.put")
    with staged_folder(folder) as work:
        assert not inside.exists()
        # What a live process works in stays, and so does that of another machine, which nobody here can ask.
        (folder / work.name.replace(platform.node(), "elsewhere")).mkdir()
        assert write_and_list(folder) == []
        assert work.is_dir()
        (work / "a").write_text("new")
    assert of_another_folder.is_dir()
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == ["a", "onnx"]
    (elsewhere,) = (path.name for path in folder.iterdir() if path.name.startswith("."))
    assert "elsewhere" in elsewhere
