"""The lowest threshold that keeps a budget, and what would help where there is none."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hf_compalign._formats import percent, plural
from hf_compalign.measure.statistics import example_bounds, examples_needed, items_needed, most_within, upper_bound


@dataclass(frozen=True, eq=False)
class Drawn:
    """The items that count, and the examples that were drawn to get them.

    Attributes:
        places: int64 [N], the example of each item.
        sizes: int64 [G], how many items of each example count.
        budget: the largest acceptable share of the items.
        level: of the bounds.
        what: "item" where each is an example, else "example".
    """

    places: NDArray[np.int64]
    sizes: NDArray[np.int64]
    budget: float
    level: float
    what: str

    @classmethod
    def of(cls, n: int, examples: NDArray[np.int64] | None, *, budget: float, level: float) -> "Drawn":
        """From the example [n] of each item; None where each is one."""
        if examples is None:
            return cls(np.arange(n), np.ones(n, dtype=np.int64), budget, level, "item")
        _, places, sizes = np.unique(examples, return_inverse=True, return_counts=True)
        return cls(places, sizes, budget, level, "example")

    def bound(self, hits: NDArray[np.bool_]) -> float:
        """The upper bound of the rate of hits, bool [N]: Clopper-Pearson's, or that of items that share examples."""
        of_examples = np.bincount(self.places, weights=hits, minlength=len(self.sizes))
        return example_bounds(of_examples, self.sizes, self.level)[1]

    @property
    def single(self) -> bool:
        """Whether each example has one item that counts."""
        return len(self.sizes) == len(self.places)

    @property
    def promised(self) -> float:
        """The largest bound within the budget, which is promised whatever the items turn out to be.

        Single items have but n + 1 of them; where items share examples it is taken to be the budget itself.
        """
        n = len(self.places)
        return upper_bound(most_within(self.budget, n, self.level), n, self.level) if self.single else self.budget

    @property
    def needed(self) -> int:
        """How many examples show the budget if nothing differs; more of the same sizes, where these differ."""
        if self.single:
            return int(items_needed(self.budget, level=self.level))
        shown = self.bound(np.zeros(len(self.places), dtype=bool))
        return int(examples_needed(len(self.sizes), shown, self.budget))

    def __str__(self) -> str:
        items = plural(len(self.places), "item")
        return items if self.what == "item" else f"{items} of {plural(len(self.sizes), self.what)}"


def lowest_threshold(
    drawn: Drawn, sure: NDArray[np.float64], differ: NDArray[np.bool_], behind: NDArray[np.bool_]
) -> float:
    """The lowest threshold whose bound is within the budget, if that of the highest is; -inf if any is.

    Args:
        drawn: the items that count.
        sure: [N], how sure the candidate is of each, the same for all of an example.
        differ: [N], whether it answers otherwise than the reference.
        behind: [N], whether the model that gets what is deferred does: these count at any threshold.
    """
    thresholds = [*np.unique(sure[differ])[::-1].tolist(), -math.inf]
    kept, beyond = 0, len(thresholds)
    while beyond - kept > 1:  # what is let through only grows, and so does its bound
        middle = (kept + beyond) // 2
        within = drawn.bound(behind | (differ & (sure > thresholds[middle]))) <= drawn.budget
        kept, beyond = (middle, beyond) if within else (kept, middle)
    return thresholds[kept]


def check_keepable(drawn: Drawn, behind: NDArray[np.bool_], *, confidence: float, scores: tuple[str, ...]) -> None:
    """Refuse a budget that no threshold keeps, whatever the candidate answers.

    Raises:
        ValueError: too few examples to show it, or what the model behind answers otherwise exceeds it.
    """
    none, shown = drawn.bound(np.zeros_like(behind)), drawn.bound(behind)
    if none > drawn.budget:
        about = "at least" if drawn.single else "about"
        needed, alone = (plural(one.needed, drawn.what) for one in (drawn, replace(drawn, level=confidence)))
        fewer = f" One score alone, such as scores=[{scores[0]!r}], needs {alone}." if len(scores) > 1 else ""
        raise ValueError(
            f"A budget of {100 * drawn.budget:g} % cannot be shown to be kept on so few {drawn.what}s: with {drawn} "
            f"and a confidence of {100 * confidence:g} % you can show at most {percent(none)}. Give {about} {needed}, "
            f"or a budget above that.{fewer}"
        )
    if shown > drawn.budget:
        raise ValueError(
            f"The fallback by itself exceeds the budget of {100 * drawn.budget:g} %: it answers {int(behind.sum())} "
            f"of {drawn} otherwise than the reference, which shows at most {percent(shown)}. Take one that is closer, "
            "such as the reference itself."
        )


def never_sure(
    drawn: Drawn, sure: Mapping[str, NDArray[np.float64]], differ: NDArray[np.bool_], behind: NDArray[np.bool_]
) -> str:
    """What would let the candidate answer the items that it is surest of, by each score."""
    least = min(drawn.bound(behind | (differ & (found == found.max()))) for found in sure.values())
    more = f"A budget above {percent(least)} lets it answer some." if least < 1 else "No budget lets it answer any."
    return (
        f"No threshold keeps a budget of {100 * drawn.budget:g} %: of {drawn} the candidate answers "
        f"{int(differ.sum())} otherwise than the reference, and those that it is surest of are among them. "
        f"{more} Repair the candidate, or ship the reference."
    )
