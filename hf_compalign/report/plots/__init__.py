"""Figures of audits and of measured files, for those who have matplotlib: pip install 'hf-compalign[report]'.

Each function returns a matplotlib ``Figure``: a notebook shows it after ``%matplotlib inline``,
``figure.savefig("name.png")`` keeps it, and `hf_compalign.report.svg.inline_svg` puts it into a page. An audit is an
`Audit` or its ``to_dict()``.
"""

from hf_compalign.report.plots.attribution import plot_attribution
from hf_compalign.report.plots.candidates import plot_candidates
from hf_compalign.report.plots.cells import plot_cells
from hf_compalign.report.plots.curves import plot_margins, plot_reliability
from hf_compalign.report.plots.frontier import plot_frontier
from hf_compalign.report.plots.rows import plot_classes, plot_groups

__all__ = [
    "plot_attribution",
    "plot_candidates",
    "plot_cells",
    "plot_classes",
    "plot_frontier",
    "plot_groups",
    "plot_margins",
    "plot_reliability",
]
