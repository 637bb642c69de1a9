"""An audit as plain text: a verdict in words, then the numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

MOST_CLASSES = 20
Rows = list[list[str]]
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
_CALIBRATION = {"ece": "ECE", "brier": "Brier score", "nll": "NLL (nats)"}
_ATTRIBUTION = {
    "all": "all",
    "agreeing": "agreeing",
    "mismatches": "mismatches",
    "floor": "floor",
    "ceiling": "ceiling",
}


@dataclass(frozen=True)
class Section:
    """One table of the report: rows of texts, the first of them the header, whose first entry is the title."""

    rows: Sequence[Sequence[str]]
    note: str = ""


def describe(found: Mapping[str, Any]) -> str:
    """The report of an audit as plain text, from its ``to_dict()``."""
    tables = ("\n".join(part for part in (_table(one.rows), one.note) if part) for one in sections(found))
    return "\n\n".join([verdict(found), *tables, _models(found)])


def describe_html(found: Mapping[str, Any]) -> str:
    """The same as HTML, for a notebook; every text of the data is escaped."""
    first, second = verdict(found).split("\n")
    parts = [f"<p>{escape(first)}<br><strong>{escape(second)}</strong></p>"]
    for section in sections(found):
        head, *rows = section.rows
        titles = "".join(f"<th>{escape(text)}</th>" for text in head)
        body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
        parts.append(f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>")
        parts += [f"<p>{escape(section.note)}</p>"] if section.note else []
    return "\n".join([*parts, f"<p>{escape(_models(found)).replace(chr(10), '<br>')}</p>"])


def sections(found: Mapping[str, Any]) -> list[Section]:
    """The tables of an audit, as far as it has something to show in them."""
    made = [Section(_metrics(found))]
    if found["limits"]:
        made.append(Section(_limits(found["limits"])))
    if found["floor"]:
        made.append(Section(_floor(found), note=found["floor"]["words"]))
    if found["costs"]:
        made.append(Section(_costs(found["costs"])))
    if found["per_class"] and len(found["per_class"]) <= MOST_CLASSES:
        made.append(Section(_classes(found["per_class"])))
    for gap in found["gaps"]:
        made += _groups(found, gap)
    if found["calibration"]:
        made.append(Section(_calibration(found["calibration"])))
    if found["attribution"]:
        made.append(Section(_attribution(found["attribution"]), note=_about_attribution(found["attribution"])))
    return made


def verdict(found: Mapping[str, Any]) -> str:
    """Two lines: what changed, and what it means for the limits."""
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


def _metrics(found: Mapping[str, Any]) -> Rows:
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
    rows.append(["Stuart-Maxwell p (class frequencies)", _p(found["frequencies"]["stuart_maxwell"]["p_value"])])
    return rows


def _limits(limits: Sequence[Mapping[str, Any]]) -> Rows:
    rows = [["limit on", "at most", "observed", "95 % upper bound", ""]]
    rows += [
        [row["name"], _percent(row["limit"]), _percent(row["value"]), _percent(row["upper_bound"]), _judged(row)]
        for row in limits
    ]
    return rows


def _judged(limit: Mapping[str, Any]) -> str:
    if limit["passed"]:
        return "kept"
    # The rate may well be within the limit; there is just too little data to say so.
    return "exceeded" if limit["value"] > limit["limit"] else "too few items to show it"


def _classes(classes: Sequence[Mapping[str, Any]]) -> Rows:
    rows = [["class", "n", "mismatches", "rate", "95 % interval", "NFR", "recall", "after"]]
    for row in classes:
        shown = [row["name"], str(row["n"]), str(row["mismatches"]), _percent(row["mismatch_rate"])]
        shown += [_interval(row["mismatch_rate_interval"]), _percent(row["nfr"])]
        rows.append([*shown, _percent(row["recall_reference"]), _percent(row["recall_candidate"])])
    return rows


def _groups(found: Mapping[str, Any], gap: Mapping[str, Any]) -> list[Section]:
    """The groups of one attribute, the gaps between them, and what fairness measures say of both models."""
    rows = [[gap["attribute"], "n", "mismatches", "rate", "95 % interval", "NFR", "accuracy", "after", "p (Holm)"]]
    small = False
    for row in found["groups"]:
        if row["attribute"] == gap["attribute"]:
            small = small or row["small"]
            shown = [f"{row['group']}{' *' if row['small'] else ''}", str(row["n"]), str(row["mismatches"])]
            shown += [_percent(row["mismatch_rate"]), _interval(row["mismatch_rate_interval"]), _percent(row["nfr"])]
            shown += [_percent(row["accuracy_reference"]), _percent(row["accuracy_candidate"])]
            rows.append([*shown, _p(row["p_adjusted"])])
    note = f"* fewer than {found['min_group_size']} items: in no gap and no verdict." if small else ""
    made = [Section(rows, note)]
    # A gap takes two groups; an accuracy of the worst group one.
    made += [Section(_gaps(gap))] if gap["n_groups"] else []
    made += [Section(_fairness(gap["fairness"]))] if gap["n_groups"] > 1 and gap["fairness"] else []
    return made


def _gaps(gap: Mapping[str, Any]) -> Rows:
    drop = gap["worst_group_accuracy_drop"]
    rows = [[f"judged groups of {gap['attribute']}: {gap['n_groups']}", "gap", "95 % interval", ""]]
    for title, name in (("mismatch rate", "mismatch_gap"), ("NFR", "nfr_gap")):
        if not math.isnan(gap[name]["value"]):
            between = f"{gap['highest']} - {gap['lowest']}, p = {_p(gap['p_value'])}" if name == "mismatch_gap" else ""
            rows.append([title, _percent(gap[name]["value"]), _of_estimate(gap[name]), between])
    if not math.isnan(drop["value"]):
        worst = f"{gap['worst_group_reference']} -> {gap['worst_group_candidate']}"
        rows.append(["worst-group accuracy, drop", _percent(drop["value"]), _of_estimate(drop), worst])
    return rows


def _fairness(fairness: Sequence[Mapping[str, Any]]) -> Rows:
    rows = [["fairness (worst class)", "reference", "candidate", "change"]]
    for row in fairness:
        if row["label"] is None:
            numbers = (f"{row[name]:.3f}" for name in ("reference", "candidate"))
            rows.append([row["measure"].replace("_", " "), *numbers, f"{row['change']:+.3f}"])
    return rows


def _floor(found: Mapping[str, Any]) -> Rows:
    rerun, own = found["floor"], ("mismatch_rate", "mismatch_rate_interval")
    rows = [["floor", "mismatches", "rate", "95 % interval"]]
    rows.append(["candidate", str(found["cie"]), _percent(found[own[0]]), _interval(found[own[1]])])
    rows.append(["re-run", str(rerun["mismatches"]), _percent(rerun[own[0]]), _interval(rerun[own[1]])])
    difference = rerun["difference"]
    return [*rows, ["candidate - re-run", "", _percent(difference["value"]), _of_estimate(difference)]]


def _costs(costs: Sequence[Mapping[str, Any]]) -> Rows:
    names = ("what", "reference", "candidate", "ratio")
    return [["", *names[1:]], *([row[name] for name in names] for row in costs)]


def _calibration(calibration: Mapping[str, Any]) -> Rows:
    rows = [["calibration", "reference", "candidate", "change", "95 % interval"]]
    for name, title in _CALIBRATION.items():
        both = [f"{calibration[side][name]:.4f}" for side in ("reference", "candidate")]
        change = calibration[f"{name}_change"]
        rows.append([title, *both, f"{change['value']:+.4f}", f"{change['low']:+.4f} to {change['high']:+.4f}"])
    return rows


def _attribution(found: Mapping[str, Any]) -> Rows:
    rows = [["attribution", *_ATTRIBUTION.values()]]
    for row in found["rows"]:
        title = row["similarity"].replace("_", " ") + (f" ({found['top_k']})" if "top_k" in row["similarity"] else "")
        rows.append([title, *(_number(row[name]["value"]) for name in _ATTRIBUTION)])
    return rows


def _about_attribution(found: Mapping[str, Any]) -> str:
    return (
        f"{found['method'].replace('_', ' ')}, {found['n_items']} items sampled (seed {found['seed']}): "
        f"{found['n_agreeing']} agreeing and {found['n_mismatches']} mismatching ones were explained. Floor: the "
        "reference with random weights; ceiling: the reference with another baseline, or with noise."
    )


def _p(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _of_estimate(estimate: Mapping[str, float]) -> str:
    return _interval((estimate["low"], estimate["high"]))


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
