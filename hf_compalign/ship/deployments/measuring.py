"""Measure any set of models and files on one dataset, side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
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
from hf_compalign.tasks import task_of

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
    networks = {name: load_model(model) for name, model in candidates.items()}
    processors = {name: _processor(candidates[name], network, options) for name, network in networks.items()}
    task = task_of(next(iter(networks.values())))
    asking = AuditOptions(options.columns, options.processing_class, options.batch_size)
    answers = reference_answers(reference, dataset, task=task, options=asking)
    rows = []
    for name, network in networks.items():
        asked = replace(asking, processing_class=processors[name])
        rows.append(_compared(name, network, answers, dataset=dataset, limits=limits, options=asked))
        progress(f"{name}: {rows[-1].mismatches} of {rows[-1].n} answers differ")
    rows = _timed(rows, networks, processors, dataset=dataset, options=options)
    if options.memory:
        rows = [
            replace(row, peak_memory_bytes=_memory(candidates[row.name], dataset, processors[row.name], options))
            for row in rows
        ]
    device = _device(networks)
    return Deployments(answers.model, tuple(rows), machine_name(device) if options.timed_batch_sizes else "")


def _processor(model: Model, network: PreTrainedModel, options: DeploymentOptions) -> Any:
    if options.processing_class is not None:
        return options.processing_class
    return processor_of(model, task_of(network))


def _compared(
    name: str,
    network: Any,
    reference: Predictions,
    *,
    dataset: Dataset,
    limits: Mapping[str, float],
    options: AuditOptions,
) -> Deployment:
    """Its answers, held against the reference's."""
    deferring = isinstance(network, DeferringModel)
    if deferring:
        network.traffic = Traffic()
    candidate = answers_of(network, dataset, options)
    found = audit(reference, candidate, limits=limits)
    low, high = found.metrics["mismatch_rate_interval"]
    return Deployment(
        name=name,
        runtime=candidate.runtime or runtime_of(network),
        n=found.n,
        mismatches=found.metrics["cie"],
        mismatch_rate=found.metrics["mismatch_rate"],
        mismatch_rate_interval=(low, high),
        mismatch_rate_bound=found.metrics["mismatch_rate_upper_bound"],
        accuracy=found.metrics["accuracy_candidate"],
        limits=found.limits,
        size_bytes=footprint(network).size_bytes,
        answered_rate=network.traffic.answered_rate if deferring else 1.0,
    )


def _device(networks: Mapping[str, nn.Module]) -> torch.device:
    return timing_device(files=any(file_models(network) for network in networks.values()))


def _timed(
    rows: Sequence[Deployment],
    networks: Mapping[str, Any],
    processors: Mapping[str, Any],
    *,
    dataset: Dataset,
    options: DeploymentOptions,
) -> list[Deployment]:
    placed = {name: opened_on(network, _device(networks)) for name, network in networks.items()}
    latency: dict[str, dict[int, Latency]] = {row.name: {} for row in rows}
    alone: dict[str, dict[int, Latency]] = {row.name: {} for row in rows}
    speedup: dict[str, dict[int, Estimate]] = {row.name: {} for row in rows}
    for size in options.timed_batch_sizes:
        batches = {
            name: batches_of(
                network,
                dataset,
                sizes=[size] * options.n_runs,
                processing_class=processors[name],
                columns=options.columns,
            )
            for name, network in placed.items()
        }
        given = {name: (network, batches[name]) for name, network in placed.items()}
        in_turn = interleaved_times_ms(given, n_runs=options.n_runs)
        for name, times in in_turn.items():
            latency[name][size] = summarized(times)
        counted = in_turn
        if options.alone:
            counted = interleaved_times_ms(given, n_warmup=1, n_runs=options.n_runs, in_a_row=_IN_A_ROW)
            for name, times in counted.items():
                alone[name][size] = summarized(times)
        for name, times in counted.items():
            speedup[name][size] = _ratio_of_sums(counted[rows[0].name], times)
    return [replace(row, latency=latency[row.name], alone=alone[row.name], speedup=speedup[row.name]) for row in rows]


def _ratio_of_sums(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The ratio of two total times, with an interval over the runs, which had the same inputs."""
    times = np.array([first, second])
    drawn = np.random.default_rng(0).integers(times.shape[1], size=(_RESAMPLES, times.shape[1]))
    totals = times[:, drawn].sum(axis=-1)
    return estimate(float(times[0].sum() / times[1].sum()), totals[0] / totals[1])


def _memory(model: Model, dataset: Dataset, processor: Any, options: DeploymentOptions) -> int | None:
    network = load_model(model)
    inputs = batches_of(
        network, dataset, sizes=[options.batch_size], processing_class=processor, columns=options.columns
    )
    return peak_memory_bytes([*_parts(model)], inputs[0])


def _parts(model: Model) -> list[Model]:
    """The models that one is made of."""
    if not isinstance(model, DeferringModel):
        return [model]
    return [*chain(*(_parts(one) for one in (model.candidate, model.reference)))]
