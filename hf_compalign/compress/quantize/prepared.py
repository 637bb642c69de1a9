"""A model between float and quantized: its layers round while they train.

Parameters stay the same objects with the same names, so a training goes on with its optimizer, and a checkpoint is
that of the float model.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hf_compalign.compress.calibration import Batch, run_model
from hf_compalign.compress.quantize import quanto, torchao
from hf_compalign.compress.quantize.fake import fake_of, fake_quantize_, put_plain_, quantized_layers, restore_
from hf_compalign.compress.quantize.schemes import Quantization, Scheme, quantization_of, scheme_of
from hf_compalign.compress.record import QUANTIZATION, take_own_config, write_entry
from hf_compalign.models import evaluating


def prepare_(model: nn.Module, scheme: Scheme, names: Sequence[str]) -> None:
    """Make layers of a model compute with rounded values from now on, while they train in float.

    Gradients reach the parameters, and the model's config says what was done. ``names`` are those of
    `quantizable_layers`. Calibrated schemes also need `calibrate_` or `set_ranges_`.

    Raises:
        ValueError: a layer is missing, or the scheme does not fit it. The model is then as it was.
        ImportError: the library is not installed.
    """
    modules = dict(model.named_modules())
    missing = [name for name in names if fake_of(type(modules.get(name))) is None]
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
    """Undo `prepare_`: plain layers with their float weights, and a config that says nothing.

    Raises:
        ValueError: the model is not prepared, or converted already.
    """
    scheme = scheme_of(prepared_record(model).scheme)
    for name, layer in quantized_layers(model).items():
        if scheme.backend == "onnxruntime":
            restore_(layer)
        else:
            put_plain_(model, name)
    write_entry(model.config, QUANTIZATION, None)


def check_groups(layers: Mapping[str, Any], scheme: Scheme) -> None:
    """Refuse layers whose rows the groups of int4 weights do not divide; the ValueError names the first."""
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


def prepared_record(model: nn.Module) -> Quantization:
    """The record of a prepared model.

    Raises:
        ValueError: the model is not prepared, or converted already.
    """
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


# ---- the ranges of the layers' inputs ----


def ranges_of(model: nn.Module) -> dict[str, float]:
    """Layer -> the scale of its input in a calibrated model; JSON keeps it to the bit."""
    record = quantization_of(model)
    return dict(record.ranges or {}) if record is not None else {}


def set_ranges_(model: nn.Module, ranges: Mapping[str, float]) -> None:
    """Give the layers of a prepared model the scales from `ranges_of`.

    Raises:
        ValueError: they are not those of the model's layers.
    """
    record = prepared_record(model)
    layers: dict[str, Any] = quantized_layers(model)
    if not scheme_of(record.scheme).calibrated or not ranges or not set(ranges) <= set(layers):
        raise ValueError(
            f"The ranges are those of {len(ranges)} layers ({', '.join([*ranges][:3])}), and do not fit the "
            f"{len(layers)} layers that are quantized by {record.scheme}. Give what ranges_of(model) said."
        )
    for name, layer in layers.items():
        _set_scale(layer, ranges.get(name, 1.0))
    describe_quantization(model, record.scheme, converted=False)


def calibrate_(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Fix the ranges of the layers' inputs in a prepared model, and write them into its config.

    Raises:
        ValueError: the scheme has no fixed ranges, or a layer reads NaN or infinite values. The ranges then stay.
    """
    record = prepared_record(model)
    if not scheme_of(record.scheme).calibrated:
        raise ValueError(
            f"The scheme {record.scheme} has no ranges to calibrate: it looks at each batch, or rounds weights only."
        )
    layers: dict[str, Any] = quantized_layers(model)
    before = {name: layer.input_scale for name, layer in layers.items()}
    try:
        for layer in layers.values():
            _set_scale(layer, 1.0)
        with evaluating(model), torch.no_grad(), quanto.calibration():
            for batch in batches:
                run_model(model, batch)
        for name, layer in layers.items():
            if not layer.input_scale.isfinite():
                raise ValueError(
                    f"{name} reads NaN or infinite values on the calibration data. Check the data and the weights."
                )
            if layer.input_scale == 0:  # it reads only zeros, which every scale keeps
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
    # The scale 1 says that a layer was never run.
    ranges = {name: scale.item() for name, scale in scales.items() if scale is not None and scale.item() != 1}
    record = Quantization(scheme, tuple(layers), ranges if scheme_of(scheme).calibrated else None, converted)
    write_entry(model.config, QUANTIZATION, record.to_dict())
