"""The measured files: mismatches against size and latency."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hf_compalign._formats import count
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.statistics import undominated
from hf_compalign.report.plots import style
from hf_compalign.report.plots.points import Compared

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plotted(Compared, Protocol):
    """What a figure needs of a measured file, such as a `hf_compalign.ship.Point`."""

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers in float."""

    @property
    def size_bytes(self) -> int:
        """The bytes of the file."""

    @property
    def latency(self) -> Mapping[int, Latency]:
        """Of one pass, by the number of items in the batch; empty where it was not timed."""


def plot_frontier(
    points: Sequence[Plotted],
    *,
    chosen: tuple[str, ...] | None = None,
    limit: float | None = None,
    torch_latency: Mapping[int, Latency] | None = None,
) -> "Figure":
    """Mismatches, with their 95 % intervals, against bytes and against latency.

    The chosen file, and each that no other beats in both bytes and mismatches, bears the number of its layers in float.
    The panel of the latency shows the largest timed batch, and is there only if a file was timed.

    Args:
        points: the measured files.
        chosen: the layers in float of the chosen file, which gets a ring.
        limit: on the mismatch rate, as a share; a line. A file keeps it if its upper bound is within it.
        torch_latency: batch size -> latency of the torch model; a line.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are no points.
    """
    if not points:
        raise ValueError("There is nothing to plot. Give at least one measured file.")
    batch = max((size for point in points for size in point.latency), default=None)
    with style.drawing(4.8, width=6.0 if batch is None else 11.0) as figure:
        panels = figure.subplots(1, 1 if batch is None else 2, sharey=True, squeeze=False)[0]
        _draw(panels[0], points, lambda point: point.size_bytes / 1e6, chosen)
        panels[0].set_xlabel("size of the file (MB)")
        panels[0].set_ylabel(f"answers unlike the reference's (% of {count(points[0].n)})")
        if batch is not None:
            timed = [point for point in points if batch in point.latency]
            _draw(panels[1], timed, lambda point: point.latency[batch].median_ms, chosen)
            if torch_latency and batch in torch_latency:
                x = torch_latency[batch].median_ms
                panels[1].axvline(x, color=style.MUTED, linestyle=":", linewidth=1.5)
                where = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "top"}
                panels[1].annotate("torch", (x, 0.97), rotation=90, **where)
            panels[1].set_xlabel(f"median latency of a batch of {batch} (ms)")
        for panel in panels:
            if limit is not None:
                label = f"limit {100 * limit:.3g} %, of the upper bound"
                panel.axhline(100 * limit, color=style.MUTED, linestyle="--", linewidth=1, label=label)
            panel.set_ylim(bottom=0)
            panel.margins(x=0.1)
            panel.grid(color=style.FAINT)
    return figure


def _draw(panel: Any, points: Sequence[Plotted], where: Callable[[Plotted], float], chosen: Any) -> None:
    for kind in ("passed", "failed"):
        look, label = style.LIMITS[kind]
        shown = [point for point in points if point.passed == (kind == "passed")]
        if shown:
            places, rates = [where(point) for point in shown], [100 * point.mismatch_rate for point in shown]
            low, high = zip(*((100 * end for end in point.mismatch_rate_interval) for point in shown), strict=True)
            panel.vlines(places, low, high, look["color"], linewidth=1.3)
            panel.scatter(places, rates, s=48, zorder=3, clip_on=False, label=label, **look)
    best = undominated(points)
    for point in points:
        place = (where(point), 100 * point.mismatch_rate)
        if point in best or point.kept == chosen:
            panel.annotate(str(len(point.kept)), place, textcoords="offset points", xytext=(6, 5), fontsize=9)
        if point.kept == chosen:
            ring = {"facecolors": "none", "edgecolors": style.INK, "linewidths": 1.5}
            panel.scatter(*[[value] for value in place], s=190, zorder=4, label="chosen", **ring)
    for label in ("numbers: layers in float", "bars: 95 % interval"):
        panel.plot([], [], " ", label=label)
