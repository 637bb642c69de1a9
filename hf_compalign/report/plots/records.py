"""The audit that a figure reads: its parts, and numbers as JSON keeps them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hf_compalign.measure.audit import metrics_beside_fields


class Audited(Protocol):
    """Anything whose ``to_dict`` gives an audit."""

    def to_dict(self) -> dict[str, Any]:
        """The audit as plain numbers, texts, lists and dicts."""


AuditLike = Audited | Mapping[str, Any]
"""An `Audit`, or its ``to_dict()``."""
Dot = tuple[float, tuple[float, float]]  # a value and its interval


def record_of(audit: AuditLike) -> Mapping[str, Any]:
    """An audit as a dict with the metrics beside the fields.

    Raises:
        TypeError: it is no audit.
    """
    if not isinstance(audit, Mapping):
        if not hasattr(audit, "to_dict"):
            raise TypeError(f"A figure is drawn of an Audit or of its to_dict(). Got {type(audit).__name__}.")
        audit = audit.to_dict()
    return metrics_beside_fields(audit)


def section(record: Mapping[str, Any], name: str, missing: str) -> Any:
    """One part of an audit, or a ValueError with the message about what is missing."""
    found = record.get(name)
    if not found:
        raise ValueError(missing)
    return found


def number(value: float | None) -> float:
    """A number as JSON keeps it: null is nan."""
    return math.nan if value is None else float(value)


def estimate(found: Mapping[str, Any]) -> Dot:
    """The value and the interval of an `Estimate`."""
    return number(found["value"]), (number(found["low"]), number(found["high"]))


def percents(rate: float | None, interval: Sequence[float | None]) -> Dot:
    """A rate and its interval in percent."""
    low, high = interval
    return 100 * number(rate), (100 * number(low), 100 * number(high))


def mismatches(row: Mapping[str, Any]) -> Dot:
    """The mismatch rate of an audit, a class, a group or a bin, in percent."""
    return percents(row["mismatch_rate"], row["mismatch_rate_interval"])
