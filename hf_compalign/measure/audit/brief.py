"""An audit in brief, for a gate: what is missed, which groups pay most, and the first items that changed."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from hf_compalign._formats import count, interval, percent, plural
from hf_compalign._tables import Column, Name, Table, as_text, plain
from hf_compalign._visible import one_line
from hf_compalign.measure.audit.items import CHANGES
from hf_compalign.measure.audit.parts import MISMATCHES, changes, class_name, harmful_first
from hf_compalign.measure.audit.verdict import checked_slices, limits, missed, outcome
from hf_compalign.measure.slices import slice_words

Row = Mapping[str, Any]
MOST_ITEMS, MOST_GROUPS = 10, 5
_LONG_ID = 80  # ids are there to be looked up


def first_changed(found: Row) -> Table:
    """The first changed items by their ids, with both answers; no texts."""
    name = partial(class_name, found["label_names"])
    columns: list[Column] = [
        ("item", "id", partial(one_line, most=_LONG_ID)),
        ("reference", "reference", name),
        ("candidate", "candidate", name),
    ]
    if found["n_labeled"]:
        columns += [("label", "label", name), ("what changed", "cell", CHANGES.__getitem__)]
    shown = found["items"][:MOST_ITEMS]
    words = tuple(range(1, len(columns)))
    first = f"first {count(len(shown))} of " if len(shown) < found["cie"] else ""
    title = f"The {first}{plural(found['cie'], 'item')} that changed"
    return Table.of(title, shown, columns, words=words)


def worst_groups(found: Row) -> Table:
    """The groups that lost most, of any attribute; small ones do not count."""
    rows = harmful_first(row for row in found["groups"] if not row["small"])
    columns: list[Column] = [("group", None, _group), *MISMATCHES]
    if found["n_labeled"]:
        columns += [("NFR", "nfr", percent), ("95 % interval", "nfr_interval", interval)]
    return Table.of("The groups that lost most", rows[:MOST_GROUPS], columns)


def failure(found: Row) -> str:
    """What a failed test says: what happened, each limit that is missed, and the first items that changed."""
    said, items = outcome(found), first_changed(found)
    lines = [f"The candidate does not answer like the reference: {said.words}", said.happened]
    lines += [f"- {missed(row)}" for row in found["limits"] if not row["passed"]]
    worse = (row for row in checked_slices(found) if row["worse"])
    lines += [f"- {plain(slice_words(row, found['slices']))}" for row in worse]
    lines += map(plain, (*limits(found).notes, *changes(found).notes))
    return "\n".join([*lines, f"{items.title}:", as_text(items)] if items.rows else lines)


def _group(row: Row) -> tuple[str, ...]:
    return Name(row["attribute"]), ": ", Name(row["group"])
