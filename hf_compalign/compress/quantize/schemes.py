"""The schemes of quantization, and a model's record of its own."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from hf_compalign.compress.record import QUANTIZATION, entry_of


@dataclass(frozen=True)
class Scheme:
    """How a model is quantized.

    Attributes:
        name: one of `SCHEMES`.
        backend: "onnxruntime" simulates what ONNX Runtime's dynamic INT8 computes, "torchao" and "quanto"
            (optimum-quanto) hold the small weights themselves.
        weights: their type, "int8" or "int4".
        activations: the type of the layers' inputs: "int8", or None for float.
        calibrated: whether calibration data fix the ranges of the activations. Otherwise each batch has its own.
    """

    name: str
    backend: str
    weights: str
    activations: str | None
    calibrated: bool = False

    @property
    def keeps_zeros(self) -> bool:
        """Whether zeros stay zeros. optimum-quanto's int4 levels start at the lowest value, and none need be 0."""
        return (self.backend, self.weights) != ("quanto", "int4")


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("onnxruntime-w8a8", "onnxruntime", "int8", "int8"),
        Scheme("torchao-w8a8", "torchao", "int8", "int8"),
        Scheme("torchao-w4a8", "torchao", "int4", "int8"),
        Scheme("torchao-w8", "torchao", "int8", None),
        Scheme("torchao-w4", "torchao", "int4", None),
        Scheme("quanto-w8", "quanto", "int8", None),
        Scheme("quanto-w4", "quanto", "int4", None),
        Scheme("quanto-w8a8", "quanto", "int8", "int8", calibrated=True),
    )
}


def scheme_of(name: str) -> Scheme:
    """The scheme of a name.

    >>> scheme_of("torchao-w4a8").weights
    'int4'

    Raises:
        ValueError: there is none; says which there are.
    """
    if name not in SCHEMES:
        close = difflib.get_close_matches(str(name), SCHEMES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}. Got {name!r}.{hint}")
    return SCHEMES[name]


@dataclass(frozen=True)
class Quantization:
    """What a model's config says of its quantization.

    Attributes:
        scheme: its name.
        layers: the names of the quantized modules.
        ranges: layer -> the scale of its input, for calibrated schemes.
        converted: whether the weights are the library's small ones. Otherwise they are float, and rounded in use.
    """

    scheme: str
    layers: tuple[str, ...]
    ranges: Mapping[str, float] | None = None
    converted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        record = {"scheme": self.scheme, "layers": list(self.layers), "converted": self.converted}
        return record if self.ranges is None else record | {"ranges": dict(self.ranges)}

    @classmethod
    def from_dict(cls, values: Any) -> "Quantization":
        """The record that `to_dict` wrote.

        >>> Quantization.from_dict({"scheme": "quanto-w8", "layers": ["encoder.0"], "converted": True})
        Quantization(scheme='quanto-w8', layers=('encoder.0',), ranges=None, converted=True)

        Raises:
            ValueError: the values are no such record, or its scheme is unknown.
        """
        if not _is_record(values):
            raise ValueError(
                "'quantization' must hold 'scheme', 'layers' (names), 'converted' and, where activations are "
                f"calibrated, 'ranges'; it is {values!r:.200}"
            )
        scheme_of(values["scheme"])
        return cls(values["scheme"], tuple(values["layers"]), values.get("ranges"), values["converted"])


def quantization_of(model: nn.Module) -> Quantization | None:
    """What the model's config says of its quantization; None where it says nothing.

    Raises:
        ValueError: it says something that is malformed.
    """
    entry = entry_of(getattr(model, "config", None), QUANTIZATION)
    return None if entry is None else Quantization.from_dict(entry)


def _is_record(values: Any) -> bool:
    if not isinstance(values, dict):
        return False
    names, ranges = values.get("layers"), values.get("ranges", {})
    return (
        isinstance(values.get("scheme"), str)
        and isinstance(values.get("converted"), bool)
        and isinstance(names, list)
        and bool(names)
        and all(isinstance(name, str) for name in names)
        and isinstance(ranges, dict)
        and all(isinstance(one, float) and math.isfinite(one) and one > 0 for one in ranges.values())
    )
