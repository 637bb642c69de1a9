"""An ONNX file that answers as on a CPU whose sums of integer products saturate."""

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_compalign.models.onnx import OnnxModel
from hf_compalign.models.runtime import Runtime
from hf_compalign.models.saturated import saturate_


class SaturatingModel(OnnxModel):
    """An INT8 file as ONNX Runtime runs it on an x86 CPU without VNNI instructions; see `OnnxModel`.

    There, products of uint8 activations and int8 weights are added up in pairs whose sum ends at 16 bits: what is
    beyond 32767 is lost, without an error. `predict` and `audit` take it like the file, to count what that changes; a
    file of ``export_onnx(..., portable=True)`` answers alike on both. ONNX Runtime's optimized graph is run, with the
    sums of pairs cut off where they can get so far; the rest is computed as in the file. On a CPU that saturates itself
    nothing is simulated.

    Raises:
        ValueError: as for `OnnxModel`, and for a file with products that cannot be simulated.
    """

    @property
    def computed_by(self) -> Runtime:
        """As `FileModel.computed_by`; the CPU is the one that simulates the other."""
        found = super().computed_by
        return replace(found, engine=f"{found.engine} as without VNNI")

    def _graph(self, options: Any) -> str | bytes:
        import onnxruntime

        if self.device.type != "cpu":
            raise ValueError(
                f"A SaturatingModel simulates another CPU, and runs on this one. Got the device {self.device}. Use "
                "OnnxModel(path) there."
            )
        if _saturates():
            return super()._graph(options)
        # It is optimized already, and what was added to it must not change that.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return self._saturated

    @cached_property
    def _saturated(self) -> bytes:
        """The graph, as ONNX Runtime runs it here, with saturating sums."""
        import onnx
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime.SessionOptions()
            options.optimized_model_filepath = str(Path(folder) / "model.onnx")
            options.log_severity_level = 4  # fatal errors only: it warns that the graph is for this machine
            try:
                onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise self._unreadable(error) from error
            model = onnx.load(options.optimized_model_filepath)
        saturate_(model)
        return bytes(model.SerializeToString())


def _saturates() -> bool:
    """Whether ONNX Runtime's products saturate on this CPU."""
    import onnxruntime
    from onnx import TensorProto, helper

    shapes = (("a", TensorProto.UINT8), ("b", TensorProto.INT8)), (("y", TensorProto.INT32),)
    inputs, outputs = ([helper.make_tensor_value_info(name, kind, (2, 2)) for name, kind in one] for one in shapes)
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "probe", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = {"a": np.full((2, 2), 255, np.uint8), "b": np.full((2, 2), 127, np.int8)}
    return bool((session.run(None, largest)[0] != 2 * 255 * 127).any())
