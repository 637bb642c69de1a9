"""What the records of the study add up to: counts over seeds, and ratios with intervals over items.

Items are drawn with all their seeds, since the answers of several seeds to one item are no independent items.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import study_records
from study_grid import ARMS, COMPRESSIONS, Compression
from study_records import Run
from study_settings import SETTINGS

from hf_compalign.measure.statistics import Estimate, count_ratio_interval, estimate, resampled_counts

RESAMPLES = 10_000


@dataclass(frozen=True)
class Place:
    """A row of the tables: a part of a setting under a compression."""

    setting: str
    part: str
    compression: str

    @property
    def how(self) -> Compression:
        """What the compression is."""
        return COMPRESSIONS[self.compression]


@dataclass(frozen=True, eq=False)
class Changes:
    """What became of the reference's answers, summed over seeds.

    Attributes:
        mismatches: int [N], for each item the seeds with another answer.
        lost: int [N], of these the ones where the reference was right (CIE-U).
        asked: int [N], the seeds that asked it.
    """

    mismatches: np.ndarray
    lost: np.ndarray
    asked: np.ndarray

    @classmethod
    def summed(cls, seeds: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> "Changes":
        """Of (items, changed, lost) for each seed."""
        items = np.concatenate([items for items, _, _ in seeds])
        columns = [np.concatenate(column) for column in list(zip(*seeds, strict=True))[1:]]
        counts = [np.bincount(items, weights=column).astype(np.int64) for column in columns]
        return cls(*counts, np.bincount(items))


def ratio(baseline: np.ndarray, candidate: np.ndarray) -> Estimate:
    """sum(baseline) / sum(candidate) of counts [N] by item, with a paired 95 % bootstrap interval over items.

    A denominator of 0 gives inf, 0 / 0 nan. Where a count is 0 it is 0 in every draw, and the interval is that of two
    independent counts.
    """
    (first, second), counts = _kinds(baseline, candidate)
    draws = resampled_counts(counts, n_resamples=RESAMPLES)
    totals = int(baseline.sum()), int(candidate.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.true_divide(*totals))
        if 0 in totals:
            return Estimate(value, *count_ratio_interval(*totals))
        return estimate(value, (draws @ first) / (draws @ second))


def difference(candidate: np.ndarray, baseline: np.ndarray) -> Estimate:
    """sum(candidate) - sum(baseline), likewise."""
    (first, second), counts = _kinds(candidate, baseline)
    draws = resampled_counts(counts, n_resamples=RESAMPLES)
    return estimate(float(candidate.sum() - baseline.sum()), draws @ (first - second))


def _kinds(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different pairs [2, K] that items have, and how many items have each: they matter only through these."""
    pairs, counts = np.unique(np.stack([one, other]), axis=1, return_counts=True)
    return pairs, counts


