"""What a report says beyond the answers: groups and fairness, calibration, margins and attributions."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hf_compalign.measure.attribution import CEILING, FLOOR, similarity_title
from hf_compalign.measure.audit import ABOVE_CEILING, harmful_first, sampled
from hf_compalign.report.page.items import class_name, items_link, listed
from hf_compalign.report.page.svg import inline_svg
from hf_compalign.report.page.text import (
    UNKNOWN,
    Section,
    Table,
    bdi,
    count,
    decimals,
    ends,
    first_of,
    interval,
    is_known,
    number,
    p_value,
    p_words,
    percent,
    plural,
    points,
)
from hf_compalign.report.plots import plot_attribution, plot_groups, plot_margins, plot_reliability

_FAIRNESS = {
    "demographic_parity_difference": "demographic parity, difference",
    "demographic_parity_ratio": "demographic parity, ratio",
    "equal_opportunity_difference": "equal opportunity, difference",
    "equalized_odds_difference": "equalized odds, difference",
    "equalized_odds_ratio": "equalized odds, ratio",
}


def groups(found: Mapping[str, Any]) -> list[Section]:
    """One section for each attribute that the groups belong to."""
    attributes = dict.fromkeys(row["attribute"] for row in found.get("groups") or ())
    return [_attribute(found, attribute, f"groups-{place}") for place, attribute in enumerate(attributes, 1)]


def _attribute(found: Mapping[str, Any], attribute: str, key: str) -> Section:
    rows = harmful_first(row for row in found["groups"] if row["attribute"] == attribute)
    gap = next((gap for gap in found.get("gaps") or () if gap["attribute"] == attribute), None)
    tables = [_group_table(rows, listed(found, "groups"))]
    if gap:
        tables += _fairness_tables(gap, found["label_names"])
    rates = [row for row in found.get("group_rates") or () if row["attribute"] == attribute]
    if rates:
        tables.append(_rates_table(rates, found["label_names"]))
    label = f"Mismatch rate and NFR of each group of {attribute} with its interval, most harmed first"
    chart = inline_svg(plot_groups(found, attribute=attribute), label=label)
    lead = tuple(_group_words(rows, gap, found.get("min_group_size", 0)))
    return Section(key, f"Groups: {attribute}", lead, (chart,), tuple(tables))


def _group_words(rows: Sequence[Mapping[str, Any]], gap: Mapping[str, Any] | None, least: int) -> list[str]:
    words: list[str] = []
    if gap and gap["n_groups"] >= 2:
        words.append(
            Markup("Answers change most often for {} and least often for {}: a gap of {} ({}), permutation {}.").format(
                bdi(gap["highest"]),
                bdi(gap["lowest"]),
                points(gap["mismatch_gap"]),
                f"with 95 % confidence at most {points(gap['upper_bound'])}",
                p_words(gap["p_value"]),
            )
        )
        if is_known(gap["worst_group_accuracy_drop"]):
            words.append(
                Markup("Worst group's accuracy: {} ({}) before, {} ({}) after; {}.").format(
                    percent(gap["worst_group_accuracy_reference"]),
                    bdi(gap["worst_group_reference"]),
                    percent(gap["worst_group_accuracy_candidate"]),
                    bdi(gap["worst_group_candidate"]),
                    _drop_words(gap["worst_group_accuracy_drop"], gap["drop_upper_bound"]),
                )
            )
    else:
        words.append("There are not two groups large enough to compare.")
    small = sum(bool(row["small"]) for row in rows)
    if small:
        words.append(f"{plural(small, 'group')} of fewer than {least} items: shown, marked as small, and not judged.")
    return words


def _drop_words(drop: float, bound: Any) -> str:
    """What the worst group loses or gains, and the worst that the data leave open."""
    shown = f"a gain of {points(-drop)}" if drop < 0 else f"a drop of {points(drop)}"
    if not is_known(bound):
        return shown
    worst = f"a gain of at least {points(-bound)}" if bound < 0 else f"a drop of at most {points(bound)}"
    return f"{shown} (with 95 % confidence {worst})"


def _group_table(rows: Sequence[Mapping[str, Any]], known: Collection[str]) -> Table:
    """``known``: the groups that items are listed of."""
    shown, left_out = first_of(rows)
    body = [
        (
            f"{row['group']} (small)" if row["small"] else row["group"],
            count(row["n"]),
            count(row["mismatches"]),
            percent(row["mismatch_rate"]),
            interval(row["mismatch_rate_interval"]),
            percent(row["nfr"]),
            interval(row["nfr_interval"]),
            percent(row["accuracy_reference"]),
            percent(row["accuracy_candidate"]),
            p_value(row["p_adjusted"]),
        )
        for row in shown
    ]
    columns = (
        *("group", "n", "mismatches", "rate", "95 % interval", "NFR", "95 % interval"),
        *("accuracy before", "after", "p (Holm)"),
    )
    names = [f"{row['attribute']}: {row['group']}" for row in shown]
    links = [items_link(group=name) if name in known else "" for name in names]
    caption = (
        f"Groups, most harmed first{left_out}; p: whether answers change more or less often than outside the group"
    )
    return Table(caption, columns, body, links, folded=True)


def _fairness_tables(gap: Mapping[str, Any], names: Sequence[str]) -> list[Table]:
    """One table, the worst over all classes first; none where nothing was measured."""
    shown, left_out = first_of(sorted(gap["fairness"], key=lambda row: row["label"] is not None))
    body = [
        (
            _FAIRNESS.get(row["measure"], row["measure"]),
            "all: the worst" if row["label"] is None else class_name(names, row["label"]),
            decimals(row["reference"]),
            decimals(row["candidate"]),
            decimals(row["change"], signed=True),
            count(row["n_skipped"]),
        )
        for row in shown
    ]
    columns = ("measure", "class", "before", "after", "change", "classes left out")
    return [Table("Fairness of the answers" + left_out, columns, body, words=(1,), folded=True)] if body else []


def _rates_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    kinds = ("selection_rate", "tpr", "fpr")
    shown, left_out = first_of(rows)
    body = [
        (
            row["group"],
            class_name(names, row["label"]),
            *(percent(row[f"{kind}_{side}"], digits=1) for kind in kinds for side in ("reference", "candidate")),
        )
        for row in shown
    ]
    columns = ("group", "class", "answered before", "after", "TPR before", "after", "FPR before", "after")
    caption = "How often each group is given each class, and how often rightly" + left_out
    return Table(caption, columns, body, words=(1,), folded=True)


def calibration(found: Mapping[str, Any]) -> Section | None:
    """Whether confidence means what it did."""
    shift = found.get("calibration")
    if not shift:
        return None
    before, after = shift["reference"], shift["candidate"]
    named = {"ece": "expected calibration error (ECE)", "brier": "Brier score", "nll": "negative log-likelihood"}
    rows = [
        (
            title,
            decimals(before[key]),
            decimals(after[key]),
            decimals(shift[f"{key}_change"]["value"], signed=True),
            _ends(shift[f"{key}_change"], signed=True),
        )
        for key, title in named.items()
    ]
    ece = shift["ece_change"]
    lead = (
        f"Confidence {_calibration_words(*ends(ece))} {_lean(after['bins'])}Of {plural(shift['n'], 'labelled item')}, "
        f"in {shift['n_bins']} bins of equal width; the intervals are bootstrapped. Lower is better, and 0 is perfect "
        "for the first.",
    )
    label = "Reliability diagrams: accuracy against confidence of the reference and the candidate"
    columns = ("measure", "before", "after", "change", "95 % interval")
    return Section(
        "calibration",
        "Calibration",
        lead,
        (inline_svg(plot_reliability(found), label=label),),
        (Table("Calibration", columns, rows), _bins_table(before["bins"], after["bins"])),
    )


def _calibration_words(low: Any, high: Any) -> str:
    if is_known(low) and low > 0:
        return "is further from the accuracy than it was: the calibration error grew."
    if is_known(high) and high < 0:
        return "is closer to the accuracy than it was: the calibration error shrank."
    return "is as far from the accuracy as it was, as far as these items can tell."


def _lean(bins: Sequence[Mapping[str, Any]]) -> str:
    """Whether a model is sure too often or too seldom, in a sentence."""
    full = [one for one in bins if one["n"]]
    n = sum(one["n"] for one in full)
    if not n:
        return ""
    confidence, accuracy = (sum(one["n"] * one[name] for one in full) / n for name in ("confidence", "accuracy"))
    both = f"mean confidence {percent(confidence)}, accuracy {percent(accuracy)}"
    if round(10_000 * confidence) == round(10_000 * accuracy):
        return f"On average the candidate is as sure as it is right: {both}. "
    return f"On average the candidate is {'over' if confidence > accuracy else 'under'}-confident: {both}. "


def _bins_table(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Table:
    body = [
        (
            f"{first['low']:.2f} to {first['high']:.2f}",
            *(
                text
                for one in (first, second)
                for text in (count(one["n"]), percent(one["confidence"]), percent(one["accuracy"]))
            ),
        )
        for first, second in zip(before, after, strict=True)
    ]
    columns = ("confidence", "n before", "mean", "accuracy", "n after", "mean", "accuracy")
    return Table("Bins of confidence, before and after", columns, body, folded=True)


def margins(found: Mapping[str, Any]) -> Section | None:
    """Where answers flip: how sure the reference was."""
    rows = found.get("margins")
    if not rows:
        return None
    body = [
        (
            f"{row['low']:.3f} to {row['high']:.3f}",
            count(row["n"]),
            count(row["mismatches"]),
            percent(row["mismatch_rate"]),
            interval(row["mismatch_rate_interval"]),
        )
        for row in rows
    ]
    lead = (
        "The reference's margin is the probability of its answer minus that of its second best. Where it was least "
        f"sure, {percent(rows[0]['mismatch_rate'])} of the answers changed; where it was surest, "
        f"{percent(rows[-1]['mismatch_rate'])}.",
    )
    columns = ("margin", "n", "mismatches", "rate", "95 % interval")
    chart = inline_svg(plot_margins(found), label="Mismatch rate with its interval against the reference's margin")
    table = Table("Mismatches by the reference's margin", columns, body, folded=True)
    return Section("margins", "Where answers change", lead, (chart,), (table,))


def attribution(found: Mapping[str, Any]) -> Section | None:
    """Whether both models look at the same parts of the inputs."""
    shown = found.get("attribution")
    if not shown:
        return None
    kinds = ("all", "agreeing", "mismatches", "floor", "ceiling")
    body = [
        (
            similarity_title(row["similarity"], shown["top_k"]),
            *(_estimate(row[kind]) for kind in kinds),
        )
        for row in shown["rows"]
    ]
    lead = [
        f"How alike the two models' explanations of the reference's answer are ({shown['method'].replace('_', ' ')}): "
        f"of {sampled(shown)}.",
        f"Floor: the reference against {FLOOR}. Ceiling: the reference against {CEILING}. {ABOVE_CEILING}. "
        "In brackets: 95 % bootstrap intervals.",
    ]
    deltas = [shown["convergence_delta_reference"], shown["convergence_delta_candidate"]]
    if all(is_known(delta) for delta in deltas):
        lead.append(
            "Convergence delta, by how much the scores of an item fail on average to add up to the change of the logit "
            f"that they explain: {number(deltas[0])} (reference), {number(deltas[1])} (candidate)."
        )
    label = "Similarity of the explanations for agreeing items and mismatches, between floor and ceiling"
    columns = ("similarity", "all", "same answer", "other answer", "floor", "ceiling")
    table = Table("Similarity of the explanations", columns, body, folded=True)
    chart = inline_svg(plot_attribution(found), label=label)
    return Section("attribution", "Do both look at the same things?", tuple(lead), (chart,), (table,))


def _estimate(found: Mapping[str, Any]) -> str:
    if not is_known(found["value"]):
        return UNKNOWN
    low, high = ends(found)
    # Of one item, or of items that are all alike, there is no telling how sure the mean is.
    return decimals(found["value"]) + (f" ({_ends(found)})" if low != high else f" ({UNKNOWN})")


def _ends(found: Mapping[str, Any], *, signed: bool = False) -> str:
    low, high = ends(found)
    return f"{decimals(low, signed=signed)} to {decimals(high, signed=signed)}" if is_known(low) else UNKNOWN
