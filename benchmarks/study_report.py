"""The page of the study: tables, sentences and plots, all of them from the records."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import study_plots
from study_counts import Place, Study, difference
from study_grid import ARMS, CANDIDATES, COMPRESSIONS, COUNTED, OURS
from tables import head, row

from hf_compalign._files import read_text, write_text_atomic
from hf_compalign.measure.statistics import Estimate

BEGIN, END = "<!-- study -->", "<!-- /study -->"
COMMANDS = """    python benchmarks/study.py run --preset {presets} --checkpoint MINILM --data DATA --output OUT
    python benchmarks/study.py report --output OUT --page docs/results.md"""
INTRODUCTION = """
A fine-tuned reference is compressed, and each arm trains the same compressed start for the same steps on the same rows
in the same order, with zeros, cuts or rounding held. Mismatches are answers that differ from the reference's, summed
over the seeds; in brackets those that the reference had right (CIE-U). The CIE ratio is CE's mismatches over the
arm's: above 1 the arm keeps more answers than CE. Intervals are 95 %, by a paired bootstrap over items, each drawn
with all its seeds. Each arm has the learning rate, of those tried, that has the fewest mismatches on a validation
part; the numbers are of the test parts, which no training and no choice has seen. The floor is a second fine-tuning of
the uncompressed model with another seed.
"""


def write_page(page: Path, output: Path) -> None:
    """Replace what stands between the marks of the page, and write the plots into the folder assets beside it.

    Raises:
        ValueError: the page has no such marks, or there are no runs.
    """
    text = read_text(page)
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no lines {BEGIN} and {END}, one after the other. Add them where the study goes.")
    study = Study(output)
    report = Report(study)
    assets = page.parent / "assets"
    assets.mkdir(exist_ok=True)
    for setting in study.settings:
        study_plots.draw(assets / f"study-{setting}.svg", study, setting)
    write_text_atomic(page, "\n".join([before + begin, "", *report.lines(), "", end + after]))


class Report:
    """The lines of the page."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def lines(self) -> Iterator[str]:
        """Everything between the marks."""
        yield INTRODUCTION
        yield COMMANDS.format(presets=" and ".join(self._about("preset")))
        yield ""
        yield from (f"- {sentence}" for sentence in self.sentences())
        yield ""
        yield from (f"- `{name}`: {arm.says}" for name, arm in ARMS.items() if self._ran(name))
        for setting in self.study.settings:
            yield f"\n### {setting}\n"
            yield f"![Mismatches and CIE ratios on {setting}](assets/study-{setting}.svg)"
            for part in self.study.parts(setting):
                yield from self.tables(setting, part)
            yield from self.rates(setting)

    def _ran(self, arm: str) -> bool:
        return any(key[2] == arm for key in self.study.runs)

    def _runs(self) -> list:
        return [run for runs in self.study.runs.values() for run in runs.values()]

    def _about(self, name: str) -> list[str]:
        return sorted({str(run.about[name]) for run in self._runs()})

    # ---- sentences ----

    def cells(self) -> Iterator[tuple[Place, Estimate]]:
        """Every row with CE and ours, and its CIE ratio."""
        for setting in self.study.settings:
            for part in self.study.parts(setting):
                for place in self.study.places(setting, part):
                    found = self.study.ratio(place, OURS)
                    if found is not None and not math.isnan(found.value):
                        yield place, found

    def sentences(self) -> Iterator[str]:
        """What the tables say, computed from them."""
        cells = [*self.cells()]
        if cells:
            place, best = max(cells, key=lambda cell: cell[1].low)
            yield (
                f"The best cell, by the lower end of its interval, is {_named(place)}: `{OURS}` has {_times(best)} "
                "fewer mismatches than CE."
            )
            light = [found.value for place, found in cells if _is_light(place)]
            if light:
                medians = [_number(float(np.median(values))) for values in (light, [found.value for _, found in cells])]
                yield (
                    f"Up to 60 % and INT8 the median of {len(light)} cells is {medians[0]}, over all {len(cells)} "
                    f"cells {medians[1]}."
                )
            yield _cells("below 1 beyond chance, where CE keeps more answers", [p for p, f in cells if f.high < 1])
            above = sum(found.low > 1 for _, found in cells)
            yield f"The ratio is above 1 beyond chance in {above} of {len(cells)} cells."
        yield from self._floors()
        yield from self._starts()
        yield from self._calibration()
        yield from self._recipes()
        yield from self._standings()
        machines = ", ".join(self._about("device"))
        hours = sum(run.about["seconds"] for run in self._runs()) / 3600
        versions = sorted({", ".join(f"{k} {v}" for k, v in run.about["versions"].items()) for run in self._runs()})
        yield f"{self.study.n_runs:,} runs, {hours:.1f} hours of one process ({machines}); {'; '.join(versions)}."

    def _floors(self) -> Iterator[str]:
        most = [place for place in self._places(OURS) if place.how.sparsity is None or place.how.sparsity <= 0.7]
        found = {place: difference(self._mismatches(place, OURS), self.study.floor(place).mismatches) for place in most}
        if found:
            below = sum(gap.high < 0 for gap in found.values())
            yield (
                f"Up to 70 %, structured and INT8, `{OURS}` changes fewer answers than the seed floor, beyond chance, "
                f"in {below} of {len(found)} cells."
            )
            yield _cells("above the floor beyond chance", [place for place, gap in found.items() if gap.low > 0])

    def _starts(self) -> Iterator[str]:
        places = [place for place in self._places(OURS) if self.study.of(place, "none")]
        gaps = [difference(*(self._mismatches(place, arm) for arm in (OURS, "none"))) for place in places]
        if gaps:
            fewer, more = sum(gap.high < 0 for gap in gaps), sum(gap.low > 0 for gap in gaps)
            yield (
                f"Against no training, `{OURS}` has fewer mismatches, beyond chance, in {fewer} of {len(gaps)} cells, "
                f"and more in {more}."
            )

    def _calibration(self) -> Iterator[str]:
        places = [place for place in self._places(OURS) if self.study.of(place, "ce")]
        if places:
            better = sum(self.study.mean(p, OURS, "ece") <= self.study.mean(p, "ce", "ece") for p in places)
            yield f"The calibration error (ECE) of `{OURS}` is at most CE's in {better} of {len(places)} cells."

    def _recipes(self) -> Iterator[str]:
        for percent in ("50", "60"):
            for setting in self.study.settings:
                for part in self.study.parts(setting):
                    found = self.study.recipe(setting, part, percent, OURS)
                    if found is not None:
                        yield (
                            f"The whole recipe at {percent} % on {setting} ({part}): obs and `{OURS}` have "
                            f"{_times(found)} fewer mismatches than magnitude and CE."
                        )

    def _standings(self) -> Iterator[str]:
        """By what the default is chosen; an arm that was run in fewer cells is compared with ours over those."""
        for arm in CANDIDATES:
            cells = [key[:2] for key in self.study.runs if key[2] == arm and key[1] in COUNTED]
            cells = [cell for cell in cells if {(*cell, "ce"), (*cell, OURS)} <= self.study.runs.keys()]
            if cells and arm != OURS:
                theirs, ours = (self.study.kept(name, cells) for name in (arm, OURS))
                yield (
                    f"On the validation parts, by the geometric mean over {len(cells)} cells, `{arm}` has {theirs:.2f} "
                    f"of CE's mismatches, `{OURS}` {ours:.2f}."
                )

    def _places(self, arm: str) -> list[Place]:
        every = ((setting, part) for setting in self.study.settings for part in self.study.parts(setting))
        return [place for pair in every for place in self.study.places(*pair) if self.study.of(place, arm)]

    # ---- tables ----

    def tables(self, setting: str, part: str) -> Iterator[str]:
        """Of one part: mismatches, both ratios, accuracy and calibration."""
        places, arms = self.study.places(setting, part), self.study.arms(setting)
        floor = self.study.floor(places[0])
        yield f"\n{setting}, {part}, {len(floor.asked[floor.asked > 0]):,} items. Mismatches (CIE-U):\n"
        yield from _table(places, ["seeds", "floor", *arms], self._counted)
        others = [arm for arm in arms if arm != "ce"]
        if "ce" in arms and others:
            yield "\nCIE ratio, CE to the arm:\n"
            yield from _table(places, others, lambda place, arm: _words(self.study.ratio(place, arm)))
            yield "\nCIE-U ratio, CE to the arm:\n"
            yield from _table(places, others, lambda place, arm: _words(self.study.ratio(place, arm, lost=True)))
        yield "\nAccuracy / ECE, %:\n"
        yield from _table(places, ["reference", *arms], self._scores)

    def _counted(self, place: Place, arm: str) -> str:
        if arm == "seeds":
            return str(len(self.study.seeds(place)))
        found = self.study.floor(place) if arm == "floor" else self.study.changes(place, arm)
        if found is None:
            return ""
        return f"{found.mismatches.sum():,} ({found.lost.sum():,})"

    def _scores(self, place: Place, arm: str) -> str:
        accuracy, ece = (100 * self.study.mean(place, arm, name) for name in ("accuracy", "ece"))
        return "" if math.isnan(accuracy) else f"{accuracy:.2f} / {ece:.1f}"

    def _mismatches(self, place: Place, arm: str) -> np.ndarray:
        return self.study.changes(place, arm).mismatches

    def rates(self, setting: str) -> Iterator[str]:
        """The learning rates that were chosen."""
        kinds = dict.fromkeys(how.kind for how in COMPRESSIONS.values())
        arms = [arm for arm in self.study.arms(setting) if any(key[::2] == (setting, arm) for key in self.study.rates)]
        rows = {kind: [self.study.rates.get((setting, kind, arm)) for arm in arms] for kind in kinds}
        yield "\nLearning rates:\n"
        yield head("", *(f"`{arm}`" for arm in arms))
        for kind, found in rows.items():
            if any(found):
                yield row(kind, *("" if rate is None else f"{rate:g}" for rate in found))


