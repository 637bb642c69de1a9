"""How every text, table, page and card writes numbers and lists: in ASCII, since some terminals have no more."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

UNKNOWN = "-"


def is_known(value: Any) -> bool:
    """Whether there is a number: neither nan nor None, its form in JSON."""
    return value is not None and not math.isnan(value)


def decimals(value: Any, *, digits: int = 3, signed: bool = False) -> str:
    """A number with a fixed count of decimals; zero has no sign.

    >>> decimals(0.5), decimals(-0.00001, signed=True), decimals(None)
    ('0.500', '0.000', '-')
    """
    if not is_known(value):
        return UNKNOWN
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    return text if text.strip("+-0.") else text.lstrip("+-")


def percent(share: Any, *, digits: int = 2, signed: bool = False) -> str:
    """A share in percent.

    >>> percent(0.0123), percent(float("nan")), percent(0.0123, signed=True)
    ('1.23 %', '-', '+1.23 %')
    """
    return f"{decimals(100 * share, digits=digits, signed=signed)} %" if is_known(share) else UNKNOWN


def points(difference: Any, *, signed: bool = False) -> str:
    """A difference of two shares, in percentage points.

    >>> points(0.0123, signed=True)
    '+1.23 points'
    """
    return percent(difference, signed=signed).replace("%", "points")


def change(difference: Any) -> str:
    """Percentage points with their sign."""
    return points(difference, signed=True)


def number(value: Any) -> str:
    """A number with four significant digits, or as a whole one where it has more of them.

    >>> number(0.0123456), number(165012.4), number(None)
    ('0.01235', '165,012', '-')
    """
    if not is_known(value):
        return UNKNOWN
    short = f"{value:.4g}"
    return f"{value:,.0f}" if abs(float(short)) >= 1000 else short


def count(value: int) -> str:
    """A whole number.

    >>> count(12345)
    '12,345'
    """
    return f"{value:,}"


def plural(n: int, one: str, several: str = "") -> str:
    """A count with its noun.

    >>> plural(1, "item"), plural(2000, "item"), plural(0, "class", "classes")
    ('1 item', '2,000 items', '0 classes')
    """
    return f"{count(n)} {one if n == 1 else several or f'{one}s'}"


def first_of(names: Sequence[str], *, most: int = 3) -> str:
    """The first names, and how many more there are.

    >>> first_of(["q", "k", "v", "o"])
    'q, k, v, ... (1 more)'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names) - most} more)"


def megabytes(size_bytes: Any, *, digits: int = 2) -> str:
    """Bytes in millions, as in the sizes that the Hub shows."""
    return decimals(None if size_bytes is None else size_bytes / 1e6, digits=digits)


def ratio(before: float, after: float) -> str:
    """after / before; empty where there was nothing before."""
    return decimals(after / before, digits=2) if before else ""


def interval(ends: Sequence[Any], form: Callable[[Any], str] = percent) -> str:
    """Both ends of an interval, with one unit.

    >>> interval([0.01, 0.02]), interval([float("nan")] * 2)
    ('1.00 to 2.00 %', '-')
    """
    low, high = ends
    return f"{form(low).partition(' ')[0]} to {form(high)}" if is_known(low) and is_known(high) else UNKNOWN


def p_value(value: Any) -> str:
    """A p-value, or that it is very small.

    >>> p_value(0.03124), p_value(1e-9)
    ('0.0312', '< 0.001')
    """
    if not is_known(value):
        return UNKNOWN
    return "< 0.001" if value < 1e-3 else f"{value:.3g}"


def p_words(value: Any) -> str:
    """A p-value within a sentence.

    >>> p_words(0.03124), p_words(1e-9)
    ('p = 0.0312', 'p < 0.001')
    """
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def short_name(model: str) -> str:
    """A model's Hub id, or its folder without the local path.

    >>> short_name("org/model"), short_name("/home/me/runs/pruned/"), short_name("")
    ('org/model', 'pruned', 'unnamed')
    """
    parts = [part for part in re.split(r"[/\\]", model) if part]
    is_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", model)
    return model if is_id else (parts[-1] if parts else "unnamed")


def distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where they repeat.

    >>> distinct(["a", "b", "a"])
    ['a (1)', 'b', 'a (3)']
    """
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]
