"""Open what a search chose, out of the folder that it wrote."""

from pathlib import Path
from typing import Any

from hf_compalign._exported import FORMATS
from hf_compalign._files import CHOSEN_NAME
from hf_compalign.models import exported_files
from hf_compalign.opening import load_model
from hf_compalign.search.record import Compression
from hf_compalign.ship.deferral import DeferringModel

# How the name of the file ends that stands behind another one.
BEHIND = "_original"


def load_chosen(folder: str | Path) -> Any:
    """Open what `compress_model` chose: the file, or with the original behind it the pair.

    A folder of `compress_model` holds weights of PyTorch too, and `from_pretrained` or `load_model` opens those.

    Args:
        folder: what `compress_model` wrote.

    Returns:
        A `FileModel` or a `DeferringModel`, for `predict` and `audit`, or to be called as the model was.

    Raises:
        ValueError: `compress_model` did not write the folder, or its files were moved.
    """
    folder = Path(folder)
    if not (folder / CHOSEN_NAME).is_file():
        raise ValueError(
            f"{folder} holds no {CHOSEN_NAME}, so compress_model did not write it. Give the folder that it wrote; a "
            "single file is opened by its path."
        )
    found = Compression.load(folder / CHOSEN_NAME)
    files = [file for one in FORMATS for file in exported_files(folder / one.folder, weights=False)]
    behind = [file for file in files if file.stem.endswith(BEHIND)]
    alone = [file for file in files if file not in behind]
    pairs = found.proved is not None and len(found.proved.rows) > 2  # the original, the file and the one behind it
    if len(alone) != 1 or len(behind) != pairs:
        names = ", ".join(str(file.relative_to(folder)) for file in files)
        raise ValueError(
            f"{folder} must hold the file that compress_model chose{', and the one behind it' if pairs else ''}. Got "
            f"{names or 'none'}. Copy the folder as it was written, or open a file by its path."
        )
    return DeferringModel(alone[0], behind[0]) if pairs else load_model(alone[0])


def as_chosen(model: Any) -> Any:
    """What was chosen, where a model is a folder of `compress_model`; else the model as it is given."""
    written = isinstance(model, str | Path) and (Path(model) / CHOSEN_NAME).is_file()
    return load_chosen(model) if written else model
