"""Write folders that appear as a whole, in place of the old one."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_compalign._files import ASIDE, STAGED, remove, remove_unfinished, staging_prefix, usual_mode

# Of Linux: paths are relative to the working directory, and the two names change places.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def staged_folder(folder: str | Path, *, overwrite: bool = False, dropped: Collection[str] = ()) -> Iterator[Path]:
    """A new folder to write into, which takes the place of ``folder`` if the block succeeds.

    A killed process leaves the old folder or the new one, and perhaps a hidden one beside it that the next call
    removes. A folder that cannot be renamed gets its files one by one: a mount, or where this process works.

    Args:
        folder: where; a link stays one, and leads to the new folder.
        overwrite: replace files of the same name in a folder that holds something, and keep all others.
        dropped: names in the old folder that go, such as ``report.html`` or ``onnx/model.onnx``.

    Raises:
        ValueError: the folder is a file, or is not empty without ``overwrite``.
    """
    folder = Path(folder)
    real = folder.resolve()
    real.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(real)
    check_free(folder, overwrite=overwrite)
    home = real if _is_fixed(real) else real.parent
    work = Path(tempfile.mkdtemp(dir=home, prefix=f"{staging_prefix(real)}{os.getpid()}.", suffix=STAGED))
    work.chmod(usual_mode(0o777))
    try:
        yield work
        if home == real or not _exchanged(work, real, dropped):
            _fill(work, real, dropped)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise a ValueError if a folder is a file, or is not empty without ``overwrite``: nothing can be written there."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Give a folder.")
    real = folder.resolve()
    held = sorted(name for name in (os.listdir(real) if real.exists() else ()) if not _is_staged(name, real))
    if held and not overwrite:
        raise ValueError(
            f"The folder {folder} is not empty: it holds {', '.join(held[:3])}{' ...' if len(held) > 3 else ''}. Give "
            "another folder, or say overwrite=True (--overwrite) to replace files of the same name."
        )


def _is_staged(name: str, folder: Path) -> bool:
    return name.startswith(f".{folder.name}.") and name.endswith((STAGED, ASIDE))


def _is_fixed(folder: Path) -> bool:
    """Whether the folder cannot be renamed, or must not: whoever works in it would be left in the old one."""
    if not folder.exists():
        return False
    if os.path.ismount(folder) or not os.access(folder.parent, os.W_OK | os.X_OK):
        return True
    with suppress(FileNotFoundError):  # the working directory may be gone
        return Path.cwd().is_relative_to(folder)
    return False


def _exchanged(work: Path, folder: Path, dropped: Collection[str]) -> bool:
    """Put one folder in the place of another, with what that one keeps; whether the system let it."""
    with suppress(OSError):
        if not folder.exists():
            work.rename(folder)
            return True
        _keep(folder, work, dropped)
        if not _swap(work, folder):
            _rename_both(work, folder)
        return True
    return False


def _keep(old: Path, new: Path, dropped: Collection[str]) -> None:
    """Give the new folder what only the old one holds."""

    def replaced(where: str, names: list[str]) -> set[str]:
        place = Path(where).relative_to(old)
        within = new / place
        found = {name for name in names if os.path.lexists(within / name)}
        both = {name for name in found if (within / name).is_dir() and (Path(where) / name).is_dir()}
        gone = {name for name in names if (place / name).as_posix() in dropped}
        staged = {name for name in names if _is_staged(name, old)} if within == new else set()
        return (found - both) | gone | staged

    shutil.copytree(old, new, symlinks=True, ignore=replaced, copy_function=_link, dirs_exist_ok=True)
    _remove_emptied(new, dropped)


def _remove_emptied(folder: Path, dropped: Collection[str]) -> None:
    """Folders that only held what was dropped go with it."""
    for parent in {(folder / name).parent for name in dropped} - {folder}:
        with suppress(OSError):  # it holds something
            parent.rmdir()


def _link(source: str, target: str) -> None:
    """The same file under a second name; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _swap(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; whether the system could."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _rename_both(work: Path, folder: Path) -> None:
    """Put one folder in the place of another in two steps; after a kill between them, the next call puts it back."""
    aside = work.with_suffix(ASIDE)
    folder.rename(aside)
    try:
        work.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _fill(work: Path, folder: Path, dropped: Collection[str]) -> None:
    """Move the files one by one."""
    folder.mkdir(exist_ok=True)
    gone = [name for name in dropped if not os.path.lexists(work / name)]
    for made in sorted(work.rglob("*")):
        if made.is_file():
            target = folder / made.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            made.replace(target)
    for name in gone:
        remove(folder / name)
    _remove_emptied(folder, gone)
