"""What the demo found: the numbers, and the tables, conclusion and notes that every output shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import mean
from typing import Any

import numpy as np

from hf_compalign._formats import count, decimals, megabytes, percent
from hf_compalign.demo.run import MODELS, RECIPES, Run, Settings, audit_students
from hf_compalign.measure.footprint import Latency, quartiles, wide_spread
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import Estimate, cie_ratio

KIND = "hf_compalign.demo"
FORMAT_VERSION = 1
_TITLES = {"reference": "reference", "ce": "CE alone", "aligned": "aligned"}
_AGAINST_REFERENCE = ("cie", "cie_u", "mismatch_rate", "mismatch_rate_interval", "kl")
_RESAMPLES = 10_000

Rows = list[list[str]]


def summarize(runs: Sequence[Run], settings: Settings, *, seconds: float) -> dict[str, Any]:
    """Everything the demo found, as plain JSON: over all runs at the top level, and each run under `runs`."""
    results = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        **_numbers(_pooled(runs)),
        "seconds": round(seconds, 1),
        "seeds": [run.seed for run in runs],
        "settings": asdict(settings),
        "device": runs[0].device,
        "threads": runs[0].threads,
        "versions": runs[0].audits["ce"].versions,
        "runs": [_numbers(run) | {"seed": run.seed} for run in runs],
    }
    tables = [_answer_rows(results), _cost_rows(results), *([_seed_rows(results)] if len(runs) > 1 else [])]
    return results | {"tables": tables, "notes": _notes(results)}


def _pooled(runs: Sequence[Run]) -> Run:
    """All runs as one: their items together, and the means of what a model costs."""
    if len(runs) == 1:
        return runs[0]
    predictions = {name: _together([(run.seed, run.predictions[name]) for run in runs]) for name in MODELS}
    costs = {
        name: {cost: mean(run.costs[name][cost] for run in runs) for cost in runs[0].costs[name]} for name in MODELS
    }
    return replace(runs[0], predictions=predictions, audits=audit_students(predictions), costs=costs)


def _together(parts: Sequence[tuple[int, Predictions]]) -> Predictions:
    """The answers of all runs; two runs may share an image, but not its id."""
    first = parts[0][1]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for _, part in parts]) for name in ("logits", "labels", "mask")
    }
    return replace(first, ids=np.array([f"{seed}/{name}" for seed, part in parts for name in part.ids]), **joined)


def _numbers(run: Run) -> dict[str, Any]:
    """The numbers of one run; None where there is none: the ratio of two zeros, an interval without an upper end."""
    found = {name: run.audits[name].metrics for name in RECIPES}
    models = {"reference": _accuracy(found["ce"], "reference")}
    for name, metrics in found.items():
        models[name] = _accuracy(metrics, "candidate") | {key: metrics[key] for key in _AGAINST_REFERENCE}
    n, ce, aligned = run.audits["ce"].n, found["ce"]["cie"], found["aligned"]["cie"]
    ratio = cie_ratio(*(run.predictions[name].predicted for name in MODELS), n_resamples=_RESAMPLES)
    # Every resample of a 0 is 0: its interval would look certain.
    ends = (ratio.low, ratio.high) if ce and aligned else (math.nan, math.nan)
    return {
        "n": n,
        "accuracy_reference": found["ce"]["accuracy_reference"],
        **{name: models[name] | run.costs[name] for name in MODELS},
        "cie_ratio": _finite(ratio.value),
        "cie_ratio_interval": [_finite(end) for end in ends],
        "conclusion": conclusion(n, ce, aligned, ratio),
    }


def _accuracy(metrics: Mapping[str, Any], side: str) -> dict[str, Any]:
    return {key: metrics[key.replace("accuracy", f"accuracy_{side}")] for key in ("accuracy", "accuracy_interval")}


def conclusion(n: int, ce: int, aligned: int, ratio: Estimate) -> str:
    """What the mismatches of both students show, in words.

    Args:
        n: items compared.
        ce: how many of them the student recovered with CE alone answers differently from the reference.
        aligned: the same for the aligned student.
        ratio: ce / aligned, with its interval.
    """
    facts = (
        f"Against the reference, the model recovered with CE alone answers {count(ce)} of {count(n)} images "
        f"differently, the aligned one {count(aligned)}."
    )
    if ce == aligned == 0:
        return f"{facts} There is nothing to compare: prune more, with a higher --sparsity."
    if 0 in (ce, aligned):
        return f"{facts} With a 0 among them, the ratio has no meaningful interval: prune more, or use more --seeds."
    high = f"{ratio.high:.2f}" if math.isfinite(ratio.high) else "no bound"
    ratio_text = f"The CIE ratio CE / aligned is {ratio.value:.2f} (95 % interval {ratio.low:.2f} to {high})"
    if ratio.low > 1:
        return f"{facts} {ratio_text}: here, alignment kept more of the reference's answers."
    if ratio.high < 1:
        return f"{facts} {ratio_text}: here, alignment kept fewer of the reference's answers than CE alone."
    return f"{facts} {ratio_text}, which includes 1: this does not show a difference."


def _answer_rows(results: Mapping[str, Any]) -> Rows:
    rows = [["", "accuracy", "mismatches", "95 % CI", "CIE-U", "KL"]]
    for name in MODELS:
        found = results[name]
        against = ["-"] * 4
        if name != "reference":
            low, high = found["mismatch_rate_interval"]
            mismatches = f"{count(found['cie'])} ({percent(found['mismatch_rate'], digits=1)})"
            ends = f"{100 * low:.1f} to {100 * high:.1f}"
            against = [mismatches, ends, count(found["cie_u"]), decimals(found["kl"])]
        rows.append([_TITLES[name], percent(found["accuracy"], digits=1), *against])
    return rows


def _cost_rows(results: Mapping[str, Any]) -> Rows:
    rows = [["", "parameters that are not 0", "MB", "ms (quartiles)"]]
    for name in MODELS:
        found = results[name]
        parameters = decimals(found["nonzero_parameters"], digits=0)
        rows.append([_TITLES[name], parameters, megabytes(found["size_bytes"]), quartiles(_latency(found))])
    return rows


def _latency(found: Mapping[str, Any]) -> Latency:
    return Latency(found["latency_ms"], found["latency_ms_low"], found["latency_ms_high"])


def _seed_rows(results: Mapping[str, Any]) -> Rows:
    rows = [["seed", "accuracy", "mismatches: CE alone", "aligned", "CIE ratio", "95 % CI"]]
    for run in results["runs"]:
        ratio, low, high = (decimals(end, digits=2) for end in (run["cie_ratio"], *run["cie_ratio_interval"]))
        counts = [f"{count(run[name]['cie'])} of {count(run['n'])}" for name in RECIPES]
        rows.append(
            [str(run["seed"]), percent(run["accuracy_reference"], digits=1), *counts, ratio, f"{low} to {high}"]
        )
    return rows


def _notes(results: Mapping[str, Any]) -> list[str]:
    """How to read the tables."""
    settings, n_runs = results["settings"], len(results["seeds"])
    notes = [
        "Mismatches, CIE-U (mismatches that the reference had right) and KL (nats) are against the reference, on "
        f"{count(results['n'])} test images that no model was trained on"
        + (f", those of {n_runs} runs together." if n_runs > 1 else "."),
        f"Both students: {100 * settings['sparsity']:g} % of the weights pruned by magnitude, "
        f"{settings['compression_steps']} optimizer steps, the same seed; only the loss differs.",
        "The pruned weights are zeros in ordinary dense files. So these models are not smaller, and a difference in "
        "latency is noise: sparsity pays only with a format and kernels of its own.",
        f"Latency: median and quartiles of {settings['timed_passes']} passes of a batch of {settings['timed_images']} "
        f"images, the three models in turn; device {results['device']}, CPU threads: {results['threads']}.",
        "The interval of the ratio is a paired bootstrap over the images, for the models trained here. "
        + ("Other seeds differ: try --seeds 3." if n_runs == 1 else "The rows of the seeds show how much runs differ."),
    ]
    notes += filter(None, [wide_spread({_TITLES[name]: _latency(results[name]) for name in MODELS})])
    return notes if n_runs == 1 else [*notes, "What a model costs is the mean of the runs."]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
