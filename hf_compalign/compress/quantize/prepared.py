"""A model between float and quantized: its layers round while they train, then become small.

Parameters stay the same objects with the same names until they are converted, so that a training goes on with its
optimizer, and a checkpoint is that of the float model.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from hf_compalign.compress.quantize import quanto, torchao
from hf_compalign.compress.quantize.fake import FAKE_OF, fake_quantize_, put_plain_, quantized_layers, restore_
from hf_compalign.compress.quantize.schemes import Quantization, Scheme, quantization_of, scheme_of
from hf_compalign.compress.record import QUANTIZATION, take_own_config, write_entry


def prepare_(model: nn.Module, scheme: Scheme, names: Sequence[str]) -> None:
    """Have layers of a model compute with rounded values from now on, while they train in float.

    Parameters stay the same objects and keep their names, gradients reach them, and the model's config says what was
    done. Calibrated schemes need `set_ranges_` or a calibration besides.

    Args:
        model: the float model, not wrapped.
        scheme: how.
        names: of the layers, as from `quantizable_layers`.

    Raises:
        ValueError: one of the layers is not there, or cannot be quantized so. The model is then as it was.
        ImportError: the library is not installed.
    """
    modules = dict(model.named_modules())
    missing = [name for name in names if type(modules.get(name)) not in FAKE_OF]
    if missing:
        raise ValueError(
            f"{type(model).__name__} has no plain linear layer or embedding {missing[0]!r} ({len(missing)} of "
            f"{len(names)} names do not fit). Take the names from quantizable_layers of this very model."
        )
    layers = {name: modules[name] for name in names}
    check_groups(layers, scheme)
    take_own_config(model)
    if scheme.backend == "torchao":
        torchao.prepare_(model, names, scheme)
    elif scheme.backend == "quanto":
        quanto.prepare_(model, names, scheme)
    else:
        for layer in layers.values():
            fake_quantize_(layer)
    describe_quantization(model, scheme.name, converted=False)


def unprepare_(model: nn.Module) -> None:
    """Give a prepared model its plain layers back, with their float weights; its config says nothing any more.

    Raises:
        ValueError: the model is not prepared, or converted already.
    """
    scheme = scheme_of(_prepared(model).scheme)
    for name, layer in quantized_layers(model).items():
        if scheme.backend == "onnxruntime":
            restore_(layer)
        else:
            put_plain_(model, name)
    write_entry(model.config, QUANTIZATION, None)


def convert_layers_(model: nn.Module) -> None:
    """Replace the float weights of a prepared model by the library's small ones: it computes the same values.

    Raises:
        ValueError: the model is not prepared, or not calibrated where it must be. It is then as it was.
    """
    record = _prepared(model)
    scheme, layers = scheme_of(record.scheme), quantized_layers(model)
    check_groups(layers, scheme)
    if scheme.calibrated and not record.ranges:
        raise ValueError(
            f"The ranges of the activations are not known, and {scheme.name} has fixed ones. Call "
            "calibrate_(model, batches) first."
        )
    if scheme.backend == "torchao":
        for name in layers:
            put_plain_(model, name)
        torchao.convert_(model, layers.keys(), scheme)
    elif scheme.backend == "quanto":
        quanto.convert_(layers.values())
    describe_quantization(model, scheme.name, converted=True)


def check_groups(layers: Mapping[str, Any], scheme: Scheme) -> None:
    """Refuse layers whose rows the groups of int4 weights do not divide.

    Raises:
        ValueError: names the first of them.
    """
    for name, layer in layers.items():
        if scheme.backend == "torchao" and scheme.weights == "int4":
            group = torchao.GROUP
        else:  # optimum-quanto chose it when the layer was prepared
            group = getattr(layer, "weight_group_size", None) or 1
        n_inputs = layer.weight.shape[-1]
        if n_inputs % group:
            raise ValueError(
                f"The scheme {scheme.name} needs layers whose inputs are a multiple of {group}. {name} has {n_inputs}. "
                f"Leave it out with exclude={[name]}, or use a scheme with int8 weights."
            )


def _prepared(model: nn.Module) -> Quantization:
    record = quantization_of(model)
    if record is None or not quantized_layers(model):
        raise ValueError(
            f"{type(model).__name__} is not prepared for quantization. Call prepare_(model, scheme, names) first."
        )
    if record.converted:
        raise ValueError(
            f"{type(model).__name__} is converted to {record.scheme} already: its float weights are gone. Start again "
            "from the float model."
        )
    return record


# ---- the ranges of what the layers read ----


def ranges_of(model: nn.Module) -> dict[str, float]:
    """The scale of what each layer of a calibrated model reads, by its name; as JSON keeps it to the bit."""
    record = quantization_of(model)
    return dict(record.ranges or {}) if record is not None else {}


def set_ranges_(model: nn.Module, ranges: Mapping[str, float]) -> None:
    """Give the layers of a prepared model the scales that `ranges_of` told.

    Raises:
        ValueError: they are not those of the model's layers.
    """
    record = _prepared(model)
    layers: dict[str, Any] = quantized_layers(model)
    if not scheme_of(record.scheme).calibrated or not ranges or not set(ranges) <= set(layers):
        raise ValueError(
            f"The ranges are those of {len(ranges)} layers ({', '.join([*ranges][:3])}), and do not fit the "
            f"{len(layers)} layers that are quantized by {record.scheme}. Give what ranges_of(model) said."
        )
    for name, layer in layers.items():
        _set_scale(layer, ranges.get(name, 1.0))
    describe_quantization(model, record.scheme, converted=False)


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Have a prepared model learn its ranges from what it is run on in the block, and then write them down.

    Raises:
        ValueError: the scheme has no fixed ranges, or what a layer reads is NaN or infinite. The ranges are then as
            they were.
    """
    record = _prepared(model)
    if not scheme_of(record.scheme).calibrated:
        raise ValueError(
            f"The scheme {record.scheme} has no ranges to calibrate: it looks at each batch, or rounds weights only."
        )
    layers: dict[str, Any] = quantized_layers(model)
    before = {name: layer.input_scale for name, layer in layers.items()}
    try:
        for layer in layers.values():
            _set_scale(layer, 1.0)
        with quanto.calibration():
            yield
        for name, layer in layers.items():
            if not layer.input_scale.isfinite():
                raise ValueError(
                    f"What {name} reads is NaN or infinite on the calibration data. Check the data and the weights."
                )
            if layer.input_scale == 0:  # it reads zeros only, which every scale keeps
                _set_scale(layer, 1.0)
    except BaseException:
        for name, layer in layers.items():
            layer.input_scale = before[name]
        raise
    describe_quantization(model, record.scheme, converted=False)


def _set_scale(layer: Any, scale: float) -> None:
    layer.input_scale = layer.weight.new_tensor(scale)


def describe_quantization(model: nn.Module, scheme: str, *, converted: bool) -> None:
    """Make the model's config say which layers are quantized, and how."""
    layers = quantized_layers(model)
    scales = {name: getattr(layer, "input_scale", None) for name, layer in layers.items()}
    # An input that was never seen has the scale 1.
    ranges = {name: scale.item() for name, scale in scales.items() if scale is not None and scale.item() != 1}
    record = Quantization(scheme, tuple(layers), ranges if scheme_of(scheme).calibrated else None, converted)
    write_entry(model.config, QUANTIZATION, record.to_dict())
