"""The verdict on what a search found, on rows that it has not seen."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hf_compalign.ship.frontier import Point
from hf_compalign.ship.repair.parts import rows_needed
from hf_compalign.ship.repair.search import Found

_Searched = TypeVar("_Searched")
_Judged = TypeVar("_Judged", bound=Any)


def fixed_sequence(candidates: Sequence[_Searched], judge: Callable[[_Searched], _Judged]) -> list[_Judged]:
    """Judge the candidates in their order, up to the first that does not keep the limits.

    The order is fixed before any of them is judged. A file beyond a limit is chosen only if the first such file of the
    sequence passes, which its 95 % bound lets happen with a probability of at most 5 %. So the bound of the last file
    that passes holds although several were tried, without a correction: the fixed-sequence test of Learn then Test
    (https://huggingface.co/papers/2110.01052). Files that were not judged are not used.

    Args:
        candidates: those that the search offers, the safest first.
        judge: a file as searched -> the same file on rows that the search has not seen; it says whether it ``passed``.

    Returns:
        The judged files, in this order.
    """
    judged: list[_Judged] = []
    for candidate in candidates:
        judged.append(judge(candidate))
        if not judged[-1].passed:
            break
    return judged


def chosen_of(judged: Sequence[_Judged]) -> _Judged:
    """The last that keeps the limits; without any, the first."""
    return next((point for point in reversed(judged) if point.passed), judged[0])


def verdict_of(found: Found, judged: Sequence[Point], *, n_layers: int, share: float) -> str:
    """What came out, in words.

    Args:
        found: by the search.
        judged: by `fixed_sequence`.
        n_layers: how many can be INT8.
        share: of the rows that were searched on.
    """
    chosen = chosen_of(judged)
    words = _kept(found, chosen, n_layers) if chosen.passed else _not_kept(found, chosen, n_layers)
    differ = f"{chosen.mismatches:,} of {chosen.n:,} answers differ"
    tightest = max((one for one in chosen.limits if not one.passed), key=lambda one: one.needed, default=None)
    more = ""
    if tightest is not None and tightest.needed < math.inf:
        needed = rows_needed(tightest.needed, share)
        more = f" At this rate it would take some {needed:,} {tightest.of_what}s to show it."
    return f"{words} On items that the search has not seen {differ}.{more}"


def _kept(found: Found, chosen: Point, n_layers: int) -> str:
    stay = f"{len(chosen.kept)} of {n_layers} layers stay in float: {', '.join(chosen.kept)}"
    if not chosen.kept:
        return f"KEPT: with all {n_layers} layers in INT8."
    if not found.best.passed:
        return f"KEPT: {stay}. In the search no file kept the limits, and this one came closest."
    if chosen.kept != found.best.kept:
        return f"KEPT: {stay}. With fewer the limits were kept in the search alone: more rows may allow fewer."
    if found.complete:
        return f"KEPT: {stay}. None of them alone can go back to INT8."
    return f"KEPT: {stay}. Fewer may do, but {_spent(found)}"


def _not_kept(found: Found, chosen: Point, n_layers: int) -> str:
    if found.best.passed:
        stay = f"{len(chosen.kept)} of {n_layers} layers in float"
        return (
            f"NOT KEPT: of the files that kept the limits in the search, the safest has {stay} and does not keep them."
        )
    if not found.complete:
        return f"NOT KEPT by any file so far, but {_spent(found)}"
    in_float = max(found.points, key=lambda point: len(point.kept))
    return (
        f"NOT KEPT: no set of layers suffices. Even with all of them in float {in_float.mismatches} of {in_float.n} "
        "answers differ from the reference's in the search, so it is not INT8 that makes the difference."
    )


def _spent(found: Found) -> str:
    return f"the {found.n_measured} measurements were spent: allow more with max_measurements (--max-measurements)."
