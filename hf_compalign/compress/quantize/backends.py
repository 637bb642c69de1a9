"""What torchao and optimum-quanto do: layers that round, layers with small weights, and those weights in files."""

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign._extras import needs_extra
from hf_compalign.compress.quantize.schemes import Scheme

logger = logging.getLogger(__name__)

# torchao's int4 weights have a scale for so many consecutive ones.
GROUP = 32


# ---- torchao ----


def _torchao() -> Any:
    return needs_extra("torchao", what="Quantisation by torchao")


def _torchao_config(scheme: Scheme) -> Any:
    with _torchao():
        from torchao.quantization import (
            Int8DynamicActivationIntxWeightConfig,
            IntxWeightOnlyConfig,
            PerAxis,
            PerGroup,
        )
    dtype, granularity = getattr(torch, scheme.weights), PerGroup(GROUP) if scheme.weights == "int4" else PerAxis(0)
    if scheme.activations is None:
        return IntxWeightOnlyConfig(weight_dtype=dtype, granularity=granularity)
    return Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=granularity)


def prepare_torchao_(layers: Mapping[str, Any], scheme: Scheme) -> None:
    """Turn linear layers into torchao's, which stay the same objects."""
    with _torchao():
        from torchao.quantization import quantize_
        from torchao.quantization.qat import QATConfig
    config = _torchao_config(scheme)
    for layer in layers.values():
        # torchao would put new layers in the place of these: one without memory says what they are made of.
        made = nn.Sequential(nn.Linear(layer.in_features, layer.out_features, device="meta"))
        quantize_(made, QATConfig(config, step="prepare"))
        layer.__class__ = type(made[0])
        layer.activation_fake_quantizer = made[0].activation_fake_quantizer
        layer.weight_fake_quantizer = made[0].weight_fake_quantizer


def restore_torchao_(layer: nn.Module) -> None:
    """Make one of torchao's layers a plain one again."""
    layer.__class__ = nn.Linear
    del layer.activation_fake_quantizer, layer.weight_fake_quantizer


def convert_torchao_(model: nn.Module, layers: Mapping[str, nn.Module], scheme: Scheme) -> None:
    """Give layers of a model that round their small weights."""
    with _torchao():
        from torchao.quantization import quantize_
    for layer in layers.values():
        restore_torchao_(layer)
    quantize_(model, _torchao_config(scheme), filter_fn=lambda module, name: name in layers)


# ---- optimum-quanto ----


def _quanto() -> Any:
    return needs_extra("optimum", what="Quantisation by optimum-quanto")


def prepare_quanto_(model: nn.Module, layers: Mapping[str, nn.Module], scheme: Scheme) -> None:
    """Put quanto's layers in the place of linear ones, with the same parameters."""
    with _quanto():
        from optimum.quanto import qfloat8, qint4, qint8
        from optimum.quanto.nn import quantize_module
    if scheme.weights == scheme.activations == "int8" and _int8_products_overflow():
        logger.warning(
            "On this CPU, which has no VNNI instructions, torch's products of int8 matrices overflow: the scheme %s "
            "computes wrong answers here. Use quanto-w8 or torchao-w8a8, or another CPU.",
            scheme.name,
        )
    weights = {"int8": qint8, "int4": qint4, "float8": qfloat8}[scheme.weights]
    for name, layer in layers.items():
        made = quantize_module(layer, weights=weights, activations=qint8 if scheme.calibrated else None)
        # What reads the outputs is mostly float: attention, activation functions, sums.
        made.disable_output_quantization()
        if scheme.weights != "int4":
            made.optimizer.optimize = partial(_usable_scale, made.optimizer.optimize)
        made.register_forward_hook(_make_gradients_contiguous)
        made.register_state_dict_post_hook(_leave_scales_out)
        made.__deepcopy__ = partial(_copied, made)
        _replace(model, name, made.train(layer.training))


def _int8_products_overflow() -> bool:
    """Whether quanto multiplies int8 numbers wrongly: some CPUs hold the sum of two products in 16 bits."""
    largest = torch.full((32, 32), 127, dtype=torch.int8)
    return bool((torch.ops.quanto.qbytes_mm(largest, largest, torch.ones(32, 1)) != 32 * 127**2).any())


