"""The picture of a setting: mismatches and CIE ratio against the strength of the compression, one line an arm."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from study_counts import Place, Study
from study_grid import OURS

from hf_compalign.report.plots import style

# Look of the arms that are drawn; the tables have the others too.
LOOKS = {
    "none": {"color": style.GRAY, "marker": "x", "label": "no training"},
    "ce": {"color": style.VERMILION, "marker": "s", "label": "cross-entropy"},
    "kd": {"color": style.ORANGE, "marker": "^", "label": "KL, T = 2"},
    "paper": {"color": style.SKY, "marker": "D", "label": "three terms"},
    "logits": {"color": style.BLUE, "marker": "o", "label": "logits"},
    "hidden": {"color": style.GREEN, "marker": "v", "label": "logits and states"},
}
GAP = 0.6  # between kinds of compression
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32)


def draw(path: Path, study: Study, setting: str) -> None:
    """Write the picture of the setting's largest test part. The same records give the same bytes."""
    places = study.places(setting, study.parts(setting)[0])
    with style.drawing(5.6, width=9.0, columns=6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        figure.set_facecolor("white")
        spots = _spots(places)
        _mismatches(upper, study, places, spots)
        _ratios(lower, study, places, spots)
        _name(lower, places, spots)
        upper.set_title(f"{setting}, {places[0].part}", loc="left", fontsize=style.SMALL_TEXT + 1)
    with mpl.rc_context({"svg.hashsalt": setting, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def _spots(places: Sequence[Place]) -> list[float]:
    """Where each place stands on the x axis."""
    kinds = [place.how.kind for place in places]
    order = [*dict.fromkeys(kinds)]
    return [index + GAP * order.index(kind) for index, kind in enumerate(kinds)]


def _name(panel: Any, places: Sequence[Place], spots: Sequence[float]) -> None:
    """The shares below their places, and below each kind of compression its name."""
    shares = ["" if place.how.sparsity is None else f"{place.how.sparsity * 100:.0f} %" for place in places]
    panel.set_xticks(spots, shares, fontsize=style.SMALL_TEXT)
    for kind, group in groupby(zip(places, spots, strict=True), key=lambda pair: pair[0].how.kind):
        where = [spot for _, spot in group]
        name = {"int8": "INT8", "obs": "second-order (obs)"}.get(kind, kind)
        panel.annotate(
            name,
            ((where[0] + where[-1]) / 2, 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -22),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=style.SMALL_TEXT,
        )


def _lines(panel: Any, places: Sequence[Place], spots: Sequence[float], values: Sequence[float], **look: Any) -> None:
    """One line for each kind of compression, of one look."""
    points = [point for point in zip(places, spots, values, strict=True) if math.isfinite(point[2])]
    for _, group in groupby(points, key=lambda point: point[0].how.kind):
        _, x, y = zip(*group, strict=True)
        panel.plot(x, y, linewidth=1.5, markersize=5, clip_on=False, **look)


def _mismatches(panel: Any, study: Study, places: Sequence[Place], spots: Sequence[float]) -> None:
    for arm, look in LOOKS.items():
        found = [study.changes(place, arm) for place in places]
        _lines(panel, places, spots, [math.nan if one is None else one.mismatches.sum() for one in found], **look)
    floor = [study.floor(place).mismatches.sum() for place in places]
    ends = ([spot + side for spot in spots] for side in (-0.4, 0.4))
    panel.hlines(floor, *ends, color=style.INK, linestyle="--", linewidth=1.2, label="seed floor")
    panel.set_yscale("function", functions=(lambda y: y.clip(0) ** 0.5, lambda y: y**2))
    panel.set_ylim(0, None)
    panel.set_ylabel("mismatches (square root)", fontsize=style.SMALL_TEXT)
    style.tidy(panel, grid="y")


def _ratios(panel: Any, study: Study, places: Sequence[Place], spots: Sequence[float]) -> None:
    panel.axhline(1, color=style.INK, linewidth=0.8)
    for arm, look in LOOKS.items():
        if arm == "ce":
            continue
        found = [study.ratio(place, arm) for place in places]
        _lines(panel, places, spots, [one.value if one else math.nan for one in found], **look)
        if arm == OURS:
            for spot, one in zip(spots, found, strict=True):
                if one and math.isfinite(one.value + one.low):
                    panel.vlines(spot, one.low, min(one.high, TICKS[-1]), color=look["color"], linewidth=1, alpha=0.6)
    panel.set_yscale("log")
    low, high = panel.get_ylim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.set_ylabel("CIE ratio, CE to arm", fontsize=style.SMALL_TEXT)
    style.tidy(panel, grid="y")
