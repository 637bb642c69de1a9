"""Slices as plain data: conditions that rows meet, in words, and what became of the answers there."""

import math
from dataclasses import dataclass
from typing import ClassVar

from hf_compalign._checks import check_name
from hf_compalign._formats import number
from hf_compalign._saved import Saved
from hf_compalign._tables import Name, plain

# What a condition asks of a row.
KINDS = ("word", "words", "value", "number", "image", "answers")


@dataclass(frozen=True)
class Condition:
    """What all rows of a slice have in common; ``print`` says it in words.

    >>> print(Condition("word", value="not")), print(Condition("words", threshold=30.0, above=True))
    contains 'not'
    more than 30 words
    (None, None)

    Attributes:
        kind: "word": the text contains ``value``; "words": its number of words; "value": ``column`` is, or has among
            others, ``value``; "number": of a ``column``; "image": a statistic of the image, ``column``; "answers": the
            reference answers ``value``, and ``second``, if said, is next.
        above: whether a number is above the ``threshold``, or else at most that.

    Raises:
        ValueError: there is no such kind.
    """

    kind: str
    column: str = ""
    value: str = ""
    second: str = ""
    threshold: float = math.nan
    above: bool = False

    def __post_init__(self) -> None:
        check_name("kind of condition", self.kind, KINDS)

    def __str__(self) -> str:
        return plain(condition_words(self))


def condition_words(condition: Condition) -> tuple[str, ...]:
    """A condition in words, with the names from the data apart."""
    value, end = Name(condition.value), number(condition.threshold)
    if condition.kind == "word":
        return "contains '", value, "'"
    if condition.kind == "words":
        return (f"{'more than' if condition.above else 'at most'} {end} words",)
    if condition.kind == "value":
        return Name(condition.column), " is '", value, "'"
    if condition.kind == "answers":
        next_one = (" before '", Name(condition.second), "'") if condition.second else ()
        return "the reference answers '", value, "'", *next_one
    return Name(condition.column), f" {'above' if condition.above else 'at most'} {end}"


@dataclass(frozen=True)
class SliceRow:
    """One slice: its items against all others, on items that it was not found on.

    Attributes:
        n: items of the slice.
        mismatches: those of them that changed.
        mismatch_rate_interval: 95 %, Wilson's.
        rest_rate: the mismatch rate of all other items.
        p_value: Fisher's exact test, one-sided, that answers change as often in the slice as elsewhere.
        p_adjusted: by Benjamini and Hochberg, over all slices that were tested.
        worse: whether answers are shown to change more often than elsewhere.
    """

    condition: Condition
    n: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    rest_rate: float
    p_value: float
    p_adjusted: float
    worse: bool

    def __str__(self) -> str:
        return str(self.condition)


@dataclass(frozen=True)
class Slices(Saved):
    """The result of `hf_compalign.find_slices` or of a check of saved ones.

    Attributes:
        rows: the slices that were found, or all that were checked, the smallest p-value first.
        n_searched: items that they were looked for on; 0 in a check.
        n_tested: other items that they were tested on; all of them in a check.
        n_candidates: how many were tested.
        level: the false discovery rate.
        checked: whether these are checks of slices that were given.
        of_examples: whether the items are one, drawn at random, of each example with several.
    """

    kind: ClassVar[str] = "hf_compalign.slicing"

    rows: tuple[SliceRow, ...]
    n_searched: int
    n_tested: int
    n_candidates: int
    level: float
    checked: bool = False
    of_examples: bool = False

    @property
    def passed(self) -> bool:
        """Whether no check shows a slice that is worse; finding one fails nothing."""
        return not (self.checked and any(row.worse for row in self.rows))
