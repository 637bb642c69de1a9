"""Where a model's weights are: beside the file that names them, and nowhere else on the machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hf_compalign._files import built_from, read_json
from hf_compalign._records import built

_SAFE = ".safetensors"


def beside(path: Path, name: str) -> Path:
    """The file of that name beside another, which keeps its weights there.

    A link counts by where it leads: into the folder, or to where the other file really is, as in the Hub's cache.

    Raises:
        ValueError: it is elsewhere, so that a file from others could read or pass on any file of this machine.
    """
    found = path.parent / name
    homes = (path.parent.resolve(), path.resolve().parent)
    plain = name and ".." not in PurePosixPath(name).parts and not PurePosixPath(name).is_absolute()
    if not plain or PureWindowsPath(name).anchor or not any(found.resolve().is_relative_to(home) for home in homes):
        raise ValueError(
            f"{path} keeps weights in {name!r}, which is outside of its folder. A file from others could so read any "
            "file of this machine. If you trust it, put the weights beside it and save it again."
        )
    return found


@dataclass(frozen=True)
class _Index:
    metadata: Mapping[str, Any]
    weight_map: Mapping[str, str]


def shards_of(index: Path) -> list[str]:
    """The files of weights that a model.safetensors.index.json names, in its own folder.

    Raises:
        ValueError: it is damaged, or names other files.
    """
    again = "Copy or download the folder again, or save the model again with save_pretrained."
    found = built_from(index, partial(built, _Index), read_json(index), again=again)
    names = sorted({*found.weight_map.values()})
    for name in names:
        if name != PurePosixPath(name).name or name != PureWindowsPath(name).name or not name.endswith(_SAFE):
            raise ValueError(
                f"{index} names {name!r}. It may name nothing but safetensors in its own folder: it is damaged, or "
                f"made to mislead. {again}"
            )
    return names
