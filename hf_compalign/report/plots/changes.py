"""Which class turned into which: a matrix of few classes, or the largest changes among many."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_compalign._formats import count, plural
from hf_compalign.report.plots import style
from hf_compalign.report.plots.records import AuditLike, record_of, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 12  # of a matrix
MOST_BARS = 15
_STRONGEST = 0.65  # of the color: any darker, and a number on it is hard to read
_PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lost": ("right before, wrong now", {"facecolor": style.VERMILION, "hatch": "///"}),
    "gained": ("wrong before, right now", {"facecolor": style.GREEN, "hatch": "\\\\\\"}),
    "other": ("both wrong, or without a label", {"facecolor": style.ORANGE, "hatch": "xxx"}),
}

Row = Mapping[str, Any]


def plot_changes(audit: AuditLike) -> "Figure":
    """How many items went from each class of the reference's answers to each of the candidate's.

    Up to 12 classes are the rows and columns of a matrix, those that the most items leave or enter first. Of more
    classes the figure shows the 15 largest changes as bars, by what became of the items.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no answer changed.
    """
    record = record_of(audit)
    missing = "The two models answer every item alike, so no class turned into another. Plot other parts of this audit."
    rows, names = section(record, "changes", missing), record["label_names"]
    moved: dict[int, int] = {}
    for row in rows:
        for side in ("reference", "candidate"):
            moved[row[side]] = moved.get(row[side], 0) + row["n"]
    if len(moved) <= MOST_CLASSES:
        order = sorted(moved, key=lambda label: -moved[label])
        return _matrix(rows, {label: style.shown(names[label], most=24) for label in order})
    return _bars(rows, names)


def _matrix(rows: Sequence[Row], names: Mapping[int, str]) -> "Figure":
    places = {label: place for place, label in enumerate(names)}
    largest = max(row["n"] for row in rows)
    with style.drawing(1.6 + 0.42 * len(names), columns=0) as figure:
        from matplotlib.patches import Rectangle

        panel = figure.subplots()
        cells = [(place, place, style.FAINT) for place in places.values()]  # what did not change
        for row in rows:
            x, y, share = places[row["candidate"]], places[row["reference"]], row["n"] / largest
            cells.append((x, y, (0.0, 0.447, 0.698, 0.06 + (_STRONGEST - 0.06) * share)))  # style.BLUE
            panel.text(x, y, count(row["n"]), ha="center", va="center", fontsize=style.SMALL_TEXT)
        for x, y, color in cells:
            panel.add_patch(
                Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=color, edgecolor=style.INK, linewidth=0.5)
            )
        style.name_rows(panel, [*names.values()])
        slanted: dict[str, Any] = {"parse_math": False, "fontsize": style.SMALL_TEXT, "rotation": 40, "ha": "right"}
        panel.set_xticks(range(len(names)), [*names.values()], rotation_mode="anchor", **slanted)
        panel.set_xlim(-0.6, len(names) - 0.4)
        panel.tick_params(axis="x", length=0)
        panel.set_xlabel("the candidate's answer; a number counts items", fontsize=style.SMALL_TEXT)
        panel.set_ylabel("the reference's answer", fontsize=style.SMALL_TEXT)
        panel.spines[:].set_visible(False)
    return figure


def _bars(rows: Sequence[Row], names: Sequence[str]) -> "Figure":
    shown = rows[:MOST_BARS]
    with style.drawing(1.4 + 0.4 * len(shown)) as figure:
        panel = figure.subplots()
        left = [0] * len(shown)
        for part, (label, look) in _PARTS.items():
            widths = [row[part] if part in row else row["n"] - row["lost"] - row["gained"] for row in shown]
            panel.barh(range(len(shown)), widths, 0.36, left, label=label, edgecolor=style.INK, linewidth=0.5, **look)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for place, row in enumerate(shown):
            before, after = (style.shown(names[row[side]]) for side in ("reference", "candidate"))
            words = f"{before} \N{RIGHTWARDS ARROW} {after}: {count(row['n'])}"
            panel.text(0, place - 0.26, words, va="bottom", fontsize=style.SMALL_TEXT, parse_math=False)
        panel.set_yticks([])
        panel.set_ylim(len(shown) - 0.6, -0.9)
        panel.set_xlim(left=0)
        style.caption(panel, "items", _left_out(rows[MOST_BARS:], len(rows)))
        style.tidy(panel, grid="x")
    return figure


def _left_out(rarer: Sequence[Row], total: int) -> str:
    if not rarer:
        return ""
    items = plural(sum(row["n"] for row in rarer), "item")
    return f"{count(len(rarer))} of {count(total)} kinds of change are left out: the rarest, {items} together"
