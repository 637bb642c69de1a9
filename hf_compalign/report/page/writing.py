"""An audit as one HTML page that needs nothing else: no network, no server, no other file."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from hf_compalign._files import write_text_atomic
from hf_compalign._formats import UNKNOWN, count, short_name
from hf_compalign._tables import Beyond, Kept, Name, Section, Words
from hf_compalign._visible import cleaned
from hf_compalign.measure.audit import CHANGES, batch_words, class_name, runtime_words, sections_of
from hf_compalign.report.page import charts
from hf_compalign.report.page.items import item_rows, links, script_json
from hf_compalign.report.page.summary import figures, missing, verdict
from hf_compalign.report.plots import AuditLike, Plotted, record_of

TEMPLATES = Path(__file__).parent.parent / "templates"
MOST_STATIC = 50  # items that are shown without JavaScript
_LONG_WORD = 8  # letters; the columns of the classes are wider for names with longer words
_MARKS: dict[type, str] = {Kept: "\N{CHECK MARK} ", Beyond: "\N{BALLOT X} "}


def write_report(
    path: str | Path,
    audits: Sequence[AuditLike],
    *,
    title: str | None = None,
    frontier: Sequence[Plotted] | None = None,
    chosen: tuple[str, ...] | None = None,
    judged: int | None = None,
) -> Path:
    """Write one HTML page about a candidate: verdict, charts, and a table of the items that it answers differently.

    The page loads nothing and runs nothing but its own script; a Content-Security-Policy holds it to that by hash.
    It shows texts of a dataset and names of classes, groups and models, and never obeys them. Without JavaScript it
    lacks only the items after the first 50, the explanations, searching and sorting.

    Args:
        path: of the HTML file, which is whole or not there.
        audits: each an `Audit` or its ``to_dict()``. The page is about the first, and sets the others beside it.
        title: of the page; by default the names of both models.
        frontier: the files that a repair measured, as in `hf_compalign.ship.frontier.Frontier.points`.
        chosen: the layers in float of the chosen file, as in ``Frontier.chosen``.
        judged: on how many other items it was judged, as in ``Frontier.n_judged``; None where the files were measured
            on the items of an audit.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are no audits, their inputs or references differ, or none is of the items of the frontier.
    """
    write_text_atomic(path, render(audits, title=title, frontier=frontier, chosen=chosen, judged=judged))
    return Path(path)


def render(
    audits: Sequence[AuditLike],
    *,
    title: str | None = None,
    frontier: Sequence[Plotted] | None = None,
    chosen: tuple[str, ...] | None = None,
    judged: int | None = None,
) -> str:
    """The page of `write_report`."""
    records = [cleaned(record_of(audit)) for audit in audits]
    if not records:
        raise ValueError("There is nothing to report. Give at least one audit.")
    _check_alike(records)
    found = records[0]
    names = (short_name(found[side]["model"]) for side in ("candidate", "reference"))
    outcome, words = verdict(found)
    style, script = _source("report.css"), _source("report.js")
    items = item_rows(found)
    data = {"names": found["label_names"], "cells": CHANGES, "items": items}
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=" against ".join(names) if title is None else cleaned(title),
            policy=_policy(style, script),
            style=style,
            script=script,
            data=Markup(script_json(data)),
            found=found,
            outcome=outcome,
            words=[*words, *_on_batches(records)],
            figures=figures(found),
            sections=_sections(records, frontier, chosen, judged),
            links=lambda table: links(table, found),
            missing=missing(found),
            static_items=items[:MOST_STATIC],
            columns=_columns(items),
            grouped=any(item["groups"] for item in items),
            n_pictured=sum(bool(item["image"]) for item in items),
            explained={item["explanation"]["kind"] for item in items if item["explanation"]},
            some_unexplained=not all(item["explanation"] for item in items),
            long_names=any(len(word) > _LONG_WORD for name in found["label_names"] for word in name.split()),
            cells=CHANGES,
            class_name=lambda index: class_name(found["label_names"], index),
            short_name=short_name,
            runtime_words=runtime_words,
        )
    )


def _check_alike(records: Sequence[Mapping[str, Any]]) -> None:
    """Refuse candidates that answered other inputs or have another reference, where that is known."""
    inputs = [record["data_fingerprint"] for record in records]
    references = [record["reference"]["model_fingerprint"] for record in records]
    for what, marks in (("inputs", inputs), ("reference", references)):
        known = [(place, mark) for place, mark in enumerate(marks, 1) if mark]
        for place, mark in known[1:]:
            if mark != known[0][1]:
                name = short_name(records[place - 1]["candidate"]["model"])
                raise ValueError(
                    "Only audits of the same inputs and the same reference can stand side by side. Audit "
                    f"{place} ({name}) has the {what} {mark}, audit {known[0][0]} has {known[0][1]}. Audit all "
                    "candidates on the same dataset against the same original, or write a page for each."
                )


def _on_batches(records: Sequence[Mapping[str, Any]]) -> list[Words]:
    """A sentence about the models whose answers depend on the batch, if there are any."""
    models = [records[0]["reference"], *(record["candidate"] for record in records)]
    words = batch_words((short_name(model["model"]), model) for model in models)
    return [words] if words else []


def _sections(
    records: Sequence[Mapping[str, Any]],
    frontier: Sequence[Plotted] | None,
    chosen: tuple[str, ...] | None,
    judged: int | None,
) -> list[tuple[Section, str]]:
    """The sections of the page, each with its figure or without."""
    found = records[0]
    about_one = [(section, charts.chart(section, found)) for section in sections_of(found)]
    compared = [charts.candidates(records)] if len(records) > 1 else []
    if frontier:
        items = {record["n"] for record in records}
        compared.append(charts.frontier(frontier, items=items, chosen=chosen, judged=judged))
    place = sum(section.key in ("answers", "limits", "rerun") for section, _ in about_one)
    return [*about_one[:place], *compared, *about_one[place:]]


def written(words: Words) -> Markup:
    """A sentence or a cell for the page: names have a direction and places to break of their own, numbers are typeset.

    >>> written(("from -0.5 to ", Name("<b>_1")))
    Markup('from \N{MINUS SIGN}0.5 to <bdi>&lt;b&gt;_<wbr>1</bdi>')
    """
    parts = (words,) if isinstance(words, str) else words
    return Markup("").join(
        Markup("<bdi>{}</bdi>").format(_breakable(part)) if isinstance(part, Name) else escape(_typeset(part))
        for part in parts
    )


def _breakable(name: str) -> Markup:
    """A name that goes on in a new line after a word of it, and never within one."""
    return Markup("<wbr>").join(re.split(r"(?<=[_./])(?=[^_./])", name))


def _typeset(text: str) -> str:
    """A minus for the hyphen before numbers, and units that stay with their numbers."""
    if text == UNKNOWN:
        return "\N{EN DASH}"
    signed = re.sub(r"(?:(?<=\de)|(?<!\w))-(?=\d)", "\N{MINUS SIGN}", text)
    return _MARKS.get(type(text), "") + re.sub(r"(?<=\d) (?=%|points|MB|ms)", "\N{NO-BREAK SPACE}", signed)


def _columns(items: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(key, title) of the columns of the table of items, without those that no item has."""
    labeled = any(item["label"] is not None for item in items)
    columns = [("item", "Item"), ("cell", "What changed"), ("label", "Label")]
    for side in ("reference", "candidate"):
        columns += [(side, side.capitalize()), (f"{side}_confidence", "Sure")]
    columns += [("reference_margin", "Margin"), ("kl", "KL")]
    return [(key, title) for key, title in columns if labeled or key not in ("cell", "label")]


def _policy(*sources: str) -> str:
    """Nothing but this style, this script, and images that are part of the page."""
    style, script = (base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in sources)
    return (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


@cache
def _source(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"written": written, "count": count, "name": Name}
    return environment
