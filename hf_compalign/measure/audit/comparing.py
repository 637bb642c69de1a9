"""Two models' predictions on the same items: every number of an audit, and a verdict against limits."""

import math
import platform
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from hf_compalign._checks import check_name
from hf_compalign._extras import installed_versions
from hf_compalign.labels import IGNORED
from hf_compalign.measure.audit.items import changed_items
from hf_compalign.measure.audit.options import AuditOptions
from hf_compalign.measure.audit.record import Audit, ModelInfo
from hf_compalign.measure.audit.verdict import Verdict
from hf_compalign.measure.groups import Gap, GroupAudit, GroupOptions, Membership, audit_groups, normalized_groups
from hf_compalign.measure.predictions import Predictions, SameItems, asked_the_same, same_items
from hf_compalign.measure.statistics import (
    RATE_LIMITS,
    Array,
    Cells,
    ItemScores,
    Rate,
    SeedFloor,
    calibration_shift,
    class_bias,
    class_changes,
    mcnemar,
    mismatches_by_margin,
    per_class,
    predicted_frequencies,
    rate,
    rates_of,
    seed_floor,
    task_score_changes,
    task_scores,
)

_PACKAGES = ("hf_compalign", "numpy", "scipy", "torch", "transformers")


class _OfGroups(NamedTuple):
    """What a limit judges of one attribute."""

    attribute: str
    value: float
    lower_bound: float
    upper_bound: float
    left_out: tuple[str, ...]


# What a limit on groups needs: the size of a `GroupRow`, and in words.
_OF_GROUPS = {
    "group_mismatch_gap": ("n", "items", ", two of one attribute"),
    "worst_group_accuracy_drop": ("n_labeled", "labeled items", ""),
    "demographic_parity_difference": ("n", "items", ", two of one attribute"),
    "equal_opportunity_difference": ("n_labeled", "labeled items", " of a class, two of one attribute"),
    "equalized_odds_difference": ("n_labeled", "labeled items", " of a class and of others, two of one attribute"),
}


def compared(
    answers: Mapping[str, Predictions],
    *,
    groups: Mapping[str, Membership],
    limits: Mapping[str, float],
    options: AuditOptions,
) -> Audit:
    """The audit of the answers of "reference", "candidate" and perhaps "floor".

    ``groups`` is attribute -> the groups of each of the reference's items; ``limits`` are checked ones.
    """
    reference = answers["reference"]
    memberships = normalized_groups(groups, len(reference))
    paired = same_items(reference, [answers["candidate"]])
    counted, names, candidate = paired.counted, reference.label_names, paired.models[1]
    examples = None if reference.examples is None else reference.examples[counted]
    both = reference.predicted[counted], candidate.predicted[counted], paired.labels[counted]
    scores = ItemScores.of(reference.logits, candidate.logits, paired.labels, rows=counted)
    cells, judging = Cells.count(*both), GroupOptions(options.min_group_size)
    rates = rates_of(*both, examples=examples)
    metrics = _metrics(rates, cells, scores, shared=examples is not None) | _task_metrics(both, len(names), examples)
    memberships = {name: [of[item] for item in counted.tolist()] for name, of in memberships.items()}
    grouped = audit_groups(*both, memberships, n_classes=len(names), options=judging, examples=examples)
    items = changed_items(reference.ids[counted], both, scores, memberships, most=options.max_items)
    return Audit(
        n=len(counted),
        n_labeled=cells.n,
        cells=cells if cells.n else None,
        metrics=metrics,
        per_class=tuple(per_class(*both, len(names), examples=examples)) if cells.n else (),
        calibration=calibration_shift(*both, scores, examples=examples) if cells.n else None,
        frequencies=predicted_frequencies(*both[:2], len(names), tested=examples is None),
        class_bias=class_bias(*both, len(names)) if cells.n else None,
        changes=class_changes(*both),
        margins=mismatches_by_margin(*both[:2], scores.reference_margin, examples=examples),
        groups=grouped.rows,
        group_rates=grouped.rates,
        gaps=grouped.gaps,
        min_group_size=options.min_group_size,
        floor=_floor(answers.get("floor"), paired, both, examples),
        items=items,
        n_items_left_out=metrics["cie"] - len(items),
        n_examples=_how_many(examples),
        limits=_verdicts(limits, rates, grouped, examples, both[2]),
        label_names=names,
        reference=ModelInfo.of(reference),
        candidate=ModelInfo.of(candidate),
        data_fingerprint=reference.data_fingerprint or candidate.data_fingerprint,
        versions=_versions(),
        predictions=dict(answers),
    )


