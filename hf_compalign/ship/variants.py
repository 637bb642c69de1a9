"""The exported files of an artifact: which there may be, what they are called, and how they get there."""

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hf_compalign._exported import FORMATS, FileFormat, format_of
from hf_compalign.models import FileModel
from hf_compalign.opening import open_file

# Files that keep their names, or new names -> files.
_Files: TypeAlias = Sequence[str | Path] | Mapping[str, str | Path]

_WHAT = r"(_[a-z0-9]+)*"


def checked_variants(given: Mapping[FileFormat, _Files]) -> dict[str, Path]:
    """Name in the artifact -> file, of all formats.

    Raises:
        ValueError: a file is not there or of another format, has a name that loaders would not find, or that of
            another.
    """
    found: dict[str, Path] = {}
    for form, files in given.items():
        for stem, path in _named(form, files):
            _check(form, stem, path)
            name = f"{form.folder}/{stem}{form.suffix}"
            if name in found:
                raise ValueError(
                    f"Two files would be {name}: {found[name]} and {path}. Name each, say "
                    f"{form.folder}={{'{stem}': {str(found[name])!r}, '{form.stem}_quantized': {str(path)!r}}}."
                )
            found[name] = path
    return found


def _named(form: FileFormat, files: _Files) -> list[tuple[str, Path]]:
    if isinstance(files, Mapping):
        return [(name.removesuffix(form.suffix), Path(path)) for name, path in files.items()]
    return [(Path(path).stem, Path(path)) for path in ([files] if isinstance(files, str | Path) else files)]


def _check(form: FileFormat, stem: str, path: Path) -> None:
    other = format_of(path)
    if other is not None and other != form and path.is_file():
        raise ValueError(f"{path} is no {form.name} file but one of {other.name}. Give it in {other.folder}=.")
    if other != form or not path.is_file():
        raise ValueError(
            f"There is no {form.name} file {str(path)!r}. Make it with {form.exporter}, and give its path."
        )
    if not re.fullmatch(f"{form.stem}{_WHAT}", stem):
        raise ValueError(
            f"An {form.name} file of an artifact is called {form.stem} or {form.stem}_<what>, in small letters. Got "
            f"{stem!r}. Name it, say {form.folder}={{'{form.stem}_int8': {str(path)!r}}}."
        )


def variants_in(folder: Path, forms: Sequence[FileFormat] = FORMATS) -> set[str]:
    """The exported files in the folder of an artifact, by their names there."""
    return {f"{form.folder}/{path.name}" for form in forms for path in (folder / form.folder).glob(f"*{form.suffix}")}


def refuse_left_variants(folder: Path, variants: Mapping[str, Path], dropped: Collection[str] = ()) -> None:
    """A file of an earlier artifact would lie there with an audit of another model; those to be dropped will not."""
    for form in FORMATS:
        if left := sorted(variants_in(folder, [form]) - variants.keys() - {*dropped}):
            raise ValueError(
                f"{folder} holds {', '.join(left)}, which would be no part of the new artifact. Remove it, list it in "
                f"{form.folder}=, or give another folder."
            )


def copy_variants(variants: Mapping[str, Path], work: Path, config: Any) -> None:
    """Copy the files and those beside them with their weights.

    Raises:
        ValueError: a file cannot be opened, is of another model, or has weights of the name of another's.
    """
    for name, source in variants.items():
        target, file = work / name, _opened(source, config)
        target.parent.mkdir(exist_ok=True)
        path, *beside = file.files
        shutil.copyfile(path, target)
        for part in beside:
            shutil.copyfile(part, _place_beside(target, part.relative_to(path.parent)))


def _place_beside(target: Path, within: Path) -> Path:
    """Where weights go that lie beside a file: under its name, or as the file names them, such as beyond 2 GB."""
    form = format_of(target)
    if form is not None and form.weights:
        return target.with_suffix(form.weights)
    place = target.parent / within
    if place.exists():
        raise ValueError(f"Two ONNX files keep their weights in a {within}. Export one under another name.")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _opened(source: Path, config: Any) -> FileModel:
    """The file, with the config it was exported with if that lies there; the artifact has one for all."""
    has_own = any((folder / "config.json").is_file() for folder in (source.parent, source.parent.parent))
    found = open_file(source, config=None if has_own else config)
    if found.config.id2label != config.id2label:
        raise ValueError(
            f"{source} is of another model: its config.json has the labels {found.config.id2label}, the model has "
            f"{config.id2label}. Export the model that ships."
        )
    return found
