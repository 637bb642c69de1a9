"""Whether two runs were set up alike: a resumed one must go on as it began."""

from collections.abc import Mapping
from typing import Any


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two recipes, as part of an error message; empty when nothing does.

    >>> changes({"sparsity": 0.5, "seed": 0}, {"sparsity": 0.6, "seed": 0})
    'sparsity: 0.5 -> 0.6'
    """
    keys = dict.fromkeys([*now, *was])
    return "; ".join(f"{key}: {was.get(key)!r} -> {now.get(key)!r}" for key in keys if was.get(key) != now.get(key))
