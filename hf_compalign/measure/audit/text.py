"""An audit as plain text: a verdict in words, then the numbers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

from hf_compalign._visible import cleaned, one_line
from hf_compalign.measure.attribution import CEILING, FLOOR, similarity_title

MOST_ROWS = 20  # classes, and groups of an attribute
Rows = list[list[str]]
Row = Mapping[str, Any]
FLIPS = {
    "nfr": "right, now wrong (NFR)",
    "pfr": "wrong, now right (PFR)",
    "btc": "right answers kept (BTC)",
    "bec": "errors shared (BEC)",
}
_METRICS = {
    "agreement": "agreement",
    "mismatch_rate": "mismatches",
    **FLIPS,
    "accuracy_reference": "accuracy, reference",
    "accuracy_candidate": "accuracy, candidate",
}
_CALIBRATION = {"ece": "ECE", "brier": "Brier score", "nll": "NLL (nats)"}
_ATTRIBUTION = ("all", "agreeing", "mismatches", "floor", "ceiling")
ABOVE_CEILING = "A candidate above the ceiling differs less than two choices of baseline, or of noise, do"
# Names of models and the like are shown whole, if they are not a page long.
_whole = partial(one_line, most=400)


@dataclass(frozen=True)
class Section:
    """One table of the report: rows of texts, the first of them the header, whose first entry is the title."""

    rows: Sequence[Sequence[str]]
    note: str = ""


def describe(found: Mapping[str, Any]) -> str:
    """The report of an audit as plain text, from its ``to_dict()``; no name in it ends a line or steers a terminal."""
    found = cleaned(found, _whole)
    tables = ("\n".join(part for part in (_table(one.rows), one.note) if part) for one in sections(found))
    return "\n\n".join([verdict(found), *tables, _models(found)])


def describe_html(found: Mapping[str, Any]) -> str:
    """The same as HTML, for a notebook; every text of the data is escaped."""
    found = cleaned(found, _whole)
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
        made.append(Section(_limits(found)))
    if found["floor"]:
        made.append(Section(_floor(found), note=found["floor"]["words"]))
    if found["costs"]:
        made.append(Section(_costs(found["costs"])))
    if found["per_class"]:
        shown, left_out = _most(found["per_class"])
        made.append(Section(_classes(shown), note=left_out))
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
    unjudged = left_unjudged(found["limits"])
    if failed:
        return f"{words}\nNOT PASSED: not shown to be within the limit on {', '.join(failed)}{unjudged}."
    if found["limits"]:
        return f"{words}\nPASSED: shown to be within every limit{unjudged}."
    return f"{words}\nNo limit was set, so this is no verdict."


def left_unjudged(limits: Iterable[Row]) -> str:
    """The attributes that these limits leave unjudged, as the end of a sentence; empty where there are none.

    >>> left_unjudged([{"not_judged": ["age"]}, {"not_judged": ["age", "dialect"]}]), left_unjudged([])
    ('; not judged: age, dialect', '')
    """
    names = dict.fromkeys(one_line(name) for row in limits for name in row["not_judged"])
    return f"; not judged: {', '.join(names)}" if names else ""


def harmful_first(rows: Iterable[Row]) -> list[Row]:
    """Rows of classes or groups, the surest mismatches first, those without items last.

    So a class of two items does not lead: what counts is the lower end of the rate's interval.
    """

    def harm(row: Row) -> tuple[float, float]:
        low, rate = row["mismatch_rate_interval"][0], row["mismatch_rate"]
        # JSON has null for nan.
        return (-math.inf, -math.inf) if low is None or math.isnan(low) else (low, rate)

    return sorted(rows, key=harm, reverse=True)


def _most(rows: Sequence[Row]) -> tuple[Sequence[Row], str]:
    """All rows as they are; of many the most harmful, and what to say of the others."""
    left_out = len(rows) - MOST_ROWS
    if left_out <= 0:
        return rows, ""
    return harmful_first(rows)[:MOST_ROWS], f"{left_out:,} more, less harmed, are in the JSON and on the page."


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
        rows.append(["accuracy change", f"{_signed(100 * found['accuracy_change'], 2)} %"])
        rows.append(["McNemar p (accuracy only)", f"{found['mcnemar_p']:.3g}"])
    rows.append(["Stuart-Maxwell p (class frequencies)", _p(found["frequencies"]["stuart_maxwell"]["p_value"])])
    return rows


def _limits(found: Mapping[str, Any]) -> Rows:
    rows = [["limit on", "at most", "observed", "95 % upper bound", ""]]
    for row in found["limits"]:
        numbers = (_percent(row[name]) for name in ("limit", "value", "upper_bound"))
        rows.append([row["name"], *numbers, judged(row, found)])
    return rows


def judged(limit: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What came of one limit of an audit, in words.

    It is exceeded where the rate's whole two-sided interval lies above it. Otherwise the rate may well be within it,
    whatever was observed; and a gap between groups has no such interval.

    >>> limit = {"name": "nfr", "limit": 0.02, "value": 0.03, "passed": False, "not_judged": []}
    >>> judged(limit, {"nfr_interval": [0.01, 0.05]}), judged(limit, {"nfr_interval": [0.021, 0.05]})
    ('not shown to be kept', 'exceeded')
    """
    unjudged = left_unjudged([limit])
    if limit["passed"]:
        return f"kept{unjudged}"
    low = found.get(f"{limit['name']}_interval", (None,))[0]
    exceeded = low is not None and low > limit["limit"]
    return f"{'exceeded' if exceeded else 'not shown to be kept'}{unjudged}"


