"""Quantize a model at once, without training; and choose the layers."""

import copy
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_compalign.compress.calibration import calibration_batches
from hf_compalign.compress.quantize.correction import correct_
from hf_compalign.compress.quantize.fake import fake_of, quantized_layers
from hf_compalign.compress.quantize.files import convert_
from hf_compalign.compress.quantize.prepared import calibrate_, check_groups, prepare_, unprepare_
from hf_compalign.compress.quantize.schemes import Scheme, quantization_of, scheme_of
from hf_compalign.compress.record import QUANTIZATION, take_own_config, write_entry
from hf_compalign.compress.seen import Seen, seen_in
from hf_compalign.compress.select import Purpose, by_output, select_layers, sparsity_of
from hf_compalign.compress.sharding import in_shards
from hf_compalign.models import is_quantized, plain_tensors

logger = logging.getLogger(__name__)

# More zeros than this share are no accident.
_PRUNED = 0.05


@dataclass(frozen=True)
class QuantizationSummary:
    """What `quantize_` did.

    >>> print(QuantizationSummary("torchao-w8a8", ("encoder.0", "encoder.1"), ("classifier",), sizes_bytes=(800, 216)))
    scheme torchao-w8a8: 2 layers, 800 -> 216 bytes of weights (27.0%)
    left out: classifier

    Attributes:
        scheme: the name of the scheme.
        layers: the names of the quantized layers.
        left_out: the names of the other layers that the scheme could quantize.
        sizes_bytes: of the layers' weights in memory, before and after; for "onnxruntime-w8a8", after the export. A
            byte holds one int4 weight of torchao, in memory and in the file, and two of optimum-quanto.
    """

    scheme: str
    layers: tuple[str, ...]
    left_out: tuple[str, ...]
    sizes_bytes: tuple[int, int]

    def __str__(self) -> str:
        before, after = self.sizes_bytes
        size = f"{before:,} -> {after:,} bytes of weights ({after / before:.1%})"
        left_out = ", ".join(self.left_out) or "nothing"
        return f"scheme {self.scheme}: {len(self.layers)} layers, {size}\nleft out: {left_out}"


