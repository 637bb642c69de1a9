"""Sections of an audit about parts of the items: changes from class to class, classes and groups."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
_RATES: tuple[Column, ...] = (*MISMATCHES, ("NFR", "nfr", percent), ("95 % interval", "nfr_interval", interval))
_HARMED = "less harmed"
_NEARLY_ALL = 0.9


def harmful_first(rows: Iterable[Row]) -> list[Row]:
    """Rows of classes or groups by what they lost: the lower end of the NFR's interval, so that no two items lead.

    Then come those without labels, by the mismatch rate's, and last those without items.
    """

    def harm(row: Row) -> tuple[float, ...]:
        return tuple(
            number if is_known(number) else -math.inf
            for rate in ("nfr", "mismatch_rate")
            for number in (row[f"{rate}_interval"][0], row[rate])
        )

    return sorted(rows, key=harm, reverse=True)


def groups_in_order(found: Row, attribute: str) -> list[Row]:
    """The groups of an attribute as all outputs show them: bins by their values, others the most harmed first."""
    rows = [row for row in found["groups"] if row["attribute"] == attribute]
    return rows if _are_bins(found, attribute) else harmful_first(rows)


def _are_bins(found: Row, attribute: str) -> bool:
    return any(gap["in_order"] for gap in found["gaps"] if gap["attribute"] == attribute)


def class_name(names: Sequence[str], index: int | None) -> Name:
    """The name of a class; its number where there are more classes than names."""
    if index is None:
        return Name("")
    return Name(names[index] if 0 <= index < len(names) else index)


def _both(title: str, key: str, form: Any = percent) -> list[Column]:
    """The columns of the reference and the candidate."""
    return [(f"{title} before".strip(), f"{key}reference", form), ("after", f"{key}candidate", form)]


def changes(found: Row) -> Section:
    """Which class turned into which."""
    name, rows = partial(class_name, found["label_names"]), found["changes"]

    def share(n: int) -> str:
        return percent(n / found["cie"])

    columns: list[Column] = [("reference", "reference", name), ("candidate", "candidate", name)]
    columns += [("items", "n", count), ("of the mismatches", "n", share)]
    if found["cells"]:
        columns += [("right, now wrong", "lost", count), ("wrong, now right", "gained", count)]
    items = [{side: row[side] for side in ("reference", "candidate")} for row in rows]
    title = "Changes from class to class, the most frequent first"
    table = Table.of(title, rows, columns, items=items, rest="rarer", words=(1,), depth=1)
    lead = "The reference's answer, and what the candidate answers instead."
    return Section("changes", "Which class turned into which", (table,), tuple(_reordered(found)), (lead,))


def _reordered(found: Row) -> Iterator[Words]:
    """A sentence where nearly all answers are the reference's under other labels: a broken order of the labels."""
    kept = Counter(dict(enumerate(found["frequencies"]["reference"])))
    usual: dict[int, tuple[int, int]] = {}
    for row in found["changes"]:  # the most frequent first
        kept[row["reference"]] -= row["n"]
        usual.setdefault(row["reference"], (row["candidate"], row["n"]))
    stay = {label: (label, n) for label, n in kept.items() if n and n >= usual.get(label, (label, 0))[1]}
    moved = {label: one for label, one in usual.items() if label not in stay}
    targets, fitting = zip(*(stay | moved).values(), strict=True)
    if moved and len({*targets}) == len(targets) and sum(fitting) >= _NEARLY_ALL * found["n"]:
        name = partial(class_name, found["label_names"])
        pairs = [part for label, (now, _) in moved.items() for part in (", ", name(label), " as ", name(now))]
        share = percent(sum(fitting) / found["n"])
        lead = f"{share} of the answers are the reference's with other labels: "
        yield (lead, *pairs[1:], ". Compare the order of the labels of both models.")


