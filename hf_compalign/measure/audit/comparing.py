"""Two models' predictions on the same items: every number of an audit, and a verdict against limits."""

import difflib
import math
import platform
from collections.abc import Mapping
from numbers import Real
from typing import Any

from hf_compalign._extras import installed_versions
from hf_compalign.measure.audit.items import changed_items
from hf_compalign.measure.audit.options import AuditOptions
from hf_compalign.measure.audit.record import Audit, ModelInfo, Verdict
from hf_compalign.measure.groups import GroupAudit, GroupOptions, Membership, audit_groups, normalized_groups
from hf_compalign.measure.predictions import Predictions, SameItems, asked_the_same, same_items
from hf_compalign.measure.statistics import (
    Array,
    Cells,
    ItemScores,
    calibration_shift,
    class_bias,
    mcnemar,
    mismatches_by_margin,
    per_class,
    predicted_frequencies,
    proportions,
    rate,
    seed_floor,
    upper_bound,
    wilson_interval,
)

_PACKAGES = ("hf_compalign", "numpy", "scipy", "torch", "transformers")
_RATES = ("mismatch_rate", "nfr", "flip_rate", "pfr")


# What a limit on groups judges: two fields of a `Gap`; and what it needs: the size of a `GroupRow`, and in words.
_OF_GROUPS = {
    "group_mismatch_gap": ("mismatch_gap", "upper_bound", "n", "items", ", two of one attribute"),
    "worst_group_accuracy_drop": ("worst_group_accuracy_drop", "drop_upper_bound", "n_labeled", "labeled items", ""),
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
    reference, candidate = answers["reference"], answers["candidate"]
    memberships = normalized_groups(groups, len(reference))
    paired = same_items(reference, [candidate])
    counted, names = paired.counted, reference.label_names
    rerun = _rerun(answers["floor"], paired) if "floor" in answers else None
    _, candidate = paired.models
    both = reference.predicted[counted], candidate.predicted[counted], paired.labels[counted]
    scores = ItemScores.of(reference.logits, candidate.logits, paired.labels, rows=counted)
    cells = Cells.count(*both)
    metrics = _metrics(both, cells, scores)
    memberships = {name: [of[item] for item in counted.tolist()] for name, of in memberships.items()}
    versions = {"python": platform.python_version()} | dict.fromkeys(_PACKAGES, "unknown")
    judged = GroupOptions(min_group_size=options.min_group_size)
    grouped = audit_groups(*both, memberships, n_classes=len(names), options=judged)
    items = changed_items(reference.ids[counted], both, scores, memberships, most=options.max_items)
    return Audit(
        n=len(counted),
        n_labeled=cells.n,
        cells=cells if cells.n else None,
        metrics=metrics,
        per_class=tuple(per_class(*both, len(names))) if cells.n else (),
        calibration=calibration_shift(*both, scores) if cells.n else None,
        frequencies=predicted_frequencies(*both[:2], len(names)),
        class_bias=class_bias(*both, len(names)) if cells.n else None,
        margins=mismatches_by_margin(*both[:2], scores.reference_margin),
        groups=grouped.rows,
        group_rates=grouped.rates,
        gaps=grouped.gaps,
        min_group_size=options.min_group_size,
        floor=None if rerun is None else seed_floor(*both[:2], rerun.predicted[counted], model=rerun.model),
        items=items,
        n_items_left_out=metrics["cie"] - len(items),
        limits=tuple(_verdict(name, limit, metrics, grouped) for name, limit in limits.items()),
        label_names=names,
        reference=ModelInfo(reference.model, reference.model_fingerprint),
        candidate=ModelInfo(candidate.model, candidate.model_fingerprint),
        data_fingerprint=reference.data_fingerprint or candidate.data_fingerprint,
        versions=versions | installed_versions(_PACKAGES),
        predictions=dict(answers),
    )


def _metrics(answers: tuple[Array, Array, Array], cells: Cells, scores: ItemScores) -> dict[str, Any]:
    found = proportions(*answers)
    metrics: dict[str, Any] = {}
    for name, (k, n) in found.items():
        metrics[name] = rate(k, n)
        metrics[f"{name}_interval"] = list(wilson_interval(k, n))
        if name in _RATES:
            metrics[f"{name}_upper_bound"] = upper_bound(k, n)
    return metrics | {
        "cie": found["mismatch_rate"][0],
        "cie_u": cells.lost if cells.n else math.nan,
        "accuracy_change": cells.accuracy_change,
        "mcnemar_p": mcnemar(cells.lost, cells.gained) if cells.n else math.nan,
        "kl": float(scores.kl.mean()),
        "probability_loyalty": 1 - float(scores.js_distance.mean()),
        "logit_error": float(scores.logit_error.mean()),
    }


def _rerun(floor: Predictions, paired: SameItems) -> Predictions:
    """The floor's predictions in the order of the reference's items."""
    rerun = asked_the_same(paired.models[0], floor)
    unanswered = int((~rerun.mask[paired.counted]).sum())
    if unanswered:
        raise ValueError(
            f"The floor must answer all items of the comparison. It masks out {unanswered} of {len(paired.counted)}. "
            "Predict with it on the same dataset."
        )
    return rerun


def checked_limits(limits: Mapping[str, float], *, grouped: bool = False) -> dict[str, float]:
    """The limits, if `audit` can judge them: ``grouped`` says whether there will be groups.

    Raises:
        ValueError: a limit is unknown, no number in [0, 1], or needs groups.
    """
    if not isinstance(limits, Mapping):
        raise ValueError(
            f"limits must be a dict of names and numbers, such as {{'mismatch_rate': 0.02}}. Got {limits!r}."
        )
    known = (*_RATES, *_OF_GROUPS)
    for name, limit in limits.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"There is no limit {name!r}. Allowed: {', '.join(known)}.{hint}")
        if not isinstance(limit, Real):
            raise ValueError(f"The limit {name} must be a number in [0, 1]. Got {limit!r}.")
        if not 0 <= limit <= 1:  # also refuses nan
            hint = f" Did you mean {limit / 100:g}?" if 1 < limit <= 100 else ""
            raise ValueError(f"The limit {name} must be in [0, 1]. Got {limit}.{hint}")
        if name in _OF_GROUPS and not grouped:
            raise ValueError(
                f"The limit {name} needs groups, and there are none. Give groups= to audit (--groups), or limit one "
                f"of {', '.join(_RATES)}."
            )
    return {name: float(limit) for name, limit in limits.items()}


