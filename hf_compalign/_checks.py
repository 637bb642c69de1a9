"""Numbers and names that were given as options."""

import difflib
from collections.abc import Collection
from numbers import Real
from typing import Any


def check_whole(name: str, value: Any, *, least: int) -> None:
    """Raise a ValueError unless the value is a whole number and large enough."""
    if not hasattr(value, "__index__"):
        raise ValueError(f"{name} must be a whole number. Got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}. Got {value}.")


def check_share(name: str, value: Any, *, ends: bool) -> None:
    """Raise a ValueError unless the value is a number in (0, 1), or in [0, 1] with both ``ends``."""
    is_number = isinstance(value, Real)
    if not is_number or not (0 <= value <= 1 if ends else 0 < value < 1):
        hint = f" Did you mean {value / 100:g}?" if is_number and 1 <= value < 100 else ""
        raise ValueError(f"{name} must be a number in {'[0, 1]' if ends else '(0, 1)'}. Got {value!r}.{hint}")


def check_name(kind: str, name: str, allowed: Collection[str]) -> None:
    """Raise a ValueError that suggests a similar name unless the name is one of the allowed."""
    if name not in allowed:
        close = difflib.get_close_matches(name, allowed, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"There is no {kind} {name!r}. Allowed: {', '.join(allowed)}.{hint}")
