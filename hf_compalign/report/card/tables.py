"""The short tables of a model card: what an audit says, in a few rows."""

import math
import re

from hf_compalign.measure.audit import Audit, unsigned_zero
from hf_compalign.measure.statistics import Estimate


def models_table(audit: Audit) -> list[tuple[str, str, str]]:
    """Rows of (what, original, compressed)."""
    if not audit.n_labelled:
        return []
    return [("accuracy", rate_of(audit, "accuracy_reference"), rate_of(audit, "accuracy_candidate"))]


def changes_table(audit: Audit) -> list[tuple[str, str, str]]:
    """Rows of (what, count or value, rate with its interval)."""
    rows = [("answers that differ (mismatches)", str(audit.metrics["cie"]), rate_of(audit, "mismatch_rate"))]
    if audit.cells is not None:
        rows.append(("right before, wrong now (NFR)", str(audit.cells.lost), rate_of(audit, "nfr")))
        rows.append(("wrong before, right now (PFR)", str(audit.cells.gained), rate_of(audit, "pfr")))
    rows.append(("KL divergence from the original", f"{audit.metrics['kl']:.4g} nats", ""))
    return [*rows, *_more_changes(audit)]


def _more_changes(audit: Audit) -> list[tuple[str, str, str]]:
    """Rows of (what, value, interval) for what not every audit has: calibration, groups, a floor, attributions."""
    rows = []
    if audit.calibration is not None:
        before, after = audit.calibration.reference.ece, audit.calibration.candidate.ece
        change = audit.calibration.ece_change
        value, *ends = (unsigned_zero(f"{end:+.4f}") for end in (change.value, change.low, change.high))
        shift = f"{value} ({' to '.join(ends)})"
        rows.append(("calibration error (ECE), before and after", f"{before:.4f}, {after:.4f}", f"change {shift}"))
    for gap in audit.gaps:
        if gap.n_groups > 1:
            what = f"largest gap in mismatches, groups of {gap.attribute}"
            largest = f"{_at_most(gap.mismatch_gap, gap.upper_bound)}, p = {gap.p_value:.3g}"
            rows.append((what, f"{gap.highest} - {gap.lowest}", largest))
        if not math.isnan(gap.worst_group_accuracy_drop):
            what = f"accuracy of the worst group before and after, groups of {gap.attribute}"
            worst = (
                f"{100 * gap.worst_group_accuracy_reference:.2f} to {100 * gap.worst_group_accuracy_candidate:.2f} %"
            )
            rows.append((what, worst, f"drop {_at_most(gap.worst_group_accuracy_drop, gap.drop_upper_bound)}"))
    if audit.floor is not None:
        low, high = audit.floor.mismatch_rate_interval
        rerun = f"{100 * audit.floor.mismatch_rate:.2f} % ({100 * low:.2f} to {100 * high:.2f} %)"
        rows.append(("mismatches of an uncompressed re-run (floor)", str(audit.floor.mismatches), rerun))
    if audit.attribution is not None:
        cosine = next(row for row in audit.attribution.rows if row.similarity == "cosine")
        between = f"floor {cosine.floor.value:.3f}, ceiling {cosine.ceiling.value:.3f}"
        rows.append(("attribution similarity (cosine)", _estimated(cosine.all), between))
    # A name from the data must not end the cell or start markup of its own.
    return [(_cell(what), _cell(value), interval) for what, value, interval in rows]


def _cell(text: str) -> str:
    """A text as one cell of a Markdown table."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def _at_most(value: float, bound: float) -> str:
    return f"{100 * value:.2f} % (at most {100 * bound:.2f} %)"


def _estimated(estimate: Estimate) -> str:
    value, low, high = (f"{end:.4f}" for end in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})" if low != high else value


def rate_of(audit: Audit, name: str) -> str:
    """A rate with its interval, in percent."""
    low, high = audit.metrics[f"{name}_interval"]
    return f"{100 * audit.metrics[name]:.2f} % ({100 * low:.2f} to {100 * high:.2f} %)"
