"""What the activations of an ONNX graph are on the calibration data."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hf_compalign._extras import needs_extra
from hf_compalign.compress.export.graph import WHAT, load_graph, quiet

# What a graph reads as whole numbers.
_WHOLE = ("input_ids", "attention_mask", "token_type_ids")


def calibrate_graph(path: Path, batches: Iterable[Mapping[str, Any]]) -> Any:
    """The smallest and largest value of each activation of a float file on some batches: ranges for `quantize_graph`.

    Raises:
        ValueError: the model cannot be run on the batches.
    """
    with quiet(), needs_extra("onnx", what=WHAT):
        import onnxruntime
        from onnxruntime.quantization import CalibrationDataReader, create_calibrator
    names = [value.name for value in load_graph(path, weights=False).graph.input]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = (_feed(batch, names) for batch in batches)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder, quiet():
        # A copy, because the calibrator writes beside its source.
        n_files = len([shutil.copy(file, folder) for file in path.parent.glob(f"{path.name}*")])
        source, augmented = Path(folder) / path.name, f"{folder}/augmented.onnx"
        operators = ["MatMul", "Gemm", "Conv"]
        calibrator = create_calibrator(source, operators, augmented, use_external_data_format=n_files > 1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        calibrator.infer_session = onnxruntime.InferenceSession(augmented, options, providers=["CPUExecutionProvider"])
        with running():
            calibrator.collect_data(Reader())
        return calibrator.compute_data()


@contextmanager
def running() -> Iterator[None]:
    """Run a graph on calibration data; a ValueError says that these do not fit."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"The model cannot be run on the calibration data. Give batches of the shape that it takes. ({error})"
        ) from error


def feeds_of(session: Any, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The batches as a session of ONNX Runtime takes them."""
    names = [one.name for one in session.get_inputs()]
    return (_feed(batch, names) for batch in batches)


def _feed(batch: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A batch as the graph takes it; left-out inputs get the model's defaults."""
    shape = batch.get("input_ids", torch.empty(0)).shape
    filled = {"attention_mask": torch.ones(shape), "token_type_ids": torch.zeros(shape)} | dict(batch)
    arrays = {name: torch.as_tensor(filled[name]).detach().cpu() for name in names}
    return {name: (value.long() if name in _WHOLE else value.float()).numpy() for name, value in arrays.items()}
