"""How a search goes about it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from hf_compalign._checks import check_share, check_whole
from hf_compalign.measure.predictions import Columns
from hf_compalign.search.steps import NEEDED

OBJECTIVES = ("latency", "bytes")


@dataclass(frozen=True)
class SearchOptions:
    """How `compress_model` searches.

    Attributes:
        objective: what is to be small: "latency" or "bytes".
        batch_size: rows in a timed batch.
        formats: which of "openvino" and "onnx" to try, the preferred one first; None: those that are installed. Cut
            models are tried in the first one alone.
        int8: try INT8.
        cuts: the shares of heads and neurons to remove, each a model of its own; empty to remove none.
        deferral: let the original, as a file, answer what a smaller file is not sure of; for "latency" alone.
        repair_measurements: how many files a repair of an INT8 file may measure; 0 for no repair.
        search_share: the share of the rows to choose on; the others prove.
        calibration_rows: how many rows ranges and cuts are computed on.
        train_steps: optimizer steps of each cut model, where there are rows to train on.
        train_batch_size: rows in each of them.
        learning_rate: of the training; it falls to 0 in a straight line.
        seed: of the training.
        n_runs: timed passes of each file.
        columns: where to find what in a raw dataset.
        processing_class: the tokenizer or image processor; by default the one saved beside the model.
        overwrite: write into a folder that holds something; what an earlier artifact wrote there is replaced or goes.

    Raises:
        ValueError: a value out of its range.
    """

    objective: str = "latency"
    batch_size: int = 8
    formats: Sequence[str] | None = None
    int8: bool = True
    cuts: Sequence[float] = (0.25, 0.5)
    deferral: bool = True
    repair_measurements: int = 16
    search_share: float = 0.5
    calibration_rows: int = 512
    train_steps: int = 400
    train_batch_size: int = 32
    learning_rate: float = 1e-4
    seed: int = 0
    n_runs: int = 20
    columns: Columns | None = None
    processing_class: Any = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}. Got {self.objective!r}.")
        formats, cuts = self.formats, self.cuts
        if formats is not None and not (_is_list(formats) and formats and all(one in [*NEEDED] for one in formats)):
            raise ValueError(f"formats must be a list with some of {', '.join(NEEDED)}. Got {formats!r}.")
        if not _is_list(cuts):
            raise ValueError(f"cuts must be a list of shares, such as [0.25, 0.5], or [] for none. Got {cuts!r}.")
        for name in ("batch_size", "calibration_rows", "train_steps", "train_batch_size", "n_runs"):
            check_whole(name, getattr(self, name), least=1)
        check_whole("repair_measurements", self.repair_measurements, least=0)
        check_share("search_share", self.search_share, ends=False)
        check_whole("seed", self.seed, least=0)
        for cut in cuts:
            check_share("cuts", cut, ends=False)
        if not isinstance(self.learning_rate, Real) or not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must be in (0, 1). Got {self.learning_rate!r}. The default is 1e-4.")


def _is_list(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str | Mapping)