def _verdict(name: str, limit: float, metrics: Mapping[str, Any], grouped: GroupAudit) -> Verdict:
    if name in _OF_GROUPS:
        return _group_verdict(name, limit, grouped)
    bound = metrics[f"{name}_upper_bound"]
    if math.isnan(bound):
        raise _unlabeled(name)
    return Verdict(name=name, limit=limit, value=metrics[name], upper_bound=bound, passed=bound <= limit)


def _group_verdict(name: str, limit: float, grouped: GroupAudit) -> Verdict:
    """On the largest gap of any attribute and the largest upper bound; names the attributes without one."""
    value, upper_bound, size, items, which = _OF_GROUPS[name]
    bounds = {gap.attribute: getattr(gap, upper_bound) for gap in grouped.gaps}
    judged = [gap for gap in grouped.gaps if not math.isnan(bounds[gap.attribute])]
    if not judged:
        largest = max((getattr(row, size) for row in grouped.rows), default=0)
        if grouped.rows and not largest:
            raise _unlabeled(name)
        raise ValueError(
            f"The limit {name} needs groups of at least {grouped.min_group_size} {items}{which}, and there "
            f"are none: the largest group has {largest}. Give more {items}, larger groups, or a smaller "
            "min_group_size."
        )
    bound = max(bounds[gap.attribute] for gap in judged)
    return Verdict(
        name=name,
        limit=limit,
        value=max(getattr(gap, value) for gap in judged),
        upper_bound=bound,
        passed=bound <= limit,
        not_judged=tuple(attribute for attribute, bound in bounds.items() if math.isnan(bound)),
    )


def _unlabeled(name: str) -> ValueError:
    return ValueError(
        f"The limit {name} needs labels, and no item has a known one. "
        "Predict on a dataset with labels, or limit mismatch_rate, which needs none."
    )
