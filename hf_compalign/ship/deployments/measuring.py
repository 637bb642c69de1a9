"""Measure any set of models and files on one dataset, side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign._checks import check_whole
from hf_compalign.measure.audit import AuditOptions, answers_of, audit, checked_limits
from hf_compalign.measure.footprint import (
    Latency,
    batches_of,
    footprint,
    interleaved_times_ms,
    machine_name,
    opened_on,
    peak_memory_bytes,
    summarized,
    timing_device,
)
from hf_compalign.measure.predictions import Columns, Predictions
from hf_compalign.measure.statistics import Estimate, estimate
from hf_compalign.models import file_models, runtime_of
from hf_compalign.opening import Model, load_model, processor_of
from hf_compalign.ship.deferral import DeferringModel, Traffic
from hf_compalign.ship.deployments.record import Deployment, Deployments
from hf_compalign.ship.reference import reference_answers
from hf_compalign.tasks import MEASURED, task_of

_RESAMPLES = 1000
# Passes of one model before the next has its turn, where each is timed for itself.
_IN_A_ROW = 5


@dataclass(frozen=True)
class DeploymentOptions:
    """How `compare_deployments` asks and times.

    Attributes:
        columns: where to find what in a raw dataset.
        processing_class: the tokenizer or image processor of all; by default the one saved beside each.
        batch_size: rows at a time for the answers, and the pass that memory is measured on.
        timed_batch_sizes: the batches whose passes are timed; empty to time nothing.
        n_runs: timed passes of each, on as many different batches of the dataset.
        alone: also time each for itself, some passes in a row; these times then count for the speedup.
        memory: also measure the peak memory of each, in a process of its own, which takes some seconds each.

    Raises:
        ValueError: a number that is no whole number, or below 1.
    """

    columns: Columns | None = None
    processing_class: Any = None
    batch_size: int = 32
    timed_batch_sizes: Sequence[int] = (1, 8)
    n_runs: int = 30
    alone: bool = True
    memory: bool = True

    def __post_init__(self) -> None:
        for name, values in {"timed_batch_sizes": self.timed_batch_sizes, "n_runs": [self.n_runs]}.items():
            for value in values:
                check_whole(name, value, least=1)
        check_whole("batch_size", self.batch_size, least=1)


def compare_deployments(
    reference: Predictions | PreTrainedModel | str | Path,
    candidates: Mapping[str, PreTrainedModel | str | Path],
    dataset: Dataset,
    *,
    limits: Mapping[str, float] | None = None,
    options: DeploymentOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Deployments:
    """What each candidate changes of the reference's answers, how fast it is, and what it takes.

    Any of them may be a model of PyTorch in any precision, an ONNX or OpenVINO file, or a `DeferringModel`; how a file
    is run is its `RuntimeSettings`. All are timed on the same batches, which are different rows of the dataset from
    pass to pass, since texts differ in length and a `DeferringModel` in what it defers: one pass of each in turn, and
    then some of each in a row, as of a model that has the machine for itself. What counts is the total time of these,
    of which the first candidate's is the measure.

    Args:
        reference: the original model; or its predictions on the dataset.
        candidates: name -> model. Put the original first, to compare with its speed.
        dataset: what all answer and are timed on, as `predict` takes it.
        limits: for a verdict on each, as for `hf_compalign.audit`.
        options: the rest.
        progress: called with each line of what is done.

    Raises:
        ValueError: there are no candidates, or some cannot be compared with the reference on the dataset.
        ImportError: the extra of a file's runtime is not installed.
    """
    options, progress = options or DeploymentOptions(), progress or (lambda line: None)
    limits = checked_limits(limits or {})
    if not candidates:
        raise ValueError("There is nothing to compare. Give at least one candidate: {'name': model}.")
    opened = {name: _Candidate.of(model, options) for name, model in candidates.items()}
    task = task_of(next(iter(opened.values())).network, MEASURED)
    asking = AuditOptions(options.columns, options.processing_class, options.batch_size)
    answers = reference_answers(reference, dataset, task=task, options=asking)
    rows = []
    for name, one in opened.items():
        rows.append(_compared(name, one, answers, dataset=dataset, limits=limits, options=asking))
        progress(f"{name}: {rows[-1].mismatches} of {rows[-1].n} answers differ")
    device = timing_device(files=any(file_models(one.network) for one in opened.values()))
    rows = _timed(rows, opened, dataset=dataset, options=options, device=device)
    if options.memory:
        rows = [replace(row, peak_memory_bytes=_memory(opened[row.name], dataset, options)) for row in rows]
    return Deployments(answers.model, tuple(rows), machine_name(device) if options.timed_batch_sizes else "")


@dataclass(frozen=True)
class _Candidate:
    """A model as it was given, opened, and what reads its rows."""

    given: Model
    network: Any
    processor: Any

    @classmethod
    def of(cls, model: Model, options: DeploymentOptions) -> "_Candidate":
        network, processor = load_model(model), options.processing_class
        if processor is None:
            processor = processor_of(model, task_of(network, MEASURED))
        return cls(model, network, processor)


def _compared(
    name: str,
    one: _Candidate,
    reference: Predictions,
    *,
    dataset: Dataset,
    limits: Mapping[str, float],
    options: AuditOptions,
) -> Deployment:
    """Its answers, held against the reference's."""
    network, deferring = one.network, isinstance(one.network, DeferringModel)
    if deferring:
        network.traffic = Traffic()
    candidate = answers_of(network, dataset, replace(options, processing_class=one.processor))
    return Deployment.of(
        name,
        audit(reference, candidate, limits=limits),
        runtime=candidate.runtime or runtime_of(network),
        size_bytes=footprint(network).size_bytes,
        answered_rate=network.traffic.answered_rate if deferring else 1.0,
    )


