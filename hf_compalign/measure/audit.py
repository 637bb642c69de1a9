"""Is the candidate still the same model as the reference? Every number, and a verdict against limits."""

import difflib
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hf_compalign._files import read_record, write_record
from hf_compalign.labels import IGNORED
from hf_compalign.measure.audit_text import describe
from hf_compalign.measure.comparison import (
    Array,
    Cells,
    ClassRow,
    kl_divergence,
    per_class,
    probability_loyalty,
    proportions,
    softmax,
)
from hf_compalign.measure.intervals import mcnemar, rate, upper_bound, wilson_interval
from hf_compalign.measure.predictions import Predictions

FORMAT_VERSION = 1
_KIND = "hf_compalign.audit"
_ABOUT = ("kind", "format_version", "passed")  # what to_dict adds to the fields
_BOUNDED = ("mismatch_rate", "nfr", "flip_rate", "pfr")
_PACKAGES = ("hf_compalign", "numpy", "scipy", "torch", "transformers")


@dataclass(frozen=True)
class GroupRow:
    """The items of one group: rates with 95 % Wilson intervals, mismatches of all n and nfr of the labelled."""

    group: str
    n: int
    n_labelled: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    nfr: float
    nfr_interval: tuple[float, float]


@dataclass(frozen=True)
class Verdict:
    """One limit: it is kept when the 95 % upper bound of the rate, not just the rate itself, is within it."""

    name: str
    limit: float
    value: float
    upper_bound: float
    passed: bool


@dataclass(frozen=True)
class ModelInfo:
    """Which model an audit speaks of."""

    model: str
    model_fingerprint: str


@dataclass(frozen=True)
class Audit:
    """The result of `audit`; ``print`` shows it as a report.

    Attributes:
        n: items compared.
        n_labelled: those of them with a known label.
        cells: the five cells over the labelled items; None when there are none.
        metrics: name -> number; ``<rate>_interval`` -> its two-sided 95 % Wilson interval; for the rates that
            can be limited ``<rate>_upper_bound`` -> one-sided 95 % Clopper-Pearson. What needs labels is nan
            without them.
        per_class: one row per class of the labels; empty without labels.
        groups: one row per group.
        limits: the verdict on each limit.
        label_names: names of the classes.
        reference: the model to be preserved.
        candidate: the model that was compared with it.
        data_fingerprint: the inputs both were asked; empty when unknown.
        versions: of Python and the libraries involved.
    """

    n: int
    n_labelled: int
    cells: Cells | None
    metrics: dict[str, Any]
    per_class: tuple[ClassRow, ...]
    groups: tuple[GroupRow, ...]
    limits: tuple[Verdict, ...]
    label_names: tuple[str, ...]
    reference: ModelInfo
    candidate: ModelInfo
    data_fingerprint: str
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether all limits are kept; True when none was set."""
        return all(verdict.passed for verdict in self.limits)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts, with the metrics at the top level."""
        found: dict[str, Any] = _mapped(asdict(self), lambda item: item)
        for row in found["per_class"]:
            row["name"] = self.label_names[row["label"]]
        about = (_KIND, FORMAT_VERSION, self.passed)
        return dict(zip(_ABOUT, about, strict=True)) | found.pop("metrics") | found

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as strict JSON, with null for nan; the file is whole or not there."""
        write_record(path, _mapped(self.to_dict(), _null_for_nan))

    @classmethod
    def load(cls, path: str | Path) -> "Audit":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not the JSON of an audit, or a newer version of this library wrote it.
        """
        stored = read_record(path, kind=_KIND, version=FORMAT_VERSION, writer="Audit.save")
        return _from_dict(_mapped(stored, lambda item: math.nan if item is None else item), str(path))

    def __str__(self) -> str:
        return describe(self.to_dict())


