"""Which layers of a file must stay in float, so that it keeps its limits: the search, for any way to measure."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hf_compalign._formats import first_of, megabytes, percent
from hf_compalign.ship.frontier import Point, Sensitivity

# The layers in float -> the file, measured on all items.
Measure = Callable[[frozenset[str]], Point]
# The only layers in INT8 -> what they do by themselves.
Probe = Callable[[tuple[str, ...]], Sensitivity]
Report = Callable[[str], None]

# With more layers than this, neighbors are tried together, so that the search ends on the same day.
MOST_GROUPS = 150


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        best: the file with the fewest layers in float that keeps the limits; else the one with the fewest mismatches.
        points: all measured files, in the order of measuring.
        sensitivities: of the layers, or groups of neighbors, that were tried alone; the most sensitive first.
        complete: whether the search came to its end. Then no single layer of ``best`` can go back to INT8, or no set
            of layers suffices.
        n_measured: how many measurements it took.
    """

    best: Point
    points: tuple[Point, ...]
    sensitivities: tuple[Sensitivity, ...]
    complete: bool
    n_measured: int

    @property
    def candidates(self) -> list[Point]:
        """The files to judge: those that keep the limits, from the most layers in float to the fewest; without any,
        ``best``."""
        kept = [point for point in self.points if point.passed] or [self.best]
        return sorted(kept, key=lambda point: (len(point.kept), point.size_bytes), reverse=True)


class _BudgetSpentError(Exception):
    """No further measurement is allowed."""


class _Ledger:
    """What was measured, and how much may follow. Nothing is measured twice."""

    def __init__(
        self,
        layers: Sequence[str],
        measure: Measure,
        *,
        known: Sequence[Sensitivity],
        budget: int | None,
        report: Report,
    ) -> None:
        self.layers = layers
        self.groups = _groups(layers, known, budget)
        self.points: dict[frozenset[str], Point] = {}
        self.sensitivities = {one.layers: one for one in known}
        self._n_known = len(self.sensitivities)
        self._measure = measure
        self._budget = math.inf if budget is None else budget
        self._report = report

    @property
    def n_spent(self) -> int:
        return len(self.points) + len(self.sensitivities) - self._n_known

    def keeps_limits(self, kept: Collection[str], what: str) -> bool:
        key = frozenset(kept)
        if key not in self.points:
            self._check_budget()
            self.points[key] = point = self._measure(key)
            self._report(f"{self.n_spent:>4}  {what}: {describe_point(point)}")
        return self.points[key].passed

    def probe(self, group: tuple[str, ...], probe: Probe) -> None:
        self._check_budget()
        self.sensitivities[group] = found = probe(group)
        answers = f"{found.flips} of {found.n} answers flip, squared logit error {found.logit_error:.2g}"
        self._report(f"{self.n_spent:>4}  only {first_of(group)} in INT8: {answers}")

    def order(self) -> list[Sensitivity]:
        """What was tried alone, the most sensitive first."""
        found = list(self.sensitivities.values())
        shares = sensitivity_shares(found)
        return [found[index] for index in sorted(range(len(found)), key=lambda index: -shares[index])]

    def best(self) -> Point:
        def cost(point: Point) -> tuple[int, ...]:
            size = len(point.kept), point.size_bytes
            return (0, *size) if point.passed else (1, point.mismatches, *reversed(size))

        return min(self.points.values(), key=cost)

    def _check_budget(self) -> None:
        if self.n_spent >= self._budget:
            raise _BudgetSpentError


def smallest_float_set(
    layers: Sequence[str],
    measure: Measure,
    probe: Probe,
    *,
    max_measurements: int | None = None,
    known: Sequence[Sensitivity] = (),
    report: Report = lambda line: None,
) -> Found:
    """Find few layers to keep in float, so that a file that is INT8 otherwise keeps its limits.

    The search measures all layers in INT8 first, then none. If only the second file keeps the limits, it tries each
    layer alone in INT8 (groups of neighbors, if there are more than `MOST_GROUPS`, or more than can be tried and
    ordered with ``max_measurements``) and orders them by `sensitivity_shares`. A bisection finds how many from the top
    must stay in float. Then the search gives layer by layer back to INT8, first those that save most bytes for the
    least sensitivity, until it has measured that each of the rest is needed. A smaller set may exist all the same:
    there are 2^layers of them.

    No file is measured twice, and no layer is tried alone twice: nor again where its sensitivity is known.

    Args:
        layers: the names of those that can be INT8, in the order of the graph.
        measure: given the layers in float, the file measured on all items.
        probe: given the only layers in INT8, what they do by themselves.
        max_measurements: stop after so many calls of both.
        known: what ``probe`` found before, in another search among the same layers.
        report: called with a line of text for each step.

    Raises:
        ValueError: there are no layers, max_measurements < 1, or what is known is of other layers.
    """
    if not layers:
        raise ValueError("There is no layer that can be INT8, so there is nothing to keep in float either.")
    if max_measurements is not None and max_measurements < 1:
        raise ValueError(f"max_measurements must be 1 or more, or None for no limit. Got {max_measurements}.")
    ledger = _Ledger(layers, measure, known=known, budget=max_measurements, report=report)
    complete = True
    try:
        start = time.perf_counter()
        if not ledger.keeps_limits((), f"all {len(layers)} layers in INT8"):
            seconds = time.perf_counter() - start
            if ledger.keeps_limits(layers, "all layers in float"):
                _probe(ledger, probe, seconds, report)
                _give_back(ledger, _bisected(ledger))
    except _BudgetSpentError:
        complete = False
        report(f"      The budget of {max_measurements} measurements is spent.")
    return Found(ledger.best(), tuple(ledger.points.values()), tuple(ledger.order()), complete, ledger.n_spent)