def _usable_scale(optimize: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """quanto's scale for each row, or 1 where all weights of the row are 0: it would divide float8 ones by 0."""
    scale = optimize(*args, **kwargs)
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _make_gradients_contiguous(layer: nn.Module, args: Any, output: Tensor) -> None:
    """quanto's backward takes views of the gradient, which fail on one that attention has transposed."""
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient.contiguous())


def _leave_scales_out(layer: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A checkpoint of a model in training is that of the float model; the ranges are in its config."""
    if not layer.frozen:
        for name in ("input_scale", "output_scale"):
            state.pop(prefix + name, None)


def _copied(layer: Any, memo: dict[int, Any]) -> Any:
    """A deep copy of quanto's layer, whose small weights torch does not know how to copy."""
    if layer.frozen:
        weight = torch.ops.aten._to_copy(layer.weight.detach())
        memo[id(layer.weight)] = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    copied = memo[id(layer)] = object.__new__(type(layer))
    copied.__dict__.update(copy.deepcopy(layer.__dict__, memo))
    return copied


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def restore_quanto_(model: nn.Module, name: str) -> None:
    """Put a plain linear layer in the place of one of quanto's that rounds."""
    layer: Any = model.get_submodule(name)
    plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    plain.weight, plain.bias = layer.weight, layer.bias
    _replace(model, name, plain.train(layer.training))


def calibration() -> AbstractContextManager[None]:
    """A block in which quanto's layers learn the ranges of what they read."""
    with _quanto():
        from optimum.quanto import Calibration
    return Calibration(streamline=False)


def convert_quanto_(layers: Mapping[str, Any]) -> None:
    """Give quanto's layers that round their small weights."""
    for layer in layers.values():
        layer.freeze()
        layer.weight.requires_grad_(False)


# ---- small weights as plain tensors ----


def flattened(model: nn.Module, scheme: Scheme) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a converted model as safetensors can hold them, and what must be known besides."""
    if scheme.backend == "quanto":
        return dict(model.state_dict()), {}
    with _torchao():
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    tensors, metadata = flatten_tensor_state_dict(model.state_dict())
    return {name: _packed(tensor) if _is_int4(name, scheme) else tensor for name, tensor in tensors.items()}, metadata


def take_small_weights_(
    layers: Mapping[str, Any], scheme: Scheme, tensors: dict[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Give layers the small weights that `flattened` told, and take those out of the tensors.

    Args:
        layers: plain ones for torchao, prepared ones for quanto, by name.
        scheme: that of the model.
        tensors: by name; those of other layers stay.
        metadata: as `flattened` told.

    Raises:
        ValueError: something is missing.
    """
    if scheme.backend == "quanto":
        for name, layer in layers.items():
            own = [key for key in tensors if key.startswith(f"{name}.") and key != f"{name}.bias"]
            layer.load_state_dict({key.removeprefix(f"{name}."): tensors.pop(key) for key in own}, strict=False)
            if not layer.frozen:
                raise ValueError(f"The weights of {name} are not there.")
            layer.weight.requires_grad_(False)
        return
    with _torchao():
        from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict
    flat = {name: _unpacked(tensor) if _is_int4(name, scheme) else tensor for name, tensor in tensors.items()}
    whole, _ = unflatten_tensor_state_dict(flat, dict(metadata))
    for name, layer in layers.items():
        if not hasattr(whole.get(f"{name}.weight"), "__tensor_flatten__"):
            raise ValueError(f"The weights of {name} are not there.")
        layer.weight = nn.Parameter(whole[f"{name}.weight"], requires_grad=False)
        for key in [key for key in tensors if key.startswith(f"{name}._weight_")]:
            del tensors[key]


def _is_int4(name: str, scheme: Scheme) -> bool:
    """Whether torchao keeps numbers of four bits there, each in a byte."""
    return scheme.weights == "int4" and name.endswith("._weight_qdata")


def _packed(levels: Tensor) -> Tensor:
    """Two numbers of four bits, neighbours in a row, in each byte."""
    return (levels[:, 1::2] << 4) | (levels[:, ::2] & 15)


def _unpacked(packed: Tensor) -> Tensor:
    # Shifting to the right keeps the sign.
    return torch.stack([(packed << 4) >> 4, packed >> 4], dim=-1).flatten(1)
