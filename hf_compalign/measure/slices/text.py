"""Slices as a section of a report."""

from collections.abc import Mapping
from typing import Any

from hf_compalign._formats import count, interval, p_value, p_words, percent, plural
from hf_compalign._records import built
from hf_compalign._tables import Beyond, Column, Kept, Section, Table, Words
from hf_compalign.measure.slices.record import Condition, condition_words

Row = Mapping[str, Any]


def slices_section(found: Row) -> Section:
    """The slices of an audit, from the ``to_dict()`` of `Slices`."""
    columns: list[Column] = [
        ("slice", "condition", _condition),
        ("n", "n", count),
        ("mismatches", "mismatches", count),
        ("rate", "mismatch_rate", percent),
        ("95 % interval", "mismatch_rate_interval", interval),
        ("elsewhere", "rest_rate", percent),
        ("p (FDR)", "p_adjusted", p_value),
    ]
    if found["checked"]:
        columns.append(("verdict", "worse", _verdict))
    table = Table.of("Slices", found["rows"], columns, words=(7,), depth=1)
    return Section("slices", "Where answers change more than elsewhere", (table,), (_about(found),))


def slice_words(row: Row, found: Row) -> Words:
    """What became of one of the slices that were found, as a part of a sentence."""
    of, elsewhere = plural(row["n"], _what(found)), percent(row["rest_rate"])
    rates = f"{percent(row['mismatch_rate'])} of {of} changed, {elsewhere} elsewhere"
    return (*_condition(row["condition"]), f": {rates} ({p_words(row['p_adjusted'])})")


def _what(found: Row) -> str:
    """An item is drawn of each example, so that both are as many."""
    return "example" if found.get("of_examples") else "item"


def _condition(stored: Row) -> tuple[str, ...]:
    return condition_words(built(Condition, stored))


def _verdict(worse: bool) -> str:
    return Beyond("worse than elsewhere") if worse else Kept("not shown to be worse")


def _about(found: Row) -> str:
    level, what = percent(found["level"], digits=0), _what(found)
    if found["checked"]:
        return f"Slices that were found before, on {plural(found['n_tested'], what)}; false discovery rate {level}."
    tried = f"{plural(found['n_candidates'], 'candidate')} from {plural(found['n_searched'], what)}"
    where = f"tested on {count(found['n_tested'])} others; false discovery rate {level}."
    none = "" if found["rows"] else "No slice was found. "
    return f"{none}Slices were looked for, not given: {tried}, {where}"
