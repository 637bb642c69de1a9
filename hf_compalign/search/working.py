"""The folder that a search works in: one search at a time, and only the same one goes on in it."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_compalign._files import is_alive, read_json, write_text_atomic
from hf_compalign._trainer import changes

_RECIPE, _RUNNING = "search-recipe.json", "running.json"


def work_folder(output: Path) -> Path:
    """Where the search for an artifact works: beside it."""
    return output.resolve().with_name(f"{output.resolve().name}.search")


@contextmanager
def working_in(folder: Path, recipe: Mapping[str, Any]) -> Iterator[None]:
    """Work in a folder, alone.

    Args:
        folder: it is made, or goes on from an earlier search.
        recipe: all that the search depends on, as plain JSON values.

    Raises:
        ValueError: another search runs there, or one that was cut short had another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_company(folder)
    path = folder / _RECIPE
    if path.is_file() and (changed := changes(read_json(path), json.loads(json.dumps(recipe)))):
        raise ValueError(
            f"{folder} holds a search that was cut short, with another recipe: {changed}. To go on with that one, give "
            "the same again; to begin anew, remove the folder or give another output."
        )
    running = folder / _RUNNING
    write_text_atomic(running, json.dumps({"machine": platform.node(), "process": os.getpid()}))
    try:
        write_text_atomic(path, json.dumps(recipe, indent=2))
        yield
    finally:
        running.unlink(missing_ok=True)


def _refuse_company(folder: Path) -> None:
    path = folder / _RUNNING
    if not path.is_file():
        return
    other = read_json(path)
    here = other["machine"] == platform.node()
    if here and (other["process"] == os.getpid() or not is_alive(other["process"])):
        return
    raise ValueError(
        f"Another search works in {folder}: process {other['process']} on {other['machine']}. Wait for it, or give "
        f"another output. If it is no more, remove {path}."
    )
