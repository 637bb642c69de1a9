"""Export a model, audit the file on data, repair it if it must be, and time it: in one call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign._formats import megabytes
from hf_compalign._tables import Table
from hf_compalign.compress import load_compressed
from hf_compalign.compress.export import Export, check_not_exported
from hf_compalign.measure.audit import Audit, AuditOptions, audit, checked_limits
from hf_compalign.measure.footprint import (
    Latency,
    footprint,
    interleaved_latency_ms,
    latencies_on,
    machine_name,
    quartiles,
    timing_device,
)
from hf_compalign.measure.predictions import Columns, Predictions, reader_of
from hf_compalign.models import sample_inputs
from hf_compalign.opening import load_model, processor_of
from hf_compalign.ship.formats import EXPORTERS, check_format, particular
from hf_compalign.ship.frontier import Frontier, frontier_table
from hf_compalign.ship.reference import reference_answers
from hf_compalign.ship.repair import RepairOptions, repair_int8
from hf_compalign.tasks import EXPORTED, MEASURED, task_of

TIMED = (1, 8)
_LENGTH = 32  # of made-up texts, where no data are given
_CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class ExportOptions:
    """How `export_audited` makes the file and asks it.

    Attributes:
        quantize: None, "dynamic" or "static", as for `export_onnx` and `export_openvino`.
        precision: for OpenVINO: "bf16", the default, "f16" or "f32"; ONNX is in float32.
        calibration: rows for the ranges of "static", raw or prepared; not those that the file is audited on.
        exclude: patterns of layers that stay in float in any case.
        portable: 7-bit weights, as for `export_onnx`; not for OpenVINO.
        columns: where to find what in a raw dataset.
        batch_size: rows at a time.
        max_measurements: how many files a repair may measure.
        overwrite: replace files of the same names in the folder.
    """

    quantize: str | None = None
    precision: str | None = None
    calibration: Dataset | None = None
    exclude: Sequence[str] | None = None
    portable: bool = False
    columns: Columns | None = None
    batch_size: int = 32
    max_measurements: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class AuditedExport:
    """What `export_audited` made.

    Attributes:
        export: the file.
        audit: of the file against the reference; None without data.
        frontier: what a repair measured; None without a repair.
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

    def table(self) -> Table:
        """What was measured of each file: those of a repair, or the one."""
        if self.frontier is not None:
            return frontier_table(self.frontier)
        sizes = {"torch": self.torch_bytes, self.export.path.name: self.export.size_bytes}
        rows = [
            (name, megabytes(sizes[name], digits=1), *(quartiles(latency[size], digits=1) for size in TIMED))
            for name, latency in self.latency.items()
        ]
        return Table("Files", ("", "MB", *(f"ms, batch {size}" for size in TIMED)), rows)


