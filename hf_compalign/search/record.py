"""What a search tried and what it proved, as plain data: printed, saved and loaded without torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hf_compalign._formats import count, decimals, percent, plural
from hf_compalign._saved import Saved
from hf_compalign._tables import as_text
from hf_compalign.measure.audit import Verdict
from hf_compalign.measure.statistics import undominated
from hf_compalign.search.steps import Step
from hf_compalign.ship.deferral import Deferral
from hf_compalign.ship.deployments import Deployment, Deployments, unsure_speedups

ORIGINAL = "PyTorch"
_NO_MORE_ROWS = "More rows would not help; a larger limit, or rows to train on, would."


@dataclass(frozen=True)
class Tried:
    """A file, or a file with the original behind it, as measured on the rows that are searched on.

    Attributes:
        step: the file.
        measured: its answers, its size and its time.
        expected: the verdicts to expect on the rows that prove, with a margin.
        deferral: which answers count, where the original is behind it.
    """

    step: Step
    measured: Deployment
    expected: tuple[Verdict, ...]
    deferral: Deferral | None = None

    @property
    def name(self) -> str:
        """The step's, and that it defers."""
        return self.measured.name

    @property
    def mismatch_rate(self) -> float:
        """The share of answers that it changes."""
        return self.measured.mismatch_rate

    @property
    def promises(self) -> bool:
        """Whether the rows that prove can be expected to show that it keeps every limit."""
        return all(verdict.passed for verdict in self.expected)

    @property
    def worst(self) -> Verdict:
        """What is to be expected of the limit that it keeps least."""
        return max(self.expected, key=lambda verdict: verdict.upper_bound - verdict.limit)


