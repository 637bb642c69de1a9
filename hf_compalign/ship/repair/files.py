"""INT8 files of one model that differ in the layers they keep in float: made, measured and timed."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_compalign.compress import calibration_batches
from hf_compalign.compress.export import (
    FLOAT_NAME,
    INT8_NAME,
    Export,
    calibrate_graph,
    export_graph,
    export_onnx,
    file_config,
    graph_layers,
    plain_model,
    quantize_graph,
)
from hf_compalign.data import sample
from hf_compalign.measure.audit import Audit, AuditOptions, answers_of
from hf_compalign.measure.footprint import Latency, latencies_on, machine_name, timing_device
from hf_compalign.measure.predictions import Columns, Predictions
from hf_compalign.measure.statistics import undominated
from hf_compalign.models import OnnxModel
from hf_compalign.ship.frontier import Frontier, Point, Sensitivity


@dataclass(frozen=True)
class RepairOptions:
    """How `repair_onnx` exports and measures.

    Attributes:
        quantize: "dynamic" or "static", as for `export_onnx`; so are the next three.
        calibration: for "static".
        exclude: patterns of layers that stay in float in any case.
        processing_class: the tokenizer or image processor; by default the one saved beside the model.
        portable: 7-bit weights, as for `export_onnx`.
        columns: where to find what in a raw dataset.
        batch_size: rows at a time.
        max_measurements: stop after so many files; None for as many as it takes.
        probe_rows: rows of the dataset to try single layers on; the same random ones for all.
        timed_batch_sizes: the batches whose passes are timed; empty to time nothing.
        n_runs: timed passes of each file and batch.
        overwrite: replace files of the same names in the folder.
    """

    quantize: str = "dynamic"
    calibration: Iterable[Any] | None = None
    exclude: Sequence[str] | None = None
    processing_class: Any = None
    portable: bool = False
    columns: Columns | None = None
    batch_size: int = 32
    max_measurements: int | None = None
    probe_rows: int = 256
    timed_batch_sizes: Sequence[int] = (1, 8)
    n_runs: int = 20
    overwrite: bool = False


class Int8Files:
    """The files that a search asks for: made, measured, and thrown away when another beats them.

    Args:
        model: the torch model.
        work: a folder for them.
        dataset: what they are asked.
        audited: a file as a model -> its audit on the dataset.
        options: how they are made.

    Attributes:
        export: the file with everything in INT8, as `export_onnx` writes it.
        layers: those that it has in INT8, in the order of the graph.
        audits: of each file that was measured, by the layers that it keeps in float.
    """

    def __init__(
        self, model: Any, work: Path, *, dataset: Dataset, audited: Callable[[Any], Audit], options: RepairOptions
    ) -> None:
        batches = None if options.calibration is None else calibration_batches(options.calibration, model)
        self._model, self._dataset, self._audited = model, dataset, audited
        self._options, self._work = options, work
        # As without a repair, so that nothing differs where nothing has to be repaired.
        self.export = export_onnx(
            model,
            work / "export",
            quantize=options.quantize,
            calibration=batches,
            exclude=options.exclude,
            processing_class=options.processing_class,
            portable=options.portable,
        )
        self.layers = self.export.quantized_layers
        self._float = work / FLOAT_NAME
        export_graph(plain_model(model), self._float)
        self._config = file_config(model)
        self._ranges = None if batches is None else calibrate_graph(self._float, batches)
        self._made: dict[tuple[str, ...], Path] = {(): self.export.path}
        self._points: list[Point] = []
        self._sample: tuple[Dataset, Predictions] | None = None
        self.audits: dict[tuple[str, ...], Audit] = {}

    def measure(self, kept: frozenset[str]) -> Point:
        """The file with these layers in float, on all items."""
        key = tuple(layer for layer in self.layers if layer in kept)
        network = self._open(self._file(key))
        self.audits[key] = found = self._audited(network)
        self._points.append(Point.of(found, kept=key, size_bytes=network.size_bytes))
        self._tidy()
        return self._points[-1]

    def probe(self, group: tuple[str, ...]) -> Sensitivity:
        """What INT8 in these layers alone does, against the file in float, on the sample."""
        path = self._quantized(tuple(layer for layer in self.layers if layer not in group))
        network = self._open(path)
        expected, got = self._on_sample(network)
        size_bytes = network.size_bytes
        shutil.rmtree(path.parent)
        return Sensitivity(
            layers=group,
            n=len(got),
            flips=int((got.predicted != expected.predicted).sum()),
            logit_error=float(np.square(got.logits - expected.logits).mean()),
            size_bytes=size_bytes,
        )

    def timed(self, frontier: Frontier) -> Frontier:
        """With the latencies of the files worth a look, of the float file and of the model, all side by side."""
        options = self._options
        if not options.timed_batch_sizes:
            return frontier
        shown = [point.kept for point in frontier.worth_a_look]
        networks: dict[Any, Any] = {"torch": self._model}
        if self.layers not in shown:  # else the float file is one of them
            networks["float ONNX"] = self._open(self._float)
        networks |= {key: self._open(self._file(key)) for key in shown}
        device = timing_device(files=True)
        latencies: dict[Any, dict[int, Latency]] = latencies_on(
            self._dataset,
            {key: (network, options.processing_class) for key, network in networks.items()},
            columns=options.columns,
            batch_sizes=options.timed_batch_sizes,
            n_runs=options.n_runs,
            device=device,
        )
        return replace(
            frontier,
            points=tuple(replace(point, latency=latencies.get(point.kept, {})) for point in frontier.points),
            baselines={name: latency for name, latency in latencies.items() if isinstance(name, str)},
            machine=machine_name(device),
        )

    def publish(self, chosen: Point, stage: Path, folder: Path) -> Export:
        """Put the chosen file, its config and its processor into ``stage``, which will be ``folder``."""
        network = self._open(self._file(chosen.kept))
        expected, got = self._on_sample(network)
        others = shutil.ignore_patterns(f"{INT8_NAME}*")
        shutil.copytree(self.export.path.parent, stage, ignore=others, dirs_exist_ok=True)
        for part in network.files:
            shutil.copy(part, stage)
        return replace(
            self.export,
            path=folder / INT8_NAME,
            size_bytes=chosen.size_bytes,
            quantized_layers=tuple(layer for layer in self.layers if layer not in chosen.kept),
            float_layers=(*self.export.float_layers, *chosen.kept),
            max_logit_difference=float(np.abs(got.logits - expected.logits).max()),
        )

    def _on_sample(self, network: Any) -> tuple[Predictions, Predictions]:
        """The answers of the file in float and of another one on the sample."""
        options = self._options
        asking = AuditOptions(options.columns, options.processing_class, options.batch_size)
        if self._sample is None:
            rows = sample(self._dataset, options.probe_rows)
            self._sample = rows, answers_of(self._open(self._float), rows, asking)
        rows, expected = self._sample
        return expected, answers_of(network, rows, asking)

    def _file(self, key: tuple[str, ...]) -> Path:
        """The file with these layers in float, made again if it was thrown away."""
        if key not in self._made:
            self._made[key] = self._quantized(key)
        return self._made[key]

    def _quantized(self, kept: tuple[str, ...]) -> Path:
        # All have the same name: a file names the one beside it that holds its weights.
        target = Path(tempfile.mkdtemp(dir=self._work)) / INT8_NAME
        in_float = {*graph_layers(self._float, "static")} - ({*self.layers} - {*kept})
        mode, portable = self._options.quantize, self._options.portable
        quantize_graph(self._float, target, mode=mode, keep_float=in_float, ranges=self._ranges, portable=portable)
        return target

    def _open(self, path: Path) -> Any:
        return OnnxModel(path, config=self._config)

    def _tidy(self) -> None:
        """Models are large, and a search makes many."""
        worth = {point.kept for point in undominated(self._points)} | {()}
        for key in [one for one in self._made if one not in worth]:
            shutil.rmtree(self._made.pop(key).parent)
