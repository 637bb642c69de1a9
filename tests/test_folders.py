"""Folders appear as a whole, whatever happens on the way."""

import os
import platform
import signal
import tempfile
from pathlib import Path

import pytest

from hf_compalign import _folders
from hf_compalign._files import remove_unfinished, staging_prefix
from hf_compalign._folders import staged_folder

NOBODY = 2**22 + 1  # no process of Linux has such a number
# The calls of the system that change folders.
CALLS = ("link", "mkdir", "rename", "replace", "rmdir", "unlink")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def put(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


OLD = {"model": "old", "onnx/model": "old", "onnx/audit": "old", "runs/mine": "mine", "report": "old"}
NEW = {"model": "new", "onnx/model": "new", "card": "new"}
AFTER = OLD | NEW


@pytest.fixture(params=["at once", "in two steps"])
def exchange(request, monkeypatch):
    """Both ways to put one folder in the place of another."""
    if request.param == "in two steps":
        monkeypatch.setattr(_folders, "_swap", lambda one, other: False)


@pytest.fixture(params=["beside", "inside"])
def place(request, monkeypatch):
    """Folders that can be renamed, and those that cannot, as where they are mounted."""
    if request.param == "inside":
        monkeypatch.setattr(os.path, "ismount", lambda path: True)


@pytest.mark.usefixtures("place")
def test_a_staged_folder_appears_as_a_whole(tmp_path):
    with staged_folder(tmp_path / "new") as work:
        put(work, NEW)
        assert not (tmp_path / "new").exists()
    assert contents(tmp_path / "new") == NEW
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]
    usual = tmp_path / "usual"
    usual.mkdir()
    assert (tmp_path / "new").stat().st_mode == usual.stat().st_mode


@pytest.mark.usefixtures("place", "exchange")
def test_an_old_folder_gives_way_and_what_is_not_replaced_stays(tmp_path):
    put(tmp_path / "out", OLD)
    (tmp_path / "out" / "link").symlink_to("nowhere")
    (tmp_path / "out").chmod(0o750)
    full = r"is not empty: it holds link, model, onnx \.\.\..*--overwrite"
    with pytest.raises(ValueError, match=full), staged_folder(tmp_path / "out"):
        pass
    with staged_folder(tmp_path / "out", overwrite=True, dropped=["report", "card", "other"]) as work:
        put(work, NEW)
        assert contents(tmp_path / "out").keys() - {f"{work.name}/{name}" for name in NEW} == OLD.keys()
    assert contents(tmp_path / "out") == {name: text for name, text in AFTER.items() if name != "report"}
    assert os.readlink(tmp_path / "out" / "link") == "nowhere"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("place", "exchange")
def test_what_is_dropped_may_lie_deeper_and_takes_its_empty_folder_along(tmp_path):
    old = OLD | {"openvino/model": "old", "openvino/audit": "old"}
    put(tmp_path / "out", old)
    dropped = ["onnx/audit", "onnx/model", "openvino/model", "openvino/audit", "nowhere/card"]
    with staged_folder(tmp_path / "out", overwrite=True, dropped=dropped) as work:
        put(work, NEW)
    assert contents(tmp_path / "out") == {name: text for name, text in AFTER.items() if name != "onnx/audit"}
    assert not (tmp_path / "out" / "openvino").exists()


def put_and_fail(folder):
    with staged_folder(folder, overwrite=True) as work:
        put(work, NEW)
        raise RuntimeError("failed")


@pytest.mark.usefixtures("place")
def test_a_staged_folder_that_fails_leaves_nothing(tmp_path):
    put(tmp_path / "out", OLD)
    for name in ("new", "out"):
        with pytest.raises(RuntimeError, match="failed"):
            put_and_fail(tmp_path / name)
    assert contents(tmp_path) == {f"out/{name}": text for name, text in OLD.items()}


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(ValueError, match="is a file"), staged_folder(tmp_path / "a"):
        pass


def test_a_link_stays_one_on_another_file_system_too(tmp_path):
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        for name in ("there", "not yet there"):
            target, link = Path(elsewhere, name), tmp_path / name
            link.symlink_to(target)
            if name == "there":
                put(target, OLD)
            with staged_folder(link, overwrite=True) as work:
                put(work, NEW)
            assert link.is_symlink()
            assert contents(target) == (AFTER if name == "there" else NEW)
        assert sorted(os.listdir(elsewhere)) == ["not yet there", "there"]


def test_a_folder_in_which_one_works_stays_the_same(tmp_path, monkeypatch):
    """Who has it as the working directory would be left in the old one, which is removed."""
    put(tmp_path / "out", OLD)
    monkeypatch.chdir(tmp_path / "out" / "onnx")
    with staged_folder("..", overwrite=True) as work:
        put(work, NEW)
    assert contents(Path("..")) == AFTER


def killed_before(k, folder):
    """Overwrite a folder in a process that is killed before its k-th call; False when it made fewer."""
    child = os.fork()
    if child == 0:
        done = 0

        def killing(call):
            def counted(*args, **more):
                nonlocal done
                done += 1
                if done == k:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **more)

            return counted

        try:
            for name in CALLS:
                setattr(os, name, killing(getattr(os, name)))
            with staged_folder(folder, overwrite=True, dropped=["report"]) as work:
                put(work, NEW)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.usefixtures("exchange")
def test_killed_at_any_moment_it_leaves_the_old_folder_or_the_new_one(tmp_path):
    after = {name: text for name, text in AFTER.items() if name != "report"}
    found, k = [], 1
    while True:
        folder = tmp_path / str(k)
        put(folder, OLD)
        was_killed = killed_before(k, folder)
        if not folder.exists():  # between two steps; the next call begins with this
            remove_unfinished(folder)
        found.append(contents(folder))
        with staged_folder(folder, overwrite=True):
            pass
        if not was_killed:
            break
        k += 1
    assert found[0] == OLD
    assert found[-1] == after
    assert all(one in (OLD, after) for one in found)
    assert k > 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, range(1, k + 1)))


def test_what_others_may_be_writing_stays(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    prefix = staging_prefix(folder)
    for name in (f"{prefix}{NOBODY}.x.tmp", f"{prefix}{NOBODY}.x.old"):  # of a killed process
        (tmp_path / name).mkdir()
        (folder / name).mkdir()
    alive = {
        f"{prefix}{os.getpid()}.x.tmp",
        f"{prefix}{NOBODY}.x".replace(platform.node(), "elsewhere") + ".tmp",  # whom nobody here can ask
        f"{staging_prefix(tmp_path / 'out.put')}{NOBODY}.x.tmp",
        f"{prefix}mine.tmp",
    }
    for name in alive:
        (tmp_path / name).mkdir()
    with staged_folder(folder) as work:
        assert {path.name for path in tmp_path.iterdir()} == {"out", work.name, *alive}
        assert os.listdir(folder) == []
    assert {path.name for path in tmp_path.iterdir()} == {"out", *alive}
