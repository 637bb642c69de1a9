"""The audit that a figure reads: its parts, and numbers as JSON keeps them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Audited(Protocol):
    """Anything with a ``to_dict`` that says what an audit found."""

    def to_dict(self) -> dict[str, Any]:
        """The audit as plain numbers, texts, lists and dicts."""


AuditLike = Audited | Mapping[str, Any]


def record_of(audit: AuditLike) -> Mapping[str, Any]:
    """What an audit found, as a dict.

    Raises:
        TypeError: it is no audit.
    """
    if isinstance(audit, Mapping):
        return audit
    if not hasattr(audit, "to_dict"):
        raise TypeError(f"A figure is drawn of an Audit or of its to_dict(). Got {type(audit).__name__}.")
    return audit.to_dict()


def section(record: Mapping[str, Any], name: str, missing: str) -> Any:
    """One part of an audit; a ValueError that says what is missing where it has none."""
    found = record.get(name)
    if not found:
        raise ValueError(missing)
    return found


def number(value: float | None) -> float:
    """A number as JSON keeps it: null is nan."""
    return math.nan if value is None else float(value)


def numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    """Several numbers, such as the two ends of an interval."""
    return tuple(map(number, values))


def estimate(found: Mapping[str, Any]) -> tuple[float, tuple[float, ...]]:
    """The value and the interval of an `Estimate`."""
    return number(found["value"]), numbers((found["low"], found["high"]))
