"""An OpenVINO file that answers like a model of transformers, through OpenVINO."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hf_compalign._extras import needs_extra
from hf_compalign.models.file import Declared, FileModel
from hf_compalign.models.weights import beside

_WHAT = "Running an OpenVINO file"
_SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
# Where a file says in which precision it is meant to be computed, as OpenVINO's own tools do with such options.
PRECISION_PLACE = ("runtime_options", "INFERENCE_PRECISION_HINT")
_FLOATS = ("f16", "bf16", "f32", "f64")
_QUANTIZED = ("i8", "u8")
# Operators that pass on the values of a constant.
_PASSING = ("Convert", "Reshape", "Transpose")
# NNCF's name for the factors that it moves from activations to weights.
_SMOOTHING = "nncf_smooth_quant"

logger = logging.getLogger(__name__)


class OpenVinoModel(FileModel):
    """A model in an OpenVINO file (.xml, with its weights in the .bin beside it), run on the CPU; see `FileModel`.

    What is not in INT8 is computed in the precision that `export_openvino` wrote into the file, and float32 for files
    that do not say, unless ``settings`` name another. By itself OpenVINO computes any file in bfloat16 on processors
    that can: where you deploy the audited file, set ``INFERENCE_PRECISION_HINT`` as here. On a processor that cannot
    compute so, float32 takes its place, and the log says so.
    """

    suffix = ".xml"
    runtime = "OpenVINO"
    package = "openvino"
    batch_dependent = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and the one beside it that holds its weights."""
        return self.path, beside(self.path, self.path.with_suffix(".bin").name)

    def count_parameters(self) -> tuple[int, int]:
        """As `FileModel.count_parameters`; the graph tells scales and zero points from weights."""
        graph = openvino_core().read_model(str(self.path))
        constants = [node for node in graph.get_ordered_ops() if node.get_type_name() == "Constant"]
        zero_points = {node.get_friendly_name(): _zero_point(node) for node in constants if _is_quantized(node)}
        scales = {name for node in constants if _is_quantized(node) for name in _scales(node)}
        n_all = n_nonzero = 0
        for node in constants:
            name = node.get_friendly_name()
            if name in zero_points or (_is_float(node) and name not in scales):
                values, zero_point = node.get_data(), zero_points.get(name)
                n_all += values.size
                n_nonzero += int(np.count_nonzero(values != (0 if zero_point is None else zero_point.get_data())))
        return n_all, n_nonzero

    def _open(self, n_threads: int) -> str:
        core = openvino_core()
        if self.device.type != "cpu":
            raise ValueError(f"OpenVINO files run on the CPU here. Got the device {self.device}. Use 'cpu'.")
        if self.settings.spinning:
            raise ValueError("OpenVINO has no setting for spinning threads. Leave spinning= out.")
        try:
            graph = core.read_model(str(self.path))
            precision = self._computable(graph, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
            settings = {**_SETTINGS, "INFERENCE_NUM_THREADS": n_threads, "INFERENCE_PRECISION_HINT": precision}
            self._compiled = core.compile_model(graph, "CPU", settings)
        except RuntimeError as error:
            raise ValueError(f"{self.path} is not a file that OpenVINO can open. ({error})") from error
        return precision

    def _computable(self, graph: Any, capabilities: Collection[str]) -> str:
        """The precision of the settings or of the file, or f32 where the processor cannot compute in that."""
        place = [*PRECISION_PLACE]
        said = str(graph.get_rt_info(place).value) if graph.has_rt_info(place) else "f32"
        wanted = self.settings.precision or said
        if wanted == "f16" and any(node.get_type_name() == "FakeQuantize" for node in graph.get_ops()):
            raise ValueError(
                f"{self.path} is in INT8, and OpenVINO computes INT8 with float16 a thousand times slower. Use "
                "RuntimeSettings(precision='bf16') or 'f32'."
            )
        if wanted == "f32" or wanted.upper() in capabilities:
            return wanted
        logger.warning(
            "This processor cannot compute in %s as %s asks (it can in %s), so OpenVINO computes it in f32: slower, "
            "and closer to the original.",
            wanted,
            self.path,
            ", ".join(capabilities),
        )
        return "f32"

    def _declared(self) -> tuple[dict[str, Declared], dict[str, Declared]]:
        return _ports(self._compiled.inputs), _ports(self._compiled.outputs)

    def _run(self, feeds: Mapping[str, Any]) -> Any:
        found, names = self._compiled(dict(feeds)), [*_ports(self._compiled.outputs)]
        return [found[names.index(name)] for name in self._outputs]


def computes_in(precision: str) -> bool:
    """Whether OpenVINO can compute in that precision on this processor."""
    return precision.upper() in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino_core() -> Any:
    """The one entrance to OpenVINO of this process, kept to its end.

    On processors with AMX each entrance sets up a stack for signals and gives it back when it goes. Of two that go in
    the order in which they came, the second gives back that of the first, which is gone: the next signal, as of a
    worker of a DataLoader that ends, then kills the process.
    """
    with needs_extra("openvino", what=_WHAT):
        import openvino
    return _kept(openvino.Core)


@cache
def _kept(make: Callable[[], Any]) -> Any:
    return make()


def _ports(ports: Iterable[Any]) -> dict[str, Declared]:
    found = {}
    for position, port in enumerate(ports):
        # Other tools leave outputs unnamed.
        name = port.get_any_name() if port.get_names() else f"output_{position}"
        shape = tuple(axis.get_length() if axis.is_static else None for axis in port.get_partial_shape())
        found[name] = Declared(shape, port.get_element_type().to_dtype())
    return found


def _next(node: Any) -> tuple[Any, int]:
    """The first operator that computes with a node's values, and the index of their input."""
    target = next(iter(node.output(0).get_target_inputs()))
    follower = target.get_node()
    return _next(follower) if follower.get_type_name() in _PASSING else (follower, target.get_index())


def _constant_at(node: Any, index: int) -> Any:
    """The constant behind that input."""
    node = node.input_value(index).get_node()
    return node if node.get_type_name() == "Constant" else _constant_at(node, 0)


def _is_quantized(constant: Any) -> bool:
    """Whether these are integers that a scale turns into weights."""
    if constant.get_output_element_type(0).get_type_name() not in _QUANTIZED or not constant.get_output_shape(0):
        return False
    follower, index = _next(constant)
    return follower.get_type_name() in ("Subtract", "Multiply") and index == 0


def _zero_point(constant: Any) -> Any:
    """The constant subtracted from quantized weights; None if they are symmetric."""
    follower, _ = _next(constant)
    return _constant_at(follower, 1) if follower.get_type_name() == "Subtract" else None


def _scales(constant: Any) -> list[str]:
    """The names of the constants that quantized weights are multiplied by."""
    follower, _ = _next(constant)
    if follower.get_type_name() == "Subtract":
        follower, _ = _next(follower)
    return [_constant_at(follower, 1).get_friendly_name()]


def _is_float(constant: Any) -> bool:
    """Whether these are float weights, and not ranges or factors that quantize activations."""
    if constant.get_output_element_type(0).get_type_name() not in _FLOATS or not constant.get_output_shape(0):
        return False
    follower, index = _next(constant)
    return not (follower.get_type_name() == "FakeQuantize" and index) and _SMOOTHING not in constant.get_friendly_name()
