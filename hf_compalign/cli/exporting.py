"""What hf-compalign export does between reading its options and printing what came out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from hf_compalign.compress import load_compressed
from hf_compalign.compress.export import Export, check_not_exported, export_onnx, export_openvino, sample_inputs
from hf_compalign.data import find_image_column, find_label_column, find_text_columns, label_ids
from hf_compalign.labels import names_of
from hf_compalign.measure.audit import Audit, audit
from hf_compalign.measure.footprint import Latency, footprint, interleaved_latency_ms
from hf_compalign.measure.predictions import Columns, Predictions
from hf_compalign.models import check_prepared, load_processor
from hf_compalign.opening import load_model
from hf_compalign.ship import Frontier, Questions, frontier_rows, machine_name, megabytes, processor_of, timing_device
from hf_compalign.ship.repair import RepairOptions, repair_onnx
from hf_compalign.tasks import task_of

EXPORTERS = {"onnx": export_onnx, "openvino": export_openvino}
TIMED = (1, 8)
# Of made-up texts, where no data are given.
_LENGTH = 32
_CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class Job:
    """What to export, as what, and what to hold it against; see `EXPORTERS` and `repair_onnx`."""

    model: str
    file_format: str
    output: Path
    quantize: str | None
    calibration: Dataset | None
    exclude: Sequence[str] | None
    limits: Mapping[str, float]
    max_measurements: int | None
    dataset: Dataset | None
    reference: str | None
    columns: Columns
    batch_size: int
    overwrite: bool


@dataclass(frozen=True)
class Done:
    """What came out.

    Attributes:
        export: the file.
        audit: of the file against the reference; None without data.
        frontier: what a repair measured; None if none was asked for.
        torch_bytes: of the weights of the PyTorch model.
        latency: name -> batch size -> latency, of the model and the file side by side.
        machine: where they were timed.
    """

    export: Export
    audit: Audit | None
    frontier: Frontier | None
    torch_bytes: int
    latency: Mapping[str, Mapping[int, Latency]]
    machine: str

    @property
    def passed(self) -> bool:
        """Whether every limit is kept; True when none was set."""
        return self.audit is None or self.audit.passed

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts."""
        return {
            "passed": self.passed,
            "export": asdict(self.export) | {"path": str(self.export.path)},
            "torch_bytes": self.torch_bytes,
            "latency": {name: {size: asdict(one) for size, one in rows.items()} for name, rows in self.latency.items()},
            "machine": self.machine,
            "audit": None if self.audit is None else self.audit.to_dict(),
            "frontier": None if self.frontier is None else self.frontier.to_dict(),
        }

    def rows(self) -> list[list[str]]:
        """What was measured of each file: those of a repair, or the one."""
        if self.frontier is not None:
            return frontier_rows(self.frontier)
        sizes = {"torch": self.torch_bytes, self.export.path.name: self.export.size_bytes}
        rows = [["", "MB", *(f"ms, batch {size}" for size in TIMED)]]
        for name, latency in self.latency.items():
            rows.append([name, f"{megabytes(sizes[name]):.1f}", *(f"{latency[size].median_ms:.1f}" for size in TIMED)])
        return rows


def run_job(job: Job, say: Callable[[str], None]) -> Done:
    """Export, and audit or repair where there is something to hold the file against."""
    check_not_exported(job.model)
    model = load_compressed(job.model)
    processor = processor_of(job.model, task_of(model), default=None)
    if job.dataset is not None:
        _check_rows(job, job.dataset, model)
    calibration = None if job.calibration is None else _batches(job.calibration, model, processor, job.columns)
    torch_bytes = footprint(model).size_bytes
    if job.dataset is not None and job.limits and job.quantize is not None and job.file_format == "onnx":
        options = RepairOptions(
            quantize=job.quantize,
            calibration=calibration,
            exclude=job.exclude,
            processing_class=processor,
            columns=job.columns,
            batch_size=job.batch_size,
            max_measurements=job.max_measurements,
            timed_batch_sizes=TIMED,
            overwrite=job.overwrite,
        )
        asked: dict[str, Any] = {"limits": job.limits, "dataset": job.dataset, "reference": job.reference}
        repair = repair_onnx(model, job.output, **asked, options=options, progress=say)
        frontier = repair.frontier
        timed = {**frontier.baselines, repair.export.path.name: frontier.chosen_point.latency}
        return Done(repair.export, repair.audit, frontier, torch_bytes, timed, frontier.machine)
    made = EXPORTERS[job.file_format](
        model,
        job.output,
        quantize=job.quantize,
        calibration=calibration,
        exclude=job.exclude,
        processing_class=processor,
        overwrite=job.overwrite,
    )
    file = load_model(made.path)
    questions = None if job.dataset is None else Questions(job.dataset, job.columns, job.batch_size)
    found = None if questions is None else _audited(job, questions, model, file, processor)
    latency = _timed({"torch": model, made.path.name: file}, questions, processor)
    return Done(made, found, None, torch_bytes, latency, machine_name(timing_device(onnx=True)))


def _check_rows(job: Job, rows: Dataset, model: Any) -> None:
    """What `predict` would refuse too, but before the export."""
    task = task_of(model)
    label = find_label_column(rows, job.columns.label)
    if label is not None:
        names = names_of(model.config.id2label)
        labels = label_ids(rows, label, names)
        # Which refuse labels that the model does not have.
        Predictions(np.zeros((len(labels), len(names)), np.float32), labels, np.arange(len(labels)).astype(str), names)
    if task.model_input in rows.column_names:
        check_prepared(rows, model)
        return
    if task.model_input == "pixel_values":
        find_image_column(rows, job.columns.image)
    else:
        find_text_columns(rows, job.columns.text)
    load_processor(job.model, task)


def _batches(rows: Dataset, model: Any, processor: Any, columns: Columns) -> list[dict[str, Any]]:
    starts = range(0, len(rows), _CALIBRATION_BATCH)
    parts = [rows.select(range(start, min(start + _CALIBRATION_BATCH, len(rows)))) for start in starts]
    return [Questions(part, columns).first_batch(model, processor, size=len(part)) for part in parts]


def _audited(job: Job, questions: Questions, model: Any, file: Any, processor: Any) -> Audit:
    reference, its_processor = model, processor
    if job.reference is not None:
        reference = load_model(job.reference)
        its_processor = processor_of(job.reference, task_of(reference), default=processor)
    both = questions.answers(reference, its_processor), questions.answers(file, processor)
    return audit(*both, limits=job.limits)


def _timed(models: dict[str, nn.Module], questions: Questions | None, processor: Any) -> dict[str, dict[int, Latency]]:
    """On the first rows of the data, or without any on made-up inputs."""
    if questions is not None:
        return questions.latencies(
            {name: (model, processor) for name, model in models.items()},
            sizes=TIMED,
            n_runs=20,
            device=timing_device(onnx=True),
        )
    found: dict[str, dict[int, Latency]] = {name: {} for name in models}
    for size in TIMED:
        inputs = sample_inputs(models["torch"], n_items=size, length=_LENGTH)
        for name, latency in interleaved_latency_ms({name: (one, inputs) for name, one in models.items()}).items():
            found[name][size] = latency
    return found