def quantize_(
    model: nn.Module,
    scheme: str,
    *,
    calibration: Iterable[Any] | None = None,
    reconstruct: bool = False,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> QuantizationSummary:
    """Quantize a model in place and without training. `save_pretrained` writes it, `load_compressed` opens it.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> model = BertForSequenceClassification(BertConfig(hidden_size=48, num_attention_heads=4, num_hidden_layers=1))
    >>> print(quantize_(model, "onnxruntime-w8a8", exclude=["*embeddings*"]))
    scheme onnxruntime-w8a8: 7 layers, ...
    left out: bert.embeddings.word_embeddings, ...

    Args:
        model: the float model; it stays in training or evaluation mode.
        scheme: one of `SCHEMES`. "onnxruntime-w8a8" computes what the ONNX file with dynamic INT8 will compute; its
            weights stay float until the export. Pruned weights stay 0, except with optimum-quanto's int4.
        calibration: for optimum-quanto's int8 activations and for reconstruct: batches as the model takes them, a
            DataLoader, or a `datasets.Dataset` of rows that can be stacked. A few hundred rows do.
        reconstruct: whether the linear layers are corrected one after the other, by least squares, so that each gives
            for rounded inputs, with rounded weights, what it gave before. Pruned weights stay 0.
        include: patterns of module names (as in `fnmatch`); by default all linear layers but those that make the
            logits. For "onnxruntime-w8a8", the embeddings too.
        exclude: patterns of module names to leave out after that.

    Raises:
        ValueError: an argument is out of range, or the scheme does not fit the model. The model is as it was.
        ImportError: the library is not installed; the message has the pip command.
    """
    chosen = scheme_of(scheme)
    if chosen.calibrated and calibration is None:
        raise ValueError(
            f"The scheme {scheme} fixes the ranges of the activations beforehand. Give calibration=, a DataLoader of "
            "some hundred rows."
        )
    check_calibration(chosen, has_data=calibration is not None, reconstruct=reconstruct)
    if reconstruct and calibration is None:
        raise ValueError(
            "reconstruct=True needs calibration data. Give calibration=, a DataLoader of some hundred rows."
        )
    layers = quantizable_layers(model, chosen, include=include, exclude=exclude)
    batches = [] if calibration is None else calibration_batches(calibration, model)
    before = sum(_n_bytes(layer.weight) for layer in _storing(layers))
    left_out = tuple(name for name in roundable_layers(model, chosen, seen_in(model)) if name not in layers)
    original = copy.deepcopy(model) if reconstruct else None
    prepare_(model, chosen, list(layers))
    try:
        if chosen.calibrated:
            calibrate_(model, batches)
        if original is not None:
            correct_(model, original, batches)
    except BaseException:
        unprepare_(model)
        raise
    convert_(model)
    after = sum(_size_after(layer, chosen) for layer in _storing(quantized_layers(model)))
    return QuantizationSummary(scheme, tuple(layers), left_out, (before, after))


def check_calibration(scheme: Scheme, *, has_data: bool, reconstruct: bool) -> None:
    """Refuse calibration data that nothing would look at."""
    if has_data and not scheme.calibrated and not reconstruct:
        raise ValueError(
            f"calibration= would be ignored: the scheme {scheme.name} needs no data. Leave it out, or give "
            "reconstruct=True."
        )


def quantizable_layers(
    model: nn.Module,
    scheme: Scheme,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> dict[str, nn.Module]:
    """The layers of a model that a scheme quantizes, by name; the patterns are those of `quantize_`.

    Raises:
        ValueError: a pattern matches no layer, nothing is left, the model is quantized already or in shards, or the
            scheme does not fit a layer's weights.
    """
    _check_model(model)
    simulated = scheme.backend == "onnxruntime"
    kind = "linear layer or embedding" if simulated else "linear layer"
    seen = seen_in(model)
    candidates = roundable_layers(model, scheme, seen)
    _check_class(model, {*candidates} - {*seen.head}, scheme)
    # The layers that make the logits are small, and their rounding errors are errors of the answer.
    purpose = Purpose("quantize", kind, seen.head, once=not simulated)
    layers = select_layers(model, candidates, purpose=purpose, include=include, exclude=exclude)
    check_groups(layers, scheme)
    for name, layer in layers.items():
        _check_weight(name, layer)
    if not scheme.keeps_zeros:
        _warn_of_zeros(layers, scheme)
    return layers


def check_not_converted(model: nn.Module, verb: str) -> None:
    """Refuse a model with a library's small weights where it would be "pruned" or "shrunk", as ``verb`` says."""
    if any(map(is_quantized, model.parameters())):
        raise ValueError(
            f"{_quantized_already(model)}, and its weights cannot be {verb} any more. Compress first and quantize "
            "last: load the float model."
        )


def drop_stale_record_(model: nn.Module) -> None:
    """Take the record of rounded layers out of the config of a float model.

    A plain from_pretrained opens a model that was saved with rounded layers as a float one, with the same config.
    `load_compressed` would round what was compressed as a float model.
    """
    record = quantization_of(model)
    if record is None or quantized_layers(model):
        return
    logger.warning(
        "The config of %s says that its layers are rounded (%s), but they are plain ones: load_compressed did not open "
        "the model. It goes on as a float model, and its config no longer says so.",
        type(model).__name__,
        record.scheme,
    )
    take_own_config(model)
    write_entry(model.config, QUANTIZATION, None)


def _quantized_already(model: nn.Module) -> str:
    record = quantization_of(model)
    return f"{type(model).__name__} is quantized already, by {'another tool' if record is None else record.scheme}"


def roundable_layers(model: nn.Module, scheme: Scheme, seen: Seen) -> dict[str, nn.Module]:
    """The layers that a scheme could quantize. A file for ONNX Runtime has none of those that do not run."""
    layers = dict(model.named_modules())
    if scheme.backend != "onnxruntime":
        # Exactly this class: subclasses may compute anything.
        return {name: layer for name, layer in layers.items() if type(layer) is nn.Linear}
    return {name: layer for name, layer in layers.items() if name in seen.run and fake_of(type(layer)) is not None}


def _check_class(model: nn.Module, names: Collection[str], scheme: Scheme) -> None:
    others = [name for name, layer in model.named_modules() if isinstance(layer, Conv1D)]
    if others and not names:
        raise ValueError(
            f"The scheme {scheme.name} rounds layers of the class nn.Linear, and those of {type(model).__name__} are "
            f"of the class Conv1D ({others[0]} and {len(others) - 1} more). Use the scheme onnxruntime-w8a8."
        )


def _storing(layers: Mapping[str, Any]) -> Collection[Any]:
    """The layers that have weights of their own, and the first of those that share them."""
    return {id(layer.weight): layer for layer in reversed([*layers.values()])}.values()


def _check_model(model: nn.Module) -> None:
    if not hasattr(model, "config"):
        raise ValueError(
            f"The model must be one of transformers, whose config says how it is quantized. Got {type(model).__name__}."
        )
    if quantized_layers(model):
        raise ValueError(
            f"{_quantized_already(model)}. Start from the float model; unprepare_(model) gives a model that is only "
            "prepared its float layers back."
        )
    if in_shards(model):
        raise ValueError(
            "The model is in shards (FSDP), and only whole layers can be quantized. Save it, load it in one process, "
            "and quantize it there."
        )


def _check_weight(name: str, layer: Any) -> None:
    if not layer.weight.is_floating_point():
        raise ValueError(
            f"The weights of {name} are {layer.weight.dtype}, not float: another tool has quantized them. Load the "
            "float model."
        )
    if not bool(layer.weight.isfinite().all()):
        raise ValueError(f"The weights of {name} hold NaN or infinite values. Load a sound checkpoint.")


def _warn_of_zeros(layers: Mapping[str, Any], scheme: Scheme) -> None:
    sparsity = sparsity_of({name: layer.weight for name, layer in layers.items()})
    if sparsity > _PRUNED:
        logger.warning(
            "%.0f%% of the weights are 0, and the scheme %s keeps no zeros: the pruning would be lost. The scheme %s "
            "keeps them.",
            100 * sparsity,
            scheme.name,
            scheme.name.replace("quanto", "torchao"),
        )


def _size_after(layer: Any, scheme: Scheme) -> int:
    """The bytes of a layer's weights; of one that simulates, after the export."""
    if scheme.backend != "onnxruntime":
        return _n_bytes(layer.weight)
    n_scales = 1 if isinstance(layer, nn.Embedding) else len(by_output(layer, layer.weight))
    return layer.weight.numel() + n_scales * torch.float32.itemsize


def _n_bytes(tensor: Any) -> int:
    """The bytes of a tensor, or of the tensors that it consists of."""
    return sum(part.numel() * part.element_size() for part in plain_tensors(tensor))
