"""The five cells as one bar, with the items that changed enlarged below it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_compalign._formats import percent
from hf_compalign.report.plots import style
from hf_compalign.report.plots.records import AuditLike, record_of, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What stayed the same comes first, so that the changed cells are one piece at the end of the bar.
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
_LEAST_WIDTH = 0.012  # of a bar, that a cell with any item in it is drawn with
_WHOLE, _ENLARGED, _TABLE = 2.0, 0.75, -0.1  # where the two bars and the first row of the table are


def plot_cells(audit: AuditLike) -> "Figure":
    """All compared items as one bar of cells, the changed ones enlarged in a second, and the count of each.

    A cell with few items is drawn a little wider than its share, so that it can be seen. Without labels there are two
    cells: the same answer, and a different one.
    """
    counts, title = _counted(record_of(audit))
    changed = [name for name in counts if name in _CHANGED]
    same = [name for name in counts if name not in _CHANGED]
    with style.drawing(1.4 + 0.38 * len(counts)) as figure:
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
            panel.fill(
                [start, 1, 1, 0], [_WHOLE, _WHOLE, _ENLARGED + 0.55, _ENLARGED + 0.55], color=style.FAINT, linewidth=0
            )
            _draw_bar(panel, enlarged, _ENLARGED)
        _draw_table(panel, counts)
    return figure


def _counted(record: Mapping[str, Any]) -> tuple[dict[str, int], str]:
    """The items of each cell, and the title."""
    n, changed = section(record, "n", "This audit has no items. Audit at least one."), record["cie"]
    cells = record["cells"]
    if not cells:
        title = f"{n:,} item{'' if n == 1 else 's'}: {changed:,} answered differently ({percent(changed / n)})"
        return {"same_answer": n - changed, "different_answer": changed}, title
    counts = {name: int(cells[name]) for name in _LOOKS if name in cells}
    labelled, changed = sum(counts.values()), sum(counts[name] for name in counts if name in _CHANGED)
    items = "item" if labelled == 1 else "items"
    of = items if labelled == n else f"labelled {items} of {n:,}"
    return counts, f"{labelled:,} {of}: {changed:,} answered differently ({percent(changed / labelled)})"


def _widths(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, float]:
    """The share of the bar that each cell with items takes; what is too thin to be seen gets a little more."""
    total = sum(counts[name] for name in names)
    raw = {name: max(counts[name] / total, _LEAST_WIDTH) for name in names if counts[name]}
    return {name: width / sum(raw.values()) for name, width in raw.items()}


def _draw_bar(panel: Any, widths: Mapping[str, float], bottom: float) -> None:
    left = 0.0
    for name, width in widths.items():
        _, color, hatch = _LOOKS[name]
        look = {"facecolor": color, "edgecolor": style.INK, "hatch": hatch, "linewidth": 0.8}
        panel.barh(bottom, width, left=left, height=0.55, align="edge", label=name, **look)
        left += width


def _draw_table(panel: Any, counts: Mapping[str, int]) -> None:
    total = sum(counts.values())
    for row, (name, count) in enumerate(counts.items()):
        title, color, hatch = _LOOKS[name]
        place = _TABLE - 0.4 * row
        look = {"facecolor": color, "edgecolor": style.INK, "hatch": hatch, "linewidth": 0.8}
        panel.barh(place, 0.045, height=0.24, **look)
        panel.text(0.065, place, title, va="center", fontsize=style.SMALL_TEXT)
        panel.text(0.72, place, f"{count:,}", va="center", ha="right", fontsize=style.SMALL_TEXT)
        panel.text(0.88, place, percent(count / total), va="center", ha="right", fontsize=style.SMALL_TEXT)
