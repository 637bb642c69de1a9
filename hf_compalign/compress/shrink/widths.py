"""The widths of a shrunk model in its config: in the stock keys if they can say it, else in config.compression."""

import copy
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from hf_compalign.compress.quantize import describe_quantization, quantization_of, quantized_layers
from hf_compalign.compress.record import SHRINK, write_entry
from hf_compalign.compress.shrink.architectures import Layer, architecture_of, layers_of, part
from hf_compalign.models import random_state_kept

# Of a layer.
_NEURONS = attrgetter("n_neurons")
_HEADS = attrgetter("n_heads", "head_dim")


def describe_widths(model: nn.Module) -> None:
    """Make the model's config say its widths.

    The stock keys are set where the stock class honors them. If it then builds the very same layers, a plain
    from_pretrained opens the saved model; otherwise config.compression holds each layer's widths for load_compressed.
    """
    config: Any = model.config
    for settings, width in ((_neuron_settings(model), _NEURONS), (_head_settings(model), _HEADS)):
        if settings and _widths(_stock(model, settings), width) == _widths(model, width):
            for key, value in settings.items():
                setattr(config, key, value)
    stock = _stock(model, {})
    is_stock = stock is not None and _shapes(stock) == _shapes(model)
    write_entry(config, SHRINK, None if is_stock else _shrink(model))
    quantization = quantization_of(model) if quantized_layers(model) else None
    if quantization is not None:  # the layers' names may have changed
        describe_quantization(model, quantization.scheme, converted=quantization.converted)


def _shrink(model: nn.Module) -> dict[str, Any]:
    """What load_compressed needs to rebuild the layers."""
    layers = layers_of(model)
    described: list[dict[str, Any]] = [{"heads": layer.n_heads, "neurons": layer.n_neurons} for layer in layers]
    for layer, one in zip(layers, described, strict=True):
        module: Any = layer.module
        if hasattr(module, "bias_heads"):
            one["bias_heads"] = list(module.bias_heads)
    return {"cut": True, "layers": described}


# ---- what the stock class would build ----


def _widths(model: nn.Module | None, width: Callable[[Layer], Any]) -> list[Any] | None:
    return None if model is None else [width(layer) for layer in layers_of(model)]


def _neuron_settings(model: nn.Module) -> dict[str, Any]:
    """The stock key for the number of neurons, if all layers have equally many."""
    config: Any = model.config
    widths = {layer.n_neurons for layer in layers_of(model)}
    if len(widths) > 1:
        return {}
    key = architecture_of(model).width_key
    width = widths.pop()
    if key == "mlp_ratio":  # a gated feed-forward part takes two thirds of ratio times hidden size
        width = max(1, round(width / config.hidden_size * (1.5 if config.use_swiglu_ffn else 1)))
    return {} if getattr(config, key) == width else {key: width}


def _head_settings(model: nn.Module) -> dict[str, Any]:
    """The stock keys for the heads, if all layers have equally many; few classes honor them."""
    config: Any = model.config
    widths = {_HEADS(layer) for layer in layers_of(model)}
    if len(widths) > 1:
        return {}
    n_heads, head_dim = widths.pop()
    return {} if config.num_attention_heads == n_heads else {"num_attention_heads": n_heads, "head_dim": head_dim}


def _stock(model: nn.Module, settings: dict[str, Any]) -> nn.Module | None:
    """What the model's class builds from its config with these settings, without memory; None where it refuses."""
    config = copy.deepcopy(model.config)
    try:
        for key, value in settings.items():
            setattr(config, key, value)
        # Building draws random numbers, even without memory: a training that goes on must not notice.
        with torch.device("meta"), random_state_kept():
            return type(model)(config)
    except (ValueError, StrictDataclassError):
        return None


def _shapes(model: nn.Module) -> list[dict[str, torch.Size]]:
    """Shapes of the parameters of each layer, and of what the layers share."""
    shared = architecture_of(model).shared_bias
    table = part(getattr(model, "base_model", model), shared.table) if shared else None
    layers = [layer.module.state_dict() for layer in layers_of(model)]
    shapes = [{name: tensor.shape for name, tensor in one.items()} for one in layers]
    return [*shapes, {} if table is None else {"shared bias": table.shape}]
