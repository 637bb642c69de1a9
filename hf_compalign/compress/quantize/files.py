"""Small weights in files: `save_pretrained` writes them and `load_compressed` reads them.

torchao's weights are saved like those of transformers' `TorchAoConfig`, for any `from_pretrained`. optimum-quanto's
have a file name of their own. A plain `from_pretrained` then finds no weights and says so, instead of filling the
layers with new values.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from hf_compalign.compress.quantize import quanto, torchao
from hf_compalign.compress.quantize.fake import put_plain_, quantized_layers
from hf_compalign.compress.quantize.prepared import (
    check_groups,
    describe_quantization,
    prepare_,
    prepared_record,
    set_ranges_,
)
from hf_compalign.compress.quantize.schemes import Quantization, Scheme, quantization_of, scheme_of

# transformers' name for weights in another form than model.safetensors.
_VARIANT = "quanto"
FILE = f"model.{_VARIANT}.safetensors"
# Weights of an earlier save in the same folder: from_pretrained would take them for these.
_STALE = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
# `from_pretrained` with a class and a config: (folder, or None and a state_dict=) -> the model.
Read = Callable[..., PreTrainedModel]


def convert_(model: nn.Module) -> None:
    """Replace the float weights of a prepared model by small ones, which compute the same and are saved.

    For ONNX Runtime's scheme nothing changes: the export makes its small weights.

    Raises:
        ValueError: the model is not prepared, or its scheme needs a calibration first. The model is then as it was.
    """
    found = quantization_of(model)
    if found is not None and scheme_of(found.scheme).backend == "onnxruntime":
        return
    record, layers = prepared_record(model), quantized_layers(model)
    scheme = scheme_of(record.scheme)
    check_groups(layers, scheme)
    if scheme.calibrated and not record.ranges:
        raise ValueError(
            f"{scheme.name} has fixed ranges of the activations, and they are not known yet. Call "
            "calibrate_(model, batches) first."
        )
    if scheme.backend == "torchao":
        for name in layers:
            put_plain_(model, name)
        torchao.convert_(model, layers.keys(), scheme)
    else:
        quanto.convert_(layers.values())
    describe_quantization(model, scheme.name, converted=True)
    _save_small_weights(model, tuple(layers), scheme)


def requantize_(model: nn.Module, record: Quantization) -> None:
    """Prepare a float model as the record says; raise ValueError where the record does not fit."""
    prepare_(model, scheme_of(record.scheme), record.layers)
    if record.ranges:
        set_ranges_(model, record.ranges)


def _save_small_weights(model: Any, layers: tuple[str, ...], scheme: Scheme) -> None:
    """Make `save_pretrained` write the small weights."""
    if scheme.backend == "torchao":
        torchao.declare_(model, layers, scheme)
    else:
        # On the model itself: its class stays the stock one.
        model.save_pretrained = partial(_save_quanto, model)


def _save_quanto(model: Any, save_directory: str | Path, *, is_main_process: bool = True, **options: Any) -> None:
    """`save_pretrained` of the model's class, into one file whose name is not that of float weights.

    Raises:
        ValueError: `variant=` is given, or the config does not say how the model is quantized.
    """
    if options.get("variant") is not None:
        raise ValueError(
            f"optimum-quanto's weights are saved as {FILE}, and variant={options['variant']!r} asks for another name. "
            "Leave it out."
        )
    if quantization_of(model) is None:
        raise ValueError(
            "The config of a model with quantized weights must say so, and config.compression['quantization'] is gone. "
            "Give the model its config back, so that load_compressed can open it."
        )
    if not is_main_process:
        return
    decided = {"variant": _VARIANT, "max_shard_size": "1000TB", "save_original_format": False}
    type(model).save_pretrained(model, save_directory, **(options | decided))
    for pattern in _STALE:
        for stale in Path(save_directory).glob(pattern):
            stale.unlink()


def load_quantized(
    cls: Any, where: str, config: Any, record: Quantization, *, read: Read, options: Mapping[str, Any]
) -> PreTrainedModel:
    """A converted model of a class with the saved widths, every weight from its files.

    Args:
        cls: the class that is built.
        where: a folder or a model id on the Hub.
        config: of the model.
        record: of its quantization.
        read: `from_pretrained` of this class with this config.
        options: arguments of `from_pretrained` that say where the model is.

    Raises:
        OSError, RuntimeError, ValueError and others: the files are missing, damaged, or not those of the config.
        ImportError: the library is not installed.
    """
    scheme = scheme_of(record.scheme)
    if scheme.backend == "torchao":
        # From the record: the config may name any function of torchao, and transformers would call it.
        config.quantization_config = torchao.hub_config(scheme).to_dict()
        model = read(where, **options)
    else:
        tensors = load_file(cached_file(where, FILE, **options))
        model = _read_quanto(cls, config, record, tensors, read)
    if tuple(quantized_layers(model)) != record.layers:
        raise ValueError("the quantized layers are not those of the config")
    _save_small_weights(model, record.layers, scheme)
    return model


def _read_quanto(
    cls: Any, config: Any, record: Quantization, tensors: Mapping[str, Tensor], read: Read
) -> PreTrainedModel:
    """The float model with zeros for the quantized weights, and then with these."""
    own = tuple(f"{name}.{part}" for name in record.layers for part in ("weight.", "input_scale", "output_scale"))
    with torch.device("meta"):
        built = cls(config)
    empty = {f"{name}.weight": torch.zeros(built.get_submodule(name).weight.shape) for name in record.layers}
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith(own)}
    model = read(None, state_dict=plain | empty)
    prepare_(model, scheme_of(record.scheme), record.layers)
    quanto.take_small_weights_({name: model.get_submodule(name) for name in record.layers}, tensors)
    describe_quantization(model, record.scheme, converted=True)
    return model
