"""Files of a model with small weights: what `save_pretrained` writes, and what `load_compressed` makes of it.

torchao's weights are saved as transformers' `TorchAoConfig` saves them, for any `from_pretrained`. optimum-quanto's
stand in a file of their own name: a plain `from_pretrained` finds none and says so, where it would fill layers that it
cannot read with new values.
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
from hf_compalign.compress.quantize.fake import quantized_layers
from hf_compalign.compress.quantize.prepared import convert_layers_, describe_quantization, prepare_, set_ranges_
from hf_compalign.compress.quantize.schemes import Quantization, quantization_of, scheme_of

# transformers' name for weights in another form than model.safetensors.
_VARIANT = "quanto"
FILE = f"model.{_VARIANT}.safetensors"
# The weights of an earlier save in the same folder, which from_pretrained would take for these.
_STALE = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
# `from_pretrained` of the model's class, with its config: of a folder, or of tensors -> every weight from there.
Read = Callable[..., PreTrainedModel]


def convert_(model: nn.Module) -> None:
    """Replace the float weights of a prepared model by small ones, which compute the same, and have it saved so.

    For ONNX Runtime's scheme nothing changes: its small weights are made by the export.

    Raises:
        ValueError: the model is not prepared, or not calibrated where it must be. It is then as it was.
    """
    record = quantization_of(model)
    if record is None or scheme_of(record.scheme).backend != "onnxruntime":
        convert_layers_(model)
        _have_saved(model)


def requantize_(model: nn.Module, record: Quantization) -> None:
    """Quantize a float model that was just loaded as its config says; its layers have their names of the record.

    Raises:
        ValueError: the record does not fit the model.
    """
    prepare_(model, scheme_of(record.scheme), record.layers)
    if record.ranges:
        set_ranges_(model, record.ranges)


def _have_saved(model: Any) -> None:
    """Have `save_pretrained` write the small weights."""
    record = quantization_of(model)
    if record is None:
        return
    scheme = scheme_of(record.scheme)
    if scheme.backend == "torchao":
        torchao.declare_(model, record.layers, scheme)
    else:
        # On the model itself and not its class: that stays the stock one, by which it is known.
        model.save_pretrained = partial(_save_quanto, model)


def _save_quanto(model: Any, save_directory: str | Path, *, is_main_process: bool = True, **options: Any) -> None:
    """What `save_pretrained` of the model's class does, into one file of another name than that of float weights.

    Raises:
        ValueError: `variant=`, or a config that does not say how the model is quantized.
    """
    if options.get("variant") is not None:
        raise ValueError(
            f"Weights of optimum-quanto are saved as {FILE}, and variant={options['variant']!r} asks for another name. "
            "Leave it out."
        )
    if quantization_of(model) is None:
        raise ValueError(
            "The config of a model with quantized weights must say so, and config.compression['quantization'] is gone. "
            "Give the model its config back; load_compressed could not open it."
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
    """A converted model, every weight from its files.

    Args:
        cls: the class to build, whose layers have the saved widths.
        where: a folder or a model id on the Hub.
        config: that of the model.
        record: what it says of the quantization.
        read: what makes a model of this class and this config.
        options: what says where the model is.

    Raises:
        OSError, RuntimeError, ValueError and others: the files are missing, damaged, or not those of the config.
        ImportError: the library is not installed.
    """
    scheme = scheme_of(record.scheme)
    if scheme.backend == "torchao":
        # By the record: a config from elsewhere may name any function of torchao, which transformers would call.
        config.quantization_config = torchao.hub_config(scheme).to_dict()
        model = read(where, **options)
    else:
        tensors = load_file(cached_file(where, FILE, **options))
        model = _read_quanto(cls, config, record, tensors, read)
    if tuple(quantized_layers(model)) != record.layers:
        raise ValueError("the quantized layers are not those of the config")
    _have_saved(model)
    return model


def _read_quanto(
    cls: Any, config: Any, record: Quantization, tensors: Mapping[str, Tensor], read: Read
) -> PreTrainedModel:
    """The float model with nothing in the quantized weights, and then these."""
    own = tuple(f"{name}.{part}" for name in record.layers for part in ("weight.", "input_scale", "output_scale"))
    with torch.device("meta"):
        built = cls(config)
    empty = {name: built.get_parameter(name) for name in (f"{layer}.weight" for layer in record.layers)}
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith(own)}
    model = read(None, state_dict=plain | {name: torch.zeros(one.shape) for name, one in empty.items()})
    prepare_(model, scheme_of(record.scheme), record.layers)
    quanto.take_small_weights_({name: model.get_submodule(name) for name in record.layers}, tensors)
    describe_quantization(model, record.scheme, converted=True)
    return model
