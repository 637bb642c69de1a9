"""Quantize a model: which layers, at once without training, or prepared for a training."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_compalign.compress.calibration import Batch, calibration_batches, run_model
from hf_compalign.compress.quantize.fake import quantized_layers
from hf_compalign.compress.quantize.files import convert_
from hf_compalign.compress.quantize.prepared import (
    check_groups,
    observing,
    prepare_,
    unprepare_,
)
from hf_compalign.compress.quantize.schemes import Scheme, quantization_of, scheme_of
from hf_compalign.compress.record import QUANTIZATION, take_own_config, write_entry
from hf_compalign.compress.select import Purpose, select_layers, sparsity_of
from hf_compalign.compress.sharding import in_shards
from hf_compalign.models import evaluating, is_quantized, plain_tensors

logger = logging.getLogger(__name__)

# More zeros than this share are no accident.
_PRUNED = 0.05
# The layers that make the logits: small, and every rounding error of theirs is one of the answer.
LOGITS = (
    "classifier",
    "classifier.out_proj",
    "classifier.linear_out",
    "cls_classifier",
    "distillation_classifier",
    "score",
    "logits_proj",
    "qa_outputs",
)


@dataclass(frozen=True)
class QuantizationSummary:
    """What `quantize_` did.

    >>> print(QuantizationSummary("torchao-w8a8", ("encoder.0", "encoder.1"), ("classifier",), sizes_bytes=(800, 216)))
    scheme torchao-w8a8: 2 layers, 800 -> 216 bytes of weights (27.0%)
    left out: classifier

    Attributes:
        scheme: the name of the scheme.
        layers: the names of the layers that are quantized.
        left_out: the names of the other layers that could be.
        sizes_bytes: of the weights of the layers in memory, before and after; for the scheme that simulates, after the
            export. torchao holds an int4 weight in a byte, in memory as in the file; optimum-quanto two.
    """

    scheme: str
    layers: tuple[str, ...]
    left_out: tuple[str, ...]
    sizes_bytes: tuple[int, int]

    def __str__(self) -> str:
        before, after = self.sizes_bytes
        size = f"{before:,} -> {after:,} bytes of weights ({after / before:.1%})"
        title = f"scheme {self.scheme}: {len(self.layers)} layers, {size}"
        return "\n".join([title, f"left out: {', '.join(self.left_out) or 'nothing'}"])


def quantize_(
    model: nn.Module,
    scheme: str,
    *,
    calibration: Iterable[Any] | None = None,
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
        scheme: one of `SCHEMES`. "onnxruntime-w8a8" computes what the ONNX file will compute after the export with
            dynamic INT8; its weights stay float until then. Pruned weights stay 0, but for the int4 of optimum-quanto.
        calibration: for the schemes of optimum-quanto with int8 activations: batches as the model takes them, a
            DataLoader, or a `datasets.Dataset` of rows that can be stacked. A few hundred rows do.
        include: patterns of module names (as in `fnmatch`); by default all linear layers but the last one, which makes
            the logits. For "onnxruntime-w8a8", the embeddings too.
        exclude: patterns of module names to leave out.

    Raises:
        ValueError: an argument out of range, with what is allowed; a model that cannot be quantized so. The model is
            as it was.
        ImportError: the library is not installed; says the pip command.
    """
    chosen = scheme_of(scheme)
    if chosen.calibrated and calibration is None:
        raise ValueError(
            f"The scheme {scheme} fixes the ranges of the activations beforehand. Give calibration=, a DataLoader of "
            "some hundred rows."
        )
    if calibration is not None and not chosen.calibrated:
        raise ValueError(f"calibration= would be ignored: the scheme {scheme} needs no data. Leave it out.")
    layers = quantizable_layers(model, chosen, include=include, exclude=exclude)
    batches = [] if calibration is None else calibration_batches(calibration, model)
    before = sum(_n_bytes(layer.weight) for layer in layers.values())
    left_out = tuple(name for name in _candidates(model, chosen) if name not in layers)
    prepare_(model, chosen, list(layers))
    if chosen.calibrated:
        try:
            calibrate_(model, batches)
        except BaseException:
            unprepare_(model)
            raise
    convert_(model)
    after = sum(_size_after(layer, chosen) for layer in quantized_layers(model).values())
    return QuantizationSummary(scheme, tuple(layers), left_out, (before, after))


