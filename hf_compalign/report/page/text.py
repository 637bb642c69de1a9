"""The words, numbers and tables of the report page."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hf_compalign.measure.audit import unsigned_zero

UNKNOWN = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"


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
        lead: paragraphs; names within them are set apart by `bdi`.
        charts: SVG elements.
        tables: below the charts.
    """

    key: str
    title: str
    lead: tuple[str, ...] = ()
    charts: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def bdi(name: str) -> Markup:
    """A name within a sentence: its reading direction is its own.

    >>> bdi("<b>")
    Markup('<bdi>&lt;b&gt;</bdi>')
    """
    return Markup("<bdi>{}</bdi>").format(name)


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
    return f"{_fixed(100 * value, digits, signed=signed)}{_SPACE}%"


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
    return minus(f"{value:.{digits}g}")


def decimals(value: Any, *, signed: bool = False) -> str:
    """A number with three decimals, so that a column of them is aligned.

    >>> decimals(0.5), decimals(-0.00001, signed=True)
    ('0.500', '0.000')
    """
    if not is_known(value):
        return UNKNOWN
    return _fixed(value, 3, signed=signed)


def count(value: int) -> str:
    """A whole number.

    >>> count(12345)
    '12,345'
    """
    return f"{value:,}"


def change(value: int) -> str:
    """A difference of counts.

    >>> change(12), change(0)
    ('+12', '0')
    """
    return minus(unsigned_zero(f"{value:+,}"))


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


def minus(words: str) -> str:
    """The same words, with a minus before numbers where there was a hyphen.

    >>> minus("well-known: -0.5, 1e-06")
    'well-known: −0.5, 1e−06'
    """
    return re.sub(r"(?:(?<=\de)|(?<!\w))-(?=\d)", _MINUS, words)


def _fixed(value: float, digits: int, *, signed: bool) -> str:
    return minus(unsigned_zero(f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"))