def _timed(
    rows: Sequence[Deployment],
    opened: Mapping[str, _Candidate],
    *,
    dataset: Dataset,
    options: DeploymentOptions,
    device: torch.device,
) -> list[Deployment]:
    placed = {name: opened_on(one.network, device) for name, one in opened.items()}
    latency: dict[str, dict[int, Latency]] = {row.name: {} for row in rows}
    alone: dict[str, dict[int, Latency]] = {row.name: {} for row in rows}
    speedup: dict[str, dict[int, Estimate]] = {row.name: {} for row in rows}
    for size in options.timed_batch_sizes:
        sizes = [size] * options.n_runs
        given = {
            name: (network, _batches(network, opened[name].processor, dataset, sizes, options))
            for name, network in placed.items()
        }
        counted = in_turn = interleaved_times_ms(given, n_runs=options.n_runs)
        if options.alone:
            counted = interleaved_times_ms(given, n_warmup=1, n_runs=options.n_runs, in_a_row=_IN_A_ROW)
            for name, times in counted.items():
                alone[name][size] = summarized(times)
        for name, times in counted.items():
            latency[name][size] = summarized(in_turn[name])
            speedup[name][size] = speedup_of(counted[rows[0].name], times)
    return [replace(row, latency=latency[row.name], alone=alone[row.name], speedup=speedup[row.name]) for row in rows]


def _memory(one: _Candidate, dataset: Dataset, options: DeploymentOptions) -> int | None:
    (inputs,) = _batches(one.network, one.processor, dataset, [options.batch_size], options)
    return peak_memory_bytes(_parts(one.given), inputs)


def _batches(
    network: Any, processor: Any, dataset: Dataset, sizes: Sequence[int], options: DeploymentOptions
) -> list[dict[str, Any]]:
    return batches_of(network, dataset, sizes=sizes, processing_class=processor, columns=options.columns)


def speedup_of(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """How many times faster the second model is: the ratio of two total times, of runs with the same inputs.

    The interval is that of a bootstrap over the runs.
    """
    times = np.array([first, second])
    drawn = np.random.default_rng(0).integers(times.shape[1], size=(_RESAMPLES, times.shape[1]))
    totals = times[:, drawn].sum(axis=-1)
    return estimate(float(times[0].sum() / times[1].sum()), totals[0] / totals[1])


def _parts(model: Any) -> list[Model]:
    """The models that one is made of."""
    pair = isinstance(model, DeferringModel)
    return [*_parts(model.candidate), *_parts(model.reference)] if pair else [model]