def _classes(classes: Sequence[Mapping[str, Any]]) -> Rows:
    rows = [["class", "n", "mismatches", "rate", "95 % interval", "NFR", "recall", "after"]]
    for row in classes:
        shown = [one_line(row["name"]), str(row["n"]), str(row["mismatches"]), _percent(row["mismatch_rate"])]
        shown += [_interval(row["mismatch_rate_interval"]), _percent(row["nfr"])]
        rows.append([*shown, _percent(row["recall_reference"]), _percent(row["recall_candidate"])])
    return rows


def _groups(found: Mapping[str, Any], gap: Mapping[str, Any]) -> list[Section]:
    """The groups of one attribute, the gaps between them, and what fairness measures say of both models."""
    name = one_line(gap["attribute"])
    if not any(row["attribute"] == gap["attribute"] for row in found["groups"]):
        return [Section([[f"{name}: no item is in a group"]])]
    rows = [[name, "n", "mismatches", "rate", "95 % interval", "NFR", "accuracy", "after", "p (Holm)"]]
    shown, left_out = _most([row for row in found["groups"] if row["attribute"] == gap["attribute"]])
    rows += map(_group, shown)
    small = any(row["small"] for row in shown)
    notes = [
        f"(small): fewer than {found['min_group_size']} items, in no gap and no verdict." if small else "",
        left_out,
    ]
    made = [Section(rows, " ".join(filter(None, notes)))]
    # A gap takes two groups; an accuracy of the worst group one.
    made += [Section(_gaps(gap))] if gap["n_groups"] else []
    made += [Section(_fairness(gap["fairness"]))] if gap["n_groups"] > 1 and gap["fairness"] else []
    return made


def _group(row: Row) -> list[str]:
    shown = [f"{one_line(row['group'])}{' (small)' if row['small'] else ''}", str(row["n"]), str(row["mismatches"])]
    shown += [_percent(row["mismatch_rate"]), _interval(row["mismatch_rate_interval"]), _percent(row["nfr"])]
    return [*shown, _percent(row["accuracy_reference"]), _percent(row["accuracy_candidate"]), _p(row["p_adjusted"])]


