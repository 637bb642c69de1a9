"""How a repair exports, searches and measures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_compalign._checks import check_share, check_whole
from hf_compalign.measure.predictions import Columns
from hf_compalign.ship.frontier import Sensitivity


@dataclass(frozen=True)
class RepairOptions:
    """How `repair_int8` exports, searches and measures.

    Attributes:
        quantize: "dynamic" or "static", as for `export_onnx`; OpenVINO has "static" only.
        precision: for OpenVINO: "bf16", the default, or "f32", in which all layers in float are computed.
        portable: for ONNX: 7-bit weights, as for `export_onnx`.
        calibration: for "static", as for `export_onnx`; every file that the search makes is calibrated on it.
        exclude: patterns of layers that stay in float in any case.
        processing_class: the tokenizer or image processor; by default the one saved beside the model.
        columns: where to find what in a raw dataset.
        batch_size: rows at a time.
        search_share: the share of the rows to search on, drawn at random but always the same ones; the others judge.
        max_measurements: stop the search after so many files; None for as many as it takes. With fewer than it would
            take, layers are tried in larger groups of neighbors.
        sensitivities: those of an earlier repair of this model on this dataset, such as `Frontier.sensitivities`; what
            they are of is not tried alone again.
        probe_rows: rows of the search to try single layers on; the same random ones for all.
        timed_batch_sizes: the batches whose passes are timed; empty to time nothing.
        n_runs: timed passes of each file and batch.
        overwrite: replace files of the same names in the folder.

    Raises:
        ValueError: quantize is None, search_share is not in (0, 1), or probe_rows is not a whole number from 1 on.
    """

    quantize: str = "dynamic"
    precision: str | None = None
    portable: bool = False
    calibration: Iterable[Any] | None = None
    exclude: Sequence[str] | None = None
    processing_class: Any = None
    columns: Columns | None = None
    batch_size: int = 32
    search_share: float = 0.5
    max_measurements: int | None = None
    sensitivities: Sequence[Sensitivity] = ()
    probe_rows: int = 256
    timed_batch_sizes: Sequence[int] = (1, 8)
    n_runs: int = 20
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.quantize is None:
            raise ValueError(
                "A repair is of an INT8 file, and quantize=None would be float32. Say quantize='dynamic' or 'static'; "
                "for a float file use export_onnx or export_openvino."
            )
        check_share("search_share", self.search_share, ends=False)
        check_whole("probe_rows", self.probe_rows, least=1)
