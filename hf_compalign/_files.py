"""Write files and folders that are either whole or not there."""

import glob
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_STAGED = ".tmp"
# What a repair says of its file lies beside it, and goes when the file is replaced.
AUDIT_NAME, FRONTIER_NAME, PLOT_NAME = "audit.json", "frontier.json", "frontier.png"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it if the block succeeds and removed otherwise.

    A killed process leaves the old file or none, never half of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; a result gets the user's usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(path: str | Path, found: dict[str, Any]) -> None:
    """Write strict JSON for `read_record`."""
    write_text_atomic(path, json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_record(path: str | Path, *, kind: str, version: int, writer: str) -> dict[str, Any]:
    """Read what `write_record` wrote.

    Args:
        path: the file.
        kind: the ``kind`` it must name, such as "hf_compalign.audit".
        version: the newest ``format_version`` that can be read.
        writer: what writes such files, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, of another kind, or from a newer version of this library.
    """
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(stored, dict) or stored.get("kind") != kind:
        name = kind.rpartition(".")[2]
        article = "an" if name[0] in "aeiou" else "a"
        raise ValueError(f"{path} is JSON, but not that of {article} {name}. Write it with {writer}.")
    written = stored.get("format_version")
    if not isinstance(written, int):
        raise ValueError(f"{path} is damaged: its format version is {written!r}. Write it again with {writer}.")
    if written > version:
        raise ValueError(
            f"{path} has format version {written}, and this version of hf_compalign reads up to {version}. Upgrade "
            "hf_compalign."
        )
    return stored


def remove_repair_records(folder: str | Path) -> None:
    """Remove what a repair said of its file; without a frontier, an audit is not a repair's."""
    if (Path(folder) / FRONTIER_NAME).is_file():
        for name in (FRONTIER_NAME, PLOT_NAME, AUDIT_NAME):
            (Path(folder) / name).unlink(missing_ok=True)


@contextmanager
def staged_folder(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder to write into. Its files move to ``folder`` if the block succeeds.

    A killed process leaves the folder as it was, and a hidden one that the next call removes. ``overwrite`` replaces
    files of the same name and keeps all others.

    Raises:
        ValueError: the folder is a file, or is not empty without ``overwrite``.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Give a folder.")
    real = folder.resolve()
    hidden = f".{real.name}."
    entries = os.listdir(real) if real.exists() else []
    held = sorted(name for name in entries if not (name.startswith(hidden) and name.endswith(_STAGED)))
    if held and not overwrite:
        raise ValueError(
            f"The folder {folder} is not empty: it holds {', '.join(held[:3])}{' ...' if len(held) > 3 else ''}. Give "
            "another folder, or say overwrite=True (--overwrite) to replace files of the same name."
        )
    real.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{hidden}{platform.node()}-"
    _remove_unfinished(real, prefix)
    # Files move only within a file system, and the folder may be mounted on its own.
    home = real if real.exists() else real.parent
    work = Path(tempfile.mkdtemp(dir=home, prefix=f"{prefix}{os.getpid()}.", suffix=_STAGED))
    try:
        yield work
        real.mkdir(exist_ok=True)
        for made in sorted(work.rglob("*")):
            if made.is_file():
                target = real / made.relative_to(work)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(made, target)
    finally:
        shutil.rmtree(work)


def _remove_unfinished(folder: Path, prefix: str) -> None:
    """Remove what killed processes of this machine left in the folder or beside it."""
    for home in (folder, folder.parent):
        for left in home.glob(f"{glob.escape(prefix)}*{_STAGED}"):
            pid = left.name.removeprefix(prefix).partition(".")[0]
            if left.is_dir() and pid.isdecimal() and not _is_alive(int(pid)):
                shutil.rmtree(left, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl+C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    return True
