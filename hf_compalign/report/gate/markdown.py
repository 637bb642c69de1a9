"""The summary of an audit in GitHub's Markdown: for the page of a job, or a comment on a pull request."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_compalign._files import write_text_atomic
from hf_compalign._formats import short_name
from hf_compalign._tables import Name, as_markdown, escaped
from hf_compalign._visible import cleaned
from hf_compalign.measure.audit import (
    Audit,
    batch_words,
    first_changed,
    metrics_beside_fields,
    outcome,
    sections_of,
    worst_groups,
)

_SIGNS = {"passed": "\N{WHITE HEAVY CHECK MARK}", "failed": "\N{CROSS MARK}", "none": "\N{WHITE CIRCLE}"}
# GitHub makes links of these, and a mention calls somebody.
_LINKED = re.compile(r"([@#])(?=\w)")


def write_summary(path: str | Path, audit: Audit) -> Path:
    """Write `as_summary`; the file is whole or not there."""
    write_text_atomic(path, as_summary(audit))
    return Path(path)


def as_summary(audit: Audit) -> str:
    """What happened, each limit with its verdict, the worst groups, and the first changed items by their ids.

    It holds no text and no image of the dataset. Names are escaped, and mention nobody.
    """
    found = cleaned(metrics_beside_fields(audit.to_dict()))
    return "\n\n".join(_LINKED.sub(r"\1<!-- -->", part) for part in _parts(found)) + "\n"


def _parts(found: Mapping[str, Any]) -> Iterator[str]:
    said = outcome(found)
    candidate, reference = (Name(short_name(found[side]["model"])) for side in ("candidate", "reference"))
    yield f"### {_SIGNS[said.state]} {said.title}: {escaped((candidate, ' against ', reference))}"
    yield escaped(f"{said.happened} {said.words[0].upper()}{said.words[1:]}")
    shown = "limits" if found["limits"] else "answers"
    for section in sections_of(found):
        if section.key == shown:
            yield as_markdown(section.tables[0])
        if section.key == "slices":
            yield f"**{escaped(section.title)}**"
            yield from map(as_markdown, section.shown(1))
        if section.key in (shown, "changes", "slices"):
            yield from map(escaped, section.notes)
    for table in (worst_groups(found), first_changed(found)):
        if table.rows:
            yield f"**{escaped(table.title)}**"
            yield as_markdown(table)
    if depending := batch_words((side, found[side]) for side in ("reference", "candidate")):
        yield escaped(depending)
