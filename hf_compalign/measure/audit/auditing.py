"""Is the candidate still the same model as the reference? Every number, and a verdict against limits."""

import difflib
import math
import platform
from collections.abc import Mapping
from importlib import metadata
from numbers import Real
from typing import Any, NamedTuple

from hf_compalign.measure.audit.items import changed_items
from hf_compalign.measure.audit.record import Audit, ModelInfo, Verdict
from hf_compalign.measure.groups import (
    MIN_GROUP_SIZE,
    GroupAudit,
    GroupOptions,
    Membership,
    audit_groups,
    normalized_groups,
)
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

MAX_ITEMS = 10_000
_PACKAGES = ("hf_compalign", "numpy", "scipy", "torch", "transformers")
_RATES = ("mismatch_rate", "nfr", "flip_rate", "pfr")


class _GroupLimit(NamedTuple):
    """The estimate of a `Gap` that a limit is about, its upper bound, and what it takes: of which items how many."""

    estimate: str
    bound: str
    items: str
    size: str
    groups: str


_OF_GROUPS = {
    "group_mismatch_gap": _GroupLimit("mismatch_gap", "upper_bound", "items", "n", ", two of one attribute"),
    "worst_group_accuracy_drop": _GroupLimit(
        "worst_group_accuracy_drop", "drop_upper_bound", "labelled items", "n_labelled", ""
    ),
}


def audit(
    reference: Predictions,
    candidate: Predictions,
    *,
    groups: Membership | Mapping[str, Membership] | None = None,
    limits: Mapping[str, float] | None = None,
    floor: Predictions | None = None,
    min_group_size: int = MIN_GROUP_SIZE,
    max_items: int = MAX_ITEMS,
) -> Audit:
    """Compare two models' predictions on the same items, and judge them against limits.

    Items are paired by id and classes by name. Items that either side masks out do not count. A limit is kept
    when the one-sided 95 % upper bound (Clopper-Pearson of a rate, bootstrap of a gap) is within it: too few items
    never pass. McNemar's test is reported but certifies nothing, as it is blind to flips that cancel out.

    >>> from hf_compalign.measure.predictions.predictions import Predictions
    >>> ids, names = [str(i) for i in range(200)], ["no", "yes"]
    >>> model = Predictions([[1.0, 0.0]] * 200, [0] * 200, ids, names)
    >>> audit(model, model, limits={"mismatch_rate": 0.02}).passed
    True

    Args:
        reference: predictions of the model to be preserved.
        candidate: predictions of the model that should answer like it.
        groups: the group of each item, in the order of the reference's items: its name, several names where groups
            overlap, or None for an item in no group. For several attributes, a dict of such lists by the names of the
            attributes. `group_membership` makes them from the columns of a dataset. Needs fairlearn:
            ``pip install 'hf-compalign[fairness]'``.
        limits: the largest acceptable ``mismatch_rate``, ``nfr``, ``flip_rate`` or ``pfr``; with groups also
            ``group_mismatch_gap`` (the largest gap between the mismatch rates of two groups) and
            ``worst_group_accuracy_drop`` (of the accuracy of the worst group, from reference to candidate). Each is
            in [0, 1].
        floor: predictions of another uncompressed training, such as one from another seed, that shows how often two
            models differ without any compression.
        min_group_size: a smaller group is shown, and takes part in no gap and no verdict.
        max_items: how many of the changed items are kept one by one, the most harmful first.

    Raises:
        ValueError: other items, labels or inputs on the two sides, groups of another length, nothing to
            compare, a negative max_items, or a limit that is unknown, outside [0, 1] or needs labels or groups where
            there are none.
        ImportError: there are groups, and fairlearn is not installed.
    """
    limits = checked_limits(limits or {}, grouped=groups is not None)
    options = GroupOptions(min_group_size=min_group_size)
    if max_items < 0:
        raise ValueError(f"max_items must be at least 0. Got {max_items}. With 0 no item is kept, only their number.")
    memberships = {} if groups is None else normalized_groups(groups, len(reference))
    paired = same_items(reference, [candidate])
    counted, names, (_, candidate) = paired.counted, reference.label_names, paired.models
    rerun = None if floor is None else _rerun(floor, paired)
    answers = reference.predicted[counted], candidate.predicted[counted], paired.labels[counted]
    scores = ItemScores.of(reference.logits, candidate.logits, paired.labels, rows=counted)
    cells = Cells.count(*answers)
    metrics = _metrics(answers, cells) | _divergences(scores)
    if len(counted) < len(reference):
        memberships = {name: [of[item] for item in counted.tolist()] for name, of in memberships.items()}
    grouped = audit_groups(*answers, memberships, n_classes=len(names), options=options)
    items = changed_items(reference.ids[counted], answers, scores, memberships, most=max_items)
    return Audit(
        n=len(counted),
        n_labelled=cells.n,
        cells=cells if cells.n else None,
        metrics=metrics,
        per_class=tuple(per_class(*answers, len(names))) if cells.n else (),
        calibration=calibration_shift(*answers, scores) if cells.n else None,
        frequencies=predicted_frequencies(*answers[:2], len(names)),
        class_bias=class_bias(*answers, len(names)) if cells.n else None,
        margins=mismatches_by_margin(*answers[:2], scores.reference_margin),
        groups=grouped.rows,
        group_rates=grouped.rates,
        gaps=grouped.gaps,
        min_group_size=min_group_size,
        floor=None if rerun is None else seed_floor(*answers[:2], rerun.predicted[counted], model=rerun.model),
        items=items,
        n_items_left_out=metrics["cie"] - len(items),
        limits=tuple(_verdict(name, limit, metrics, grouped) for name, limit in limits.items()),
        label_names=names,
        reference=ModelInfo(reference.model, reference.model_fingerprint),
        candidate=ModelInfo(candidate.model, candidate.model_fingerprint),
        data_fingerprint=reference.data_fingerprint or candidate.data_fingerprint,
        versions=_versions(),
    )