def _table(places: list[Place], columns: list[str], cell: Callable[[Place, str], str]) -> Iterator[str]:
    yield head("", *(f"`{name}`" if name in ARMS else name for name in columns))
    for place in places:
        found = [cell(place, column) for column in columns]
        if any(found):
            yield row(title(place.compression), *found)


def title(compression: str) -> str:
    """Of a row.

    >>> title("obs-50"), title("int8"), title("structured")
    ('obs 50 %', 'INT8', 'structured')
    """
    kind, _, percent = compression.partition("-")
    return f"{kind} {percent} %" if percent else kind.replace("int8", "INT8")


def _named(place: Place) -> str:
    return f"{title(place.compression)} on {place.setting} ({place.part})"


def _is_light(place: Place) -> bool:
    """Up to 60 %, or INT8."""
    return place.how.kind == "int8" or (place.how.sparsity is not None and place.how.sparsity <= 0.6)


def _number(value: float) -> str:
    if math.isnan(value):
        return "0 / 0"
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _words(found: Estimate | None) -> str:
    if found is None:
        return ""
    return f"{_number(found.value)} ({_number(found.low)} to {_number(found.high)})"


def _times(found: Estimate) -> str:
    return f"{_number(found.value)} times ({_number(found.low)} to {_number(found.high)})"


def _cells(what: str, places: list[Place]) -> str:
    if not places:
        return f"No cell is {what}."
    return f"{len(places)} cell{'s are' if len(places) > 1 else ' is'} {what}: {', '.join(map(_named, places))}."