def export_audited(  # noqa: PLR0913 - what to export and where, and what to hold it against
    model: str | Path,
    folder: str | Path,
    dataset: Dataset | None = None,
    *,
    file_format: str = "onnx",
    limits: Mapping[str, float] | None = None,
    reference: Predictions | PreTrainedModel | str | Path | None = None,
    options: ExportOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> AuditedExport:
    """Export a model, audit the file on data, and time it beside the model; an INT8 file with limits is repaired.

    Args:
        model: a folder or a Hub id.
        folder: a new folder for the file.
        dataset: what the file and the reference answer, as `predict` takes it; without it nothing is audited.
        file_format: "onnx" or "openvino".
        limits: for the audit, as for `hf_compalign.audit`; `repair_int8` repairs an INT8 file beyond them, and audits
            it on the part of the dataset that its search has not seen.
        reference: the model whose answers count, or its predictions on the dataset; by default the model.
        options: the rest.
        progress: called with each line of what a repair does.

    Raises:
        ValueError: limits or a reference without a dataset, data that do not fit the model, or what the exporter,
            `hf_compalign.audit` and `repair_int8` refuse.
        ImportError: the extra of the format is not installed.
    """
    options = options or ExportOptions()
    limits = checked_limits(limits or {})
    check_format(file_format, precision=options.precision, portable=options.portable)
    _check(dataset, limits, reference)
    check_not_exported(model)
    network = load_compressed(model)
    processor = processor_of(model, task_of(network))
    if dataset is not None:
        _check_rows(dataset, network, processor, Columns.of(options.columns))
    shared = _shared(network, processor, options)
    size_bytes = footprint(network).size_bytes
    asking = AuditOptions(options.columns, processor, options.batch_size)
    if dataset is not None and limits and options.quantize is not None:
        repair = repair_int8(
            network,
            folder,
            limits=limits,
            dataset=dataset,
            file_format=file_format,
            reference=reference,
            options=_repair_options(options, shared),
            progress=progress,
        )
        tried = repair.frontier
        timed = {**tried.baselines, repair.export.path.name: tried.chosen_point.latency}
        return AuditedExport(repair.export, repair.audit, tried, size_bytes, timed, tried.machine)
    made = EXPORTERS[file_format](network, folder, **shared)
    file, found = load_model(made.path), None
    if dataset is not None:
        answers = reference_answers(
            network if reference is None else reference, dataset, task=task_of(network, MEASURED), options=asking
        )
        found = audit(answers, file, dataset, limits=limits, options=asking)
    latency = _timed({"torch": network, made.path.name: file}, dataset, asking)
    return AuditedExport(made, found, None, size_bytes, latency, machine_name(timing_device(files=True)))


def _check(dataset: Dataset | None, limits: Mapping[str, float], reference: Any) -> None:
    if dataset is None and (limits or reference is not None):
        raise ValueError("limits and reference= are about an audit, which needs data. Give dataset= too.")


def _shared(network: PreTrainedModel, processor: Any, options: ExportOptions) -> dict[str, Any]:
    """What exporters and repairs take alike."""
    return {
        "quantize": options.quantize,
        "calibration": _calibration(network, processor, options),
        "exclude": options.exclude,
        "processing_class": processor,
        "overwrite": options.overwrite,
        **particular(precision=options.precision, portable=options.portable),
    }


def _repair_options(options: ExportOptions, shared: Mapping[str, Any]) -> RepairOptions:
    return RepairOptions(
        columns=options.columns,
        batch_size=options.batch_size,
        max_measurements=options.max_measurements,
        timed_batch_sizes=TIMED,
        **shared,
    )


def _check_rows(rows: Dataset, network: PreTrainedModel, processor: Any, columns: Columns) -> None:
    """What `predict` would refuse too, but before the export."""
    reader = reader_of(network, rows, processing_class=processor)
    prepared = reader.prepared(rows, columns)
    if reader.pixels(rows, columns) is None:  # which are read as they are asked
        reader.items(rows, prepared, columns)


def _calibration(network: PreTrainedModel, processor: Any, options: ExportOptions) -> list[dict[str, Any]] | None:
    rows = options.calibration
    if rows is None:
        return None
    reader = reader_of(network, rows, processing_class=processor, among=EXPORTED)
    return reader.batches(rows, Columns.of(options.columns), size=_CALIBRATION_BATCH)


def _timed(models: dict[str, Any], dataset: Dataset | None, asking: AuditOptions) -> dict[str, dict[int, Latency]]:
    """On the first rows of the data, or without any on made-up inputs."""
    if dataset is not None:
        both = {name: (one, asking.processing_class) for name, one in models.items()}
        device = timing_device(files=True)
        return latencies_on(dataset, both, columns=asking.columns, batch_sizes=TIMED, device=device)
    found: dict[str, dict[int, Latency]] = {name: {} for name in models}
    for size in TIMED:
        inputs = sample_inputs(models["torch"], n_items=size, length=_LENGTH)
        for name, latency in interleaved_latency_ms({name: (one, inputs) for name, one in models.items()}).items():
            found[name][size] = latency
    return found
