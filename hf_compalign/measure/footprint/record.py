"""What timing gives, as plain data, and how it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass

from hf_compalign._formats import decimals

WIDE = 0.25


@dataclass(frozen=True)
class Latency:
    """Median and quartiles of one forward pass, in milliseconds."""

    median_ms: float
    low_ms: float
    high_ms: float

    @property
    def is_wide(self) -> bool:
        """Whether the quartiles are further apart than `WIDE`, a quarter, of the median: a time not to be trusted."""
        return self.high_ms - self.low_ms > WIDE * self.median_ms


def quartiles(latency: Latency, digits: int = 2) -> str:
    """A median is never shown without the quartiles beside it.

    >>> quartiles(Latency(7.0, 6.5, 8.25))
    '7.00 (6.50 to 8.25)'
    """
    median, low, high = (decimals(ms, digits=digits) for ms in (latency.median_ms, latency.low_ms, latency.high_ms))
    return f"{median} ({low} to {high})"


def wide_spread(latencies: Mapping[str, Latency]) -> str:
    """A sentence about the latencies with a wide spread, by name; empty without any.

    >>> wide_spread({"a": Latency(7.0, 6.5, 8.0), "b": Latency(7.0, 6.5, 9.0)})
    'Not to be trusted: the quartiles of b are more than a quarter of the median apart. Time on a quiet machine.'
    """
    wide = [name for name, latency in latencies.items() if latency.is_wide]
    if not wide:
        return ""
    return (
        f"Not to be trusted: the quartiles of {', '.join(wide)} are more than a quarter of the median apart. Time on a "
        "quiet machine."
    )
