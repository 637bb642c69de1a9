"""Whether both models look at the same things."""

from typing import TYPE_CHECKING, Any

from hf_compalign.measure.attribution import compared_with, similarity_title
from hf_compalign.report.plots import style
from hf_compalign.report.plots.records import AuditLike, estimate, record_of, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The dots of each similarity, from the top of its row down: floor and repeat share the middle.
_KINDS: dict[str, tuple[str, dict[str, Any], float]] = {
    "agreeing": ("same answer ({n_agreeing} items)", {"color": style.BLUE, "marker": "o"}, -0.22),
    "mismatches": ("different answers ({n_mismatches} items)", {"color": style.VERMILION, "marker": "X"}, 0.22),
    "floor": ("floor", {"color": style.MUTED, "marker": "<"}, 0.0),
    "repeat": ("repeat", {"color": style.MUTED, "marker": ">"}, 0.0),
}


def plot_attribution(audit: AuditLike) -> "Figure":
    """How alike the two models' explanations are, with 95 % intervals, beside a floor and a repeat.

    Floor and repeat are the similarities of the reference to an unrelated model and to itself, as
    `hf_compalign.measure.attribution.compared_with` names them; the figure says so below the axis.
    """
    missing = "This audit has no attribution. Audit two models of PyTorch with hf-compalign audit --attribution."
    found = section(record_of(audit), "attribution", missing)
    rows = found["rows"]
    with style.drawing(2.1 + 0.62 * len(rows)) as figure:
        panel = figure.subplots()
        for kind, (label, look, side) in _KINDS.items():
            places, dots = [row + side for row in range(len(rows))], [estimate(row[kind]) for row in rows]
            style.draw_dots(panel, dots, rows=places, look=look, label=label.format_map(found))
        names = [style.shown(similarity_title(row["similarity"], found["top_k"])) for row in rows]
        style.name_rows(panel, names)
        method = style.shown(found["method"]).replace("_", " ")
        notes = (f"{kind}: {words}" for kind, words in compared_with(found).items())
        style.caption(panel, f"similarity of the attributions ({method}), mean and 95 % interval", *notes, names=names)
        panel.axvline(0, color=style.MUTED, linewidth=0.8)
        panel.set_xlim(min(panel.get_xlim()[0], -0.02), 1.02)
        style.tidy(panel, grid="x")
    return figure
