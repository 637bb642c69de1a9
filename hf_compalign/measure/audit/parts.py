"""Sections of an audit about parts of the items, the most harmed first: classes and groups."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from hf_compalign._formats import change, count, decimals, interval, is_known, number, p_value, percent, plural, points
from hf_compalign._tables import Column, Name, Section, Table, Words

Row = Mapping[str, Any]
_TESTS = {
    "stuart_maxwell": "Stuart-Maxwell (paired): are the classes predicted as often as before?",
    "bowker": "Bowker (paired): do as many answers go from one class to another as back?",
    "chi_squared_unpaired": "chi-squared (ignores the pairing)",
}
MISMATCHES: tuple[Column, ...] = (
    ("n", "n", count),
    ("mismatches", "mismatches", count),
    ("rate", "mismatch_rate", percent),
    ("95 % interval", "mismatch_rate_interval", interval),
)
_RATES: tuple[Column, ...] = (*MISMATCHES, ("NFR", "nfr", percent))


def harmful_first(rows: Iterable[Row]) -> list[Row]:
    """Rows of classes or groups by the lower end of the rate's interval: a class of two items does not lead.

    Rows without items come last.
    """

    def harm(row: Row) -> tuple[float, float]:
        low, rate = row["mismatch_rate_interval"][0], row["mismatch_rate"]
        return (low, rate) if is_known(low) else (-math.inf, -math.inf)

    return sorted(rows, key=harm, reverse=True)


def class_name(names: Sequence[str], index: int | None) -> Name:
    """The name of a class; its number where there are more classes than names."""
    if index is None:
        return Name("")
    return Name(names[index] if 0 <= index < len(names) else index)


def _both(title: str, key: str, form: Any = percent) -> list[Column]:
    """The columns of the reference and the candidate."""
    return [(f"{title} before".strip(), f"{key}reference", form), ("after", f"{key}candidate", form)]


def classes(found: Row) -> Section:
    """What changed in each class, and how unevenly."""
    rows = [row for row in harmful_first(found["per_class"]) if row["n"]]
    columns: list[Column] = [("class", "name", Name), *_RATES, *_both("recall", "recall_")]
    items = [{"label": row["label"]} for row in rows]
    tables = [Table.of("Classes of the labels, most harmed first", rows, columns, items=items, depth=1)]
    lead = "Items by their label. The classes with the highest lower end of the mismatch rate's interval come first."
    empty = len(found["per_class"]) - len(rows)
    notes = [f"{plural(empty, 'class', 'classes')} without a labeled item left out."] if empty else []
    if bias := found["class_bias"] if rows else None:
        skipped = f"; left out, without errors before: {count(bias['n_skipped'])}" if bias["n_skipped"] else ""
        notes.append(
            f"How unevenly the errors of the classes changed: CEV {number(bias['cev'])}, SDE {number(bias['sde'])} "
            f"(0 is evenly; from changes in percent{skipped})."
        )
        tables.append(_bias_table(bias["rows"], found["label_names"]))
    return Section("classes", "Classes", tuple(tables), tuple(notes), (lead,))


def _bias_table(rows: Sequence[Row], names: Sequence[str]) -> Table:
    def relative(in_percent: Any) -> str:
        return percent(in_percent / 100 if is_known(in_percent) else None, digits=1, signed=True)

    def order(row: Row) -> float:
        return -row["fnr_change"] if is_known(row["fnr_change"]) else math.inf

    columns: list[Column] = [("class", "label", partial(class_name, names))]
    for rate in ("fpr", "fnr"):
        columns += [*_both(rate.upper(), f"{rate}_"), ("change", f"{rate}_change", relative)]
    title = "Errors of each class against the rest, and their change in percent of the rate before"
    return Table.of(title, sorted(rows, key=order), columns, depth=2)


def frequencies(found: Row) -> Section:
    """How often each class is predicted, and whether that changed."""
    tested = found["frequencies"]
    tests = [
        (title, number(tested[key]["statistic"]), count(tested[key]["df"]), p_value(tested[key]["p_value"]))
        for key, title in _TESTS.items()
    ]
    rows = [
        {"label": label, "reference": before, "candidate": after, "change": after - before}
        for label, (before, after) in enumerate(zip(tested["reference"], tested["candidate"], strict=True))
        if before or after
    ]
    rows.sort(key=lambda row: -abs(row["change"]))
    columns: list[Column] = [("class", "label", partial(class_name, found["label_names"])), *_both("", "", count)]
    columns.append(("change", "change", partial(decimals, digits=0, signed=True)))
    items = [{"candidate": row["label"]} for row in rows]
    tables = (
        Table("Tests of the frequencies", ("frequencies of the classes", "statistic", "df", "p"), tests, depth=1),
        Table.of("Answers by class, the largest change first", rows, columns, items=items, depth=2),
    )
    return Section("frequencies", "How often each class is answered", tables)


def groups(found: Row) -> list[Section]:
    """One section for each attribute."""
    attributes = dict.fromkeys(row["attribute"] for row in (*found["groups"], *found["gaps"]))
    return [_attribute(found, attribute, f"groups-{place}") for place, attribute in enumerate(attributes, 1)]


def _attribute(found: Row, attribute: str, key: str) -> Section:
    rows, rates, gaps = (
        [row for row in found[table] if row["attribute"] == attribute] for table in ("groups", "group_rates", "gaps")
    )
    if not rows:
        return Section(key, ("Groups: ", Name(attribute)), notes=((Name(attribute), ": no item is in a group."),))
    tables, notes = [_group_table(attribute, harmful_first(rows))], []
    for gap in gaps:
        tables += [_gap_table(gap), *_fairness(gap["fairness"], found["label_names"])]
    if not any(gap["n_groups"] > 1 for gap in gaps):
        notes.append("There are not two groups large enough to compare.")
    if small := sum(row["small"] for row in rows):
        few = f"{plural(small, 'group')} of fewer than {found['min_group_size']} items"
        notes.append(f"{few}: shown, marked as small, and in no gap and no verdict.")
    tables.append(_rates_table(rates, found["label_names"]))
    return Section(key, ("Groups: ", Name(attribute)), tuple(tables), tuple(notes))


def _group_table(attribute: str, rows: Sequence[Row]) -> Table:
    def name(row: Row) -> Words:
        return (Name(row["group"]), " (small)") if row["small"] else Name(row["group"])

    sure: Column = ("95 % interval", "nfr_interval", interval)
    columns: list[Column] = [(Name(attribute), None, name), *_RATES, sure, *_both("accuracy", "accuracy_")]
    title = "Groups, most harmed first; p: whether answers change more or less often than outside the group"
    items = [{"group": f"{attribute}: {row['group']}"} for row in rows]
    return Table.of(title, rows, [*columns, ("p (Holm)", "p_adjusted", p_value)], items=items, depth=1)


def _gap_table(gap: Row) -> Table:
    """How far the judged groups lie apart: a gap needs two of them, the accuracy of the worst group one."""
    most, drop, most_drop = gap["upper_bound"], gap["worst_group_accuracy_drop"], gap["drop_upper_bound"]
    most_words = f"at most {points(most)}" if is_known(most) else "-"
    # A drop is a change below 0, so that a gain is not called a negative drop.
    worst_words = f"at worst {change(-most_drop)}" if is_known(most_drop) else "-"
    between = (Name(gap["highest"]), " - ", Name(gap["lowest"]))
    rows: list[tuple[Words, ...]] = []
    if is_known(gap["mismatch_gap"]):
        rows.append(("mismatch rate, gap", points(gap["mismatch_gap"]), most_words, p_value(gap["p_value"]), between))
    if is_known(gap["nfr_gap"]):
        rows.append(("NFR, gap", points(gap["nfr_gap"]), "", "", ""))
    if is_known(drop):
        for when, side in (("before", "reference"), ("after", "candidate")):
            accuracy, group = gap[f"worst_group_accuracy_{side}"], Name(gap[f"worst_group_{side}"])
            rows.append((f"accuracy of the worst group {when}", percent(accuracy), "", "", group))
        rows.append(("accuracy of the worst group, change", change(-drop), worst_words, "", ""))
    header = ("judged groups of ", Name(gap["attribute"]), f": {gap['n_groups']}")
    return Table("Gaps between the groups", (header, "observed", "95 % bound", "p", "groups"), rows, words=(4,))


def _fairness(rows: Sequence[Row], names: Sequence[str]) -> list[Table]:
    """The worst over all classes, and class by class."""

    def title(measure: str) -> str:
        return measure.replace("_", " ")

    moved: Column = ("change", "change", partial(decimals, signed=True))
    measures: list[Column] = [*_both("", "", decimals), moved, ("classes left out", "n_skipped", count)]
    worst: list[Column] = [("fairness (worst class)", "measure", title), *measures]
    each: list[Column] = [("fairness", "measure", title), ("class", "label", partial(class_name, names)), *measures]
    of_all = [row for row in rows if row["label"] is None]
    of_one = [row for row in rows if row["label"] is not None]
    return [
        Table.of("Fairness of the answers", of_all, worst, depth=1),
        Table.of("Fairness of the answers, class by class", of_one, each, words=(1,), depth=2),
    ]


def _rates_table(rows: Sequence[Row], names: Sequence[str]) -> Table:
    columns: list[Column] = [("group", "group", Name), ("class", "label", partial(class_name, names))]
    for key, title in {"selection_rate": "answered", "tpr": "TPR", "fpr": "FPR"}.items():
        columns += _both(title, f"{key}_", partial(percent, digits=1))
    title = "How often each group is given each class, and how often rightly"
    return Table.of(title, rows, columns, words=(1,), depth=2)
