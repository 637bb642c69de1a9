"""What an earlier artifact left in a folder, and what it did not write there."""

from collections.abc import Iterator
from pathlib import Path

from hf_compalign._exported import FORMATS
from hf_compalign._files import AUDIT_NAME
from hf_compalign.ship.deferral import DEFERRAL_NAME
from hf_compalign.ship.deferrals import PAIR_AUDIT_NAME, deferrals_in
from hf_compalign.ship.hub import WEIGHTS
from hf_compalign.ship.variants import variants_in

_RECORDS = (AUDIT_NAME, DEFERRAL_NAME, PAIR_AUDIT_NAME)


def weights_in(folder: Path) -> set[str]:
    """The files of weights in the folder of an artifact, by their names there."""
    return {path.name for path in folder.glob("model*.safetensors*")}


def artifact_files(folder: Path) -> frozenset[str]:
    """The files of an artifact of which a new one may have fewer, by their names in the folder.

    Those are its weights and exported files, with the audits and deferrals beside them. A file without its audit is
    none of them, and a folder without the weights' audit holds none.
    """
    return frozenset(_written(folder)) if (folder / AUDIT_NAME).is_file() else frozenset()


def _written(folder: Path) -> Iterator[str]:
    for path in (folder / name for name in (*WEIGHTS, DEFERRAL_NAME, PAIR_AUDIT_NAME)):
        if path.is_file():
            yield path.name
    yield from (path.name for path in folder.glob("model-?????-of-?????.safetensors"))
    for form in FORMATS:
        for path in (folder / form.folder).glob(f"*{form.suffix}"):
            beside = [path.with_name(f"{path.stem}.{record}") for record in _RECORDS]
            if beside[0].is_file():
                held = (path, *beside, path.with_suffix(form.weights or path.suffix), Path(f"{path}_data"))
                yield from (one.relative_to(folder).as_posix() for one in held if one.is_file())


def refuse_foreign_files(folder: Path) -> None:
    """Refuse a folder with exported files, deferrals or weights that no artifact wrote, before making a new one.

    Raises:
        ValueError: they would lie beside the new files, and no audit would speak of them.
    """
    others = weights_in(folder) - {WEIGHTS[0]}  # which are replaced
    there = variants_in(folder) | deferrals_in(folder) | others
    if foreign := sorted(there - artifact_files(folder)):
        raise ValueError(
            f"{folder} holds {', '.join(foreign)}, which no artifact wrote, and no audit of the new one would speak of "
            "it. Move it away, or give another folder."
        )
