"""How far confidence can be trusted, and where the mismatches are."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_compalign._formats import count, decimals, percent, plural
from hf_compalign.measure.statistics import wilson_interval
from hf_compalign.report.plots import style
from hf_compalign.report.plots.records import AuditLike, estimate, mismatches, number, record_of, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDES: dict[str, dict[str, Any]] = {
    "reference": {"color": style.BLUE, "marker": "o", "linestyle": "-", "hatch": "", "side": -1},
    "candidate": {"color": style.VERMILION, "marker": "s", "linestyle": "--", "hatch": "///", "side": 1},
}


def plot_reliability(audit: AuditLike) -> "Figure":
    """Accuracy against confidence of both models, bin by bin with 95 % Wilson intervals; below, the items of each bin.

    On the diagonal a model is right as often as it says. Each bin stands at the mean confidence of its items.
    """
    missing = "This audit has no calibration, since no item has a label. Predict on a dataset with labels."
    shift = section(record_of(audit), "calibration", missing)
    with style.drawing(5.2, columns=1) as figure:
        curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        curve.plot([0, 100], [0, 100], color=style.MUTED, linestyle=":", linewidth=1, label="as often right as it says")
        for side, look in _SIDES.items():
            _draw_curve(curve, shift[side]["bins"], look, _ece(side, shift))
            _draw_counts(counts, shift[side]["bins"], look)
        curve.set_ylabel("accuracy (%), 95 % interval", fontsize=style.SMALL_TEXT)
        curve.set_ylim(-2, 102)
        counts.set_ylabel("items (%)", fontsize=style.SMALL_TEXT)
        what = f"confidence (%) in {shift['n_bins']} bins of equal width, {plural(shift['n'], 'labeled item')}"
        counts.set_xlabel(what, fontsize=style.SMALL_TEXT)
        counts.set_xlim(-2, 102)
        for panel in (curve, counts):
            style.tidy(panel, grid="both")
    return figure


def _ece(side: str, shift: Mapping[str, Any]) -> str:
    words = f"{side}: calibration error (ECE) {percent(number(shift[side]['ece']))}"
    if side == "reference":
        return words
    change, (low, high) = estimate(shift["ece_change"])
    value, *ends = (decimals(100 * end, digits=2, signed=True).replace("-", style.MINUS) for end in (change, low, high))
    return f"{words}, change {value} points ({' to '.join(ends)})"


def _draw_curve(panel: Any, bins: Sequence[Mapping[str, Any]], look: Mapping[str, Any], label: str) -> None:
    full = [one for one in bins if one["n"]]
    confidence, accuracy = ([100 * one[name] for one in full] for name in ("confidence", "accuracy"))
    ends = [wilson_interval(round(one["accuracy"] * one["n"]), one["n"]) for one in full]
    low, high = ([100 * pair[end] for pair in ends] for end in (0, 1))
    panel.vlines(confidence, low, high, look["color"], linewidth=1.0)
    look = {name: look[name] for name in ("color", "marker", "linestyle")}
    panel.plot(confidence, accuracy, label=label, markersize=5, linewidth=1.2, clip_on=False, **look)


def _draw_counts(panel: Any, bins: Sequence[Mapping[str, Any]], look: Mapping[str, Any]) -> None:
    """One bar in each bin for each model, side by side."""
    total = sum(one["n"] for one in bins)
    width = [100 * (one["high"] - one["low"]) * 0.4 for one in bins]
    middle = [50 * (one["low"] + one["high"]) for one in bins]
    places = [place + look["side"] * wide / 2 for place, wide in zip(middle, width, strict=True)]
    face = {"facecolor": look["color"], "edgecolor": style.INK, "linewidth": 0.5, "hatch": look["hatch"]}
    panel.bar(places, [100 * one["n"] / total for one in bins], width=width, **face)


def plot_margins(audit: AuditLike) -> "Figure":
    """Mismatch rate, with 95 % Wilson intervals, of the items by how sure the reference was, the least sure first.

    The margin is the reference's highest probability minus its second. Each bar holds about as many items.
    """
    record = record_of(audit)
    missing = "This audit has no margins. Audit the logits of the two models again, with this version."
    rows = section(record, "margins", missing)
    with style.drawing(3.6, columns=3) as figure:
        panel = figure.subplots()
        places = range(len(rows))
        rates, ends = zip(*map(mismatches, rows), strict=True)
        look: dict[str, Any] = {"width": 0.94, "facecolor": style.BLUE, "edgecolor": style.INK, "linewidth": 0.5}
        panel.bar(places, rates, label="mismatch rate", **look)
        low, high = zip(*ends, strict=True)
        panel.vlines(places, low, high, style.INK, label="95 % interval")
        overall = number(record["mismatch_rate"])
        label = f"all items: {percent(overall)}"
        panel.axhline(100 * overall, color=style.MUTED, linestyle="--", linewidth=1, label=label)
        edges = [number(row["low"]) for row in rows] + [number(rows[-1]["high"])]
        panel.set_xticks([place - 0.5 for place in range(len(edges))], _distinct(edges), fontsize=style.SMALL_TEXT - 1)
        n = sorted({row["n"] for row in rows})
        each = count(n[0]) if len(n) == 1 else f"{count(n[0])} to {count(n[-1])}"
        panel.set_xlabel(f"the reference's margin: top probability minus second; {each} items a bar", fontsize=9)
        panel.set_ylabel("answered differently (%)", fontsize=style.SMALL_TEXT)
        panel.set_ylim(bottom=0)
        style.tidy(panel, grid="y")
    return figure


def _distinct(edges: Sequence[float]) -> list[str]:
    """The edges with the fewest decimals that tell them apart: most margins of a trained model are close to 1."""
    for digits in range(2, 7):
        texts = [f"{edge:.{digits}f}" for edge in edges]
        if len(set(texts)) == len(set(edges)):
            break
    return texts
