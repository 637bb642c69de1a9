"""The words, numbers and tables of the report page: text that anyone may have written, made safe to look at."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNKNOWN = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
# Controls that turn the reading direction of what follows, and marks that take no space.
_DIRECTIONS = "\u202a-\u202e\u2066-\u2069"
_UNSEEN = "\u200b\u2060-\u2064\ufeff"
_HIDDEN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_DIRECTIONS}{_UNSEEN}\ud800-\udfff]")


@dataclass(frozen=True)
class Table:
    """A table of texts. The first cell of a row is its header, and the others are numbers unless named in ``words``.

    Attributes:
        caption: what it shows.
        columns: the headers.
        rows: as many cells each.
        links: where the header of each row leads; empty for a table without links.
        words: the columns that hold words.
        folded: whether it is shown on demand, since a chart shows the same.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    links: Sequence[str] = ()
    words: tuple[int, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: its anchor.
        title: its heading.
        lead: paragraphs.
        charts: SVG elements.
        tables: below the charts.
    """

    key: str
    title: str
    lead: tuple[str, ...] = ()
    charts: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def visible(text: str) -> str:
    """The text with what would hide, break or turn it made visible: controls, lone surrogates, direction changes.

    >>> visible("a\\x00b \\u202e c")
    'a[U+0000]b [U+202E] c'
    """
    text = text.replace("\r\n", "\n")
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def cleaned(value: Any) -> Any:
    """The same dicts and lists, with every text made `visible`."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {cleaned(name): cleaned(item) for name, item in value.items()}
    return [cleaned(item) for item in value] if isinstance(value, (list, tuple)) else value


def short_name(model: str) -> str:
    """What to call a model: its Hub id, or its folder without the local path to it.

    >>> short_name("org/model"), short_name("/home/me/runs/pruned/"), short_name("")
    ('org/model', 'pruned', 'unnamed')
    """
    parts = [part for part in re.split(r"[/\\]", model) if part]
    is_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", model)
    return model if is_id else (parts[-1] if parts else "unnamed")


def is_known(value: Any) -> bool:
    """Whether there is a number: not None, as JSON has it, and not nan."""
    return value is not None and not math.isnan(value)


def percent(value: Any, *, signed: bool = False, digits: int = 2) -> str:
    """A share in percent.

    >>> percent(0.0123), percent(float("nan")), percent(0.0123, signed=True)
    ('1.23\\xa0%', '–', '+1.23\\xa0%')
    """
    if not is_known(value):
        return UNKNOWN
    return f"{_signed(100 * value, digits) if signed else f'{100 * value:.{digits}f}'}{_SPACE}%"


def points(value: Any, *, signed: bool = False) -> str:
    """A difference of two shares, in percentage points.

    >>> points(0.0123, signed=True)
    '+1.23\\xa0points'
    """
    return percent(value, signed=signed).replace("%", "points")


def number(value: Any, *, digits: int = 3) -> str:
    """A number with so many significant digits.

    >>> number(0.012345), number(None), number(12345, digits=5)
    ('0.0123', '–', '12345')
    """
    if not is_known(value):
        return UNKNOWN
    return f"{value:.{digits}g}".replace("-", _MINUS)


def decimals(value: Any, *, signed: bool = False) -> str:
    """A number with three decimals, so that a column of them is aligned.

    >>> decimals(0.5), decimals(0.0, signed=True)
    ('0.500', '+0.000')
    """
    if not is_known(value):
        return UNKNOWN
    return (f"{value:+.3f}" if signed else f"{value:.3f}").replace("-", _MINUS)


def count(value: int) -> str:
    """A whole number.

    >>> count(12345)
    '12,345'
    """
    return f"{value:,}"


def change(value: int) -> str:
    """A difference of counts.

    >>> change(12), change(0)
    ('+12', '+0')
    """
    return f"{value:+,}".replace("-", _MINUS)


def interval(ends: Sequence[Any], *, signed: bool = False, digits: int = 2) -> str:
    """Both ends of an interval, in percent.

    >>> interval([0.01, 0.02])
    '1.00 to 2.00\\xa0%'
    """
    if not is_known(ends[0]) or not is_known(ends[1]):
        return UNKNOWN
    low = percent(ends[0], signed=signed, digits=digits).removesuffix(f"{_SPACE}%")
    return f"{low} to {percent(ends[1], signed=signed, digits=digits)}"


def ends(estimate: Mapping[str, Any]) -> tuple[Any, Any]:
    """The ends of an estimate."""
    return estimate["low"], estimate["high"]


def p_value(value: Any) -> str:
    """A p-value; very small ones say no more than that.

    >>> p_value(0.0312), p_value(1e-9)
    ('0.031', '< 0.0001')
    """
    if not is_known(value):
        return UNKNOWN
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def p_words(value: Any) -> str:
    """The same within a sentence.

    >>> p_words(0.0312), p_words(1e-9)
    ('p = 0.031', 'p < 0.0001')
    """
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def plural(n: int, one: str, several: str | None = None) -> str:
    """A count with its noun.

    >>> plural(1, "item"), plural(2000, "item"), plural(0, "class", "classes")
    ('1 item', '2,000 items', '0 classes')
    """
    return f"{count(n)} {one if n == 1 else several or f'{one}s'}"


def first_of(rows: Sequence[Any], *, most: int = 200) -> tuple[Sequence[Any], str]:
    """As many rows as a table should have, and what its caption says of the others.

    >>> first_of("abc", most=2), first_of("ab", most=2)
    (('ab', ' (2 of 3)'), ('ab', ''))
    """
    left_out = f" ({count(most)} of {count(len(rows))})" if len(rows) > most else ""
    return rows[:most], left_out


def harmful_first(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of classes or groups in the order of the charts: the surest mismatches first, those without items last."""

    def harm(row: Mapping[str, Any]) -> tuple[float, float]:
        low, rate = row["mismatch_rate_interval"][0], row["mismatch_rate"]
        return (low, rate) if is_known(low) else (-math.inf, -math.inf)

    return sorted(rows, key=harm, reverse=True)


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("-", _MINUS)
