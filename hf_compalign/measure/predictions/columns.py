"""Which columns of a raw dataset hold what."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Columns:
    """Which columns of a raw dataset to read. None finds a column by its type and usual names.

    Attributes:
        text: the text column, or the two of a pair.
        image: the column of images, of paths of image files, or of arrays.
        audio: the column of sounds: of WAV files, of their paths, or of lists of floats.
        label: the column of right answers.
        id: the column that names each row; by default `id`, `idx` or `guid`, else a hash of its text, image or sound.
    """

    text: Sequence[str] | None = None
    image: str | None = None
    audio: str | None = None
    label: str | None = None
    id: str | None = None

    @classmethod
    def of(cls, given: "Columns | None") -> "Columns":
        """The given columns; by default all are found."""
        if given is not None and not isinstance(given, cls):
            raise ValueError(f"columns must be Columns(text=..., label=...). Got {type(given).__name__}.")
        return given or cls()

    def __post_init__(self) -> None:
        if isinstance(self.text, str):
            object.__setattr__(self, "text", (self.text,))
