"""What an audit found, as plain data: read, printed, saved and loaded without torch."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_compalign._files import read_record, write_text_atomic
from hf_compalign._records import built
from hf_compalign.measure.attribution.record import AttributionAgreement
from hf_compalign.measure.audit_items import ChangedItem
from hf_compalign.measure.audit_text import describe, describe_html
from hf_compalign.measure.calibration import CalibrationShift
from hf_compalign.measure.candidates import SeedFloor
from hf_compalign.measure.class_bias import ClassBias
from hf_compalign.measure.comparison import Cells, ClassRow
from hf_compalign.measure.groups.measures import Gap, GroupRates, GroupRow
from hf_compalign.measure.margins import MarginRow
from hf_compalign.measure.symmetry import Frequencies

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT_VERSION = 2
_KIND = "hf_compalign.audit"
_ABOUT = ("kind", "format_version", "passed")  # what to_dict adds to the fields
_TABLES = ("per_class", "groups", "group_rates", "margins", "limits", "costs", "items")


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
class CostRow:
    """What both models cost in one respect, as texts with their units, such as the bytes of their weights."""

    what: str
    reference: str
    candidate: str
    ratio: str


@dataclass(frozen=True)
class Audit:
    """The result of `hf_compalign.audit`; ``print`` shows it as a report, a notebook as tables.

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
        calibration: of both models, and the change; None without labels.
        frequencies: how often each class is predicted, and whether that changed.
        class_bias: how unevenly the errors of the classes changed; None without labels.
        margins: mismatches by how sure the reference was; where the answers flip.
        group_rates: selection rate, TPR and FPR of every group and class.
        gaps: one for each attribute that the groups belong to: gaps between its groups, and fairness measures.
        min_group_size: a smaller group is shown, and takes part in no gap and no verdict.
        floor: how often an uncompressed re-run differs from the reference; None unless one was given.
        attribution: whether both models look at the same parts of the inputs; None unless it was asked for.
        items: those that the models answer differently, the most harmful first.
        n_items_left_out: how many more there are.
        costs: what both models cost; empty unless it was measured.
        size_bytes: of the reference's and the candidate's weights; None when unknown.
        latency_ms: of the reference and the candidate, timed side by side; None when unknown.
        machine: where they were timed.
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
    frequencies: Frequencies
    margins: tuple[MarginRow, ...]
    items: tuple[ChangedItem, ...]
    n_items_left_out: int
    min_group_size: int
    calibration: CalibrationShift | None = None
    class_bias: ClassBias | None = None
    group_rates: tuple[GroupRates, ...] = ()
    gaps: tuple[Gap, ...] = ()
    floor: SeedFloor | None = None
    attribution: AttributionAgreement | None = None
    costs: tuple[CostRow, ...] = ()
    size_bytes: tuple[int, int] | None = None
    latency_ms: tuple[float, float] | None = None
    machine: str = ""

    @property
    def passed(self) -> bool:
        """Whether all limits are kept; True when none was set."""
        return all(verdict.passed for verdict in self.limits)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts, with the metrics at the top level."""
        found: dict[str, Any] = _mapped(asdict(self), lambda item: item)
        for row in found["per_class"]:
            row["name"] = self.label_names[row["label"]]
        if self.floor is not None:
            found["floor"]["words"] = str(self.floor)
        about = (_KIND, FORMAT_VERSION, self.passed)
        return dict(zip(_ABOUT, about, strict=True)) | found.pop("metrics") | found

    def to_json(self) -> str:
        """`to_dict` as strict JSON, with null for nan."""
        return json.dumps(_mapped(self.to_dict(), _null_for_nan), indent=2, ensure_ascii=False, allow_nan=False)

    def to_pandas(self, table: str = "metrics") -> "DataFrame":
        """One of the tables as a data frame.

        Args:
            table: "metrics", with a row for each rate or number: its value, the ends of its interval and its upper
                bound; or "per_class", "groups", "group_rates", "margins", "limits", "costs" or "items", with a row
                for each entry of that attribute.

        Raises:
            ValueError: there is no such table.
        """
        from pandas import DataFrame

        if table == "metrics":
            return DataFrame(_metric_rows(self.metrics)).set_index("metric")
        if table not in _TABLES:
            raise ValueError(f"There is no table {table!r}. Allowed: metrics, {', '.join(_TABLES)}.")
        rows = self.to_dict()[table]
        return DataFrame(rows, columns=None if rows else _columns(table))

    def save(self, path: str | Path) -> None:
        """Write `to_json`; the file is whole or not there."""
        write_text_atomic(path, f"{self.to_json()}\n")

    @classmethod
    def load(cls, path: str | Path) -> "Audit":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not the JSON of an audit, or another version of this library wrote it.
        """
        stored = read_record(path, kind=_KIND, version=FORMAT_VERSION, writer="Audit.save")
        own = [field.name for field in fields(Audit) if field.name != "metrics"]
        missing = [name for name in own if name not in stored]
        if missing:
            raise ValueError(
                f"{path} is an audit without {', '.join(missing)}, of format version {stored['format_version']}. "
                "Audit again with this version of hf_compalign."
            )
        found = {name: stored.pop(name) for name in own}
        metrics = {name: value for name, value in stored.items() if name not in _ABOUT}
        return built(cls, found | {"metrics": _mapped(metrics, lambda item: math.nan if item is None else item)})

    def __str__(self) -> str:
        return describe(self.to_dict())

    def _repr_html_(self) -> str:
        return describe_html(self.to_dict())


def _metric_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, value in metrics.items():
        if not name.endswith(("_interval", "_upper_bound")):
            low, high = metrics.get(f"{name}_interval", (math.nan, math.nan))
            bound = metrics.get(f"{name}_upper_bound", math.nan)
            rows.append({"metric": name, "value": value, "low": low, "high": high, "upper_bound": bound})
    return rows


def _columns(table: str) -> list[str]:
    kinds = {
        "per_class": ClassRow,
        "groups": GroupRow,
        "group_rates": GroupRates,
        "margins": MarginRow,
        "limits": Verdict,
        "costs": CostRow,
        "items": ChangedItem,
    }
    return [field.name for field in fields(kinds[table])]


def _null_for_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same dicts and lists, with lists for tuples, around ``leaf`` of everything else."""
    if isinstance(value, dict):
        return {name: _mapped(item, leaf) for name, item in value.items()}
    return [_mapped(item, leaf) for item in value] if isinstance(value, (list, tuple)) else leaf(value)