def _metrics(answers: tuple[Array, Array, Array], cells: Cells) -> dict[str, Any]:
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
    }


def _divergences(scores: ItemScores) -> dict[str, float]:
    return {
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
            f"The floor must answer all items that are compared. It masks out {unanswered} of {len(paired.counted)}. "
            "Predict with it on the same dataset."
        )
    return rerun


def checked_limits(limits: Mapping[str, float], *, grouped: bool = False) -> dict[str, float]:
    """The limits, when `audit` can judge them; so that a caller can ask before it runs any model.

    Args:
        limits: name -> the largest acceptable value.
        grouped: whether there will be groups.

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
        raise _unlabelled(name)
    return Verdict(name=name, limit=limit, value=metrics[name], upper_bound=bound, passed=bound <= limit)


def _group_verdict(name: str, limit: float, grouped: GroupAudit) -> Verdict:
    """On the largest gap of any attribute, and the largest upper bound of one; attributes without one are named."""
    kind = _OF_GROUPS[name]
    bounds = {gap.attribute: getattr(gap, kind.bound) for gap in grouped.gaps}
    judged = [gap for gap in grouped.gaps if not math.isnan(bounds[gap.attribute])]
    if not judged:
        largest = max((getattr(row, kind.size) for row in grouped.rows), default=0)
        if grouped.rows and not largest:
            raise _unlabelled(name)
        raise ValueError(
            f"The limit {name} needs groups of at least {grouped.min_group_size} {kind.items}{kind.groups}, and there "
            f"are none: the largest group has {largest}. Give more {kind.items}, larger groups, or a smaller "
            "min_group_size."
        )
    bound = max(bounds[gap.attribute] for gap in judged)
    return Verdict(
        name=name,
        limit=limit,
        value=max(getattr(gap, kind.estimate) for gap in judged),
        upper_bound=bound,
        passed=bound <= limit,
        not_judged=tuple(attribute for attribute, bound in bounds.items() if math.isnan(bound)),
    )


def _unlabelled(name: str) -> ValueError:
    return ValueError(
        f"The limit {name} needs labels, and no item has a known one. "
        "Predict on a dataset with labels, or limit mismatch_rate, which needs none."
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
