"""Which columns of a dataset hold what, and how much of an image is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset

from hf_compalign._checks import check_whole
from hf_compalign.data import find_text_columns


@dataclass(frozen=True)
class Columns:
    """What to read of a dataset: which columns, and how many pixels. None finds a column by its type and usual names.

    Attributes:
        text: the text column, or the two of a pair.
        image: the column of images, of paths of image files, or of arrays.
        audio: the column of sounds: of WAV files, of their paths, or of lists of floats.
        label: the column of right answers; for segmentation that of label maps: images, their paths, or lists.
        id: the column that names each row; by default `id`, `idx` or `guid`, else a hash of its text, image or sound.
        pixels_per_image: for segmentation alone, how many pixels of each image are drawn as items, or all where it has
            fewer; by default 256. They are the same for every model, and a model is compared on the same number.

    Raises:
        ValueError: it is no whole number from 1 on.
    """

    text: Sequence[str] | None = None
    image: str | None = None
    audio: str | None = None
    label: str | None = None
    id: str | None = None
    pixels_per_image: int | None = None

    @classmethod
    def of(cls, given: "Columns | None") -> "Columns":
        """The given columns; by default all are found."""
        if given is not None and not isinstance(given, cls):
            raise ValueError(f"columns must be Columns(text=..., label=...). Got {type(given).__name__}.")
        return given or cls()

    def __post_init__(self) -> None:
        if isinstance(self.text, str):
            object.__setattr__(self, "text", (self.text,))
        if self.pixels_per_image is not None:
            check_whole("pixels_per_image", self.pixels_per_image, least=1)

    def texts_in(self, dataset: Dataset) -> tuple[str, ...]:
        """The column or the two that hold the text; a ValueError where several may."""
        return find_text_columns(dataset, self.text, labels=self.label, ids=self.id)
