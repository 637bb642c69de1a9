"""An ONNX file that answers like a model of transformers, through ONNX Runtime."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_compalign._extras import needs_extra
from hf_compalign.models.file import Declared, FileModel
from hf_compalign.models.weights import beside

_DTYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_WHAT = "Running an ONNX file"


class OnnxModel(FileModel):
    """A model in an ONNX file of any exporter, run by ONNX Runtime; see `FileModel`.

    It computes in the types that the file declares. After ``.to("cuda")`` it runs on a GPU, if ONNX Runtime was built
    for it.
    """

    suffix = ".onnx"
    runtime = "ONNX Runtime"
    package = "onnxruntime"

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The file, and the files beside it that hold its weights: of all tensors in it, used or not."""
        entries = [entry for one in _tensors(self._model()) for entry in one.external_data if entry.key == "location"]
        return (self.path, *(beside(self.path, name) for name in sorted({entry.value for entry in entries})))

    @cached_property
    def batch_dependent(self) -> bool:
        """Whether it takes the ranges of activations from the whole batch, as dynamic quantization does."""
        return any(node.op_type.startswith("DynamicQuantize") for node in self._model().graph.node)

    def count_parameters(self) -> tuple[int, int]:
        """As `FileModel.count_parameters`; the export's names tell scales and zero points from weights."""
        with needs_extra("onnx", what=_WHAT):
            from onnx import numpy_helper
        tensors = {one.name: one for one in self._model().graph.initializer}
        n_all = n_nonzero = 0
        for name, tensor in tensors.items():
            if name.endswith(("_scale", "_zero_point")) or not tensor.dims:
                continue
            values = numpy_helper.to_array(tensor, str(self.path.parent))
            if values.dtype.kind == "f" or name.endswith("_quantized"):
                zero = tensors.get(f"{name.removesuffix('_quantized')}_zero_point")
                zeros = 0 if zero is None else numpy_helper.to_array(zero).reshape(-1)[0]
                n_all += values.size
                n_nonzero += int(np.count_nonzero(values != zeros))
        return n_all, n_nonzero

    def _open(self, n_threads: int) -> str:
        if self.settings.precision not in (None, "f32"):
            raise ValueError(
                f"ONNX Runtime computes in the types that a file declares. Got precision={self.settings.precision!r}. "
                "Leave it out; export_openvino writes files that OpenVINO computes in bfloat16."
            )
        with needs_extra("onnx", what=_WHAT):
            import onnxruntime
        provider = _PROVIDERS.get(self.device.type)
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise ValueError(
                f"This ONNX Runtime cannot run on {self.device}: it has {', '.join(available)}. Install "
                "onnxruntime-gpu, or use the CPU."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.settings.spinning)))
        options.log_severity_level = 3  # errors only
        graph = self._graph(options)
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=[provider])
        except Exception as error:
            raise self._unreadable(error) from error
        return "f32"

    def _graph(self, options: Any) -> str | bytes:
        """What a session with these options opens: a path, or a message of ONNX."""
        return str(self.path)

    def _declared(self) -> tuple[dict[str, Declared], dict[str, Declared]]:
        # ONNX Runtime itself refuses arrays of a wrong type.
        inputs, outputs = (
            {one.name: Declared(tuple(one.shape), _DTYPES.get(one.type, np.float32)) for one in ports}
            for ports in (self._session.get_inputs(), self._session.get_outputs())
        )
        return inputs, outputs

    def _run(self, feeds: Mapping[str, Any]) -> Any:
        return self._session.run([*self._outputs], feeds)

    def _model(self) -> Any:
        with needs_extra("onnx", what=_WHAT):
            import onnx
        try:
            return onnx.load(str(self.path), load_external_data=False)
        except Exception as error:  # those of protobuf
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> ValueError:
        return ValueError(f"{self.path} is not an ONNX file that ONNX Runtime can open. ({error})")


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor in a message of ONNX: in graphs in graphs, in functions, in the attributes of operators."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Sequence) else [value]:
                yield from _tensors(part)
