"""What a report says about all items: the answers, limits, candidates, costs, and what changed in each class."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hf_compalign.measure.audit import harmful_first, judged
from hf_compalign.report.page.items import CELLS, class_name, items_link, listed
from hf_compalign.report.page.summary import RATES
from hf_compalign.report.page.svg import inline_svg
from hf_compalign.report.page.text import (
    UNKNOWN,
    Section,
    Table,
    bdi,
    change,
    count,
    ends,
    first_of,
    interval,
    is_known,
    minus,
    number,
    p_value,
    p_words,
    percent,
    plural,
    points,
    short_name,
)
from hf_compalign.report.plots import Plotted, plot_candidates, plot_cells, plot_classes, plot_frontier, undominated

_CELLS = {
    "both_right": "both right",
    "same_wrong": "both wrong, the same answer",
    **{key: CELLS[key] for key in ("lost", "gained", "different_wrong")},
}
_NUMBERS = {
    "kl": "KL divergence from the reference (nats)",
    "probability_loyalty": "probability loyalty (1 is equal)",
    "logit_error": "mean squared difference of the logits",
}


def answers(found: Mapping[str, Any]) -> Section:
    """The five cells, every rate, and how far the probabilities moved."""
    rates = [
        (title, percent(found[name]), interval(found[f"{name}_interval"]), percent(found.get(f"{name}_upper_bound")))
        for name, title in RATES.items()
        if is_known(found.get(name)) and f"{name}_interval" in found
    ]
    numbers = [(title, number(found[key])) for key, title in _NUMBERS.items() if is_known(found.get(key))]
    lead = [
        "Beside each rate stands its 95 % Wilson interval, and for those with a limit the one-sided 95 % upper bound."
    ]
    if is_known(found.get("mcnemar_p")):
        lead.append(
            f"McNemar's test of the accuracy: {p_words(found['mcnemar_p'])}. It says nothing about answers that "
            "change and cancel out."
        )
    tables = [
        Table("Rates", ("rate", "observed", "95 % interval", "upper bound"), rates),
        Table("Probabilities", ("distance of the probabilities", "mean"), numbers),
    ]
    cells = _cells(found)
    tables.insert(
        0, Table("What became of the items", ("reference and candidate", "items", "share"), cells, folded=True)
    )
    label = "What became of the items: " + "; ".join(f"{title} {items}" for title, items, _ in cells)
    chart = inline_svg(plot_cells(found), label=label)
    return Section("answers", "What became of the answers", tuple(lead), (chart,), tuple(tables))


def _cells(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    counts = (
        {title: found["cells"][key] for key, title in _CELLS.items()} if found["cells"] else _unlabelled_cells(found)
    )
    n = sum(counts.values())
    return [(title, count(items), percent(items / n)) for title, items in counts.items()]


def _unlabelled_cells(found: Mapping[str, Any]) -> dict[str, int]:
    return {"the same answer": found["n"] - found["cie"], "another answer": found["cie"]}


def rerun(found: Mapping[str, Any]) -> Section | None:
    """The seed floor."""
    floor = found.get("floor")
    if not floor:
        return None
    name = short_name(floor["model"])
    rows = [
        (
            "the candidate",
            count(found["cie"]),
            percent(found["mismatch_rate"]),
            interval(found["mismatch_rate_interval"]),
        ),
        (
            f"the re-run {name}",
            count(floor["mismatches"]),
            percent(floor["mismatch_rate"]),
            interval(floor["mismatch_rate_interval"]),
        ),
        (
            "difference",
            UNKNOWN,
            points(floor["difference"]["value"], signed=True),
            interval(ends(floor["difference"]), signed=True).replace("%", "points"),
        ),
    ]
    caption = "Answers unlike the reference's; the difference with its paired bootstrap interval"
    return Section(
        "rerun",
        "Against a re-run",
        (minus(floor["words"]),),
        (),
        (Table(caption, ("model", "items", "rate", "95 % interval"), rows),),
    )


def limits(found: Mapping[str, Any]) -> Section | None:
    """What was asked, and whether it is kept."""
    if not found["limits"]:
        return None
    rows = [
        (
            RATES.get(row["name"], row["name"]),
            percent(row["limit"]),
            percent(row["value"]),
            percent(row["upper_bound"]),
            f"{'✓' if row['passed'] else '✗'} {judged(row, found)}",
        )
        for row in found["limits"]
    ]
    lead = (
        "A limit is kept when the one-sided 95 % upper bound is within it: too few items never pass. It is exceeded "
        "when the whole interval of the rate lies above it; between the two nothing is shown."
    )
    columns = ("limit on", "at most", "observed", "upper bound", "verdict")
    return Section("limits", "Limits", (lead,), (), (Table("Limits", columns, rows, words=(4,)),))


def candidates(audits: Sequence[Mapping[str, Any]]) -> Section | None:
    """Several candidates side by side."""
    if len(audits) < 2:
        return None
    named = _named(audits)
    rows = [
        (
            name,
            count(found["n"]),
            count(found["cie"]),
            percent(found["mismatch_rate"]),
            interval(found["mismatch_rate_interval"]),
            percent(found["nfr"]),
            percent(found["accuracy_candidate"]),
            number(found["size_bytes"][1] / 1e6) if found.get("size_bytes") else UNKNOWN,
            number(found["latency_ms"][1]) if found.get("latency_ms") else UNKNOWN,
            ("✓ passed" if found["passed"] else "✗ not passed") if found["limits"] else "no limit",
        )
        for name, found in named.items()
    ]
    columns = ("candidate", "n", "mismatches", "rate", "95 % interval", "NFR", "accuracy", "MB", "ms", "verdict")
    lead = Markup("The other parts of this page are about the first of them, {}.").format(bdi(rows[0][0]))
    label = "Mismatch rate of each candidate with its interval, against size and latency where these are known"
    table = Table("Candidates", columns, rows, words=(9,))
    return Section("candidates", "Candidates", (lead,), (inline_svg(plot_candidates(named), label=label),), (table,))


def _named(audits: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The audits by the names of their candidates, numbered where two have the same."""
    names = [short_name(found["candidate"]["model"]) for found in audits]
    unique = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]
    return dict(zip(unique, audits, strict=True))