def sensitivity_shares(sensitivities: Sequence[Sensitivity]) -> list[float]:
    """How sensitive each is: its share of all flips plus its share of the sum of all squared logit errors.

    Flips are what counts, but most layers alone cause none or one. The logit error tells these apart.

    >>> first, second = (Sensitivity((name,), 100, 1, error, 0) for name, error in (("a", 0.3), ("b", 0.1)))
    >>> sensitivity_shares([first, second])
    [1.25, 0.75]
    """
    flips = sum(one.flips for one in sensitivities) or 1
    errors = sum(one.logit_error for one in sensitivities) or 1.0
    return [one.flips / flips + one.logit_error / errors for one in sensitivities]


def describe_point(point: Point) -> str:
    """A measured file in one line."""
    bounds = ", ".join(
        f"{verdict.name} {percent(verdict.value)}, bound {percent(verdict.upper_bound)} "
        f"({'within' if verdict.passed else 'beyond'} {100 * verdict.limit:g} %)"
        for verdict in point.limits
    )
    return f"{point.mismatches} of {point.n} differ, {bounds}, {megabytes(point.size_bytes)} MB"


def _groups(layers: Sequence[str], known: Sequence[Sensitivity], budget: int | None) -> list[tuple[str, ...]]:
    """The groups to try alone: of one layer, or of neighbors where there are many. A single one needs no order.

    Those of an earlier search, where some are known; else as many as the budget can try and then bisect.
    """
    size = max((len(one.layers) for one in known), default=math.ceil(len(layers) / _most_groups(budget)))
    groups = [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]
    _check_known(known, groups)
    return groups if len(groups) > 1 else []


def _most_groups(budget: int | None) -> int:
    if budget is None:
        return MOST_GROUPS
    # Two files are measured before: all in INT8, and all in float.
    return next((n for n in range(MOST_GROUPS, 1, -1) if 2 + n + _bisections(n) <= budget), 1)


def _bisections(n_groups: int) -> int:
    return math.ceil(math.log2(n_groups))


def _check_known(known: Sequence[Sensitivity], groups: Sequence[tuple[str, ...]]) -> None:
    others = [one.layers for one in known if one.layers not in groups]
    if others:
        raise ValueError(
            f"sensitivities must be of the layers of this model, as they are tried alone here. {len(others)} of "
            f"{len(known)} are of others, such as {first_of(others[0])}. Give those of a repair of this model in this "
            "format with the same exclude=, or none."
        )


def _probe(ledger: _Ledger, probe: Probe, seconds: float, report: Report) -> None:
    """Try each group alone, except those that are known; ``seconds`` is what the first file took."""
    waiting = [group for group in ledger.groups if group not in ledger.sensitivities]
    for group in waiting:
        start = time.perf_counter()
        ledger.probe(group, probe)
        if group == waiting[0]:  # the first file that had to be made
            report(_cost(ledger.groups, len(waiting), max(seconds, time.perf_counter() - start)))


def _cost(groups: Sequence[tuple[str, ...]], n_probes: int, seconds: float) -> str:
    n_steps = _bisections(len(groups))
    return (
        f"      To find what must stay in float takes {n_probes} + {n_steps} measurements (each "
        f"{'layer' if len(groups[0]) == 1 else 'group of neighbors'} alone, on a sample; a bisection), about "
        f"{math.ceil((n_probes + n_steps) * seconds / 60)} min, and one or two more for each layer in float: is it "
        "needed?"
    )


def _bisected(ledger: _Ledger) -> set[str]:
    """The layers at the top of the order that suffice, while those without the last group do not."""
    order = ledger.order()
    failing, passing = 0, len(order)
    kept = set(ledger.layers)
    while passing - failing > 1:
        middle = (failing + passing) // 2
        tried = [layer for one in order[:middle] for layer in one.layers]
        if ledger.keeps_limits(tried, f"the {len(tried)} most sensitive of {len(ledger.layers)} layers in float"):
            passing, kept = middle, set(tried)
        else:
            failing = middle
    return kept


def _give_back(ledger: _Ledger, kept: set[str]) -> None:
    """Give single layers back to INT8, again and again, until each of the rest was measured to be needed."""
    ranks = _ranks(ledger.order(), ledger.points[frozenset(ledger.layers)].size_bytes)
    first_to_last = sorted(ledger.layers, key=lambda layer: ranks.get(layer, 0.0))
    given = True
    while given:
        given = False
        for layer in [name for name in first_to_last if name in kept]:
            rest = kept - {layer}
            if ledger.keeps_limits(rest, f"{layer} back to INT8, {len(rest)} in float"):
                kept, given = rest, True


def _ranks(order: Sequence[Sensitivity], float_bytes: int) -> dict[str, float]:
    """Layer -> its sensitivity for each byte that INT8 saves."""
    ranks: dict[str, float] = {}
    for one, share in zip(order, sensitivity_shares(order), strict=True):
        saved = float_bytes - one.size_bytes
        ranks |= dict.fromkeys(one.layers, share / saved if saved > 0 else math.inf)
    return ranks
