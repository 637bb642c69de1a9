"""The five cells as one bar, with the items that changed enlarged below it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_compalign._formats import count, percent, plural
from hf_compalign.report.plots import style
from hf_compalign.report.plots.records import AuditLike, record_of, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The same answers come first, so that the changed cells are one piece at the end of the bar.
_SAME: dict[str, tuple[str, Any, str]] = {
    "both_right": ("both right", style.SKY, ""),
    "same_wrong": ("both wrong, same answer", style.GRAY, "--"),
    "same_answer": ("same answer", style.SKY, ""),
}
_CHANGED: dict[str, tuple[str, Any, str]] = {
    "lost": ("lost: right before, wrong now", style.VERMILION, "///"),
    "different_wrong": ("both wrong, different answers", style.ORANGE, "xxx"),
    "gained": ("gained: wrong before, right now", style.GREEN, "\\\\\\"),
    "different_answer": ("different answer", style.VERMILION, "///"),
}
_LOOKS = _SAME | _CHANGED
_LEAST_WIDTH = 0.012  # of a bar, for a cell with any item in it
_WHOLE, _ENLARGED, _TABLE = 2.0, 0.75, -0.1  # the places of the two bars and of the first row of the table


def plot_cells(audit: AuditLike) -> "Figure":
    """All compared items as one bar of cells, the changed ones enlarged in a second, and the count of each.

    A cell with few items is a little wider than its share, so that it can be seen. Without labels there are two
    cells: the same answer, and a different one.
    """
    counts, title = _counted(record_of(audit))
    changed = [name for name in counts if name in _CHANGED]
    same = [name for name in counts if name not in _CHANGED]
    with style.drawing(1.4 + 0.38 * len(counts), columns=0) as figure:
        panel = figure.subplots()
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_axis_off()
        panel.set_xlim(0, 1)
        panel.set_ylim(_TABLE - 0.4 * len(counts) - 0.1, _WHOLE + 0.7)
        widths = _widths(counts, [*same, *changed])
        _draw_bar(panel, widths, _WHOLE)
        enlarged = _widths(counts, changed)
        if enlarged:
            start = 1 - sum(widths[name] for name in enlarged)
            heights = [_WHOLE, _WHOLE, _ENLARGED + 0.55, _ENLARGED + 0.55]
            panel.fill([start, 1, 1, 0], heights, color=style.FAINT, linewidth=0)
            _draw_bar(panel, enlarged, _ENLARGED)
        _draw_table(panel, counts)
    return figure


def _counted(record: Mapping[str, Any]) -> tuple[dict[str, int], str]:
    """The items of each cell, and the title."""
    n, changed = section(record, "n", "This audit has no items. Audit at least one."), record["cie"]
    cells = record["cells"]
    if not cells:
        counts, items = {"same_answer": n - changed, "different_answer": changed}, plural(n, "item")
    else:
        counts = {name: int(cells[name]) for name in _LOOKS if name in cells}
        labeled = sum(counts.values())
        items = plural(n, "item") if labeled == n else f"{plural(labeled, 'labeled item')} of {count(n)}"
    changed = sum(counts[name] for name in counts if name in _CHANGED)
    return counts, f"{items}: {count(changed)} answered differently ({percent(changed / sum(counts.values()))})"


def _widths(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, float]:
    """The share of the bar for each cell with items; a cell too thin to be seen gets a little more."""
    total = sum(counts[name] for name in names)
    raw = {name: max(counts[name] / total, _LEAST_WIDTH) for name in names if counts[name]}
    return {name: width / sum(raw.values()) for name, width in raw.items()}


def _draw_bar(panel: Any, widths: Mapping[str, float], bottom: float) -> None:
    left = 0.0
    for name, width in widths.items():
        panel.barh(bottom, width, left=left, height=0.55, align="edge", label=name, **_look(name))
        left += width


def _look(name: str) -> dict[str, Any]:
    _, color, hatch = _LOOKS[name]
    return {"facecolor": color, "edgecolor": style.INK, "hatch": hatch, "linewidth": 0.8}


def _draw_table(panel: Any, counts: Mapping[str, int]) -> None:
    total = sum(counts.values())
    for row, (name, n) in enumerate(counts.items()):
        place = _TABLE - 0.4 * row
        panel.barh(place, 0.045, height=0.24, **_look(name))
        cells = (0.065, _LOOKS[name][0], "left"), (0.72, count(n), "right"), (0.88, percent(n / total), "right")
        for x, text, side in cells:
            panel.text(x, place, text, va="center", ha=side, fontsize=style.SMALL_TEXT)
