"""Several ways to compress a model, against how much was compressed: a curve for each."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hf_compalign._formats import count
from hf_compalign.measure.statistics import Estimate
from hf_compalign.report.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Mapping[float, Estimate]  # by the strength of the compression

_LOOKS = (
    {"color": style.VERMILION, "marker": "s", "linestyle": "--"},
    {"color": style.ORANGE, "marker": "D", "linestyle": "-."},
    {"color": style.SKY, "marker": "^", "linestyle": ":"},
    {"color": style.BLUE, "marker": "o", "linestyle": "-"},
)
_APART = 0.006  # between the curves along the x axis, so that no interval covers another


def plot_strengths(
    rates: Mapping[str, Curve], ratios: Mapping[str, Curve], *, n_items: int, strength: str, baseline: str
) -> "Figure":
    """Mismatches against strength, one curve a way to compress; beside it, how many times fewer than the baseline has.

    Args:
        rates: name -> strength -> the share of mismatches with its interval; at most four names.
        ratios: the mismatches of the baseline divided by those of a way, for some of the names of ``rates``. A value of
            inf (no mismatch is left) stands at the lower end of its interval, as a triangle; nan is left out.
        n_items: of the comparison.
        strength: what the strengths are, for the axis; they are shares, and shown in percent.
        baseline: its name.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is nothing to plot, or more than can be told apart.
    """
    if not 1 <= len(rates) <= len(_LOOKS):
        raise ValueError(f"A figure shows 1 to {len(_LOOKS)} ways to compress. Got {len(rates)}.")
    looks = dict(zip(rates, _LOOKS, strict=False))
    shifts = {name: _APART * (place - (len(rates) - 1) / 2) for place, name in enumerate(rates)}
    with style.drawing(4.0, width=9.0, columns=4) as figure:
        left, right = figure.subplots(1, 2)
        for name, curve in rates.items():
            percents = {x: _times(100, y) for x, y in curve.items()}
            _draw(left, percents, looks[name], shifts[name], label=style.shown(name))
        left.set_ylabel(f"answers unlike the reference's (% of {count(n_items)})", fontsize=style.SMALL_TEXT)
        left.set_ylim(bottom=0)
        for name, curve in ratios.items():
            _draw(right, curve, looks[name], shifts[name], label=style.shown(name))
        right.axhline(1, color=style.MUTED, linestyle="--", linewidth=1)
        right.set_yscale("log")
        _name_ratios(right, ratios.values())
        right.set_ylabel(f"times fewer than {style.shown(baseline)}", fontsize=style.SMALL_TEXT)
        for panel in (left, right):
            ticks = sorted({x for curve in rates.values() for x in curve})
            panel.set_xticks(ticks, [f"{100 * x:g}" for x in ticks])
            panel.set_xlabel(f"{strength} (%), 95 % intervals", fontsize=style.SMALL_TEXT)
            style.tidy(panel, grid="y")
    return figure


def _times(factor: float, found: Estimate) -> Estimate:
    return Estimate(factor * found.value, factor * found.low, factor * found.high)


def _draw(panel: Any, curve: Curve, look: Mapping[str, Any], shift: float, *, label: str) -> None:
    known = {x + shift: y for x, y in sorted(curve.items()) if math.isfinite(y.value)}
    panel.plot(
        list(known), [y.value for y in known.values()], label=label, markersize=6, linewidth=1.2, clip_on=False, **look
    )
    for x, y in known.items():
        high = y.high if math.isfinite(y.high) else y.value
        panel.vlines(x, y.low, high, look["color"], linewidth=1.3)
    endless = [(x + shift, y.low) for x, y in curve.items() if y.value == math.inf and y.low > 0]
    if endless:
        panel.scatter(*zip(*endless, strict=True), marker="^", s=60, color=look["color"])


def _name_ratios(panel: Any, curves: Iterable[Curve]) -> None:
    """Name round ratios, those among the data and one beyond each end."""
    ends = [end for curve in curves for y in curve.values() for end in (y.low, y.high, y.value)]
    found = [end for end in ends if math.isfinite(end) and end > 0] + [1.0]
    ticks = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]
    low = max((tick for tick in ticks if tick <= min(found)), default=ticks[0])
    high = min((tick for tick in ticks if tick >= max(found)), default=ticks[-1])
    panel.set_ylim(low / 1.1, high * 1.1)
    panel.set_yticks([tick for tick in ticks if low <= tick <= high], minor=False)
    panel.set_yticks([], minor=True)
    panel.set_yticklabels([f"{tick:g}" for tick in ticks if low <= tick <= high])
