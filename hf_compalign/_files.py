"""Files that are either whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it when the block ends well and removed when it does not.

    A killed process leaves the old file, or none; never half of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; a result is shared like any other file of the user's.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file that is whole or not there."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def staged_folder(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder to write into, whose entries are moved to ``folder`` when the block ends well.

    A killed process leaves the folder as it was. With ``overwrite`` an entry of the same name is replaced, and what
    else is there stays.

    Raises:
        ValueError: the folder is a file, or holds something and must not be overwritten.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Give a folder.")
    held = sorted(entry.name for entry in folder.glob("*"))
    if held and not overwrite:
        raise ValueError(
            f"The folder {folder} is not empty: it holds {', '.join(held[:3])}{' ...' if len(held) > 3 else ''}. Give "
            "another folder, or say overwrite=True (--overwrite) to replace files of the same name."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        yield work
        folder.mkdir(exist_ok=True)
        for made in sorted(work.rglob("*")):
            if made.is_file():
                target = folder / made.relative_to(work)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(made, target)
    finally:
        shutil.rmtree(work)
