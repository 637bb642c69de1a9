"""The figures of a report page, one to a section, and the sections that compare several models."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hf_compalign._formats import UNKNOWN, count, distinct, interval, megabytes, percent, plural, short_name
from hf_compalign._records import built
from hf_compalign._tables import Name, Section, Table, plain
from hf_compalign.measure.audit import Verdict, judged_together
from hf_compalign.measure.footprint import Latency, quartiles
from hf_compalign.measure.statistics import undominated
from hf_compalign.report import plots
from hf_compalign.report.page.svg import inline_svg

Record = Mapping[str, Any]
_CHARTS = {
    "answers": (plots.plot_cells, "What became of the items"),
    "changes": (plots.plot_changes, "How many items went from which class to which"),
    "classes": (plots.plot_classes, "Mismatch rate and NFR of each class with its interval, most harmed first"),
    "calibration": (plots.plot_reliability, "Reliability diagrams: accuracy against confidence, before and after"),
    "margins": (plots.plot_margins, "Mismatch rate with its interval against the reference's margin"),
    "attribution": (
        plots.plot_attribution,
        "Similarity of the explanations, beside a floor and a repeat",
    ),
}


def chart(section: Section, found: Record) -> str:
    """The figure of a section as an SVG element; empty where it has none."""
    if section.key in _CHARTS:
        plot, label = _CHARTS[section.key]
        if section.key == "answers":
            cells = section.tables[-1].rows
            label += ": " + "; ".join(f"{plain(title)} {plain(items)}" for title, items, _ in cells)
        return inline_svg(plot(found), label=label)
    if section.key.startswith("groups-") and section.tables:
        attribute = section.title[-1]
        label = f"Mismatch rate and NFR of each group of {attribute} with its interval, in the order of the table"
        return inline_svg(plots.plot_groups(found, attribute=attribute), label=label)
    return ""


def candidates(audits: Sequence[Record]) -> tuple[Section, str]:
    """The section that sets several candidates side by side, and its figure."""
    names = distinct([short_name(found["candidate"]["model"]) for found in audits])
    named = dict(zip(names, audits, strict=True))
    columns = (
        ("candidate", "name", Name),
        ("n", "n", count),
        ("mismatches", "cie", count),
        ("rate", "mismatch_rate", percent),
        ("95 % interval", "mismatch_rate_interval", interval),
        ("NFR", "nfr", percent),
        ("accuracy", "accuracy_candidate", percent),
        ("MB", "size_bytes", lambda both: megabytes(both[1]) if both else UNKNOWN),
        ("ms (quartiles)", "latency", lambda both: quartiles(built(Latency, both[1])) if both else UNKNOWN),
        ("verdict", None, _verdict),
    )
    table = Table.of("Candidates", [{"name": name} | dict(one) for name, one in named.items()], columns, words=(9,))
    lead = ("The other parts of this page are about the first of them, ", Name(names[0]), ".")
    label = "Mismatch rate of each candidate with its interval, against size and latency where these are known"
    section = Section("candidates", "Candidates", (table,), lead=(lead,))
    return section, inline_svg(plots.plot_candidates(named), label=label)


def _verdict(found: Record) -> str:
    return judged_together([built(Verdict, row) for row in found["limits"]]) if found["limits"] else "no limit"


def frontier(
    files: Sequence[plots.Plotted], *, items: Collection[int], chosen: tuple[str, ...] | None, judged: int | None
) -> tuple[Section, str]:
    """The section of the files that a repair measured, the smallest first, and its figure.

    Args:
        files: as measured.
        items: how many items each audit of the page has. Nothing else shows that a frontier is of other data.
        chosen: the layers in float of the file that the repair chose.
        judged: on how many other items it was judged; None where there were no others.

    Raises:
        ValueError: no audit has as many items as the chosen file was judged on, or as there were in all.
    """
    searched, on = files[0].n, plural(files[0].n, "item")
    if judged is not None:
        on += f" of its search (it judged on {count(judged)} others)"
    if not any(n in items for n in ((searched,) if judged is None else (judged, searched + judged))):
        of = ", ".join(map(count, sorted(items)))
        raise ValueError(
            f"The frontier was measured on {on}, and no audit here is of as many: {of}. Give the frontier of a repair "
            "of this model on these items, or leave it out."
        )
    best = undominated(files)
    rows = [
        (
            plural(len(file.kept), "layer"),
            megabytes(file.size_bytes),
            percent(file.mismatch_rate),
            interval(file.mismatch_rate_interval),
            judged_together(file.limits),
            "chosen" if file.kept == chosen else "undominated" if file in best else "",
        )
        for file in sorted(files, key=lambda one: one.size_bytes)
    ]
    columns = ("in float", "MB", "mismatch rate", "95 % interval", "limits", "")
    lead = (
        f"{plural(len(files), 'file')} as the repair measured them, on {on}; a frontier does not say of which model "
        "and which items it is. A number in the chart counts the layers in float, at the files that no other beats in "
        f"size and mismatches{' and at the chosen one' if chosen is not None else ''}."
    )
    table = Table("Files, the smallest first", columns, rows, words=(4, 5), depth=1)
    label = "Mismatch rate of each file with its interval, against its size and latency"
    svg = inline_svg(plots.plot_frontier(files, chosen=chosen), label=label)
    return Section("frontier", "Frontier", (table,), lead=(lead,)), svg