@dataclass(frozen=True)
class Search(Saved):
    """Everything that a search tried.

    Attributes:
        objective: "latency" or "bytes".
        batch_size: of the timed batches.
        tried: in this order.
        left_out: the name of each other step -> why it was not tried, or could not be.
    """

    kind = "hf_compalign.search"

    objective: str
    batch_size: int
    tried: tuple[Tried, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    def of(self, step: Step) -> Tried | None:
        """The file of a step by itself, or None."""
        return next((one for one in self.tried if one.step == step and one.deferral is None), None)

    def speedup(self, one: Tried) -> float:
        """How many times faster than the original."""
        return one.measured.speedup[self.batch_size].value

    def cost(self, one: Tried) -> float:
        """What is to be small."""
        return float(one.measured.size_bytes) if self.objective == "bytes" else 1 / self.speedup(one)

    @property
    def fallback(self) -> Tried | None:
        """The file of the whole model in float that answers what others leave; the first that keeps the limits."""
        floats = (self.of(one.step) for one in self.tried if one.step == one.step.whole.in_float)
        return next((one for one in floats if one is not None and one.promises), None)

    @property
    def best(self) -> Tried | None:
        """The cheapest that promises to keep the limits."""
        return min((one for one in self.tried if one.promises), key=self.cost, default=None)

    @property
    def sequence(self) -> list[Tried]:
        """Those that promise to keep the limits and are beaten by no other, the safest first."""
        promising = (one for one in self.tried if one.promises)
        return undominated(promising, cost=self.cost)[::-1]


@dataclass(frozen=True)
class Compression(Saved):
    """The result of `compress_model`; ``print`` shows it as a table and one sentence.

    Attributes:
        model: the original.
        limits: name -> what was to be kept.
        search: all that was tried, on the rows that are searched on.
        judged: on the rows that prove, the files of `Search.sequence` up to the first that does not keep the limits.
        proved: the original, the chosen file and, where it defers, the file behind it, timed on the rows that prove;
            None where nothing keeps the limits.
        n_proving: how many items prove, or examples where these share some.
        folder: of the artifact; empty without one.
    """

    kind = "hf_compalign.compression"

    model: str
    limits: Mapping[str, float]
    search: Search
    judged: tuple[Deployment, ...]
    proved: Deployments | None
    n_proving: int
    folder: str = ""

    @property
    def passed(self) -> bool:
        """Whether a file keeps every limit."""
        return self.proved is not None

    @property
    def chosen(self) -> Deployment | None:
        """The file that was chosen, on the rows that prove."""
        return None if self.proved is None else self.proved.rows[1]

    def __str__(self) -> str:
        tried = Deployments(self.model, tuple(one.measured for one in self.search.tried))
        lines = [f"Chosen on {plural(tried.rows[0].n, 'item')}:" if tried.rows else "Nothing could be tried."]
        lines += [as_text(tried.table())] if tried.rows else []
        lines += [f"left out  {name}: {reason}" for name, reason in self.search.left_out.items()]
        for row in self.judged:
            kept = "keeps the limits" if row.passed else "does not"
            lines.append(f"proved on {count(row.n)} others  {row.name}: {count(row.mismatches)} changed, {kept}")
        unsure = "" if self.chosen is None else unsure_speedups([self.chosen])
        return "\n".join([*lines, *filter(None, [unsure]), "", self.sentence])

    @property
    def sentence(self) -> str:
        """What came out, in one sentence."""
        if self.proved is None:
            return self._nothing()
        original, chosen = self.proved.rows[:2]
        words = (
            f"{chosen.name}: {_speed(chosen.speedup[self.search.batch_size].value)} in batches of "
            f"{self.search.batch_size}, {percent(chosen.size_bytes / original.size_bytes, digits=0)} of the bytes, "
            f"{percent(chosen.mismatch_rate)} changed (at most {percent(chosen.mismatch_rate_bound)} with 95 % "
            "confidence)"
        )
        if chosen.answered_rate < 1:
            words += f"; the original answers {percent(1 - chosen.answered_rate, digits=1)} of the items"
        return f"{words}.{self._without_gain(original, chosen)}"

    def _without_gain(self, original: Deployment, chosen: Deployment) -> str:
        """What to say where the chosen file is no better than the original, and which came next; empty where it is."""
        of_bytes = self.search.objective == "bytes"
        times = original.size_bytes / chosen.size_bytes if of_bytes else chosen.speedup[self.search.batch_size].value
        if times > 1:
            return ""
        said = f" No file that keeps the limits is {'smaller' if of_bytes else 'faster'} than the original."
        last = self.judged[-1] if self.judged else chosen
        return said if last.passed else f"{said} {self._came('Next', last)}"

    def _nothing(self) -> str:
        nothing = f"Nothing keeps {', '.join(f'{name}={value:g}' for name, value in self.limits.items())}"
        if self.judged:
            return f"{nothing}. {self._came('Nearest', self.judged[-1])}"
        if not self.search.tried:
            return f"{nothing}: no file could be made."
        return f"{nothing}: no file promised enough to be proved. {self._expected()}"

    def _expected(self) -> str:
        """What the rows that choose let expect of the nearest file on those that prove."""
        nearest = min(self.search.tried, key=lambda one: one.worst.upper_bound - one.worst.limit)
        worst, row = nearest.worst, nearest.measured
        words = (
            f"Nearest comes {row.name}: {count(row.mismatches)} of {plural(row.n, 'item')} that choose changed, so the "
            f"{plural(self.n_proving, worst.of_what)} that prove are expected to show at most "
            f"{percent(worst.upper_bound)} for {worst.name}."
        )
        tightest = _tightest(row)
        if math.isinf(tightest.needed):
            return f"{words} {_NO_MORE_ROWS}"
        needed = plural(int(tightest.needed), tightest.of_what)
        return f"{words} At this rate it takes {needed} that prove, and some more as a margin."

    def _came(self, how: str, one: Deployment) -> str:
        return (
            f"{how} comes {one.name}: {count(one.mismatches)} of {count(one.n)} changed, at most "
            f"{percent(one.mismatch_rate_bound)} with 95 % confidence. {self._help(one)}"
        )

    def _help(self, nearest: Deployment) -> str:
        tightest = _tightest(nearest)
        if math.isinf(tightest.needed):
            return _NO_MORE_ROWS
        there = count(tightest.n_examples or nearest.n)
        needed = plural(int(tightest.needed), tightest.of_what)
        return f"At this rate {needed} that prove would show it; there are {there}."


def _tightest(row: Deployment) -> Verdict:
    """The limit that takes the most rows."""
    return max(row.limits, key=lambda one: one.needed)


def _speed(times: float) -> str:
    return f"{decimals(times, digits=1)} times faster" if times >= 1 else f"{decimals(times, digits=2)} times as fast"
