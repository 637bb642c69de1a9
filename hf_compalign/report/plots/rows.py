"""Rates of classes and of groups, one row each, the most harmed first; of bins by their values."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_compalign._formats import count, p_words, percent
from hf_compalign.measure.audit import groups_in_order, harmful_first
from hf_compalign.report.plots import style
from hf_compalign.report.plots.records import AuditLike, Dot, mismatches, number, percents, record_of, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_APART = 0.17  # of a row, between the middle and each of the two rates
_SIGNIFICANT = 0.05

Row = Mapping[str, Any]


def plot_classes(audit: AuditLike) -> "Figure":
    """Mismatch rate and NFR of each class of the labels, with 95 % intervals.

    The classes come in the order of the lower end of the NFR's interval, the highest first, so that a class of two
    items does not lead. The figure shows the first 25.
    """
    record = record_of(audit)
    missing = "This audit has no classes, since no item has a label. Predict on a dataset with labels."
    found = [row for row in section(record, "per_class", missing) if row["n"]]
    rows = harmful_first(found)[: style.MOST_ROWS]
    with style.drawing(1.5 + style.rows_height(len(rows))) as figure:
        panel = figure.subplots()
        names = [f"{style.shown(row['name'])} (n = {count(row['n'])})" for row in rows]
        _draw(panel, rows, names)
        _overall(panel, record)
        _finish(panel, names, "% of the class's items", _left_out(found, "classes with items", "the least harmed"))
    return figure


def plot_groups(audit: AuditLike, attribute: str | None = None) -> "Figure":
    """Mismatch rate and NFR of each group, with 95 % intervals, and the largest gap between two groups.

    Within an attribute the groups come in the order of `plot_classes`, bins in that of their values, the first 25.
    Small groups, which are out of the verdict, are hollow. A star marks a group that mismatches at another rate than
    the items outside it, by the test of `GroupRow` with Holm's correction.

    The figure shows one attribute, such as "target", or all, one below the other.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the audit has no groups, or none of that attribute.
    """
    record = record_of(audit)
    section(record, "groups", "This audit has no groups. Give groups= to audit.")
    by_attribute = _by_attribute(record, attribute)
    heights = [style.rows_height(min(len(rows), style.MOST_ROWS)) for rows in by_attribute.values()]
    gaps = {gap["attribute"]: gap for gap in record["gaps"]}
    with style.drawing(1.0 + sum(heights) + 0.9 * len(heights)) as figure:
        panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, (name, found) in zip(panels, by_attribute.items(), strict=True):
            rows = found[: style.MOST_ROWS]
            names = [_group_name(row) for row in rows]
            _draw(panel, rows, names)
            _overall(panel, record)
            title = style.wrapped([style.shown(name), *_gap(gaps.get(name))], names)
            panel.set_title(title, loc="left", fontsize=style.SMALL_TEXT, parse_math=False)
            _finish(panel, names, "% of the group's items", *_notes(rows, found, record["min_group_size"]))
    return figure


def _by_attribute(record: Row, wanted: str | None) -> dict[str, list[Row]]:
    attributes = dict.fromkeys(row["attribute"] for row in record["groups"])
    found = {attribute: groups_in_order(record, attribute) for attribute in attributes}
    if wanted is None:
        return found
    if wanted not in found:
        close = difflib.get_close_matches(wanted, found, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"This audit has no groups by {wanted!r}. It has groups by {', '.join(map(repr, found))}.{hint}"
        )
    return {wanted: found[wanted]}


def _draw(panel: Any, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Two dots on each row: mismatches above, lost right answers below."""
    hollow = [bool(row.get("small")) for row in rows]
    for dot, look, side, label in (
        (mismatches, {"color": style.BLUE, "marker": "o"}, -_APART, "answered differently (mismatch rate)"),
        (_lost, {"color": style.VERMILION, "marker": "D"}, _APART, "right before, wrong now (NFR)"),
    ):
        places = [place + side for place in range(len(rows))]
        style.draw_dots(panel, [*map(dot, rows)], rows=places, look=look, label=label, hollow=hollow)
    style.name_rows(panel, names)


def _lost(row: Row) -> Dot:
    return percents(row["nfr"], row["nfr_interval"])


def _overall(panel: Any, record: Row) -> None:
    rate = number(record["mismatch_rate"])
    label = f"mismatch rate of all items: {percent(rate)}"
    panel.axvline(100 * rate, color=style.MUTED, linestyle="--", linewidth=1, label=label)


def _finish(panel: Any, names: Sequence[str], x_label: str, *notes: str) -> None:
    style.caption(panel, f"{x_label}, with 95 % interval", *notes, names=names)
    panel.set_xlim(left=0)
    style.tidy(panel, grid="x")


def _left_out(found: Sequence[Row], of: str, which: str) -> str:
    left_out = len(found) - style.MOST_ROWS
    return f"{count(left_out)} of {count(len(found))} {of} are left out: {which}" if left_out > 0 else ""


def _group_name(row: Row) -> str:
    star = " *" if number(row["p_adjusted"]) < _SIGNIFICANT else ""
    return f"{style.shown(row['group'])} (n = {count(row['n'])}){star}"


def _notes(rows: Sequence[Row], found: Sequence[Row], min_group_size: int) -> list[str]:
    hollow = any(row["small"] for row in rows)
    starred = any(number(row["p_adjusted"]) < _SIGNIFICANT for row in rows)
    return [
        f"hollow: fewer than {min_group_size} items, out of the verdict" if hollow else "",
        f"* unlike the items outside the group (p < {_SIGNIFICANT} after Holm)" if starred else "",
        _left_out(found, "groups", "the last of the table"),
    ]


def _gap(gap: Row | None) -> list[str]:
    """The largest gap in words, where there are two groups to have one."""
    if gap is None:
        return []
    value, bound = (number(gap[name]) for name in ("mismatch_gap", "upper_bound"))
    if math.isnan(value):
        return []
    words = f"largest gap {100 * value:.1f} points"
    if not math.isnan(bound):
        words += f" (with 95 % confidence at most {100 * bound:.1f})"
    return [f"{words}; permutation test of all groups, by size: {p_words(gap['p_value'])}"]
