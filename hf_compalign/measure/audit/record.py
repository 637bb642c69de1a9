"""What an audit found, as plain data: printed, saved and loaded without torch."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_compalign._files import read_record, write_text_atomic
from hf_compalign._records import built, plain, without_nan
from hf_compalign.measure.attribution import AttributionAgreement
from hf_compalign.measure.audit.items import ChangedItem
from hf_compalign.measure.audit.stored import check_consistent, read_metrics
from hf_compalign.measure.audit.text import describe, describe_html
from hf_compalign.measure.audit.verdict import Verdict
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.groups import Gap, GroupRates, GroupRow
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.slices import Slices
from hf_compalign.measure.statistics import (
    CalibrationShift,
    Cells,
    ClassBias,
    ClassChange,
    ClassRow,
    Frequencies,
    MarginRow,
    SeedFloor,
)
from hf_compalign.models import Runtime

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT_VERSION = 5
# What an audit may do without: its predictions, and what audits of earlier versions lack.
_OPTIONAL = ("predictions", "n_examples")
_KIND = "hf_compalign.audit"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ModelInfo:
    """Which model an audit speaks of, and what computed its answers; None when unknown."""

    model: str
    model_fingerprint: str
    runtime: Runtime | None = None

    @classmethod
    def of(cls, answers: Predictions) -> "ModelInfo":
        """The model that gave these answers."""
        return cls(answers.model, answers.model_fingerprint, answers.runtime)


@dataclass(frozen=True)
class CostRow:
    """One cost of both models, such as the bytes of their weights, as texts with units."""

    what: str
    reference: str
    candidate: str
    ratio: str


_TABLES: dict[str, type] = {
    "per_class": ClassRow,
    "groups": GroupRow,
    "group_rates": GroupRates,
    "margins": MarginRow,
    "changes": ClassChange,
    "limits": Verdict,
    "costs": CostRow,
    "items": ChangedItem,
}


@dataclass(frozen=True)
class Audit:
    """The result of `hf_compalign.audit`; ``print`` shows it as a report, a notebook as tables.

    Attributes:
        n: items compared.
        n_labeled: those of them with a known label.
        cells: the five cells over the labeled items; None without any.
        metrics: name -> number; ``<rate>_interval`` -> its two-sided 95 % Wilson interval; for the rates that
            can be limited ``<rate>_upper_bound`` -> one-sided 95 % Clopper-Pearson. Where items share examples, both
            are over these: a bootstrap, and `hf_compalign.measure.statistics.cluster_bound`. ``accuracy``, ``f1`` and
            ``mcc``, as `hf_compalign.measure.statistics.task_scores` gives them, end in ``_reference``, ``_candidate``
            and ``_change``, the change with a bootstrap interval. What needs labels is nan without them.
        per_class: one row per class of the labels; empty without labels.
        data_fingerprint: the inputs both were asked; empty when unknown.
        versions: of Python and the libraries involved.
        calibration: of both models, and the change; None without labels.
        class_bias: how unevenly the errors of the classes changed; None without labels.
        margins: mismatches by how sure the reference was.
        changes: which class turned into which, the largest number of items first.
        group_rates: selection rate, TPR and FPR of every group and class.
        gaps: gaps between groups, and fairness measures: one for each attribute.
        min_group_size: a smaller group is shown, and takes part in no gap and no verdict.
        floor: how often an uncompressed re-run differs from the reference; None unless one was given.
        attribution: whether both models look at the same parts of the inputs; None unless wanted.
        slices: parts of the data where answers change more than elsewhere; None unless wanted.
        items: those that the models answer differently, the most harmful first.
        n_items_left_out: how many more there are.
        costs: of both models; empty unless measured.
        size_bytes: of the reference's and the candidate's weights; None when unknown.
        latency: of the reference and the candidate, timed side by side; None when unknown.
        machine: where they were timed.
        n_examples: that the items belong to, where they share examples; None where each item is one.
        predictions: of "reference", "candidate" and perhaps "floor"; not in `to_dict`, and empty in a loaded audit.
    """

    n: int
    n_labeled: int
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
    frequencies: Frequencies
    margins: tuple[MarginRow, ...]
    changes: tuple[ClassChange, ...]
    items: tuple[ChangedItem, ...]
    n_items_left_out: int
    min_group_size: int
    calibration: CalibrationShift | None = None
    class_bias: ClassBias | None = None
    group_rates: tuple[GroupRates, ...] = ()
    gaps: tuple[Gap, ...] = ()
    floor: SeedFloor | None = None
    attribution: AttributionAgreement | None = None
    slices: Slices | None = None
    costs: tuple[CostRow, ...] = ()
    size_bytes: tuple[int, int] | None = None
    latency: tuple[Latency, Latency] | None = None
    machine: str = ""
    n_examples: int | None = None
    predictions: Mapping[str, Predictions] = field(default_factory=dict, compare=False, repr=False)

    @property
    def passed(self) -> bool:
        """Whether all limits are kept, and no slice that was to be checked is worse; True when none was set."""
        return all(verdict.passed for verdict in self.limits) and (self.slices is None or self.slices.passed)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts: one for each attribute but the predictions."""
        found: dict[str, Any] = plain(replace(self, predictions={}))
        del found["predictions"]
        found["per_class"] = self._rows("per_class")
        if self.floor is not None:
            found["floor"]["words"] = str(self.floor)
        return {"kind": _KIND, "format_version": FORMAT_VERSION, "passed": self.passed} | found

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Audit":
        """An audit from its `to_dict`, also with null for nan.

        Raises:
            ValueError: something is missing, of another kind, or contradicts the rest.
        """
        missing = [one.name for one in fields(Audit) if one.name not in (*_OPTIONAL, *stored)]
        if missing:
            raise ValueError(
                f"It is an audit without {', '.join(missing)}, of format version {stored.get('format_version')}. Audit "
                "again with this version of hf_compalign."
            )
        read = {name: value for name, value in stored.items() if name != "predictions"}
        try:
            found = built(cls, read | {"metrics": read_metrics(stored["metrics"])})
            check_consistent(found)
        except ValueError as error:
            raise ValueError(f"It is a damaged audit: {error} Audit again.") from error
        return found

    def to_json(self) -> str:
        """`to_dict` as strict JSON, with null for nan; one line for each metric, row or part."""
        parts = (f"  {json.dumps(name)}: {_laid_out(name, value)}" for name, value in self.to_dict().items())
        # Half of a pair of surrogates is no UTF-8; as an escape it is kept.
        return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", "{\n" + ",\n".join(parts) + "\n}")

    def to_pandas(self, table: str = "metrics") -> "DataFrame":
        """One of the tables as a data frame.

        Args:
            table: "metrics", with the value, the ends of the interval and the upper bound of each; or "per_class",
                "groups", "group_rates", "margins", "changes", "limits", "costs" or "items", with a row for each entry
                of that attribute.

        Raises:
            ValueError: there is no such table.
        """
        from pandas import DataFrame

        if table == "metrics":
            return DataFrame(_metric_rows(self.metrics)).set_index("metric")
        if table not in _TABLES:
            raise ValueError(f"There is no table {table!r}. Allowed: metrics, {', '.join(_TABLES)}.")
        rows = self._rows(table)
        return DataFrame(rows, columns=None if rows else [field.name for field in fields(_TABLES[table])])

    def save(self, path: str | Path) -> None:
        """Write `to_json`; the file is whole or not there."""
        write_text_atomic(path, f"{self.to_json()}\n")

    def save_with_predictions(self, folder: str | Path) -> None:
        """Write ``audit.json`` into the folder, and the predictions of each side as ``predictions_<side>.npz``."""
        for side, predictions in self.predictions.items():
            predictions.save(Path(folder) / f"predictions_{side}.npz")
        self.save(Path(folder) / "audit.json")

    @classmethod
    def load(cls, path: str | Path) -> "Audit":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not the JSON of an audit, or another version of this library wrote it.
        """
        return read_record(path, cls.from_dict, kind=_KIND, version=FORMAT_VERSION, writer="Audit.save")

    def __str__(self) -> str:
        return describe(self._shown())

    def _repr_html_(self) -> str:
        return describe_html(self._shown())

    def _shown(self) -> dict[str, Any]:
        """What a text shows; without the tables that may have a million rows."""
        return metrics_beside_fields(replace(self, items=(), group_rates=()).to_dict())

    def _rows(self, table: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = plain(getattr(self, table))
        if table == "per_class":
            for row in rows:
                row["name"] = self.label_names[row["label"]]
        return rows


def _metric_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, value in metrics.items():
        if not name.endswith(("_interval", "_upper_bound")):
            low, high = metrics.get(f"{name}_interval", (math.nan, math.nan))
            bound = metrics.get(f"{name}_upper_bound", math.nan)
            rows.append({"metric": name, "value": value, "low": low, "high": high, "upper_bound": bound})
    return rows


def _laid_out(name: str, value: Any) -> str:
    """JSON on one line; a table, or the metrics, on one for each of its rows."""
    if name == "metrics":
        lines = ",\n    ".join(f"{json.dumps(metric)}: {_compact(number)}" for metric, number in value.items())
        return f"{{\n    {lines}\n  }}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = ",\n    ".join(map(_compact, value))
        return f"[\n    {rows}\n  ]"
    return _compact(value)


def _compact(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # few rows hold a nan, and looking for one takes longer than writing
        return json.dumps(without_nan(value), ensure_ascii=False, allow_nan=False)


def metrics_beside_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """The ``to_dict()`` of an audit as its readers take it: each metric beside the fields."""
    found = dict(record)
    return {**found.pop("metrics", {}), **found}
