"""The files that a repair measured: how often each differs from the reference, how large and how fast it is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_compalign._files import read_record, write_record
from hf_compalign._records import built
from hf_compalign.measure.audit import Audit, Verdict
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.statistics import undominated

FORMAT_VERSION = 1
_KIND = "hf_compalign.frontier"
_CHOSEN = "<- chosen"


@dataclass(frozen=True)
class Point:
    """One file, measured on all items.

    Attributes:
        kept: the layers that stay in float.
        n: items compared.
        mismatches: those of them that it answers otherwise than the reference.
        mismatch_rate: their share.
        mismatch_rate_interval: its two-sided 95 % Wilson interval.
        limits: the verdict on each limit.
        size_bytes: of the file.
        latency: of one pass, by the number of items in the batch; empty where it was not timed.
    """

    kept: tuple[str, ...]
    n: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    limits: tuple[Verdict, ...]
    size_bytes: int
    latency: Mapping[int, Latency] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every limit is kept."""
        return all(verdict.passed for verdict in self.limits)

    @classmethod
    def of(cls, found: Audit, *, kept: Iterable[str], size_bytes: int) -> "Point":
        """What an audit of the file against the reference says."""
        low, high = found.metrics["mismatch_rate_interval"]
        return cls(
            kept=tuple(kept),
            n=found.n,
            mismatches=found.metrics["cie"],
            mismatch_rate=found.metrics["mismatch_rate"],
            mismatch_rate_interval=(low, high),
            limits=found.limits,
            size_bytes=size_bytes,
        )


@dataclass(frozen=True)
class Sensitivity:
    """What INT8 in these layers alone does to the answers of the float file, on a sample of the items.

    Attributes:
        layers: the layers in INT8; all others are in float.
        n: items in the sample.
        flips: those of them that are answered otherwise than by the float file.
        logit_error: mean squared difference of the logits.
        size_bytes: of the file.
    """

    layers: tuple[str, ...]
    n: int
    flips: int
    logit_error: float
    size_bytes: int


@dataclass(frozen=True)
class Frontier:
    """Everything that a repair measured.

    Attributes:
        points: one for each file, in the order in which they were measured.
        chosen: the layers that the chosen file keeps in float.
        verdict: what came out, in words.
        sensitivities: one for each layer, or group of layers, that was tried alone; the most sensitive first.
        baselines: the latencies of models that were timed side by side with the files, such as "torch", by their
            names and the number of items in the batch.
        machine: where all of them were timed.
    """

    points: tuple[Point, ...]
    chosen: tuple[str, ...]
    verdict: str
    sensitivities: tuple[Sensitivity, ...] = ()
    baselines: Mapping[str, Mapping[int, Latency]] = field(default_factory=dict)
    machine: str = ""

    @property
    def chosen_point(self) -> Point:
        """The file that was chosen."""
        return next(point for point in self.points if point.kept == self.chosen)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts."""
        found: dict[str, Any] = {"kind": _KIND, "format_version": FORMAT_VERSION, **asdict(self)}
        for point, row in zip(self.points, found["points"], strict=True):
            row["passed"] = point.passed
        return found

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON; the file is whole or not there."""
        write_record(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Frontier":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not the JSON of a frontier, or a newer version of this library wrote it.
        """
        stored = read_record(path, kind=_KIND, version=FORMAT_VERSION, writer="Frontier.save")
        del stored["kind"], stored["format_version"]
        stored["points"] = tuple(map(_point, stored["points"]))
        rows = stored["sensitivities"]
        stored["sensitivities"] = tuple(Sensitivity(**row | {"layers": tuple(row["layers"])}) for row in rows)
        stored["baselines"] = {name: _latencies(rows) for name, rows in stored["baselines"].items()}
        return cls(**stored | {"chosen": tuple(stored["chosen"])})


def _point(stored: Mapping[str, Any]) -> Point:
    read = {name: value for name, value in stored.items() if name != "passed"}
    read |= {name: tuple(stored[name]) for name in ("kept", "mismatch_rate_interval")}
    read["limits"] = tuple(built(Verdict, row) for row in stored["limits"])
    read["latency"] = _latencies(stored["latency"])
    return Point(**read)


def _latencies(stored: Mapping[str, Any]) -> dict[int, Latency]:
    return {int(batch_size): Latency(**row) for batch_size, row in stored.items()}


def frontier_rows(frontier: Frontier) -> list[list[str]]:
    """The points worth a look as rows of texts, the header first: the undominated ones and the chosen one."""
    shown = undominated(frontier.points)
    if frontier.chosen_point not in shown:
        shown = sorted([*shown, frontier.chosen_point], key=lambda one: one.size_bytes)
    timed = [*frontier.baselines.values(), *(point.latency for point in shown)]
    sizes = sorted({size for latency in timed for size in latency})
    names = [verdict.name for verdict in frontier.chosen_point.limits]
    rows = [["in float", "mismatches", *(f"{name} bound" for name in names), "MB", *map(_batch, sizes), ""]]
    for name, latency in frontier.baselines.items():
        rows.append([name, "", *("" for _ in names), "", *_medians(latency, sizes), ""])
    for point in shown:
        count = f"{len(point.kept)} layer{'' if len(point.kept) == 1 else 's'}"
        bounds = [_percent(verdict.upper_bound) for verdict in point.limits]
        mark = _CHOSEN if point.kept == frontier.chosen else ""
        cells = [count, f"{point.mismatches} of {point.n}", *bounds, f"{megabytes(point.size_bytes):.1f}"]
        rows.append([*cells, *_medians(point.latency, sizes), mark])
    return rows


def megabytes(size_bytes: float) -> float:
    """Millions of bytes, as in the sizes that the Hub shows."""
    return size_bytes / 1e6


def _batch(batch_size: int) -> str:
    return f"ms, batch {batch_size}"


def _medians(latency: Mapping[int, Latency], sizes: Sequence[int]) -> list[str]:
    return [f"{latency[size].median_ms:.1f}" if size in latency else "-" for size in sizes]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
