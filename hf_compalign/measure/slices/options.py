"""How slices are looked for."""

from dataclasses import dataclass

from hf_compalign._checks import check_share, check_whole


@dataclass(frozen=True)
class SliceOptions:
    """How `hf_compalign.find_slices` looks for slices.

    Attributes:
        min_size: a smaller part of the half that is searched is no slice, nor is all but so few.
        most: how many candidates are tested, the most suspicious first.
        level: the false discovery rate: the expected share of wrong slices among those found.
        seed: of the split into halves.

    Raises:
        ValueError: a number is out of its range.
    """

    min_size: int = 30
    most: int = 10
    level: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("min_size", "most"):
            check_whole(name, getattr(self, name), least=1)
        check_share("level", self.level, ends=False)