def classes(found: Row) -> Section:
    """What changed in each class, and how unevenly."""
    rows = [row for row in harmful_first(found["per_class"]) if row["n"]]
    columns: list[Column] = [("class", "name", Name), *_RATES, *_both("recall", "recall_")]
    items = [{"label": row["label"]} for row in rows]
    tables = [Table.of("Classes of the labels, most harmed first", rows, columns, items=items, rest=_HARMED, depth=1)]
    lead = "Items by their label. The classes with the highest lower end of the NFR's interval come first."
    empty = len(found["per_class"]) - len(rows)
    notes: list[Words] = [f"{plural(empty, 'class', 'classes')} without a labeled item left out."] if empty else []
    if bias := found["class_bias"] if rows else None:
        notes += _unevenly(bias, found["label_names"])
        tables.append(_bias_table(bias["rows"], found["label_names"]))
    return Section("classes", "Classes", tuple(tables), tuple(notes), (lead,))


def _unevenly(bias: Row, names: Sequence[str]) -> list[Words]:
    """CEV and SDE, and the classes that they leave out."""
    notes: list[Words] = []
    if is_known(bias["cev"]):
        cev, sde = number(bias["cev"]), number(bias["sde"])
        found = f"How unevenly the errors of the classes changed: CEV {cev}, SDE {sde}"
        notes.append(f"{found} (0 is evenly; from changes in percent).")
    if bias["n_skipped"]:
        changes = ((row["label"], row["fpr_change"], row["fnr_change"]) for row in bias["rows"])
        skipped = [class_name(names, label) for label, *moved in changes if not all(map(is_known, moved))]
        notes.append(("Left out of CEV and SDE, without errors of both kinds before: ", *_listed(skipped), "."))
    return notes


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
    lead = "The tests are approximate: where few answers changed, read their p-values with care."
    return Section("frequencies", "How often each class is answered", tables, lead=(lead,))


def groups(found: Row) -> list[Section]:
    """One section for each attribute."""
    attributes = dict.fromkeys(row["attribute"] for row in (*found["groups"], *found["gaps"]))
    return [_attribute(found, attribute, f"groups-{place}") for place, attribute in enumerate(attributes, 1)]


def _attribute(found: Row, attribute: str, key: str) -> Section:
    rates, gaps = ([row for row in found[table] if row["attribute"] == attribute] for table in ("group_rates", "gaps"))
    if not any(row["attribute"] == attribute for row in found["groups"]):
        return Section(key, ("Groups: ", Name(attribute)), notes=((Name(attribute), ": no item is in a group."),))
    tables, notes = [_group_table(found, attribute)], _counted(found, attribute)
    for gap in gaps:
        tables += [_gap_table(gap), *_fairness(gap["fairness"], found["label_names"])]
        notes += _whom_fairness_leaves_out(gap["fairness"], found["min_group_size"])
    tables.append(_rates_table(rates, found["label_names"]))
    return Section(key, ("Groups: ", Name(attribute)), tuple(tables), tuple(notes))


def _counted(found: Row, attribute: str) -> list[Words]:
    """How many items and groups the numbers of an attribute are not about."""
    notes: list[Words] = []
    gaps = [gap for gap in found["gaps"] if gap["attribute"] == attribute]
    if none := sum(gap["n_ungrouped"] for gap in gaps):
        notes.append(f"{plural(none, 'item')} {'is' if none == 1 else 'are'} in no group.")
    if not any(gap["n_groups"] > 1 for gap in gaps):
        notes.append("There are not two groups large enough to compare.")
    rows, least = [row for row in found["groups"] if row["attribute"] == attribute], found["min_group_size"]
    if small := sum(row["small"] for row in rows):
        few = f"{plural(small, 'group')} of fewer than {least} items"
        notes.append(f"{few}: shown, marked as small, and in no gap and no verdict.")
    if unlabeled := sum(not row["small"] and row["n_labeled"] < least for row in rows) if found["n_labeled"] else 0:
        notes.append(
            f"{plural(unlabeled, 'other group')} of fewer than {least} labeled items: in nothing that needs labels."
        )
    return notes


