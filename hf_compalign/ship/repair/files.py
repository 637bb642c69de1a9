"""INT8 files of one model that differ in the layers they keep in float: made, measured, judged and timed."""

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_compalign.compress.export import Export
from hf_compalign.data import sample
from hf_compalign.measure.audit import Audit, AuditOptions, answers_of
from hf_compalign.measure.footprint import Latency, latencies_on, machine_name, timing_device
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import undominated
from hf_compalign.ship.frontier import Frontier, Point, Sensitivity
from hf_compalign.ship.repair.makers import Maker
from hf_compalign.ship.repair.options import RepairOptions
from hf_compalign.ship.repair.parts import Part


class Int8Files:
    """The files that a search asks for: made, measured, and thrown away when another beats them.

    Args:
        maker: makes them.
        work: a folder for them.
        searched: the rows of the search.
        judged: the rows that the search does not see.
        options: how they are asked and timed.

    Attributes:
        layers: those that can be in INT8, in the order of the graph.
        audits: of each file that was judged, by the layers that it keeps in float.
    """

    def __init__(self, maker: Maker, work: Path, *, searched: Part, judged: Part, options: RepairOptions) -> None:
        self._maker, self._work, self._options = maker, work, options
        self._searched, self._judged = searched, judged
        self.layers = maker.export.quantized_layers
        self.audits: dict[tuple[str, ...], Audit] = {}
        self._made: dict[tuple[str, ...], Path] = {(): maker.export.path}
        self._points: list[Point] = []
        self._sample: tuple[Dataset, Predictions] | None = None

    def measure(self, kept: frozenset[str]) -> Point:
        """The file with these layers in float, on all items of the search; its limits are those expected of the judged
        items."""
        key = tuple(layer for layer in self.layers if layer in kept)
        network = self._maker.open(self._file(key))
        found = self._searched.audit(network)
        point = Point.of(found, kept=key, size_bytes=network.size_bytes)
        self._points.append(replace(point, limits=self._judged.expects(found)))
        self._tidy()
        return self._points[-1]

    def probe(self, group: tuple[str, ...]) -> Sensitivity:
        """What INT8 in these layers alone does, against the file in float, on the sample."""
        path = self._new(layer for layer in self.layers if layer not in group)
        network = self._maker.open(path)
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

    def judge(self, point: Point) -> Point:
        """A searched file, on the items that the search has not seen."""
        network = self._maker.open(self._file(point.kept))
        self.audits[point.kept] = found = self._judged.audit(network)
        return Point.of(found, kept=point.kept, size_bytes=network.size_bytes)

    def timed(self, frontier: Frontier, model: Any) -> Frontier:
        """With the latencies of the files worth a look, of the float file and of the model, all side by side."""
        options = self._options
        if not options.timed_batch_sizes:
            return frontier
        shown = [point.kept for point in frontier.worth_a_look]
        networks: dict[Any, Any] = {"torch": model}
        if self.layers not in shown:  # else the float file is one of them
            networks[f"float {self._maker.title}"] = self._maker.open(self._maker.float_file)
        networks |= {key: self._maker.open(self._file(key)) for key in shown}
        device = timing_device(files=True)
        latencies: dict[Any, dict[int, Latency]] = latencies_on(
            self._searched.rows,
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
        network, export = self._maker.open(self._file(chosen.kept)), self._maker.export
        expected, got = self._on_sample(network)
        others = shutil.ignore_patterns(*(part.name for part in self._maker.open(export.path).files))
        shutil.copytree(export.path.parent, stage, ignore=others, dirs_exist_ok=True)
        for part in network.files:
            shutil.copy(part, stage)
        return replace(
            export,
            path=folder / network.path.name,
            size_bytes=network.size_bytes,
            quantized_layers=tuple(layer for layer in self.layers if layer not in chosen.kept),
            float_layers=(*export.float_layers, *chosen.kept),
            max_logit_difference=float(np.abs(got.logits - expected.logits).max()),
        )

    def _on_sample(self, network: Any) -> tuple[Predictions, Predictions]:
        """The answers of the file in float and of another one on the sample."""
        options = self._options
        asking = AuditOptions(options.columns, options.processing_class, options.batch_size)
        if self._sample is None:
            rows = sample(self._searched.rows, options.probe_rows)
            self._sample = rows, answers_of(self._maker.open(self._maker.float_file), rows, asking)
        rows, expected = self._sample
        return expected, answers_of(network, rows, asking)

    def _file(self, key: tuple[str, ...]) -> Path:
        """The file with these layers in float, made again if it was thrown away."""
        if key not in self._made:
            self._made[key] = self._new(key)
        return self._made[key]

    def _new(self, kept: Iterable[str]) -> Path:
        # All have the same name: a file names the one beside it that holds its weights.
        return self._maker.make({*kept}, Path(tempfile.mkdtemp(dir=self._work)))

    def _tidy(self) -> None:
        """Models are large, and a search makes many."""
        worth = {point.kept for point in undominated(self._points)} | {()}
        for key in [one for one in self._made if one not in worth]:
            shutil.rmtree(self._made.pop(key).parent)
