"""What the runs of the demo say: one JSON object, one table, one sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

import numpy as np

from hf_compalign.demo.run import MODELS, RECIPES, Run, Settings
from hf_compalign.measure.audit import Audit, audit
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import Estimate, cie_ratio

KIND = "hf_compalign.demo"
TITLES = {"reference": "reference", "ce": "CE alone", "aligned": "aligned"}
POOLING = (
    "Over all runs: cie and cie_u are sums, rates and kl are over the items of all runs together, and so is "
    "cie_ratio with its interval; what a model costs is the mean of the runs."
)
_RESAMPLES = 10_000

Rows = list[list[str]]


def summarise(runs: Sequence[Run], settings: Settings, *, seconds: float) -> dict[str, Any]:
    """Everything the demo found, as plain JSON: over all runs at the top level, and each run under `runs`.

    A number without a value is None: the ratio of two zeros, an interval without an upper end.
    """
    each = [_numbers(run.predictions, run.audits) | {"seed": run.seed} for run in runs]
    for numbers, run in zip(each, runs, strict=True):
        for name in MODELS:
            numbers[name] |= _costs(run, name)
    predictions = _pooled(runs)
    audits = {name: audit(predictions["reference"], predictions[name]) for name in RECIPES}
    total = _numbers(predictions, audits)
    for name in MODELS:
        costs = [numbers[name] for numbers in each]
        total[name] |= {key: _mean([cost[key] for cost in costs]) for key in _costs(runs[0], name)}
    about = runs[0].footprints["reference"]
    return {
        "kind": KIND,
        **total,
        "pooling": POOLING,
        "seconds": round(seconds, 1),
        "seeds": [run.seed for run in runs],
        "settings": asdict(settings),
        "device": about.device,
        "threads": about.threads,
        "versions": audits["ce"].versions,
        "runs": each,
    }


def _pooled(runs: Sequence[Run]) -> dict[str, Predictions]:
    """The items of all runs as those of one; two runs may share an image, but not its id here."""

    def pool(parts: Sequence[Predictions]) -> Predictions:
        return replace(
            parts[0],
            logits=np.concatenate([part.logits for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            ids=np.array([f"{run.seed}/{name}" for run, part in zip(runs, parts, strict=True) for name in part.ids]),
            mask=np.concatenate([part.mask for part in parts]),
        )

    return {name: pool([run.predictions[name] for run in runs]) for name in MODELS}


def _numbers(predictions: Mapping[str, Predictions], audits: Mapping[str, Audit]) -> dict[str, Any]:
    found = {name: audits[name].metrics for name in RECIPES}
    ratio = cie_ratio(*(predictions[name].predicted for name in MODELS), n_resamples=_RESAMPLES)
    n, cie = audits["ce"].n, {name: metrics["cie"] for name, metrics in found.items()}
    # Every resample of a 0 is 0: its interval would look certain.
    ends = (ratio.low, ratio.high) if all(cie.values()) else (math.nan, math.nan)
    about_reference = {
        "accuracy": found["ce"]["accuracy_reference"],
        "accuracy_interval": found["ce"]["accuracy_reference_interval"],
    }
    return {
        "n": n,
        "accuracy_reference": about_reference["accuracy"],
        "reference": about_reference,
        **{name: _against_reference(metrics) for name, metrics in found.items()},
        "cie_ratio": _finite(ratio.value),
        "cie_ratio_interval": [_finite(end) for end in ends],
        "conclusion": conclusion(n, cie["ce"], cie["aligned"], ratio),
    }


def _against_reference(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": metrics["accuracy_candidate"],
        "accuracy_interval": metrics["accuracy_candidate_interval"],
        **{name: metrics[name] for name in ("cie", "cie_u", "mismatch_rate", "mismatch_rate_interval", "kl")},
    }


def _costs(run: Run, name: str) -> dict[str, float]:
    size, latency = run.footprints[name], run.latencies[name]
    return {
        "parameters": size.parameters,
        "nonzero_parameters": size.nonzero_parameters,
        "size_bytes": size.size_bytes,
        "latency_ms": latency.median_ms,
        "latency_ms_low": latency.low_ms,
        "latency_ms_high": latency.high_ms,
    }


def conclusion(n: int, ce: int, aligned: int, ratio: Estimate) -> str:
    """What the mismatches of both students show, in words.

    Args:
        n: items that were compared.
        ce: on how many the student recovered with CE alone differs from the reference.
        aligned: on how many the aligned one does.
        ratio: of the two, with its interval.
    """
    facts = (
        f"Against the reference, the model recovered with CE alone answers {ce} of {n} images differently, "
        f"the aligned one {aligned}."
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


def model_rows(results: Mapping[str, Any]) -> Rows:
    """The table of the three models, with its header."""
    rows = [["", "accuracy", "mismatches", "95 % CI", "CIE-U", "KL", "non-zero", "on disk", "latency"]]
    for name in MODELS:
        found = results[name]
        against = ["-", "-", "-", "-"] if name == "reference" else _against_cells(found)
        costs = [
            f"{found['nonzero_parameters']:,.0f}",
            f"{found['size_bytes'] / 1e6:.2f} MB",
            f"{found['latency_ms']:.1f} ms",
        ]
        rows.append([TITLES[name], _percent(found["accuracy"]), *against, *costs])
    return rows


def _against_cells(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{found['cie']} ({_percent(found['mismatch_rate'])})",
        " to ".join(f"{100 * end:.1f}" for end in found["mismatch_rate_interval"]),
        str(found["cie_u"]),
        f"{found['kl']:.3f}",
    ]


def seed_rows(results: Mapping[str, Any]) -> Rows:
    """One row for each run, with a header."""
    rows = [["seed", "accuracy", "mismatches: CE alone", "aligned", "CIE ratio", "95 % CI"]]
    for run in results["runs"]:
        low, high = (_number(end) for end in run["cie_ratio_interval"])
        counts = [f"{run[name]['cie']} of {run['n']}" for name in RECIPES]
        rows.append(
            [
                str(run["seed"]),
                _percent(run["accuracy_reference"]),
                *counts,
                _number(run["cie_ratio"]),
                f"{low} to {high}",
            ]
        )
    return rows


def notes(results: Mapping[str, Any]) -> list[str]:
    """What one must know to read the table."""
    settings = results["settings"]
    many = len(results["seeds"]) > 1
    return [
        "Mismatches, CIE-U (mismatches that the reference had right) and KL (nats) are against the reference, on "
        f"{results['n']} test images that no model was trained on"
        + (f", those of {len(results['seeds'])} runs together." if many else "."),
        f"Both students: {100 * settings['sparsity']:g} % of the weights pruned by magnitude, "
        f"{settings['compression_steps']} optimizer steps, the same seed; only the loss differs.",
        "The pruned weights are zeros in ordinary dense files. So these models are not smaller, and a difference in "
        "latency is noise: sparsity needs a format and kernels of its own to pay.",
        f"Latency: median of {settings['timed_passes']} passes of a batch of {settings['timed_images']} images, the "
        f"three models in turn; device {results['device']}, CPU threads: {results['threads']}.",
        "The interval of the ratio is a paired bootstrap over the images, for the models trained here. "
        + ("How much runs differ shows in the rows of the seeds." if many else "Other seeds differ: try --seeds 3."),
    ]


def _mean(values: Sequence[float]) -> float:
    return values[0] if len(set(values)) == 1 else fmean(values)  # equal counts stay whole numbers


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