def _group_table(found: Row, attribute: str) -> Table:
    def name(row: Row) -> Words:
        return (Name(row["group"]), " (small)") if row["small"] else Name(row["group"])

    rows, are_bins = groups_in_order(found, attribute), _are_bins(found, attribute)
    columns: list[Column] = [(Name(attribute), None, name), *_RATES, *_both("accuracy", "accuracy_")]
    order = "in the order of their values" if are_bins else "most harmed first"
    title = f"Groups, {order}; p: whether answers change more or less often than outside the group"
    items = [{"group": f"{attribute}: {row['group']}"} for row in rows]
    columns.append(("p (Holm)", "p_adjusted", p_value))
    return Table.of(title, rows, columns, items=items, rest="" if are_bins else _HARMED, depth=1)


def _gap_table(gap: Row) -> Table:
    """How far the judged groups lie apart: a gap needs two of them, the accuracy of the worst group one."""
    most, drop, most_drop = gap["upper_bound"], gap["worst_group_accuracy_drop"], gap["drop_upper_bound"]
    most_words = f"at most {points(most)}" if is_known(most) else "-"
    # A drop is a change below 0, so that a gain is not called a negative drop.
    worst_words = f"at worst {change(-most_drop)}" if is_known(most_drop) else "-"
    between = (Name(gap["highest"]), " - ", Name(gap["lowest"]))
    p, p_of_gap = (p_value(gap[key]) for key in ("p_value", "range_p_value"))
    rows: list[tuple[Words, ...]] = []
    if is_known(gap["mismatch_gap"]):
        rows.append(("mismatch rates, all groups by size", "", "", p, ""))
        rows.append(("mismatch rate, gap", points(gap["mismatch_gap"]), most_words, p_of_gap, between))
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
    moved: Column = ("change", "change", partial(decimals, signed=True))
    measures: list[Column] = [*_both("", "", decimals), moved]
    over_all: list[Column] = [
        ("all groups: before", "reference_all_groups", decimals),
        ("after", "candidate_all_groups", decimals),
    ]
    counts: list[Column] = [("left out: classes", "n_skipped", count), ("groups", "left_out", _count_of)]
    bound: Column = ("after, at most", "upper_bound", decimals)
    worst: list[Column] = [("fairness (worst class)", "measure", _measure), *measures, bound, *counts, *over_all]
    each: list[Column] = [("fairness", "measure", _measure), ("class", "label", partial(class_name, names)), *measures]
    each += [*over_all, ("groups left out", "left_out", _listed)]
    of_all = [row for row in rows if row["label"] is None]
    of_one = [row for row in rows if row["label"] is not None]
    return [
        Table.of("Fairness of the answers", of_all, worst, depth=1),
        Table.of("Fairness of the answers, class by class", of_one, each, words=(1, len(each) - 1), depth=2),
    ]


def _measure(name: str) -> str:
    return name.replace("_", " ")


def _count_of(groups: Sequence[str]) -> str:
    return count(len(groups))


def _listed(groups: Sequence[str], most: int = 10) -> Words:
    """Names of groups, the first of many."""
    names = [part for group in groups[:most] for part in (", ", Name(group))][1:]
    return (*names, f" and {count(len(groups) - most)} more") if len(groups) > most else tuple(names)


def _whom_fairness_leaves_out(rows: Sequence[Row], least: int) -> list[Words]:
    """The groups that each measure leaves out for any class, those of measures with the same groups together."""
    measures: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row["label"] is None and row["left_out"]:
            measures.setdefault(tuple(row["left_out"]), []).append(_measure(row["measure"]))
    return [
        (f"Fewer than {least} items behind a rate, so left out of the {' and the '.join(names)}: ", *_listed(out), ".")
        for out, names in measures.items()
    ]


def _rates_table(rows: Sequence[Row], names: Sequence[str]) -> Table:
    columns: list[Column] = [("group", "group", Name), ("class", "label", partial(class_name, names))]
    for key, title in {"selection_rate": "answered", "tpr": "TPR", "fpr": "FPR"}.items():
        columns += _both(title, f"{key}_", partial(percent, digits=1))
    title = "How often each group is given each class, and how often rightly"
    return Table.of(title, rows, columns, words=(1,), depth=2)