def _how_many(examples: Any, labels: Any = None, limit: str = "mismatch_rate") -> int | None:
    """How many examples the items of a limit are of, for most those with a label; None where each item is one."""
    if examples is None:
        return None
    return len(np.unique(examples if limit == "mismatch_rate" else examples[labels != IGNORED]))


def _versions() -> dict[str, str]:
    unknown = dict.fromkeys(_PACKAGES, "unknown")
    return {"python": platform.python_version()} | unknown | installed_versions(_PACKAGES)


def _metrics(rates: Mapping[str, Rate], cells: Cells, scores: ItemScores, *, shared: bool) -> dict[str, Any]:
    """The rates and the means; McNemar's test is of independent items, which those that share examples are not."""
    metrics: dict[str, Any] = {}
    for name, one in rates.items():
        metrics[name] = rate(one.k, one.n)
        metrics[f"{name}_interval"] = list(one.interval)
        if name in RATE_LIMITS:
            metrics[f"{name}_upper_bound"] = one.bounds[1]
    return metrics | {
        "cie": rates["mismatch_rate"].k,
        "cie_u": cells.lost if cells.n else math.nan,
        "mcnemar_p": mcnemar(cells.lost, cells.gained) if cells.n and not shared else math.nan,
        "kl": float(scores.kl.mean()),
        "probability_loyalty": 1 - float(scores.js_distance.mean()),
        "logit_error": float(scores.logit_error.mean()),
    }


def _task_metrics(answers: tuple[Array, Array, Array], n_classes: int, examples: Array | None) -> dict[str, Any]:
    """What the task is scored by: of both models, and the change."""
    metrics: dict[str, Any] = {
        f"{name}_{side}": score
        for side, predicted in zip(("reference", "candidate"), answers, strict=False)
        for name, score in task_scores(predicted, answers[2], n_classes).items()
    }
    for name, moved in task_score_changes(*answers, n_classes, examples=examples).items():
        metrics |= {f"{name}_change": moved.value, f"{name}_change_interval": [moved.low, moved.high]}
    return metrics


def _floor(
    floor: Predictions | None, paired: SameItems, both: tuple[Array, Array, Array], examples: Array | None
) -> SeedFloor | None:
    """The candidate beside a re-run, whose predictions come in the order of the reference's items."""
    if floor is None:
        return None
    rerun = asked_the_same(paired.models[0], floor)
    unanswered = int((~rerun.mask[paired.counted]).sum())
    if unanswered:
        raise ValueError(
            f"The floor must answer all items of the comparison. It masks out {unanswered} of {len(paired.counted)}. "
            "Predict with it on the same dataset."
        )
    return seed_floor(*both[:2], rerun.predicted[paired.counted], model=rerun.model, examples=examples)


