"""What the figures share: colors and shapes, clean labels, and dots with intervals.

Text and lines are black, so that `hf_compalign.report.page.svg` can give them the color of the page's own text. Data
have the colors of Okabe and Ito, which every kind of color vision tells apart. Shapes or hatches differ too.
"""

import math
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_compalign._extras import needs_extra
from hf_compalign._visible import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9"
GRAY = "#999999"
# What became of the limits: look and label.
LIMITS = {
    "passed": ({"color": BLUE, "marker": "o"}, "within the limits"),
    "failed": ({"color": VERMILION, "marker": "X"}, "not shown to be within the limits"),
    "none": ({"color": GREEN, "marker": "D"}, "no limit was set"),
}
INK = "black"
MUTED = (0.0, 0.0, 0.0, 0.6)
FAINT = (0.0, 0.0, 0.0, 0.15)

MINUS = "\N{MINUS SIGN}"
WIDTH = 6.4  # inches
MOST_ROWS = 25
SMALL_TEXT = 9
_LETTER = 0.078  # inches, of small text


@contextmanager
def drawing(height: float, *, width: float = WIDTH, columns: int = 2) -> Iterator["Figure"]:
    """An empty figure, in inches, that looks the same whatever style the session has set, and in the end gets a legend.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with needs_extra("report", what="A figure"):
        from matplotlib import style
        from matplotlib.figure import Figure

    with style.context("default"):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        if columns:
            _draw_legend(figure, columns)


def look_of(limits: object, passed: bool) -> tuple[dict[str, str], str]:
    """The look of a file, by what became of its limits, and what that means."""
    return LIMITS["none" if not limits else "passed" if passed else "failed"]


def shown(name: object, *, most: int = 32) -> str:
    r"""A name from the data as `one_line`, with a mark for what is no character.

    >>> shown("two\nlines\u202e")
    'two lines[U+202E]'
    """
    line = one_line(name, most=most)
    no_font_has = ("Cn", "Co")
    return "".join("\ufffd" if unicodedata.category(letter) in no_font_has else letter for letter in line)


def rows_height(n_rows: int) -> float:
    """Inches for so many named rows."""
    return 0.27 * max(n_rows, 2)


def name_rows(panel: Any, names: Sequence[str]) -> None:
    """Put a name beside each row, the first at the top, and never read it as a formula."""
    panel.set_yticks(range(len(names)), names, parse_math=False, fontsize=SMALL_TEXT)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0, pad=8)  # no marker at 0 reaches the names


def caption(panel: Any, *lines: str, names: Sequence[str] = ()) -> None:
    """Write below the x axis, within what the names of the rows leave of the figure's width."""
    panel.set_xlabel(wrapped(lines, names), fontsize=SMALL_TEXT, parse_math=False)


def wrapped(lines: Sequence[str], names: Sequence[str]) -> str:
    """The lines that say something, within what the names of the rows leave of the figure's width."""
    letters = int((WIDTH - 0.3) / _LETTER) - max(map(len, names), default=0)
    return "\n".join(textwrap.fill(line, letters) for line in lines if line)


def draw_dots(
    panel: Any,
    dots: Sequence[tuple[float, tuple[float, float]]],
    *,
    rows: Sequence[float],
    look: Mapping[str, Any],
    label: str,
    hollow: Sequence[bool] = (),
) -> None:
    """Draw values with their intervals along the x axis, one on each row, and leave out nan."""
    for row, (value, (low, high)) in zip(rows, dots, strict=True):
        if not math.isnan(value + low):
            panel.hlines(row, low, high, color=look["color"], linewidth=1.3)
    named: str | None = label
    for face, open_ones in ((look["color"], False), ("none", True)):
        part = [
            (value, row)
            for row, (value, _), small in zip(rows, dots, hollow or [False] * len(dots), strict=True)
            if small == open_ones and not math.isnan(value)
        ]
        if part:
            drawn = {"marker": look["marker"], "facecolors": face, "edgecolors": look["color"], "s": 38, "zorder": 3}
            panel.scatter(*zip(*part, strict=True), clip_on=False, label=named, **drawn)
            named = None  # once in the legend


def tidy(panel: Any, *, grid: str) -> None:
    """Draw faint lines along one axis, and no frame but the axes."""
    panel.grid(axis=grid, color=FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_legend(figure: "Figure", columns: int) -> None:
    """One above all panels, with each label once."""
    found: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    look = {"frameon": False, "fontsize": SMALL_TEXT, "borderaxespad": 0.2}
    figure.legend([*found.values()], [*found], loc="outside upper left", ncols=columns, **look)