def frontier_section(
    files: Sequence[Plotted] | None, *, items: Collection[int], chosen: tuple[str, ...] | None
) -> Section | None:
    """The files that a repair measured, the smallest first.

    Args:
        files: as measured.
        items: how many items each audit of the page is of. Nothing else tells a frontier of other data.
        chosen: the layers in float of the file that the repair chose.

    Raises:
        ValueError: the files were measured on another number of items than every audit.
    """
    if not files:
        return None
    _check_items(files[0].n, items)
    lead = (
        f"{plural(len(files), 'file')} as the repair measured them, on {plural(files[0].n, 'item')}; a frontier does "
        "not say of which model and which items it is. A number in the chart is how many layers are in float, at the "
        f"files that no other beats in size and mismatches{' and at the chosen one' if chosen is not None else ''}.",
    )
    label = "Mismatch rate of each file with its interval, against its size and latency"
    chart = inline_svg(plot_frontier(files, chosen=chosen), label=label)
    return Section("frontier", "Frontier", lead, (chart,), (_files_table(files, chosen),))


def _check_items(n: int, items: Collection[int]) -> None:
    if n not in items:
        raise ValueError(
            f"The frontier was measured on {plural(n, 'item')}, and no audit here is of as many: "
            f"{', '.join(map(count, sorted(items)))}. Give the frontier of a repair of this model on these items, or "
            "leave it out."
        )


def _files_table(files: Sequence[Plotted], chosen: tuple[str, ...] | None) -> Table:
    best = undominated(files)
    rows = [
        (
            plural(len(file.kept), "layer"),
            number(file.size_bytes / 1e6),
            percent(file.mismatch_rate),
            interval(file.mismatch_rate_interval),
            "✓ kept" if file.passed else "✗ not shown to be kept",
            "chosen" if file.kept == chosen else "undominated" if file in best else "",
        )
        for file in sorted(files, key=lambda one: one.size_bytes)
    ]
    columns = ("in float", "MB", "mismatch rate", "95 % interval", "limits", "")
    return Table("Files, the smallest first", columns, rows, words=(4, 5), folded=True)


def costs(found: Mapping[str, Any]) -> Section | None:
    """What both models cost."""
    rows = [
        (row["what"], row["reference"], row["candidate"], row["ratio"] or UNKNOWN) for row in found.get("costs") or ()
    ]
    if not rows:
        return None
    machine = found.get("machine")
    lead = (Markup("Timed on {}.").format(bdi(machine)),) if machine else ()
    table = Table("Costs", ("", "reference", "candidate", "ratio"), rows)
    return Section("costs", "Size and latency", lead, (), (table,))