def checked_limits(limits: Mapping[str, float], *, grouped: bool = False) -> dict[str, float]:
    """The limits, if `audit` can judge them: ``grouped`` says whether there will be groups.

    Raises:
        ValueError: a limit is unknown, no number in [0, 1], or needs groups.
    """
    if not isinstance(limits, Mapping):
        raise ValueError(
            f"limits must be a dict of names and numbers, such as {{'mismatch_rate': 0.02}}. Got {limits!r}."
        )
    known = (*RATE_LIMITS, *_OF_GROUPS)
    for name, limit in limits.items():
        check_name("limit", name, known)
        if not isinstance(limit, Real):
            raise ValueError(f"The limit {name} must be a number in [0, 1]. Got {limit!r}.")
        if not 0 <= limit <= 1:  # also refuses nan
            hint = f" Did you mean {limit / 100:g}?" if 1 < limit <= 100 else ""
            raise ValueError(f"The limit {name} must be in [0, 1]. Got {limit}.{hint}")
        if name in _OF_GROUPS and not grouped:
            raise ValueError(
                f"The limit {name} needs groups, and there are none. Give groups= to audit (--groups), or limit one "
                f"of {', '.join(RATE_LIMITS)}."
            )
    return {name: float(limit) for name, limit in limits.items()}


def _verdicts(
    limits: Mapping[str, float], rates: Mapping[str, Rate], grouped: GroupAudit, examples: Any, labels: Any
) -> tuple[Verdict, ...]:
    """Each limit judged, with the examples [N] that its items are of, if these are shared."""
    found = (_verdict(name, limit, rates, grouped) for name, limit in limits.items())
    return tuple(replace(one, n_examples=_how_many(examples, labels, one.name)) for one in found)


def _verdict(name: str, limit: float, rates: Mapping[str, Rate], grouped: GroupAudit) -> Verdict:
    if name in _OF_GROUPS:
        return _group_verdict(name, limit, grouped)
    found = rates[name]
    if not found.n:
        raise _unlabeled(name)
    lower, upper = found.bounds
    return Verdict(name, limit, rate(found.k, found.n), upper, upper <= limit, lower_bound=lower)


def _group_verdict(name: str, limit: float, grouped: GroupAudit) -> Verdict:
    """On the attribute with the largest upper bound, of those beyond the limit if any; names those without one."""
    size, items, which = _OF_GROUPS[name]
    found = [_of_groups(name, gap, grouped) for gap in grouped.gaps]
    judged = [one for one in found if not math.isnan(one.upper_bound)]
    if not judged:
        largest = max((getattr(row, size) for row in grouped.rows), default=0)
        if grouped.rows and not largest:
            raise _unlabeled(name)
        raise ValueError(
            f"The limit {name} needs groups of at least {grouped.min_group_size} {items}{which}, and there "
            f"are too few: the largest group has {largest}. Give more {items}, larger groups, or a smaller "
            "min_group_size."
        )
    worst = max(judged, key=lambda one: (one.lower_bound > limit, one.upper_bound))
    return Verdict(
        name=name,
        limit=limit,
        value=worst.value,
        upper_bound=worst.upper_bound,
        passed=worst.upper_bound <= limit,
        not_judged=tuple(one.attribute for one in found if math.isnan(one.upper_bound)),
        lower_bound=worst.lower_bound,
        attribute=worst.attribute,
        left_out=tuple(f"{one.attribute}: {group}" for one in judged for group in one.left_out),
    )


def _of_groups(name: str, gap: Gap, grouped: GroupAudit) -> _OfGroups:
    row = next((row for row in gap.fairness if row.measure == name and row.label is None), None)
    if row is not None:
        return _OfGroups(gap.attribute, row.candidate, row.lower_bound, row.upper_bound, row.left_out)
    size, least = _OF_GROUPS[name][0], grouped.min_group_size
    rows = (row for row in grouped.rows if row.attribute == gap.attribute)
    small = tuple(row.group for row in rows if getattr(row, size) < least)
    if name == "group_mismatch_gap":
        return _OfGroups(gap.attribute, gap.mismatch_gap, gap.lower_bound, gap.upper_bound, small)
    drop = gap.worst_group_accuracy_drop
    return _OfGroups(gap.attribute, drop, gap.drop_lower_bound, gap.drop_upper_bound, small)


def _unlabeled(name: str) -> ValueError:
    return ValueError(
        f"The limit {name} needs labels, and no item has a known one. "
        "Predict on a dataset with labels, or limit mismatch_rate, which needs none."
    )
