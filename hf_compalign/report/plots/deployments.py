"""Deployments side by side: how many answers each changes, against how much faster it is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hf_compalign._formats import count
from hf_compalign.measure.statistics import Estimate, undominated
from hf_compalign.report.plots import style
from hf_compalign.report.plots.points import Compared

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TimedPoint(Compared, Protocol):
    """What a figure needs of a deployment, such as a `hf_compalign.ship.deployments.Deployment`."""

    @property
    def name(self) -> str:
        """As it is called."""

    @property
    def speedup(self) -> Mapping[int, Estimate]:
        """Batch size -> how many times faster than the first, with an interval."""


def plot_deployments(rows: Sequence[TimedPoint], *, limit: float | None = None) -> "Figure":
    """Mismatches against speed, both with their 95 % intervals: a panel for each timed batch size.

    Each deployment bears its number in the list below the panels. A line joins those that no other beats in both.

    Args:
        rows: the deployments, such as `Deployments.rows`.
        limit: on the mismatch rate, as a share; a line.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are none, or none was timed.
    """
    sizes = sorted({size for row in rows for size in row.speedup})
    if not sizes:
        raise ValueError("There is nothing to plot. Give at least one deployment that was timed.")
    named = [f"{place}. {style.shown(row.name, most=60)}" for place, row in enumerate(rows, start=1)]
    with style.drawing(4.6 + 0.16 * len(rows), width=1.6 + 4.4 * len(sizes)) as figure:
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for panel, size in zip(panels, sizes, strict=True):
            _draw(panel, rows, size, limit)
        panels[0].set_ylabel(f"answers unlike the reference's (% of {count(rows[0].n)})")
        for name in named:
            panels[0].plot([], [], " ", label=name)
    return figure


def _draw(panel: Any, rows: Sequence[TimedPoint], size: int, limit: float | None) -> None:
    for place, row in enumerate(rows, start=1):
        if size not in row.speedup:
            continue
        speed, rate = row.speedup[size], 100 * row.mismatch_rate
        look, _ = style.look_of(row.limits, row.passed)
        low, high = (100 * end for end in row.mismatch_rate_interval)
        panel.vlines(speed.value, low, high, look["color"], linewidth=1.2)
        panel.hlines(rate, speed.low, speed.high, look["color"], linewidth=1.2)
        panel.scatter([speed.value], [rate], s=36, zorder=3, clip_on=False, **look)
        panel.annotate(str(place), (speed.value, rate), xytext=(5, 5), textcoords="offset points", fontsize=9)
    timed = [row for row in rows if size in row.speedup]
    best = undominated(timed, cost=lambda row: -row.speedup[size].value)
    line = [[row.speedup[size].value for row in best[::-1]], [100 * row.mismatch_rate for row in best[::-1]]]
    panel.plot(*line, color=style.MUTED, linewidth=1, zorder=1, label="no other is better in both")
    if limit is not None:
        panel.axhline(100 * limit, color=style.MUTED, linestyle="--", linewidth=1, label=f"{100 * limit:.3g} %")
    panel.set_xlabel(f"times faster, batches of {size}")
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.grid(color=style.FAINT)
