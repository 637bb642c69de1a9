"""optimum-quanto: layers that round, layers with small weights, and those weights as plain tensors."""

import copy
import logging
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign._compat import make_gradients_contiguous
from hf_compalign._extras import needs_extra
from hf_compalign.compress.quantize.schemes import Scheme

logger = logging.getLogger(__name__)


def _quanto() -> AbstractContextManager[None]:
    return needs_extra("optimum", what="Quantization by optimum-quanto")


def prepare_(model: nn.Module, names: Iterable[str], scheme: Scheme) -> None:
    """Replace linear layers by quanto's rounding ones, with the same parameters."""
    with _quanto():
        from optimum.quanto import quantize_module
    if scheme.activations is not None and _int8_products_overflow():
        logger.warning(
            "This CPU has no VNNI instructions, so that torch's products of int8 matrices overflow: the scheme %s "
            "computes wrong answers here. Use quanto-w8 or torchao-w8a8, or another CPU.",
            scheme.name,
        )
    for name in names:
        layer = model.get_submodule(name)
        made = quantize_module(layer, weights=f"q{scheme.weights}", activations="qint8" if scheme.calibrated else None)
        # Mostly float operations read the outputs: attention, activation functions, sums.
        made.disable_output_quantization()
        make_gradients_contiguous(made)
        made.register_state_dict_post_hook(_leave_scales_out)
        made.__deepcopy__ = partial(_copied, made)
        model.set_submodule(name, made.train(layer.training))


def _int8_products_overflow() -> bool:
    """Whether quanto multiplies int8 numbers wrongly: some CPUs sum two products in 16 bits."""
    largest = torch.full((32, 32), 127, dtype=torch.int8)
    return bool((torch.ops.quanto.qbytes_mm(largest, largest, torch.ones(32, 1)) != 32 * 127**2).any())


def _leave_scales_out(layer: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Keep the ranges out of a training's checkpoint, which is that of the float model: the config has them."""
    if not layer.frozen:
        for name in ("input_scale", "output_scale"):
            state.pop(prefix + name, None)


def _copied(layer: Any, memo: dict[int, Any]) -> Any:
    """A deep copy of quanto's layer; torch cannot copy its small weights."""
    if layer.frozen:
        weight = layer.weight.detach().to(layer.weight.device, copy=True)
        memo[id(layer.weight)] = nn.Parameter(weight, requires_grad=False)
    copied = memo[id(layer)] = object.__new__(type(layer))
    copied.__dict__.update(copy.deepcopy(layer.__dict__, memo))
    return copied


def calibration() -> AbstractContextManager[None]:
    """A block in which quanto's layers learn the ranges of their inputs."""
    with _quanto():
        from optimum.quanto import Calibration
    return Calibration(streamline=False)


def rounded_weight(layer: Any) -> Tensor:
    """The weight that a rounding layer multiplies with."""
    return layer.qweight.dequantize().detach()


def rounded_input(layer: Any, values: Any) -> Tensor:
    """What a rounding layer makes of its inputs: they come rounded where the scheme rounds them."""
    return values if layer.activation_qtype is None else values.dequantize()


def convert_(layers: Iterable[Any]) -> None:
    """Replace the float weights of quanto's layers by small ones."""
    for layer in layers:
        layer.freeze()
        layer.weight.requires_grad_(False)


def take_small_weights_(layers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Fill quanto's rounding layers with the small weights of a file, both by name.

    Raises:
        ValueError: a layer's weights are missing.
    """
    for name, layer in layers.items():
        own = {key: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        layer.load_state_dict({key.removeprefix(f"{name}."): value for key, value in own.items()}, strict=False)
        if not layer.frozen:
            raise ValueError(f"it lacks the weights of {name}")
        layer.weight.requires_grad_(False)
