"""The files that a repair measured: how often each differs from the reference, how large and how fast it is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_compalign._formats import UNKNOWN, megabytes, percent, plural
from hf_compalign._saved import Saved
from hf_compalign._tables import Table
from hf_compalign.measure.audit import Audit, Verdict
from hf_compalign.measure.footprint import Latency, quartiles
from hf_compalign.measure.statistics import undominated

_CHOSEN = "<- chosen"


@dataclass(frozen=True)
class Point:
    """One file, measured on some items.

    Attributes:
        kept: the layers that stay in float.
        n: items compared.
        mismatches: how many of them it answers differently from the reference.
        mismatch_rate: their share.
        mismatch_rate_interval: its two-sided 95 % interval, as in an audit.
        limits: the verdict on each limit; in a search the one to expect of the items that judge, with a margin.
        size_bytes: of the file.
        latency: batch size -> latency of one pass; empty where it was not timed.
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
        flips: how many of them it answers differently from the float file.
        logit_error: mean squared difference of the logits.
        size_bytes: of the file.
    """

    layers: tuple[str, ...]
    n: int
    flips: int
    logit_error: float
    size_bytes: int


@dataclass(frozen=True)
class Frontier(Saved):
    """Everything that a repair measured.

    Attributes:
        points: one for each file, on the ``n_searched`` items of the search, in the order in which they were measured.
        judged: the files that were judged on ``n_judged`` other items, in this order; the last that keeps the limits is
            chosen, or else the first.
        chosen: the layers that the chosen file keeps in float.
        verdict: what came out, in words.
        sensitivities: one for each layer or group that was tried alone; the most sensitive first.
        baselines: name -> batch size -> latency, of the models that were timed beside the files, such as "torch".
        machine: where all of them were timed.
    """

    kind = "hf_compalign.frontier"

    points: tuple[Point, ...]
    judged: tuple[Point, ...]
    chosen: tuple[str, ...]
    verdict: str
    sensitivities: tuple[Sensitivity, ...] = ()
    baselines: Mapping[str, Mapping[int, Latency]] = field(default_factory=dict)
    machine: str = ""

    def __post_init__(self) -> None:
        for name, points in (("points", self.points), ("judged", self.judged)):
            if self.chosen not in [point.kept for point in points]:
                raise ValueError(f"chosen must name the layers that one of the files in {name} keeps.")

    @property
    def n_searched(self) -> int:
        """How many items the search measured the files on."""
        return self.points[0].n

    @property
    def n_judged(self) -> int:
        """How many other items the verdict is on."""
        return self.judged[0].n

    @property
    def chosen_point(self) -> Point:
        """The file that was chosen, as it was searched."""
        return next(point for point in self.points if point.kept == self.chosen)

    @property
    def worth_a_look(self) -> list[Point]:
        """The files that no other beats in size and mismatches, and the chosen one; the smallest first."""
        best = undominated(self.points)
        return best if self.chosen_point in best else sorted([*best, self.chosen_point], key=lambda one: one.size_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts; of each file also whether it ``passed``."""
        found = super().to_dict()
        for name, points in (("points", self.points), ("judged", self.judged)):
            for point, row in zip(points, found[name], strict=True):
                row["passed"] = point.passed
        return found


def frontier_table(frontier: Frontier) -> Table:
    """The baselines, and the files worth a look; the bounds are those of the items that judge."""
    points, limits = frontier.worth_a_look, frontier.chosen_point.limits
    judged = {point.kept: point for point in frontier.judged}
    timed = [*frontier.baselines.values(), *(point.latency for point in points)]
    sizes = sorted({size for latency in timed for size in latency})

    def times_of(latency: Mapping[int, Latency]) -> list[str]:
        return [quartiles(latency[size], digits=1) if size in latency else UNKNOWN for size in sizes]

    bounds, times = (f"{limit.name} bound" for limit in limits), (f"ms, batch {size}" for size in sizes)
    columns = ("in float", "searched", "judged", *bounds, "MB", *times, "")
    unknown = [""] * (len(limits) + 3)
    rows = [[name, *unknown, *times_of(latency), ""] for name, latency in frontier.baselines.items()]
    for point in points:
        row = [plural(len(point.kept), "layer"), f"{point.mismatches} of {point.n}"]
        if (held := judged.get(point.kept)) is None:
            row += [UNKNOWN] * (1 + len(limits))
        else:
            row += [f"{held.mismatches} of {held.n}", *(percent(limit.upper_bound) for limit in held.limits)]
        row += [megabytes(point.size_bytes, digits=1), *times_of(point.latency)]
        rows.append([*row, _CHOSEN if point.kept == frontier.chosen else ""])
    return Table("Files", columns, rows, words=(len(columns) - 1,))
