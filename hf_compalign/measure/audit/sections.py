"""An audit as sections of tables and sentences: what every text, notebook, page and card shows of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hf_compalign._formats import (
    change,
    count,
    decimals,
    interval,
    is_known,
    number,
    p_words,
    percent,
    plural,
    short_name,
)
from hf_compalign._records import built
from hf_compalign._tables import Name, Section, Table, Words
from hf_compalign.measure.attribution import compared_with, similarity_title
from hf_compalign.measure.audit.parts import MISMATCHES, changes, classes, frequencies, groups
from hf_compalign.measure.audit.verdict import limits
from hf_compalign.measure.footprint import Latency, wide_spread
from hf_compalign.measure.slices import slices_section
from hf_compalign.measure.statistics import Cells

RATES = {
    "agreement": "same answer (agreement)",
    "mismatch_rate": "other answer (mismatch rate)",
    "nfr": "right, now wrong (NFR)",
    "pfr": "wrong, now right (PFR)",
    "flip_rate": "flips between right and wrong",
    "btc": "right answers kept (BTC)",
    "bec": "errors shared (BEC)",
    "accuracy_reference": "accuracy before",
    "accuracy_candidate": "accuracy after",
}
_CELLS = {
    "both_right": "both right",
    "same_wrong": "both wrong, the same answer",
    "lost": "right, now wrong",
    "gained": "wrong, now right",
    "different_wrong": "wrong, now otherwise",
}
_DISTANCES = {
    "kl": "KL divergence from the reference (nats)",
    "probability_loyalty": "probability loyalty (1 is equal)",
    "logit_error": "mean squared difference of the logits",
}
_CALIBRATION = {"ece": "calibration error (ECE)", "brier": "Brier score", "nll": "negative log-likelihood (nats)"}
_SIMILARITIES = {
    "all": "all",
    "agreeing": "same answer",
    "mismatches": "other answer",
    "floor": "floor",
    "repeat": "repeat",
}

Row = Mapping[str, Any]
Form = Callable[[Any], str]


def sections_of(found: Row) -> list[Section]:
    """The sections of an audit that have something to show, from its ``to_dict()``."""
    made = [answers(found), limits(found), *_if_any(rerun, found["floor"], found), costs(found)]
    made += [changes(found), classes(found), *groups(found), *_if_any(slices_section, found["slices"])]
    made += [*_if_any(calibration, found["calibration"]), *_if_any(margins, found["margins"]), frequencies(found)]
    made += _if_any(attribution, found["attribution"], found)
    return [section for section in made if section.notes or section.shown(2)]


def _if_any(section: Callable[..., Section], part: Any, *others: Row) -> list[Section]:
    return [section(part, *others)] if part else []


def answers(found: Row) -> Section:
    """Every rate, how far the probabilities moved, and the five cells."""
    n, cie = found["n"], found["cie"]
    counts, cells = {"mismatch_rate": (cie, n), "agreement": (n - cie, n)}, {"the same answer": n - cie, "another": cie}
    if found["cells"]:
        counts |= Cells(**found["cells"]).proportions()
        cells = {title: found["cells"][key] for key, title in _CELLS.items()}
    rates = [
        (title, f"{count(k)} of {count(of)}", percent(k / of), interval(found[f"{name}_interval"]), _bound(found, name))
        for name, title in RATES.items()
        for k, of in (counts.get(name, (0, 0)),)
        if of
    ]
    notes = _of_examples(found)
    if is_known(found["mcnemar_p"]):
        notes.append(
            f"McNemar's test of the accuracy: {p_words(found['mcnemar_p'])}. It says nothing about answers that "
            "change and cancel out."
        )
    moved = [(title, number(found[key])) for key, title in _DISTANCES.items() if is_known(found.get(key))]
    items = [(title, count(k), percent(k / sum(cells.values()))) for title, k in cells.items()]
    tables = (
        Table("Rates", ("answers", "items", "rate", "95 % interval", "95 % upper bound"), rates),
        Table("Scores of the task", ("score", "before", "after", "change", "95 % interval"), task_scores(found)),
        Table("Probabilities", ("distance of the probabilities", "mean"), moved),
        Table("What became of the items", ("reference and candidate", "items", "share"), items, depth=2),
    )
    lead = "The upper bounds are one-sided: of the rates that may have a limit."
    if found.get("n_examples") is None:
        lead = f"The intervals are Wilson's, of a change in a score bootstrapped. {lead}"
    return Section("answers", "What became of the answers", tables, tuple(notes), (lead,))


def _of_examples(found: Row) -> list[str]:
    """Whose items these are, where examples have several."""
    if found.get("n_examples") is None:
        return []
    return [
        f"The items belong to {plural(found['n_examples'], 'example')}, and those of one are alike. So intervals and "
        "upper bounds are over examples: the intervals bootstrapped, and the bounds whatever the items of an example "
        "have to do with each other."
    ]


def task_scores(found: Row) -> list[tuple[Words, ...]]:
    """What the task is scored by, of both models, and the change: a row for each score that is known."""
    names = found["label_names"]
    of_f1 = ("F1 of ", Name(names[1])) if len(names) == 2 else "F1 (macro)"
    titles: dict[str, tuple[Words, Form, Form]] = {
        "accuracy": ("accuracy", percent, change),
        "f1": (of_f1, percent, change),
        "mcc": ("Matthews' correlation (MCC)", decimals, partial(decimals, signed=True)),
    }
    return [
        (
            title,
            form(found[f"{key}_reference"]),
            form(found[f"{key}_candidate"]),
            moved(found[f"{key}_change"]),
            interval(found[f"{key}_change_interval"], moved),
        )
        for key, (title, form, moved) in titles.items()
        if is_known(found[f"{key}_reference"]) or is_known(found[f"{key}_candidate"])
    ]


def _bound(found: Row, name: str) -> str:
    return percent(found[bound]) if (bound := f"{name}_upper_bound") in found else ""


def rerun(floor: Row, found: Row) -> Section:
    """The seed floor."""
    mine, its = ((percent(one["mismatch_rate"]), interval(one["mismatch_rate_interval"])) for one in (found, floor))
    difference = floor["difference"]
    rows = (
        ("candidate", count(found["cie"]), *mine),
        (("re-run ", Name(short_name(floor["model"]))), count(floor["mismatches"]), *its),
        ("candidate - re-run", "", change(difference["value"]), _ends(difference, change)),
    )
    columns = ("unlike the reference", "mismatches", "rate", "95 % interval")
    return Section("rerun", "Against a re-run", (Table("Against a re-run", columns, rows),), (floor["words"],))


def costs(found: Row) -> Section:
    """What both models cost."""
    columns = [("costs", "what", str), *((side, side, str) for side in ("reference", "candidate", "ratio"))]
    table = Table.of("Size and latency", found["costs"], columns)
    notes: list[Words] = []
    if found["costs"]:
        notes += [("Timed on ", Name(found["machine"]), ".")] if found["machine"] else []
        timed = zip(("reference", "candidate"), found["latency"] or (), strict=False)
        notes += filter(None, [wide_spread({side: built(Latency, one) for side, one in timed})])
    return Section("costs", "Size and latency", (table,), tuple(notes))


def calibration(shift: Row) -> Section:
    """Whether confidence means what it did."""
    before, after = shift["reference"], shift["candidate"]
    four, signed = partial(decimals, digits=4), partial(decimals, digits=4, signed=True)
    rows = [
        (title, four(before[key]), four(after[key]), signed(moved["value"]), _ends(moved, signed))
        for key, title in _CALIBRATION.items()
        for moved in (shift[f"{key}_change"],)
    ]
    lead = (
        f"Of {plural(shift['n'], 'labeled item')}, in {shift['n_bins']} bins of equal width; the intervals are "
        "bootstrapped. Lower is better, and 0 is perfect for the first."
    )
    columns = ("calibration", "before", "after", "change", "95 % interval")
    tables = (Table("Calibration", columns, rows), _bins(before["bins"], after["bins"]))
    note = f"Confidence {_calibration_words(shift['ece_change'])} {_lean(after['bins'])}".rstrip()
    return Section("calibration", "Calibration", tables, (note,), (lead,))


def _calibration_words(moved: Row) -> str:
    if is_known(moved["low"]) and moved["low"] > 0:
        return "is further from the accuracy than it was: the calibration error grew."
    if is_known(moved["high"]) and moved["high"] < 0:
        return "is closer to the accuracy than it was: the calibration error shrank."
    return "is as far from the accuracy as it was, as far as these items can tell."


def _lean(bins: Sequence[Row]) -> str:
    """Whether a model is sure too often or too seldom, in a sentence."""
    full = [one for one in bins if one["n"]]
    n = sum(one["n"] for one in full)
    if not n:
        return ""
    confidence, accuracy = (sum(one["n"] * one[name] for one in full) / n for name in ("confidence", "accuracy"))
    sure = "over-confident" if confidence > accuracy else "under-confident"
    if round(10_000 * confidence) == round(10_000 * accuracy):
        sure = "as sure as it is right"
    return f"On average the candidate is {sure}: mean confidence {percent(confidence)}, accuracy {percent(accuracy)}."


def _bins(before: Sequence[Row], after: Sequence[Row]) -> Table:
    rows = [
        (f"{first['low']:.2f} to {first['high']:.2f}", *_bin(first), *_bin(second))
        for first, second in zip(before, after, strict=True)
    ]
    columns = ("confidence", "n before", "mean", "accuracy", "n after", "mean", "accuracy")
    return Table("Bins of confidence, before and after", columns, rows, depth=2)


def _bin(one: Row) -> tuple[str, str, str]:
    return count(one["n"]), percent(one["confidence"]), percent(one["accuracy"])


def margins(rows: Sequence[Row]) -> Section:
    """Where answers flip: how sure the reference was."""

    def ends(row: Row) -> str:
        return f"{row['low']:.3f} to {row['high']:.3f}"

    columns = (("margin", None, ends), *MISMATCHES)
    lead = (
        "The reference's margin is the probability of its answer minus that of its second best. Where it was least "
        f"sure, {percent(rows[0]['mismatch_rate'])} of the answers changed; where it was surest, "
        f"{percent(rows[-1]['mismatch_rate'])}."
    )
    table = Table.of("Mismatches by the reference's margin", rows, columns, depth=2)
    return Section("margins", "Where answers change", (table,), lead=(lead,))


def attribution(found: Row, whole: Row) -> Section:
    """Whether both models look at the same parts of the inputs."""
    rows = [
        (similarity_title(row["similarity"], found["top_k"]), *(_estimate(row[kind]) for kind in _SIMILARITIES))
        for row in found["rows"]
    ]
    scored = "token" if found["kind"] == "text" else "cell of a grid of pixels"
    beside, said = compared_with(found), sampled(found, of_examples=whole.get("n_examples") is not None)
    notes = [
        f"How alike the two models' explanations of the reference's answer are ({found['method'].replace('_', ' ')}, a "
        f"score for each {scored}): of {said}. In brackets: 95 % bootstrap intervals.",
        f"Floor: the reference against {beside['floor']}. Repeat: the reference against {beside['repeat']}. A "
        "candidate above the repeat differs less than two choices of the method do.",
    ]
    deltas = [found[f"convergence_delta_{side}"] for side in ("reference", "candidate")]
    if all(map(is_known, deltas)):
        notes.append(
            "Convergence delta, the mean gap between the sum of an item's scores and the change of the logit that they "
            f"explain: {number(deltas[0])} (reference), {number(deltas[1])} (candidate)."
        )
    table = Table("Similarity of the explanations", ("attribution", *_SIMILARITIES.values()), rows)
    return Section("attribution", "Do both look at the same things?", (table,), tuple(notes))


def sampled(found: Row, *, of_examples: bool = False) -> str:
    """The items of an attribution agreement: a sample, perhaps of examples with several items; and more mismatches.

    >>> sampled({"n_items": 60, "n_agreeing": 56, "n_mismatches": 60, "seed": 0})
    '60 items drawn at random (seed 0; 56 answered alike), and 56 more that the two answer differently'
    """
    n, agreeing = found["n_items"], found["n_agreeing"]
    more = found["n_mismatches"] - (n - agreeing)
    items = f"an item of each of {plural(n, 'example')}" if of_examples else plural(n, "item")
    drawn = f"{items} drawn at random (seed {found['seed']}; {agreeing} answered alike)"
    return f"{drawn}, and {more} more that the two answer differently" if more else drawn


def _estimate(found: Row) -> str:
    """A mean with its interval; one item, or equal ones, do not tell how sure it is."""
    ends = _ends(found, decimals) if found["low"] != found["high"] else "-"
    return f"{decimals(found['value'])} ({ends})" if is_known(found["value"]) else "-"


def _ends(estimate: Row, form: Callable[[Any], str]) -> str:
    return interval((estimate["low"], estimate["high"]), form)