def audit(
    reference: Predictions,
    candidate: Predictions,
    *,
    groups: Sequence[str | None] | None = None,
    limits: Mapping[str, float] | None = None,
) -> Audit:
    """Compare two models' predictions on the same items, and judge them against limits.

    Items are paired by id and classes by name. Items that either side masks out do not count. A limit is kept
    when the one-sided 95 % Clopper-Pearson upper bound of the rate is within it: too few items never pass.
    McNemar's test is reported but certifies nothing, as it is blind to flips that cancel out.

    >>> from hf_compalign.measure.predictions import Predictions
    >>> ids, names = [str(i) for i in range(200)], ["no", "yes"]
    >>> model = Predictions([[1.0, 0.0]] * 200, [0] * 200, ids, names)
    >>> audit(model, model, limits={"mismatch_rate": 0.02}).passed
    True

    Args:
        reference: predictions of the model to be preserved.
        candidate: predictions of the model that should answer like it.
        groups: the group of each item, in the order of the reference's items; None for an item in no group.
        limits: the largest acceptable ``mismatch_rate``, ``nfr``, ``flip_rate`` or ``pfr``, each in [0, 1].

    Raises:
        ValueError: other items, labels or inputs on the two sides, groups of another length, nothing to
            compare, or a limit that is unknown, outside [0, 1] or needs labels where there are none.
    """
    limits = checked_limits(limits or {})
    if groups is not None and len(groups) != len(reference):
        raise ValueError(f"groups must name one group per item: {len(reference)} of them. Got {len(groups)}.")
    candidate = candidate.aligned_to(reference)
    _check_same_inputs(reference, candidate)
    counted = np.flatnonzero(reference.mask & candidate.mask)
    if not counted.size:
        raise ValueError(f"There is nothing to compare: all {len(reference)} items are masked out.")
    labels = np.where(reference.labels == IGNORED, candidate.labels, reference.labels)[counted]
    answers = (reference.predicted[counted], candidate.predicted[counted], labels)
    cells = Cells.count(*answers)
    metrics = _metrics(answers, cells) | _divergences(reference.logits[counted], candidate.logits[counted])
    return Audit(
        n=len(counted),
        n_labelled=cells.n,
        cells=cells if cells.n else None,
        metrics=metrics,
        per_class=tuple(per_class(*answers, len(reference.label_names))) if cells.n else (),
        groups=() if groups is None else _group_rows(answers, [groups[item] for item in counted.tolist()]),
        limits=tuple(_verdict(name, limit, metrics) for name, limit in limits.items()),
        label_names=reference.label_names,
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
        if name in _BOUNDED:
            metrics[f"{name}_upper_bound"] = upper_bound(k, n)
    return metrics | {
        "cie": found["mismatch_rate"][0],
        "cie_u": cells.lost if cells.n else math.nan,
        "accuracy_change": cells.accuracy_change,
        "mcnemar_p": mcnemar(cells.lost, cells.gained) if cells.n else math.nan,
    }


def _divergences(reference_logits: Array, candidate_logits: Array) -> dict[str, float]:
    return {
        "kl": float(kl_divergence(reference_logits, candidate_logits).mean()),
        "probability_loyalty": probability_loyalty(softmax(reference_logits), softmax(candidate_logits)),
    }


def _group_rows(answers: tuple[Array, Array, Array], groups: list[str | None]) -> tuple[GroupRow, ...]:
    """One row per group, in the order of their first item."""
    members: dict[str, list[int]] = {}
    for item, group in enumerate(groups):
        if group is not None:
            members.setdefault(str(group), []).append(item)
    rows = []
    for group, items in members.items():
        found = proportions(*(array[items] for array in answers))
        rows.append(
            GroupRow(
                group=group,
                n=len(items),
                n_labelled=found["nfr"][1],
                mismatches=found["mismatch_rate"][0],
                mismatch_rate=rate(*found["mismatch_rate"]),
                mismatch_rate_interval=wilson_interval(*found["mismatch_rate"]),
                nfr=rate(*found["nfr"]),
                nfr_interval=wilson_interval(*found["nfr"]),
            )
        )
    return tuple(rows)


def checked_limits(limits: Mapping[str, float]) -> dict[str, float]:
    """The limits, when `audit` can judge them; so that a caller can ask before it runs any model.

    Raises:
        ValueError: a limit is unknown or outside [0, 1].
    """
    for name, limit in limits.items():
        if name not in _BOUNDED:
            close = difflib.get_close_matches(name, _BOUNDED, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"There is no limit {name!r}. Allowed: {', '.join(_BOUNDED)}.{hint}")
        if not 0 <= limit <= 1:  # also refuses nan
            hint = f" Did you mean {limit / 100:g}?" if 1 < limit <= 100 else ""
            raise ValueError(f"The limit {name} must be in [0, 1]. Got {limit}.{hint}")
    return {name: float(limit) for name, limit in limits.items()}


def _verdict(name: str, limit: float, metrics: Mapping[str, Any]) -> Verdict:
    bound = metrics[f"{name}_upper_bound"]
    if math.isnan(bound):
        raise ValueError(
            f"The limit {name} needs labels, and no item has a known one. "
            "Predict on a dataset with labels, or limit mismatch_rate, which needs none."
        )
    return Verdict(name=name, limit=limit, value=metrics[name], upper_bound=bound, passed=bound <= limit)


def _check_same_inputs(reference: Predictions, candidate: Predictions) -> None:
    ours, theirs = reference.data_fingerprint, candidate.data_fingerprint
    if ours and theirs and ours != theirs:
        raise ValueError(
            f"Both models must be asked the same inputs. The ids match, but the data do not: {ours} against "
            f"{theirs}. Predict again with both models on the same dataset."
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


_Row = TypeVar("_Row", ClassRow, GroupRow, Verdict)


def _from_dict(stored: dict[str, Any], source: str) -> Audit:
    own = [field.name for field in fields(Audit) if field.name != "metrics"]
    missing = [name for name in own if name not in stored]
    if missing:
        raise ValueError(f"{source} is an audit without {', '.join(missing)}. Write it with Audit.save.")
    return Audit(
        n=stored["n"],
        n_labelled=stored["n_labelled"],
        cells=Cells(**stored["cells"]) if stored["n_labelled"] else None,
        metrics={name: value for name, value in stored.items() if name not in (*own, *_ABOUT)},
        per_class=_rows(ClassRow, stored["per_class"]),
        groups=_rows(GroupRow, stored["groups"]),
        limits=_rows(Verdict, stored["limits"]),
        label_names=tuple(stored["label_names"]),
        reference=ModelInfo(**stored["reference"]),
        candidate=ModelInfo(**stored["candidate"]),
        data_fingerprint=stored["data_fingerprint"],
        versions=stored["versions"],
    )


def _rows(kind: type[_Row], stored: Iterable[dict[str, Any]]) -> tuple[_Row, ...]:
    def values(row: dict[str, Any]) -> dict[str, Any]:
        found = {field.name: row[field.name] for field in fields(kind)}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}

    return tuple(kind(**values(row)) for row in stored)


def _null_for_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same dicts and lists, with lists for tuples, around ``leaf`` of everything else."""
    if isinstance(value, dict):
        return {name: _mapped(item, leaf) for name, item in value.items()}
    return [_mapped(item, leaf) for item in value] if isinstance(value, (list, tuple)) else leaf(value)