def classes(found: Mapping[str, Any]) -> Section | None:
    """What changed in each class, the most harmed first, and how unevenly."""
    rows = [row for row in harmful_first(found["per_class"]) if row["n"]]
    if not rows:
        return None
    shown, left_out = first_of(rows)
    body = [
        (
            row["name"],
            count(row["n"]),
            count(row["mismatches"]),
            percent(row["mismatch_rate"]),
            interval(row["mismatch_rate_interval"]),
            percent(row["nfr"]),
            percent(row["recall_reference"]),
            percent(row["recall_candidate"]),
        )
        for row in shown
    ]
    columns = ("class", "n", "mismatches", "rate", "95 % interval", "NFR", "recall before", "recall after")
    known = listed(found, "label")
    links = [items_link(label=row["label"]) if row["label"] in known else "" for row in shown]
    caption = "Classes of the labels, most harmed first" + left_out
    lead = [
        "Items by their label. The classes whose mismatch rate is surely high, by the lower end of its interval, "
        "come first."
    ]
    chart = inline_svg(
        plot_classes(found), label="Mismatch rate and NFR of each class with its interval, most harmed first"
    )
    tables = [Table(caption, columns, body, links, folded=True)]
    bias = found.get("class_bias")
    if bias:
        skipped = f"; left out, for want of errors before: {bias['n_skipped']:,}" if bias["n_skipped"] else ""
        lead.append(
            f"How unevenly the errors of the classes changed: CEV {number(bias['cev'])}, SDE {number(bias['sde'])} "
            f"(0 is evenly; from changes in percent{skipped})."
        )
        tables.append(_bias_table(bias, found["label_names"]))
    return Section("classes", "Classes", tuple(lead), (chart,), tuple(tables))


def _bias_table(bias: Mapping[str, Any], names: Sequence[str]) -> Table:
    rows = sorted(bias["rows"], key=lambda row: -row["fnr_change"] if is_known(row["fnr_change"]) else float("inf"))
    shown, left_out = first_of(rows)
    body = [
        (
            class_name(names, row["label"]),
            percent(row["fpr_reference"]),
            percent(row["fpr_candidate"]),
            _change(row["fpr_change"]),
            percent(row["fnr_reference"]),
            percent(row["fnr_candidate"]),
            _change(row["fnr_change"]),
        )
        for row in shown
    ]
    columns = ("class", "FPR before", "after", "change", "FNR before", "after", "change")
    caption = "Errors of each class against the rest, and their change in percent of the rate before"
    return Table(caption + left_out, columns, body, folded=True)


def _change(value: Any) -> str:
    return percent(value / 100, signed=True, digits=1) if is_known(value) else UNKNOWN


def frequencies(found: Mapping[str, Any]) -> Section | None:
    """How often each class is predicted, and whether that changed."""
    tested = found.get("frequencies")
    if not tested:
        return None
    counts = list(enumerate(zip(tested["reference"], tested["candidate"], strict=True)))
    ordered = sorted(counts, key=lambda one: -abs(one[1][1] - one[1][0]))
    shown, left_out = first_of([one for one in ordered if any(one[1])])
    names = found["label_names"]
    body = [
        (class_name(names, label), count(before), count(after), change(after - before))
        for label, (before, after) in shown
    ]
    known = listed(found, "candidate")
    links = [items_link(candidate=label) if label in known else "" for label, _ in shown]
    named = {
        "stuart_maxwell": "Stuart-Maxwell (paired): are the classes predicted as often as before?",
        "bowker": "Bowker (paired): do as many answers go from one class to another as back?",
        "chi_squared_unpaired": "chi-squared (ignores the pairing)",
    }
    tests = [
        (title, number(tested[key]["statistic"]), count(tested[key]["df"]), p_value(tested[key]["p_value"]))
        for key, title in named.items()
    ]
    caption = "Answers by class, the largest change first" + left_out
    return Section(
        "frequencies",
        "How often each class is answered",
        (),
        (),
        (
            Table("Tests of the frequencies", ("test", "statistic", "df", "p"), tests),
            Table(caption, ("class", "before", "after", "change"), body, links, folded=True),
        ),
    )
