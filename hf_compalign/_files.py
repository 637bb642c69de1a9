"""Write files that are either whole or not there, and read records."""

import glob
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

_Kind = TypeVar("_Kind")
# How the names of what is being written end, and of a folder that is being replaced.
STAGED, ASIDE = ".tmp", ".old"
AUDIT_NAME, FRONTIER_NAME, PLOT_NAME = "audit.json", "frontier.json", "frontier.png"
CHOSEN_NAME = "compression.json"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it if the block succeeds and removed otherwise.

    A killed process leaves the old file or none, never half of one, and what else it leaves the next call removes. A
    link stays one, and leads to the new file.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{staging_prefix(path)}{os.getpid()}.", suffix=STAGED)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; a result gets the user's usual permissions.
        temporary.chmod(usual_mode(0o666))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def usual_mode(mode: int) -> int:
    """The permissions that the user's new files get."""
    umask = os.umask(0)
    os.umask(umask)
    return mode & ~umask


def staging_prefix(path: Path) -> str:
    """How the names begin of what this machine is writing for a path; the number of the process follows."""
    return f".{path.name}.{platform.node()}-"


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes of this machine left of a path; a folder that they had put aside comes back."""
    prefix = staging_prefix(path)
    for home in (path, path.parent):
        for left in home.glob(f"{glob.escape(prefix)}*"):
            pid = left.name.removeprefix(prefix).partition(".")[0]
            if left.suffix not in (STAGED, ASIDE) or not pid.isdecimal() or is_alive(int(pid)):
                continue
            if left.suffix == ASIDE and not path.exists():
                left.rename(path)
            else:
                remove(left)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is still there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine still runs."""
    if os.name == "nt":  # where signal 0 is Ctrl+C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OverflowError, PermissionError):  # another user's process, or the number of none
        pass
    return True


def repair_records(folder: str | Path, name: str) -> tuple[str, ...]:
    """What a repair said of its file of this name, to go when that is replaced; without a frontier, an audit is not a
    repair's."""
    both = (Path(folder) / one for one in (FRONTIER_NAME, name))
    return (FRONTIER_NAME, PLOT_NAME, AUDIT_NAME) if all(path.is_file() for path in both) else ()


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(path: str | Path, found: dict[str, Any]) -> None:
    """Write strict JSON for `read_record`."""
    write_text_atomic(path, json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: str | Path) -> str:
    """A UTF-8 text file; a ValueError with its path if it is another."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error


def read_json(path: str | Path) -> Any:
    """What a JSON file holds; a ValueError with its path if it is not JSON, or nested beyond measure."""
    text = read_text(path)
    try:
        return parsed(text)
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def parsed(text: str) -> Any:
    """The value of a JSON text; a ValueError if it is not JSON, says a thing twice, or is nested beyond measure."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Of two values of one name, nobody knows which was meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is in it twice.")
    return found


def read_record(path: str | Path, build: Callable[[Any], _Kind], *, kind: str, version: int, writer: str) -> _Kind:
    """Read what `write_record` wrote.

    Args:
        path: the file.
        build: makes the record of a dict, or raises a ValueError.
        kind: the ``kind`` it must name, such as "hf_compalign.audit".
        version: the newest ``format_version`` that can be read.
        writer: what writes such files, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, of another kind, damaged, or from a newer version of this library.
    """
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("kind") != kind:
        name = kind.rpartition(".")[2]
        article = "an" if name[0] in "aeiou" else "a"
        raise ValueError(f"{path} is JSON, but not that of {article} {name}. Write it with {writer}.")
    written = stored.get("format_version")
    if type(written) is not int:
        raise ValueError(f"{path} is damaged: its format version is {written!r:.80}. Write it again with {writer}.")
    if written > version:
        raise ValueError(
            f"{path} has format version {written}, and this version of hf_compalign reads up to {version}. Upgrade "
            "hf_compalign."
        )
    return built_from(path, build, stored, again=f"Write it again with {writer}.")


def built_from(path: str | Path, build: Callable[[Any], _Kind], stored: Any, *, again: str) -> _Kind:
    """What ``build`` makes of a file's contents; a ValueError with the path and what to do ``again`` if it refuses."""
    try:
        return build(stored)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read. {error} {again}") from error