class Study:
    """All runs of an output folder, those with the chosen learning rates."""

    def __init__(self, output: Path) -> None:
        every = [*study_records.read_all(output)]
        if not every:
            raise ValueError(
                f"There are no runs in {output}. Make some with benchmarks/study.py run --output {output}."
            )
        self.rates = study_records.chosen_rates(every)
        self.runs: dict[tuple[str, str, str], dict[int, Run]] = defaultdict(dict)
        for run in every:
            setting, compression, arm, rate, seed = (
                run.recipe[name] for name in ("setting", "compression", "arm", "learning_rate", "seed")
            )
            if rate is None or rate == self.rates.get((setting, COMPRESSIONS[compression].kind, arm)):
                self.runs[setting, compression, arm][seed] = run
        self.n_runs = len(every)
        self._output = output

    @cached_property
    def _originals(self) -> Mapping[tuple[str, int], tuple[Run, Run]]:
        """(setting, seed of the reference) -> the reference and its re-run."""
        found = {}
        for path in sorted((self._output / "models").glob("*/seed*/reference/reference.json")):
            reference, floor = study_records.read(path), study_records.read(path.with_name("floor.json"))
            found[reference.recipe["setting"], reference.recipe["reference_seed"]] = (reference, floor)
        return found

    def originals(self, place: Place, seeds: Sequence[int]) -> list[tuple[Run, Run]]:
        """The reference and its re-run for each seed."""
        runs = next(iter(self._arms(place).values()))
        return [self._originals[place.setting, runs[seed].recipe["reference_seed"]] for seed in seeds]

    @property
    def settings(self) -> list[str]:
        """Those with runs, in their order."""
        return [name for name in SETTINGS if any(key[0] == name for key in self.runs)]

    def parts(self, setting: str) -> list[str]:
        """The test parts, the one with the most items first."""
        run = next(run for key, runs in self.runs.items() if key[0] == setting for run in runs.values())
        names = [name for name in run.parts if name != "validation"]
        return sorted(names, key=lambda name: -len(run.parts[name].predicted))

    def places(self, setting: str, part: str) -> list[Place]:
        """The rows of a table."""
        found = [Place(setting, part, name) for name in COMPRESSIONS]
        return [place for place in found if self.seeds(place)]

    def arms(self, setting: str) -> list[str]:
        """Those with runs, in their order."""
        return [arm for arm in ARMS if any(key[0] == setting and key[2] == arm for key in self.runs)]

    def _arms(self, place: Place) -> dict[str, dict[int, Run]]:
        keys = {arm: (place.setting, place.compression, arm) for arm in ARMS}
        return {arm: self.runs[key] for arm, key in keys.items() if key in self.runs}

    def seeds(self, place: Place) -> list[int]:
        """Those that all arms of the row have: a row compares what saw the same."""
        found = [set(runs) for runs in self._arms(place).values()]
        return sorted(set.intersection(*found)) if found else []

    def of(self, place: Place, arm: str) -> list[Run]:
        """The runs of an arm, one for each seed of the row; none where the arm was not run."""
        runs = self._arms(place).get(arm)
        return [] if runs is None else [runs[seed] for seed in self.seeds(place)]

    def changes(self, place: Place, arm: str) -> Changes | None:
        """Of an arm in a row; None where it was not run."""
        runs = self.of(place, arm)
        return self._changes(place, runs) if runs else None

    def floor(self, place: Place) -> Changes:
        """Of the re-runs of the reference, one for each seed of the row."""
        return self._changes(place, [floor for _, floor in self.originals(place, self.seeds(place))])

    @cache  # noqa: B019 - there is one of these
    def ratio(self, place: Place, arm: str, *, lost: bool = False) -> Estimate | None:
        """CE's mismatches over the arm's; None where one of the two was not run."""
        pair = [self.changes(place, name) for name in ("ce", arm)]
        if None in pair:
            return None
        return ratio(*(found.lost if lost else found.mismatches for found in pair))

    def recipe(self, setting: str, part: str, percent: str, arm: str) -> Estimate | None:
        """CE's mismatches after magnitude pruning over the arm's after obs; None where the seeds are not the same."""
        places = [Place(setting, part, f"{kind}-{percent}") for kind in ("magnitude", "obs")]
        pair = [self.changes(place, name) for place, name in zip(places, ("ce", arm), strict=True)]
        if None in pair or self.seeds(places[0]) != self.seeds(places[1]):
            return None
        return ratio(*(found.mismatches for found in pair))

    def _changes(self, place: Place, runs: Sequence[Run]) -> Changes:
        found = []
        for (reference, _), run in zip(self.originals(place, self.seeds(place)), runs, strict=True):
            items, labels = (np.array(reference.about[name][place.part]) for name in ("items", "labels"))
            before, after = (one.parts[place.part].predicted for one in (reference, run))
            changed = before != after
            found.append((items, changed, changed & (before == labels)))
        return Changes.summed(found)

    def kept(self, arm: str, cells: Iterable[tuple[str, str]]) -> float:
        """How many of CE's mismatches an arm has on the validation parts: the geometric mean over the cells.

        Of a cell, (setting, compression), it is (m + 1) / (m of CE + 1), m summed over the seeds.
        """
        ratios = []
        for setting, compression in cells:
            place = Place(setting, "validation", compression)
            m, of_ce = (len(self.seeds(place)) * self.mean(place, name, "cie") for name in (arm, "ce"))
            ratios.append((m + 1) / (of_ce + 1))
        return float(np.exp(np.log(ratios).mean()))

    def mean(self, place: Place, arm: str, metric: str) -> float:
        """A metric of an arm, or of the "reference", over the seeds of the row; nan where it was not run."""
        runs = [pair[0] for pair in self.originals(place, self.seeds(place))] if arm == "reference" else []
        values = [run.parts[place.part].metrics[metric] for run in runs or self.of(place, arm)]
        return float(np.mean(values)) if values else float("nan")
