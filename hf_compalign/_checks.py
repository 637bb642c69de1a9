"""Whole numbers that were given as options."""

from typing import Any


def check_whole(name: str, value: Any, *, least: int) -> None:
    """Raise a ValueError unless the value is a whole number and large enough."""
    if not hasattr(value, "__index__"):
        raise ValueError(f"{name} must be a whole number. Got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}. Got {value}.")
