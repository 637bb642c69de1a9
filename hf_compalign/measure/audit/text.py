"""An audit as plain text and as tables of a notebook: a verdict in words, then the numbers."""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from html import escape
from typing import Any

from hf_compalign._formats import count
from hf_compalign._records import built
from hf_compalign._tables import Name, Section, Table, Words, as_text, plain
from hf_compalign._visible import cleaned, one_line
from hf_compalign.measure.audit.sections import sections_of
from hf_compalign.measure.audit.verdict import outcome
from hf_compalign.models import Runtime

MOST_ROWS = 20  # of a table
_DEPTH = 1
# Long enough for the names of models.
_whole = partial(one_line, most=400)
_filled = partial(textwrap.fill, width=116, break_long_words=False, break_on_hyphens=False)


def describe(found: Mapping[str, Any]) -> str:
    """The report of an audit as plain text, from its ``to_dict()``; no name in it ends a line or steers a terminal."""
    found = cleaned(found, _whole)
    shown = partial(as_text, most=MOST_ROWS)
    parts = [part for section in sections_of(found) for part in _parts(section, shown, _filled)]
    return "\n\n".join(["\n".join(_verdict(found)), *parts, "\n".join(_models(found))])


def describe_html(found: Mapping[str, Any]) -> str:
    """The same as HTML, for a notebook; every text of the data is escaped."""
    found = cleaned(found, _whole)
    happened, verdict = map(escape, _verdict(found))
    parts = [part for section in sections_of(found) for part in _parts(section, _html, _paragraph)]
    models = "<br>".join(map(escape, _models(found)))
    return "\n".join([f"<p>{happened}<br><strong>{verdict}</strong></p>", *parts, f"<p>{models}</p>"])


def _verdict(found: Mapping[str, Any]) -> list[str]:
    """Two lines: what changed, and what it means for the limits."""
    said = outcome(found)
    verdict = f"{said.title.upper()}: {said.words}" if said.state != "none" else said.words[0].upper() + said.words[1:]
    return [said.happened, verdict]


def _parts(section: Section, shown: Callable[[Table], str], sentence: Callable[[str], str]) -> list[str]:
    """The tables of a section, each with how many rows are left out, and the sentences below the first."""
    parts, notes = [], [sentence(plain(note)) for note in section.notes]
    for table in section.shown(_DEPTH):
        left_out = table.left_out + len(table.rows[MOST_ROWS:])
        rest = f", {table.rest}," if table.rest else ""
        more = [sentence(f"{count(left_out)} more{rest} are in the JSON and on the page.")] if left_out else []
        parts.append("\n".join([shown(table), *more, *notes]))
        notes = []
    return [*parts, *notes]


def _paragraph(sentence: str) -> str:
    return f"<p>{escape(sentence)}</p>"


def _html(table: Table) -> str:
    head, *rows = ([escape(plain(cell)) for cell in row] for row in (table.columns, *table.rows[:MOST_ROWS]))
    titles = "".join(f"<th>{text}</th>" for text in head)
    body = "".join(f"<tr>{''.join(f'<td>{text}</td>' for text in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _models(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for side in ("reference", "candidate"):
        model, mark = found[side]["model"] or "unnamed", found[side]["model_fingerprint"]
        lines.append(f"{side}: {model} ({mark})" if mark else f"{side}: {model}")
        if found[side].get("runtime") is not None:
            lines.append(f"  {runtime_words(found[side]['runtime'])}")
    return lines


def runtime_words(runtime: Mapping[str, Any]) -> str:
    """What computed a model's answers, from the ``to_dict()`` of an audit."""
    return str(built(Runtime, runtime))


def batch_words(models: Iterable[tuple[str, Mapping[str, Any]]]) -> Words:
    """A sentence about the models whose answers depend on the batch, from the ``to_dict()`` of audits; empty without.

    Args:
        models: what to call a model, and what its audit says of it.
    """
    runtimes = [(name, built(Runtime, model["runtime"])) for name, model in models if model.get("runtime") is not None]
    names = dict.fromkeys(name for name, runtime in runtimes if runtime.batch_dependent)
    if not names:
        return ""
    named = [part for name in names for part in (", ", Name(name))][1:]
    return (
        "Answers of ",
        *named,
        " depend on the batch, as dynamic INT8 takes its ranges from all items in it: alone, or in batches of another "
        "size than here, some items may be answered otherwise.",
    )
