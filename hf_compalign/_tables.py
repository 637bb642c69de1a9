"""Tables and sentences as plain data, whoever shows them, and the simplest ways to do so: as text, as Markdown."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_compalign._visible import one_line

MOST_ROWS = 200  # in any table


class Name(str):
    """A text from the data: cut short in a line, and isolated in its reading direction on a page."""


class Kept(str):
    """Good news in a table, which a page marks."""


class Beyond(str):
    """Bad news in a table, which a page marks."""


Words = str | tuple[str, ...]  # a cell or a sentence, in parts if some of them are from the data
Column = tuple[Words, str | None, Callable[[Any], Words]]  # header, key (None: the whole row), format


@dataclass(frozen=True)
class Table:
    """A table of texts. The first cell of a row names it; the others are numbers, except in the columns ``words``."""

    title: str
    columns: Sequence[Words]
    rows: Sequence[Sequence[Words]]  # at most `MOST_ROWS`
    left_out: int = 0  # rows beyond those
    items: Sequence[Mapping[str, Any]] = ()  # per row, a filter for its changed items; empty where it has none
    words: tuple[int, ...] = ()
    rest: str = ""  # what the rows beyond those shown are, such as "less harmed"
    depth: int = 0  # 0: wherever an audit is shown; 1: not on a model card; 2: only on a page

    @classmethod
    def of(cls, title: str, rows: Sequence[Any], columns: Sequence[Column], **about: Any) -> "Table":
        """A table with a row for each record."""
        shown = rows[:MOST_ROWS]
        cells = [[form(row if key is None else row[key]) for _, key, form in columns] for row in shown]
        return cls(title, [header for header, *_ in columns], cells, left_out=len(rows) - len(shown), **about)


@dataclass(frozen=True)
class Section:
    """One part of a report, in sentences and tables."""

    key: str
    title: Words
    tables: tuple[Table, ...] = ()
    notes: tuple[Words, ...] = ()  # findings
    lead: tuple[Words, ...] = ()  # how to read them; only a page has the room

    def shown(self, depth: int) -> list[Table]:
        """The tables with rows, down to this depth."""
        return [table for table in self.tables if table.rows and table.depth <= depth]


def plain(words: Words) -> str:
    """A sentence or a cell on one line, with names cut short."""
    parts = (words,) if isinstance(words, str) else words
    return "".join(one_line(part) if isinstance(part, Name) else str(part) for part in parts)


def as_text(table: Table, most: int = MOST_ROWS) -> str:
    """Columns as wide as their widest cell: words to the left, numbers to the right."""
    rows = [[*map(plain, row)] for row in (table.columns, *table.rows[:most])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_left = {0, *table.words}
    lines = (
        "  ".join(
            text.ljust(width) if column in to_left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(table: Table) -> str:
    """A table of GitHub's Markdown: words to the left, numbers to the right."""
    head, *rows = ([escaped(cell) for cell in row] for row in (table.columns, *table.rows))
    marks = ["---" if column in (0, *table.words) else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows))


def section_as_markdown(section: Section) -> str:
    """The short tables of a section, and the sentences about them."""
    return "\n\n".join([*map(as_markdown, section.shown(0)), *map(escaped, section.notes)])


def escaped(words: Words) -> str:
    """A text for Markdown, which neither ends a cell nor starts markup of its own."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", plain(words))