def calibrate_(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Fix the ranges of what the layers of a prepared model read, from batches as it takes them.

    Raises:
        ValueError: the scheme has no fixed ranges, or the values are NaN or infinite. The ranges are then as they were.
    """
    with evaluating(model), torch.no_grad(), observing(model):
        for batch in batches:
            run_model(model, batch)


def quantizable_layers(
    model: nn.Module,
    scheme: Scheme,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> dict[str, nn.Module]:
    """The layers of a model that a scheme quantizes, by name.

    Args:
        model: the float model, not wrapped.
        scheme: one of `SCHEMES`.
        include: patterns of module names (as in `fnmatch`); None takes every linear layer but the last one, which makes
            the logits; for ONNX Runtime the embeddings too.
        exclude: patterns of module names to leave out after that.

    Raises:
        ValueError: a pattern matches no layer, nothing is left, the model is quantized already or in shards, or a
            layer's weights cannot be quantized so.
    """
    _check_model(model)
    kind = "linear layer or embedding" if scheme.backend == "onnxruntime" else "linear layer"
    purpose = Purpose("quantize", kind, LOGITS)
    layers = select_layers(model, _candidates(model, scheme), purpose=purpose, include=include, exclude=exclude)
    check_groups(layers, scheme)
    for name, layer in layers.items():
        _check_weight(name, layer)
    if not scheme.keeps_zeros:
        _warn_of_zeros(layers, scheme)
    return layers


def check_not_converted(model: nn.Module, verb: str) -> None:
    """Refuse a model with a library's small weights, where weights are to be changed; a prepared one has float ones.

    Args:
        model: to be changed.
        verb: what is to be done to it: "pruned" or "shrunk".

    Raises:
        ValueError: the model is converted already.
    """
    if any(map(is_quantized, model.parameters())):
        raise ValueError(
            f"{_quantized_already(model)}, and its weights cannot be {verb} any more. Compress first and quantize "
            "last: load the float model."
        )


def drop_stale_record_(model: nn.Module) -> None:
    """Have the config of a float model no longer say that it is rounded; that of a quantized one stays.

    A plain from_pretrained opens a model that was saved with rounded layers as a float one, and its config with it.
    What is compressed as a float model would be rounded when `load_compressed` opens it.
    """
    record = quantization_of(model)
    if record is None or quantized_layers(model):
        return
    logger.warning(
        "The config of %s says that its layers are rounded (%s), and they are plain ones: a model that load_compressed "
        "did not open. It goes on as a float model, and its config no longer says so.",
        type(model).__name__,
        record.scheme,
    )
    take_own_config(model)
    write_entry(model.config, QUANTIZATION, None)


def _quantized_already(model: nn.Module) -> str:
    record = quantization_of(model)
    return f"{type(model).__name__} is quantized already, by {'another tool' if record is None else record.scheme}"


def _candidates(model: nn.Module, scheme: Scheme) -> dict[str, nn.Module]:
    """Exactly these classes: what others compute is not known."""
    kinds = (nn.Linear, nn.Embedding) if scheme.backend == "onnxruntime" else (nn.Linear,)
    return {name: module for name, module in model.named_modules() if type(module) in kinds}


def _check_model(model: nn.Module) -> None:
    if not hasattr(model, "config"):
        raise ValueError(
            f"The model must be one of transformers, whose config says how it is quantized. Got {type(model).__name__}."
        )
    if quantized_layers(model):
        raise ValueError(
            f"{_quantized_already(model)}. Start from the float model; one that is prepared only gives its float "
            "layers back by unprepare_(model)."
        )
    if in_shards(model):
        raise ValueError(
            "The model is in shards (FSDP), and its layers can be quantized only where they are whole. Save it, load "
            "it in one process, and quantize it there."
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
            "%.0f%% of the weights are 0, and the scheme %s keeps no zeros: the pruning would be lost. The scheme "
            "torchao-%s keeps them.",
            100 * sparsity,
            scheme.name,
            scheme.name.partition("-")[2],
        )


# ---- sizes ----


def _size_after(layer: Any, scheme: Scheme) -> int:
    if scheme.backend != "onnxruntime":
        return _n_bytes(layer.weight)
    n_scales = len(layer.weight) if isinstance(layer, nn.Linear) else 1
    return layer.weight.numel() + n_scales * torch.float32.itemsize


def _n_bytes(tensor: Any) -> int:
    """Of what a tensor holds, or of the tensors that it is made of."""
    return sum(part.numel() * part.element_size() for part in plain_tensors(tensor))
