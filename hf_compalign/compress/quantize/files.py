"""Files of a model whose weights are torchao's or optimum-quanto's: safetensors, and what the config says of them.

The weights stand in a file of their own name: a plain `from_pretrained` finds none and says so, where it would fill
layers that it cannot read with new values.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import cached_file

from hf_compalign._files import atomic_path
from hf_compalign.compress.quantize.backends import flattened, take_small_weights_
from hf_compalign.compress.quantize.fake import quantized_layers
from hf_compalign.compress.quantize.prepared import convert_layers_, describe_quantization, prepare_, set_ranges_
from hf_compalign.compress.quantize.schemes import Quantization, quantization_of, scheme_of

FILE = "model_quantized.safetensors"
# The weights of an earlier save in the same folder, which from_pretrained would take for these.
_STALE = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")


def convert_(model: nn.Module) -> None:
    """Replace the float weights of a prepared model by small ones, which compute the same, and have it saved so.

    For ONNX Runtime's scheme nothing changes: its small weights are made by the export.

    Raises:
        ValueError: the model is not prepared, or not calibrated where it must be. It is then as it was.
    """
    record = quantization_of(model)
    if record is None or scheme_of(record.scheme).backend != "onnxruntime":
        convert_layers_(model)
        _save_small(model)


def requantize_(model: nn.Module, record: Quantization) -> None:
    """Quantise a float model that was just loaded as its config says; its layers have their names of the record.

    Raises:
        ValueError: the record does not fit the model.
    """
    prepare_(model, scheme_of(record.scheme), record.layers)
    if record.ranges:
        set_ranges_(model, record.ranges)


def _save_small(model: Any) -> None:
    # On the model itself and not its class: that stays the stock one, by which it is known.
    model.save_pretrained = partial(save_quantized, model)


def save_quantized(
    model: Any,
    save_directory: str | Path,
    *,
    is_main_process: bool = True,
    state_dict: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """What `save_pretrained` of a converted model does: the config, and the weights in `model_quantized.safetensors`.

    Args:
        model: the converted model.
        save_directory: a folder, made where there is none.
        is_main_process: whether to write anything.
        state_dict: that of the model, as the Trainer passes it; the model is asked for it in any case.
        **options: others of `save_pretrained`, refused unless they change nothing. All weights go into one file.

    Raises:
        ValueError: an option that does not go with quantised weights.
    """
    refused = sorted(name for name, value in options.items() if value and name not in ("max_shard_size", "token"))
    if refused:
        raise ValueError(
            f"save_pretrained of a model with quantised weights knows no {', '.join(refused)}. Leave it out; to "
            "publish the model, use its push_to_hub(repo_id)."
        )
    record = quantization_of(model)
    if record is None:
        raise ValueError(
            "The config of a model with quantised weights must say so, and config.compression['quantization'] is gone. "
            "Give the model its config back; load_compressed could not open it."
        )
    if not is_main_process:
        return
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, metadata = flattened(model, scheme_of(record.scheme))
    with atomic_path(folder / FILE) as temporary:
        save_file(_each_once(tensors), temporary, metadata=metadata | {"format": "pt"})
    for pattern in _STALE:
        for stale in folder.glob(pattern):
            stale.unlink()
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def _each_once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the further names of tied weights, which the model's class ties again."""
    seen: dict[tuple[int, torch.Size], str] = {}
    kept = {}
    for name, tensor in tensors.items():
        if seen.setdefault((tensor.data_ptr(), tensor.shape), name) == name or not tensor.numel():
            kept[name] = tensor.detach().cpu().contiguous()
    return kept


def load_quantized(cls: Any, where: str, config: Any, record: Quantization, options: Mapping[str, Any]) -> Any:
    """A converted model, every weight from its file.

    Args:
        cls: the class to build, whose layers have the saved widths.
        where: a folder or a model id on the Hub.
        config: that of the model.
        record: what it says of the quantisation.
        options: what says where the model is, and `attn_implementation`.

    Raises:
        ValueError: the file is missing, damaged, or not that of the config.
        ImportError: the library is not installed.
    """
    building = {name: value for name, value in options.items() if name == "attn_implementation"}
    try:
        tensors, metadata = _read(where, {name: value for name, value in options.items() if name not in building})
        # Building draws random numbers, which nobody will see.
        with torch.random.fork_rng(devices=[]):
            model = cls._from_config(config, **building)
        _fill_(model, record, tensors, metadata)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(
            f"The weights of {where!r} could not be read into {cls.__name__} quantised by {record.scheme}: "
            f"{FILE} is missing, damaged, or not that of its config. Copy or download the whole folder again. ({error})"
        ) from error
    _save_small(model)
    return model.eval()


def _read(where: str, options: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    path = cached_file(where, FILE, **options)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def _fill_(model: Any, record: Quantization, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Put the tensors of the file into a model that was just built."""
    scheme = scheme_of(record.scheme)
    if scheme.backend == "quanto":
        prepare_(model, scheme, record.layers)
    layers = {name: model.get_submodule(name) for name in record.layers}
    take_small_weights_(layers, scheme, tensors, metadata)
    small = {f"{name}.weight" for name in layers}
    own = model.state_dict(keep_vars=True)
    places = {name: tensor for name, tensor in own.items() if name in tensors}
    filled = {id(tensor) for tensor in places.values()}
    scales = ("input_scale", "output_scale")
    lacking = [
        name
        for name, tensor in own.items()
        if id(tensor) not in filled and not name.startswith(tuple(small)) and not name.endswith(scales)
    ]
    unknown = [name for name in tensors if name not in places]
    if lacking or unknown:
        raise ValueError(f"it lacks {lacking[:5]} and holds besides {unknown[:5]}")
    for name, place in places.items():
        if place.shape != tensors[name].shape:
            raise ValueError(f"{name} has the shape {list(tensors[name].shape)} instead of {list(place.shape)}")
        place.data = tensors[name]
    describe_quantization(model, record.scheme, converted=True)
    if tuple(quantized_layers(model)) != record.layers:
        raise ValueError("its layers are not those of the config")
