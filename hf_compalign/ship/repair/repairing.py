"""Repair an INT8 export whose answers differ too often: keep only the layers in float that it takes."""

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from hf_compalign._files import AUDIT_NAME, FRONTIER_NAME, PLOT_NAME
from hf_compalign._folders import staged_folder
from hf_compalign.compress import load_compressed
from hf_compalign.compress.export import INT8_NAME, Export, check_neighbors, check_not_exported
from hf_compalign.measure.audit import Audit, AuditOptions, audit, checked_limits
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import items_needed
from hf_compalign.opening import Model, load_model, processor_of
from hf_compalign.report.plots import plot_frontier
from hf_compalign.ship.frontier import Frontier
from hf_compalign.ship.reference import reference_answers
from hf_compalign.ship.repair.files import Int8Files, RepairOptions
from hf_compalign.ship.repair.search import Found, shortened, smallest_float_set
from hf_compalign.tasks import task_of

Report = Callable[[str], None]


@dataclass(frozen=True)
class Repair:
    """What `repair_onnx` wrote; ``print`` shows the verdict.

    Attributes:
        export: the chosen file. Its ``max_logit_difference`` is from the file in float, on some of the data.
        audit: of the file against the reference.
        frontier: everything that was measured.
        complete: whether the search came to its end: no single layer can go back to INT8, or no set of layers helps.
    """

    export: Export
    audit: Audit
    frontier: Frontier
    complete: bool

    @property
    def passed(self) -> bool:
        """Whether the file keeps every limit."""
        return self.audit.passed

    def __str__(self) -> str:
        return self.frontier.verdict


def repair_onnx(
    model: PreTrainedModel | str | Path,
    folder: str | Path,
    *,
    limits: Mapping[str, float],
    dataset: Dataset,
    reference: Predictions | PreTrainedModel | str | Path | None = None,
    options: RepairOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Repair:
    """Export a model to INT8, with as few layers in float as it takes to keep the limits.

    `smallest_float_set` searches them. The folder gets ``model_int8.onnx`` with its config and processor, its `Audit`
    as ``audit.json``, and all measurements as ``frontier.json`` and, where matplotlib is installed, ``frontier.png``.
    If no file keeps the limits, the folder gets the best one, and ``passed`` is False.

    A file chosen by its answers on some data looks a little better on them than on others. Audit it on data that the
    search has not seen.

    Args:
        model: a classifier, as for `export_onnx`.
        folder: a folder that is empty or not there yet.
        limits: the largest acceptable ``mismatch_rate``, ``nfr``, ``flip_rate`` or ``pfr``; `audit` judges each by its
            95 % upper bound.
        dataset: what all files answer, as `predict` takes it.
        reference: the model whose answers count, or its predictions on the dataset; by default the model.
        options: the rest.
        progress: called with each line of what is done.

    Raises:
        ImportError: the extra "onnx" is not installed.
        ValueError: there is no limit, so few items cannot show that a limit is kept, or `export_onnx` refuses. The
            folder is then as it was.
    """
    options, progress = options or RepairOptions(), progress or (lambda line: None)
    limits = _checked(limits, options)
    with staged_folder(folder, overwrite=options.overwrite) as stage, tempfile.TemporaryDirectory(dir=stage) as work:
        network = _opened(model)
        check_neighbors(folder, INT8_NAME, network)
        task = task_of(network)
        if options.processing_class is None:
            options = replace(options, processing_class=processor_of(model, task))
        asking = AuditOptions(options.columns, options.processing_class, options.batch_size)
        answers = reference_answers(network if reference is None else reference, dataset, task=task, options=asking)
        _check_enough_items(answers, limits)
        held_against = partial(audit, answers, dataset=dataset, limits=limits, options=asking)
        files = Int8Files(network, Path(work), dataset=dataset, audited=held_against, options=options)
        fixed = f"; in float in any case: {shortened(files.export.float_layers)}" if files.export.float_layers else ""
        progress(f"{len(files.layers)} layers can be INT8 ({options.quantize}){fixed}")
        found = smallest_float_set(
            files.layers, files.measure, files.probe, max_measurements=options.max_measurements, report=progress
        )
        verdict = _verdict(found, len(files.layers))
        frontier = files.timed(Frontier(found.points, found.best.kept, verdict, found.sensitivities))
        repair = Repair(
            files.publish(found.best, stage, Path(folder)), files.audits[found.best.kept], frontier, found.complete
        )
        _save(stage, repair, limits, progress)
    return repair


def _opened(model: Model) -> PreTrainedModel:
    if isinstance(model, nn.Module):
        return load_model(model)
    check_not_exported(model)
    return load_compressed(model)


def _checked(limits: Mapping[str, float], options: RepairOptions) -> dict[str, float]:
    if not limits:
        raise ValueError("A repair needs a limit to keep, such as limits={'mismatch_rate': 0.01}. Got none.")
    if options.probe_rows < 1:
        raise ValueError(f"probe_rows must be 1 or more. Got {options.probe_rows}.")
    return checked_limits(limits)


def _check_enough_items(reference: Predictions, limits: Mapping[str, float]) -> None:
    """Even a file without a mismatch may not pass on few items; say so before the export."""
    for verdict in audit(reference, reference, limits=limits).limits:
        if not verdict.passed:
            needed = items_needed(verdict.limit)
            more = f"Give at least {needed:,} items, or" if math.isfinite(needed) else "Give"
            raise ValueError(
                f"The limit {verdict.name}={verdict.limit:g} cannot be shown to be kept on so few items: even for the "
                f"reference itself the 95 % upper bound is {verdict.upper_bound:.5f}. {more} a limit above that."
            )


def _verdict(found: Found, n_layers: int) -> str:
    best, spent = found.best, len(found.points) + len(found.sensitivities)
    stay = f"{len(best.kept)} of {n_layers} layers stay in float"
    budget = f"the {spent} measurements were spent: allow more with max_measurements (--max-measurements)."
    if best.passed and not best.kept:
        return f"KEPT: with all {n_layers} layers in INT8."
    if best.passed and found.complete:
        return f"KEPT: {stay}: {', '.join(best.kept)}. None of them alone can go back to INT8."
    if best.passed:
        return f"KEPT: {stay}. Fewer may do, but {budget}"
    if not found.complete:
        return f"NOT KEPT by any file so far, but {budget}"
    needed = max(items_needed(verdict.limit, verdict.value) for verdict in best.limits if not verdict.passed)
    more = f" At this rate it would take some {needed:,} items to show it." if needed < math.inf else ""
    return (
        f"NOT KEPT: no set of layers suffices. Even with all of them in float {best.mismatches} of {best.n} answers "
        f"differ from the reference's, so it is not INT8 that makes the difference.{more}"
    )


def _save(stage: Path, repair: Repair, limits: Mapping[str, float], progress: Report) -> None:
    """Save what was measured beside the file."""
    frontier = repair.frontier
    repair.audit.save(stage / AUDIT_NAME)
    frontier.save(stage / FRONTIER_NAME)
    try:
        figure = plot_frontier(
            frontier.worth_a_look,
            chosen=frontier.chosen,
            limit=limits.get("mismatch_rate"),
            torch_latency=frontier.baselines.get("torch"),
        )
    except ImportError as error:
        progress(f"No {PLOT_NAME}: {error}")
    else:
        figure.savefig(stage / PLOT_NAME, dpi=150)
