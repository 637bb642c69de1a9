"""torchao: layers that round, layers with small weights, and what a config says of them."""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign._compat import forget_reading
from hf_compalign._extras import needs_extra
from hf_compalign.compress.quantize.fake import linear_like, put_
from hf_compalign.compress.quantize.schemes import Scheme

# So many consecutive int4 weights share a scale.
GROUP = 32


def _base_config(scheme: Scheme) -> Any:
    """What torchao calls the scheme."""
    with needs_extra("torchao", what="Quantization by torchao"):
        from torchao.quantization import Int8DynamicActivationIntxWeightConfig, IntxWeightOnlyConfig, PerAxis, PerGroup
    dtype, granularity = getattr(torch, scheme.weights), PerGroup(GROUP) if scheme.weights == "int4" else PerAxis(0)
    if scheme.activations is None:
        return IntxWeightOnlyConfig(weight_dtype=dtype, granularity=granularity)
    return Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=granularity)


def prepare_(model: nn.Module, names: Iterable[str], scheme: Scheme) -> None:
    """Replace linear layers by torchao's rounding ones, with the same parameters."""
    config = _base_config(scheme)
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    for name in names:
        made = nn.Sequential(linear_like(model.get_submodule(name)))
        quantize_(made, QATConfig(config, step="prepare"))
        put_(model, name, made[0])


def rounded_weight(layer: Any) -> Tensor:
    """The weight that a rounding layer multiplies with."""
    return layer.weight_fake_quantizer(layer.weight).detach()


def rounded_input(layer: Any, values: Tensor) -> Tensor:
    """What a rounding layer makes of its inputs."""
    return values if layer.activation_fake_quantizer is None else layer.activation_fake_quantizer(values)


def convert_(model: nn.Module, names: Collection[str], scheme: Scheme) -> None:
    """Give plain linear layers of a model small weights."""
    config = _base_config(scheme)
    from torchao.quantization import quantize_

    quantize_(model, config, filter_fn=lambda module, name: name in names)


def hub_config(scheme: Scheme, *, plain: Collection[str] = ()) -> Any:
    """What transformers writes into the config of a model with such weights; ``plain`` layers stay in float."""
    quant_type = _base_config(scheme)
    from transformers import TorchAoConfig

    return TorchAoConfig(quant_type, modules_to_not_convert=sorted(plain))


def declare_(model: Any, names: Collection[str], scheme: Scheme) -> None:
    """Make `save_pretrained` write a model that was just converted or read like transformers' own quantized ones."""
    from transformers.quantizers import AutoHfQuantizer

    if getattr(model, "hf_quantizer", None) is not None:
        # The Trainer refuses models that say is_quantized, even for evaluation.
        model.hf_quantizer.remove_quantization_config(model)
        forget_reading(model)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    model.config.quantization_config = hub_config(scheme, plain=linear - {*names})
    model.hf_quantizer = AutoHfQuantizer.from_config(model.config.quantization_config, pre_quantized=True)
