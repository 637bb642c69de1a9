"""The INT8 files of one model that differ in the layers they keep in float, as each format makes them."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

from hf_compalign.compress import calibration_batches
from hf_compalign.compress.export import (
    FLOAT_NAME,
    INT8_NAME,
    OPENVINO_NAME,
    Export,
    calibration_feeds,
    convert_graph,
    export_graph,
    file_config,
    graph_layers,
    plain_model,
    quantize_graph,
    quantize_openvino,
    set_precision,
    smoothed_ranges,
)
from hf_compalign.models import FileModel, OnnxModel, OpenVinoModel
from hf_compalign.ship.formats import EXPORTERS, particular
from hf_compalign.ship.repair.options import RepairOptions


class Maker(ABC):
    """The files of one model in one format.

    Args:
        model: the torch model.
        work: a folder for what they are made from.
        options: how they are made.

    Attributes:
        title: of the format.
        name: of an INT8 file.
        export: the file with everything in INT8, as it is written without a repair: nothing differs where nothing has
            to be repaired.
        float_file: the file with everything in float.
    """

    title: ClassVar[str]
    name: ClassVar[str]
    _format: ClassVar[str]
    _model: ClassVar[type[FileModel]]

    def __init__(self, model: Any, work: Path, options: RepairOptions) -> None:
        self._mode = options.quantize
        self._config = file_config(model)
        batches = None if options.calibration is None else calibration_batches(options.calibration, model)
        self.export: Export = EXPORTERS[self._format](
            model,
            work / "export",
            quantize=options.quantize,
            calibration=batches,
            exclude=options.exclude,
            processing_class=options.processing_class,
            **particular(precision=options.precision, portable=options.portable),
        )
        graph = work / FLOAT_NAME
        export_graph(plain_model(model), graph)
        self._all_layers = frozenset(graph_layers(graph, "static"))
        self.float_file = self._prepared(graph, batches)

    def make(self, kept: Collection[str], folder: Path) -> Path:
        """Write the file that has these layers in float, and those that it has in any case."""
        path = folder / self.name
        self._write(path, self._all_layers - ({*self.export.quantized_layers} - {*kept}))
        return path

    def open(self, path: Path) -> FileModel:
        """A file as a model."""
        return self._model(path, config=self._config)

    @abstractmethod
    def _prepared(self, graph: Path, batches: Any) -> Path:
        """The float file, and whatever else of the calibration data all other files are made from."""

    @abstractmethod
    def _write(self, path: Path, in_float: Collection[str]) -> None:
        """Write the file with these layers in float."""


class OnnxMaker(Maker):
    """ONNX files, whose ranges are measured once."""

    title = "ONNX"
    name = INT8_NAME
    _format = "onnx"
    _model = OnnxModel

    def _prepared(self, graph: Path, batches: Any) -> Path:
        self._ranges = None if batches is None else smoothed_ranges(graph, batches)
        return graph

    def _write(self, path: Path, in_float: Collection[str]) -> None:
        quantize_graph(
            self.float_file,
            path,
            mode=self._mode,
            keep_float=in_float,
            ranges=self._ranges,
            portable=self.export.portable,
        )


class OpenVinoMaker(Maker):
    """OpenVINO files. NNCF measures the ranges of each anew: it first moves factors from activations to weights, other
    ones in each file."""

    title = "OpenVINO"
    name = OPENVINO_NAME
    _format = "openvino"
    _model = OpenVinoModel

    def _prepared(self, graph: Path, batches: Any) -> Path:
        self._source, path = graph.with_name(f"source_{OPENVINO_NAME}"), graph.with_name(OPENVINO_NAME)
        convert_graph(graph, self._source)
        self._feeds = calibration_feeds(OpenVinoModel(self._source, config=self._config), batches)
        self._copy(path)
        set_precision(path, self.export.precision)
        return path

    def _write(self, path: Path, in_float: Collection[str]) -> None:
        self._copy(path)
        quantize_openvino(path, self._feeds, keep_float=in_float)
        set_precision(path, self.export.precision)

    def _copy(self, path: Path) -> None:
        for suffix in (".xml", ".bin"):
            shutil.copy(self._source.with_suffix(suffix), path.with_suffix(suffix))


MAKERS: dict[str, type[Maker]] = {"onnx": OnnxMaker, "openvino": OpenVinoMaker}
