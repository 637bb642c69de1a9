"""What the demo found, as numbers: of every model, and how models compare."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_compalign._records import plain
from hf_compalign.demo.recipes import ARMS, REFERENCE, STARTS, Settings, answers_file, audit_file, level_name
from hf_compalign.demo.training import Run
from hf_compalign.measure.audit import Audit
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import (
    alignment_metrics,
    cie_ratio,
    kl_divergence,
    proportions,
    rate,
    wilson_interval,
)

KIND = "hf_compalign.demo"
FORMAT_VERSION = 2
# Each ratio of mismatches: whose, divided by whose.
RATIOS = {
    "cie": ("ce", "aligned"),  # the loss alone, from the same weights
    "obs": ("obs_ce", "obs_aligned"),  # the same from the other start
    "start": ("ce", "obs_ce"),  # the start alone
    "recipe": ("ce", "obs_aligned"),  # both
}
MODELS = (*STARTS.values(), *ARMS)
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Answers:
    """The answers of several runs together.

    Attributes:
        runs: int [N], the run of each item.
        labels: int [N].
        reference: int [N].
        predicted: model -> int [N].
        kl: model -> float [N], against the reference.
    """

    runs: NDArray[np.int64]
    labels: NDArray[np.int64]
    reference: NDArray[np.int64]
    predicted: Mapping[str, NDArray[np.int64]]
    kl: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, runs: Sequence[Mapping[str, Predictions]]) -> "Answers":
        """Pool the answers of the reference and of the other models of each run."""
        originals = [models[REFERENCE] for models in runs]
        names = [name for name in runs[0] if name != REFERENCE]
        kl = {name: [kl_divergence(models[REFERENCE].logits, models[name].logits) for models in runs] for name in names}
        return cls(
            runs=np.repeat(np.arange(len(runs)), [len(original) for original in originals]),
            labels=np.concatenate([original.labels for original in originals]),
            reference=np.concatenate([original.predicted for original in originals]),
            predicted={name: np.concatenate([models[name].predicted for models in runs]) for name in names},
            kl={name: np.concatenate(parts) for name, parts in kl.items()},
        )


def summarize(runs: Sequence[Run], settings: Settings, *, seconds: float) -> dict[str, Any]:
    """Everything the demo found, as plain JSON: over all runs at the top level, and each run under `runs`."""
    levels = [level_name(sparsity) for sparsity in settings.sparsities]
    names = [REFERENCE, *(f"{level}/{model}" for level in levels for model in MODELS)]
    found = [{name: Predictions.load(answers_file(run.folder, name)) for name in names} for run in runs]
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "seconds": round(seconds, 1),
        **_numbers(Answers.of(found), levels),
        "seeds": [run.seed for run in runs],
        "settings": plain(settings),
        "versions": Audit.load(audit_file(runs[0].folder, f"{levels[0]}/ce")).versions,
        "runs": [
            {"seed": run.seed} | _numbers(Answers.of([models]), levels) for run, models in zip(runs, found, strict=True)
        ],
    }


def _numbers(answers: Answers, levels: Sequence[str]) -> dict[str, Any]:
    n, hits = len(answers.labels), int((answers.reference == answers.labels).sum())
    return {
        "n": n,
        REFERENCE: {"accuracy": rate(hits, n), "accuracy_interval": [*wilson_interval(hits, n)]},
        "by_sparsity": {level: _models(answers, level) | ratios(answers, level) for level in levels},
    }


def _models(answers: Answers, level: str) -> dict[str, Any]:
    found = {}
    for model in MODELS:
        name = f"{level}/{model}"
        three = (answers.reference, answers.predicted[name], answers.labels)
        rates = proportions(*three)
        metrics = alignment_metrics(*three, answers.kl[name])
        found[model] = {
            "cie": int(metrics["cie"]),
            "cie_u": int(metrics["cie_u"]),
            "accuracy": rate(*rates["accuracy_candidate"]),
            "accuracy_interval": [*wilson_interval(*rates["accuracy_candidate"])],
            "mismatch_rate": metrics["mismatch_rate"],
            "mismatch_rate_interval": [*wilson_interval(*rates["mismatch_rate"])],
            "kl": metrics["kl"],
        }
    return found


def ratios(answers: Answers, level: str, pairs: Mapping[str, tuple[str, str]] = RATIOS) -> dict[str, Any]:
    """Each ratio of mismatches, and of those that the reference had right, with its interval.

    None is a ratio without a value, or an end at infinity.
    """
    found: dict[str, Any] = {}
    for ratio, pair in pairs.items():
        models = [answers.predicted[f"{level}/{model}"] for model in pair]
        for name, labels in ((f"{ratio}_ratio", None), (f"{ratio}_u_ratio", answers.labels)):
            drawn = cie_ratio(answers.reference, *models, labels=labels, runs=answers.runs, n_resamples=_RESAMPLES)
            value, *ends = (number if math.isfinite(number) else None for number in astuple(drawn))
            found |= {name: value, f"{name}_interval": ends}
    return found
