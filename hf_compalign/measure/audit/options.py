"""How an audit asks the models, and what it adds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_compalign._checks import check_whole
from hf_compalign.measure.groups import MIN_GROUP_SIZE

if TYPE_CHECKING:
    from hf_compalign.measure.predictions import Columns  # these import torch
    from hf_compalign.measure.slices import Slices


@dataclass(frozen=True)
class AuditOptions:
    """How `hf_compalign.audit` asks the models, and what it adds to the numbers.

    Attributes:
        columns: which columns of a raw dataset hold what.
        processing_class: the tokenizer or image processor of all models; by default the one saved beside each.
        batch_size: rows at a time; by default 32, or the Trainer's in an `AuditCallback`.
        bins: columns of numbers whose bins are groups too; "words" is the number of words in the text.
        min_group_size: a smaller group is shown, and takes part in no gap and no verdict.
        max_items: how many changed items to keep one by one, the most harmful first.
        contents: keep the texts of these items or, of the first 500, thumbnails, with the names of their files; and
            what both models look at in them. The audit is then as private as the dataset.
        latency: time both models side by side, on the first rows of the dataset.
        slices: True looks for parts of the data where answers change more than elsewhere, as `hf_compalign.find_slices`
            does; found `Slices` are checked instead, and the audit fails where one is worse. Their names are of the
            data: words, and values of columns.

    Raises:
        ValueError: a number is out of its range.
    """

    columns: "Columns | None" = None
    processing_class: Any = None
    batch_size: int | None = None
    bins: Sequence[str] = ()
    min_group_size: int = MIN_GROUP_SIZE
    max_items: int = 10_000
    contents: bool = False
    latency: bool = False
    slices: "Slices | bool" = False

    def __post_init__(self) -> None:
        if self.max_items < 0:
            raise ValueError(
                f"max_items must be at least 0. Got {self.max_items}. With 0 no item is kept, only their number."
            )
        for name in ("min_group_size", "batch_size"):
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value, least=1)
