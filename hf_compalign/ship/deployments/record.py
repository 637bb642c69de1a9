"""Files side by side, as plain data: printed, saved and loaded without torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from hf_compalign._formats import UNKNOWN, count, interval, megabytes, percent
from hf_compalign._saved import Saved
from hf_compalign._tables import Table, as_text
from hf_compalign.measure.audit import Audit, Verdict
from hf_compalign.measure.footprint import WIDE, Latency, quartiles
from hf_compalign.measure.statistics import Estimate, undominated
from hf_compalign.models import Runtime


@dataclass(frozen=True)
class Deployment:
    """One way to deploy a model, measured.

    Attributes:
        name: as given.
        runtime: what computed it.
        n: items compared.
        mismatches: how many of them it answers differently from the reference.
        mismatch_rate: their share.
        mismatch_rate_interval: its two-sided 95 % interval, as in an audit.
        mismatch_rate_bound: its one-sided 95 % bound, as in an audit.
        accuracy: the share of right answers; nan without labels.
        limits: the verdict on each limit.
        size_bytes: of the weights; of a `DeferringModel` those of both models.
        latency: batch size -> one pass, all in turn: others have filled the caches.
        alone: the same, of some passes in a row.
        speedup: batch size -> how many times faster than the first of the list, by the total time of all passes, alone
            where that was timed, with the 95 % interval of a bootstrap over the passes.
        peak_memory_bytes: see `hf_compalign.measure.footprint.peak_memory_bytes`; None where it was not measured.
        answered_rate: the share of the items that a `DeferringModel` did not defer; 1 for others.
    """

    name: str
    runtime: Runtime
    n: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    mismatch_rate_bound: float
    accuracy: float
    limits: tuple[Verdict, ...]
    size_bytes: int
    latency: Mapping[int, Latency] = field(default_factory=dict)
    alone: Mapping[int, Latency] = field(default_factory=dict)
    speedup: Mapping[int, Estimate] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    answered_rate: float = 1.0

    @property
    def passed(self) -> bool:
        """Whether every limit is kept; True when none was set."""
        return all(verdict.passed for verdict in self.limits)

    @classmethod
    def of(
        cls, name: str, found: Audit, *, runtime: Runtime, size_bytes: int, answered_rate: float = 1.0
    ) -> "Deployment":
        """What an audit of it against the reference says, before anything is timed."""
        low, high = found.metrics["mismatch_rate_interval"]
        return cls(
            name=name,
            runtime=runtime,
            n=found.n,
            mismatches=found.metrics["cie"],
            mismatch_rate=found.metrics["mismatch_rate"],
            mismatch_rate_interval=(low, high),
            mismatch_rate_bound=found.metrics["mismatch_rate_upper_bound"],
            accuracy=found.metrics["accuracy_candidate"],
            limits=found.limits,
            size_bytes=size_bytes,
            answered_rate=answered_rate,
        )


@dataclass(frozen=True)
class Deployments(Saved):
    """The result of `hf_compalign.compare_deployments`; ``print`` shows it as a table.

    Attributes:
        reference: the model whose answers count.
        rows: in the order given; the first is what the others are how many times faster than.
        machine: where they were timed; empty when they were not.
    """

    kind = "hf_compalign.deployments"

    reference: str
    rows: tuple[Deployment, ...]
    machine: str = ""

    def __getitem__(self, name: str) -> Deployment:
        """The deployment of that name, or a KeyError."""
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            raise KeyError(f"There is no deployment {name!r}. There are {', '.join(row.name for row in self.rows)}.")
        return found

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Those that were timed."""
        return tuple(sorted({size for row in self.rows for size in (*row.latency, *row.speedup)}))

    def frontier(self, batch_size: int) -> list[Deployment]:
        """Those that no other beats in both time and mismatches, the fastest first.

        Raises:
            ValueError: that batch size was not timed.
        """
        self._check_timed(batch_size)
        return undominated(self.rows, cost=lambda row: -row.speedup[batch_size].value)

    def fastest(self, batch_size: int, *, most: float | None = None) -> Deployment | None:
        """The fastest that keeps its limits, and whose bound on mismatches is at most ``most``; None if there is none.

        It was chosen on these items, which flatters it a little: audit it on others.

        Raises:
            ValueError: that batch size was not timed.
        """
        self._check_timed(batch_size)
        kept = [row for row in self.rows if row.passed and (most is None or row.mismatch_rate_bound <= most)]
        return max(kept, key=lambda row: row.speedup[batch_size].value, default=None)

    def table(self) -> Table:
        """A row for each, and the columns of which something is known."""
        columns: list[tuple[str, Callable[[Deployment], str]]] = [
            ("", lambda row: row.name),
            ("mismatches", lambda row: f"{count(row.mismatches)} of {count(row.n)}"),
            ("rate", lambda row: percent(row.mismatch_rate)),
            ("95 % interval", lambda row: interval(row.mismatch_rate_interval)),
            ("at most", lambda row: percent(row.mismatch_rate_bound)),
            ("accuracy", lambda row: percent(row.accuracy)),
            ("answers itself", lambda row: "" if row.answered_rate == 1 else percent(row.answered_rate, digits=1)),
            ("MB", lambda row: megabytes(row.size_bytes, digits=1)),
            ("memory, MB", lambda row: megabytes(row.peak_memory_bytes, digits=0)),
        ]
        for size in self.batch_sizes:
            columns += [
                (f"ms, batch {size}", partial(_time, size=size)),
                (f"alone, batch {size}", partial(_time_alone, size=size)),
                (f"times faster, batch {size}", partial(_speedup, size=size)),
            ]
        cells = [[form(row) for _, form in columns] for row in self.rows]
        known = [place for place in range(len(columns)) if any(row[place] not in ("", UNKNOWN) for row in cells)]
        names: Sequence[str] = [columns[place][0] for place in known]
        return Table("Deployments", names, [[row[place] for place in known] for row in cells])

    def __str__(self) -> str:
        lines = [f"Against {self.reference or 'the reference'}", as_text(self.table()), ""]
        lines += [f"{row.name}: {replace(row.runtime, instructions=())}" for row in self.rows]
        if instructions := self.rows[0].runtime.instructions:
            lines += ["", f"On a CPU with {' '.join(instructions)}"]
        if self.machine:
            lines.append(f"Medians and quartiles of one pass, in turn and some in a row (alone), on {self.machine}")
        return "\n".join([*lines, *filter(None, [unsure_speedups(self.rows)])])

    def _check_timed(self, batch_size: int) -> None:
        if batch_size not in self.batch_sizes:
            timed = ", ".join(map(str, self.batch_sizes)) or "none"
            raise ValueError(
                f"Batches of {batch_size} were not timed. Timed: {timed}. Compare with timed_batch_sizes=."
            )


def unsure_speedups(rows: Iterable[Deployment]) -> str:
    """A sentence about the speedups whose interval is wider than a quarter of them; empty without any.

    The times themselves may spread on a quiet machine too: each round has its own rows, which differ in length.
    """
    unsure = [
        f"{row.name} (batch {size})"
        for row in rows
        for size, one in row.speedup.items()
        if one.high - one.low > WIDE * one.value
    ]
    if not unsure:
        return ""
    return (
        f"Not to be trusted: how many times faster {', '.join(unsure)} is has an interval wider than a quarter of it. "
        "Time on a quiet machine, or with more n_runs."
    )


def _time(row: Deployment, *, size: int) -> str:
    return quartiles(row.latency[size], digits=1) if size in row.latency else UNKNOWN


def _time_alone(row: Deployment, *, size: int) -> str:
    return quartiles(row.alone[size], digits=1) if size in row.alone else UNKNOWN


def _speedup(row: Deployment, *, size: int) -> str:
    found = row.speedup.get(size)
    return UNKNOWN if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
