"""An audit as plain text: a verdict in words, then the numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MOST_CLASSES = 20
_METRICS = {
    "agreement": "agreement",
    "mismatch_rate": "mismatches",
    "nfr": "right, now wrong (NFR)",
    "pfr": "wrong, now right (PFR)",
    "btc": "right answers kept (BTC)",
    "bec": "errors shared (BEC)",
    "accuracy_reference": "accuracy, reference",
    "accuracy_candidate": "accuracy, candidate",
}


def describe(found: Mapping[str, Any]) -> str:
    """The report of an audit, from its ``to_dict()``."""
    parts = [_verdict(found), _metrics(found)]
    if found["limits"]:
        parts.append(_limits(found["limits"]))
    if found["per_class"] and len(found["per_class"]) <= MOST_CLASSES:
        parts.append(_classes(found["per_class"]))
    if found["groups"]:
        parts.append(_groups(found["groups"]))
    return "\n\n".join([*parts, _models(found)])


def _verdict(found: Mapping[str, Any]) -> str:
    n, cie = found["n"], found["cie"]
    words = f"The candidate answers {n - cie} of {n} items like the reference and {cie} differently."
    if found["n_labelled"]:
        lost, gained = found["cells"]["lost"], found["cells"]["gained"]
        words += f" {_were(lost)} right {_are(lost)} now wrong, {_were(gained)} wrong {_are(gained)} now right."
    failed = [row["name"] for row in found["limits"] if not row["passed"]]
    if failed:
        return f"{words}\nNOT PASSED: not shown to be within the limit on {', '.join(failed)}."
    if found["limits"]:
        return f"{words}\nPASSED: shown to be within every limit."
    return f"{words}\nNo limit was set, so this is no verdict."


def _were(count: int) -> str:
    return f"{count} that {'was' if count == 1 else 'were'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _metrics(found: Mapping[str, Any]) -> str:
    rows = [["", "rate", "95 % interval"]]
    rows += [
        [title, _percent(found[name]), _interval(found[f"{name}_interval"])]
        for name, title in _METRICS.items()
        if not math.isnan(found[name])
    ]
    rows.append(["KL divergence (nats)", f"{found['kl']:.4g}"])
    rows.append(["probability loyalty", f"{found['probability_loyalty']:.4f}"])
    if found["n_labelled"]:
        rows.append(["accuracy change", f"{100 * found['accuracy_change']:+.2f} %"])
        rows.append(["McNemar p (accuracy only)", f"{found['mcnemar_p']:.3g}"])
    return _table(rows)


def _limits(limits: Sequence[Mapping[str, Any]]) -> str:
    rows = [["limit on", "at most", "observed", "95 % upper bound", ""]]
    rows += [
        [row["name"], _percent(row["limit"]), _percent(row["value"]), _percent(row["upper_bound"]), _judged(row)]
        for row in limits
    ]
    return _table(rows)


def _judged(limit: Mapping[str, Any]) -> str:
    if limit["passed"]:
        return "kept"
    # The rate may well be within the limit; there is just too little data to say so.
    return "exceeded" if limit["value"] > limit["limit"] else "too few items to show it"


def _classes(classes: Sequence[Mapping[str, Any]]) -> str:
    rows = [["class", "n", "mismatches", "rate", "95 % interval", "NFR", "recall", "after"]]
    for row in classes:
        shown = [row["name"], str(row["n"]), str(row["mismatches"]), _percent(row["mismatch_rate"])]
        shown += [_interval(row["mismatch_rate_interval"]), _percent(row["nfr"])]
        rows.append([*shown, _percent(row["recall_reference"]), _percent(row["recall_candidate"])])
    return _table(rows)


def _groups(groups: Sequence[Mapping[str, Any]]) -> str:
    rows = [["group", "n", "mismatches", "rate", "95 % interval", "NFR", "95 % interval"]]
    for row in groups:
        shown = [row["group"], str(row["n"]), str(row["mismatches"]), _percent(row["mismatch_rate"])]
        shown += [_interval(row["mismatch_rate_interval"])]
        rows.append([*shown, _percent(row["nfr"]), _interval(row["nfr_interval"])])
    return _table(rows)


def _models(found: Mapping[str, Any]) -> str:
    rows = [
        [side, found[side]["model"] or "unnamed", found[side]["model_fingerprint"]]
        for side in ("reference", "candidate")
    ]
    return "\n".join(": ".join(row[:2]) + (f" ({row[2]})" if row[2] else "") for row in rows)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f} %"


def _interval(ends: Sequence[float]) -> str:
    return "-" if math.isnan(ends[0]) else f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f} %"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry: the first to the left, the others to the right."""
    n_columns = max(len(row) for row in rows)
    full = [[*row, *[""] * (n_columns - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in full) for column in range(n_columns)]
    lines = (
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in full
    )
    return "\n".join(line.rstrip() for line in lines)
