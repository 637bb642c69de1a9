"""What the demo found, as its outputs show it: tables, bars, curves, a conclusion and notes."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_compalign._formats import UNKNOWN, count, decimals, percent
from hf_compalign._tables import Table
from hf_compalign.demo.recipes import ARMS, REFERENCE, STARTS
from hf_compalign.demo.results import RATIOS

BASELINE = "ce"  # what people do
TITLES = {name: arm.title for name, arm in ARMS.items()}
_BEFORE = {start: f"{score}, no training" for score, start in STARTS.items()}
# The ratio of an arm's mismatches to those of the baseline.
AGAINST_BASELINE = {second: f"{name}_ratio" for name, (first, second) in RATIOS.items() if first == BASELINE}
_LONGEST_BAR = 44


def main_table(found: Mapping[str, Any]) -> Table:
    """All models after their training; a ratio says how many times fewer mismatches than the first arm's."""
    rows = [["0 %", "the reference", percent(found[REFERENCE]["accuracy"], digits=1), *[UNKNOWN] * 4]]
    for level, models in found["by_sparsity"].items():
        for name, title in TITLES.items():
            ratio = [UNKNOWN] * 2
            if name != BASELINE:
                key = AGAINST_BASELINE[name]
                ratio = [_ratio(models, name, key), ends(models[f"{key}_interval"])]
            rows.append([_level(level), title, *_counts(models[name]), *ratio])
    columns = ["pruned", "start + loss", "accuracy", "mismatches", "CIE-U", "ratio", "95 % CI"]
    return Table("", columns, rows, words=(1,))


def start_table(found: Mapping[str, Any]) -> Table:
    """The pruned models before any training."""
    rows = [
        [_level(level), title, *_counts(models[name]), decimals(models[name]["kl"])]
        for level, models in found["by_sparsity"].items()
        for name, title in _BEFORE.items()
    ]
    return Table("", ["pruned", "start", "accuracy", "mismatches", "CIE-U", "KL"], rows, words=(1,))


def seed_table(found: Mapping[str, Any]) -> Table:
    """The mismatches of each seed."""
    rows = [
        [str(run["seed"]), _level(level), *(f"{count(models[name]['cie'])} of {count(run['n'])}" for name in TITLES)]
        for run in found["runs"]
        for level, models in run["by_sparsity"].items()
    ]
    return Table("", ["seed", "pruned", *TITLES.values()], rows, words=(1,))


def _level(level: str) -> str:
    return f"{100 * float(level):g} %"


def _counts(model: Mapping[str, Any]) -> list[str]:
    return [percent(model["accuracy"], digits=1), count(model["cie"]), count(model["cie_u"])]


def _ratio(models: Mapping[str, Any], name: str, key: str) -> str:
    if models[key] is None:
        return f"{count(models[BASELINE]['cie'])}/{count(models[name]['cie'])}"
    return times(models[key])


def times(ratio: float | None) -> str:
    """A ratio in three digits or so.

    >>> times(1.042), times(12.34)
    ('1.04', '12.3')
    """
    return decimals(ratio, digits=1 if ratio is not None and ratio >= 10 else 2)


def ends(interval: Sequence[float | None]) -> str:
    """Both ends of the interval of a ratio; None is infinity.

    >>> ends([1.263, 3.0]), ends([4.94, None])
    ('1.26 to 3.00', '4.94 or more')
    """
    low, high = interval
    return f"{times(low)} or more" if high is None else f"{times(low)} to {times(high)}"


def bars(found: Mapping[str, Any]) -> str:
    """The mismatches of each model as a bar, for a terminal of any kind."""
    counts = [models[name]["cie"] for models in found["by_sparsity"].values() for name in TITLES]
    scale = _LONGEST_BAR / max(*counts, _LONGEST_BAR)
    lines = [f"Mismatches with the reference, of {count(found['n'])}:"]
    for level, models in found["by_sparsity"].items():
        for place, (name, title) in enumerate(TITLES.items()):
            mismatches = models[name]["cie"]
            length = max(round(scale * mismatches), min(mismatches, 1))
            bar = f"{'#' * length} {count(mismatches)}".lstrip()
            lines.append(f"{'' if place else _level(level):<5} {title:<{max(map(len, TITLES.values()))}}  {bar}")
    return "\n".join(lines)


def conclusion(found: Mapping[str, Any]) -> str:
    """What the mismatches show, in words: of the loss alone, and of the whole recipe."""
    return " ".join(
        (
            f"On {count(found['n'])} test images, aligned training from the same pruned weights as CE "
            f"{_finding(found, 'cie')}.",
            f"The whole of it, {TITLES['obs_aligned']} instead of {TITLES[BASELINE]}, {_finding(found, 'recipe')}.",
        )
    )


def _finding(found: Mapping[str, Any], ratio: str) -> str:
    """At which sparsities the second of a pair keeps more answers than the first, fewer, or can't be told from it."""
    verbs = {
        "more": "keeps more of the reference's answers",
        "fewer": "keeps fewer of the reference's answers",
        "unclear": "shows no difference",
        "none": "leaves nothing to compare",
    }
    cases: dict[str, list[str]] = {verb: [] for verb in verbs}
    for level, models in found["by_sparsity"].items():
        first, second = (models[name]["cie"] for name in RATIOS[ratio])
        low, high = models[f"{ratio}_ratio_interval"]
        words = f"{_level(level)} ({count(second)} against {count(first)} mismatches"
        if first == second == 0:
            cases["none"].append(f"{words})")
            continue
        value = models[f"{ratio}_ratio"]
        words += ", ratio " + ("" if value is None else f"{times(value)}, 95 % interval ")
        case = "more" if low > 1 else "fewer" if high is not None and high < 1 else "unclear"
        cases[case].append(f"{words}{ends([low, high])})")
    return "; ".join(f"{verbs[case]} at {_listed(at)}" for case, at in cases.items() if at)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def notes(found: Mapping[str, Any]) -> list[str]:
    """How to read all this."""
    settings, n_seeds = found["settings"], len(found["seeds"])
    rates = ", ".join(f"{TITLES[name]} {settings['learning_rates'][name]:g}" for name in TITLES)
    return [
        f"Mismatches, and CIE-U (those that the reference had right), are against the reference, on {count(found['n'])}"
        " test images that no model was trained on" + (f", of {n_seeds} seeds together." if n_seeds > 1 else "."),
        f"Ratio: mismatches of {TITLES[BASELINE]} divided by those of the row. Its interval is a paired bootstrap over "
        "the images, for the models trained here. "
        + ("Other seeds differ: try --seeds 3." if n_seeds == 1 else "The README shows how much the seeds differ."),
        f"All students prune their linear layers at once, by magnitude or by second order (obs), and then train "
        f"{count(settings['recovery_steps'])} steps with the same batches. Both losses start from the same weights.",
        f"Learning rates, chosen on validation images: {rates}.",
        "Pruned weights are zeros in ordinary dense files: these models are neither smaller nor faster.",
    ]
