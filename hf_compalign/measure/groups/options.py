"""How groups are judged."""

from dataclasses import dataclass

from hf_compalign._checks import check_whole
from hf_compalign.measure.groups.record import MIN_GROUP_SIZE


@dataclass(frozen=True)
class GroupOptions:
    """How groups are judged.

    Attributes:
        min_group_size: nothing is concluded from a group of fewer items, nor from a rate of a class out of fewer.
        n_resamples: draws for the intervals and bounds.
        seed: of the draws and the permutations, the same for every attribute.
        most_classes: with more classes than this, fairness measures name only the worst.

    Raises:
        ValueError: min_group_size or n_resamples is below 1, or most_classes below 0.
    """

    min_group_size: int = MIN_GROUP_SIZE
    n_resamples: int = 1000
    seed: int = 0
    most_classes: int = 100

    def __post_init__(self) -> None:
        for name, least in (("min_group_size", 1), ("n_resamples", 1), ("most_classes", 0)):
            check_whole(name, getattr(self, name), least=least)
