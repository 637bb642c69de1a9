"""Several candidates of one reference: how much each changed, and what it saves."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_compalign._formats import distinct
from hf_compalign.report.plots import style
from hf_compalign.report.plots.records import AuditLike, mismatches, number, record_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COSTS = {"size_bytes": ("size (MB)", 1e-6), "latency": ("latency (ms)", 1.0)}

Records = Mapping[str, Mapping[str, Any]]


def plot_candidates(audits: Sequence[AuditLike] | Mapping[str, AuditLike]) -> "Figure":
    """The mismatch rates of several candidates with 95 % intervals, by name and against size and latency.

    Each is an `Audit` or its ``to_dict()``, by name, or else named after its model. The order is the given one: the
    first is number 1 in every panel. Size and latency have a panel if any audit knows them, with the reference's as
    a line; below it stands which candidates lack it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are no audits.
    """
    records = _named_records(audits)
    known = [cost for cost in _COSTS if any(record.get(cost) for record in records.values())]
    with style.drawing(1.3 + style.rows_height(len(records)) + (2.9 if known else 0.0), width=style.WIDTH) as figure:
        named, *others = _panels(figure, len(records), len(known))
        _draw_names(named, records)
        for panel, cost in zip(others, known, strict=True):
            _draw_cost(panel, records, cost)
            unknown = [str(place) for place, record in enumerate(records.values(), 1) if not record.get(cost)]
            left_out = f"\nnot known of {', '.join(unknown)}" if unknown else ""
            panel.set_xlabel(_COSTS[cost][0] + left_out, fontsize=style.SMALL_TEXT)
            style.tidy(panel, grid="both")
        if others:
            others[0].set_ylabel("answered differently (%)", fontsize=style.SMALL_TEXT)
    return figure


def _named_records(audits: Sequence[AuditLike] | Mapping[str, AuditLike]) -> Records:
    """The audits by the names in the figure."""
    if isinstance(audits, Mapping):
        names, records = [style.shown(name) for name in audits], [record_of(audit) for audit in audits.values()]
    else:
        records = [record_of(audit) for audit in audits]
        names = [style.shown(record["candidate"]["model"]) or "unnamed" for record in records]
    if not records:
        raise ValueError("There is nothing to plot. Give at least one audit.")
    return dict(zip(distinct(names), records, strict=True))


def _panels(figure: "Figure", n_rows: int, n_costs: int) -> list[Any]:
    """One panel for the names, and below it those of the costs side by side, with one scale of rates."""
    if not n_costs:
        return [figure.subplots()]
    grid = figure.add_gridspec(2, n_costs, height_ratios=(style.rows_height(n_rows), 2.4))
    named, first = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0])
    return [named, first, *(figure.add_subplot(grid[1, column], sharey=first) for column in range(1, n_costs))]


def _kind(record: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The look of a candidate, and what it means."""
    return style.look_of(record["limits"], record["passed"])


def _draw_names(panel: Any, records: Records) -> None:
    for look, label in style.LIMITS.values():
        part = {row: mismatches(one) for row, one in enumerate(records.values()) if _kind(one)[1] == label}
        style.draw_dots(panel, [*part.values()], rows=[*part], look=look, label=label)
    style.name_rows(panel, [f"{place}. {name}" for place, name in enumerate(records, start=1)])
    panel.set_xlabel("answered differently (%), with 95 % interval", fontsize=style.SMALL_TEXT)
    panel.set_xlim(left=0)
    style.tidy(panel, grid="x")


def _cost(one: Any) -> float:
    """Bytes, or the median of a latency."""
    return number(one["median_ms"] if isinstance(one, Mapping) else one)


def _draw_cost(panel: Any, records: Records, cost: str) -> None:
    scale, references = _COSTS[cost][1], set()
    for place, record in enumerate(records.values(), start=1):
        if not record.get(cost):
            continue
        reference, x = (scale * _cost(one) for one in record[cost])
        references.add(reference)
        rate, (low, high) = mismatches(record)
        look, _ = _kind(record)
        panel.vlines(x, low, high, look["color"], linewidth=1.3)
        panel.scatter([x], [rate], s=38, zorder=3, clip_on=False, **look)
        panel.annotate(str(place), (x, rate), xytext=(6, 4), textcoords="offset points", fontsize=9)
    for place, x in enumerate(sorted(references)):
        label = None if place else "the reference"
        panel.axvline(x, color=style.MUTED, linestyle=":", linewidth=1.2, label=label)
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