def _gaps(gap: Mapping[str, Any]) -> Rows:
    rows = [[f"judged groups of {one_line(gap['attribute'])}: {gap['n_groups']}", "gap", "at most (95 %)", "p", ""]]
    names = ("highest", "lowest", "worst_group_reference", "worst_group_candidate")
    highest, lowest, before, after = (one_line(gap[name]) for name in names)
    drop = gap["drop_upper_bound"]
    kinds = {
        "mismatch_gap": ("mismatch rate", gap["upper_bound"], gap["p_value"], f"{highest} - {lowest}"),
        "nfr_gap": ("NFR", math.nan, math.nan, ""),
        "worst_group_accuracy_drop": ("worst-group accuracy, drop", drop, math.nan, f"{before} -> {after}"),
    }
    for name, (title, bound, p, between) in kinds.items():
        if not math.isnan(gap[name]):
            rows.append([title, _percent(gap[name]), _percent(bound), _p(p), between])
    return rows


def _fairness(fairness: Sequence[Mapping[str, Any]]) -> Rows:
    rows = [["fairness (worst class)", "reference", "candidate", "change", "classes left out"]]
    for row in fairness:
        if row["label"] is None:
            numbers = (_number(row[name]) for name in ("reference", "candidate"))
            rows.append([row["measure"].replace("_", " "), *numbers, _signed(row["change"], 3), str(row["n_skipped"])])
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
        both = [_number(calibration[side][name], 4) for side in ("reference", "candidate")]
        value, low, high = (_signed(calibration[f"{name}_change"][end], 4) for end in ("value", "low", "high"))
        rows.append([title, *both, value, "-" if low == "-" else f"{low} to {high}"])
    return rows


def _attribution(found: Mapping[str, Any]) -> Rows:
    rows = [["attribution", *_ATTRIBUTION]]
    for row in found["rows"]:
        title = similarity_title(row["similarity"], found["top_k"])
        rows.append([title, *(_number(row[name]["value"]) for name in _ATTRIBUTION)])
    return rows


def _about_attribution(found: Mapping[str, Any]) -> str:
    return (
        f"{found['method'].replace('_', ' ')}, {sampled(found)}. Floor: {FLOOR}; ceiling: {CEILING}. {ABOVE_CEILING}."
    )


def sampled(found: Mapping[str, Any]) -> str:
    """Which items an attribution agreement is of: a sample, and mismatches beyond it.

    >>> sampled({"n_items": 60, "n_agreeing": 56, "n_mismatches": 60, "seed": 0})
    '60 items drawn at random (seed 0; 56 answered alike), and 56 more that the two answer differently'
    """
    n, agreeing = found["n_items"], found["n_agreeing"]
    more = found["n_mismatches"] - (n - agreeing)
    drawn = f"{n} item{'' if n == 1 else 's'} drawn at random (seed {found['seed']}; {agreeing} answered alike)"
    return f"{drawn}, and {more} more that the two answer differently" if more else drawn


def _p(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else unsigned_zero(f"{value:.{digits}f}")


def _signed(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else unsigned_zero(f"{value:+.{digits}f}")


def unsigned_zero(text: str) -> str:
    """A number as it is, but zero without a sign.

    >>> unsigned_zero("-0.000"), unsigned_zero("-0.001")
    ('0.000', '-0.001')
    """
    return text if text.strip("+-0.") else text.lstrip("+-")


def _of_estimate(estimate: Mapping[str, float]) -> str:
    return _interval((estimate["low"], estimate["high"]))


def _models(found: Mapping[str, Any]) -> str:
    rows = [
        [side, found[side]["model"] or "unnamed", found[side]["model_fingerprint"]]
        for side in ("reference", "candidate")
    ]
    return "\n".join(": ".join(row[:2]) + (f" ({row[2]})" if row[2] else "") for row in rows)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{_number(100 * value, 2)} %"


def _interval(ends: Sequence[float]) -> str:
    return "-" if math.isnan(ends[0]) else f"{_number(100 * ends[0], 2)} to {_number(100 * ends[1], 2)} %"


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
