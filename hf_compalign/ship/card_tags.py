"""What was done to a model that ships, as the card says it: tags, and the relation to the base model."""

from dataclasses import replace
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from hf_compalign.compress import SHRINK, entry_of
from hf_compalign.compress.quantize import quantization_of, scheme_of
from hf_compalign.models import is_quantized
from hf_compalign.report.card import CardDetails

# Matrices with more zeros than training leaves by chance were pruned.
_PRUNED_SHARE = 0.05
# 4 bits alone round some 14 % of the weights of a layer to zero.
_PRUNED_SHARE_IN_INT4 = 0.25
_INT8 = {"int8", "uint8", "quantized"}


def with_what_was_done(card: CardDetails, model: PreTrainedModel) -> CardDetails:
    """Tags and the relation to the base model, by what the model and the files are."""
    quantization = quantization_of(model)
    weights = scheme_of(quantization.scheme).weights if quantization else ""
    variants = [name for name in card.files if name.endswith(".onnx")]
    int8_files = [name for name in variants if _INT8 & set(Path(name).stem.split("_"))]
    least = _PRUNED_SHARE_IN_INT4 if weights == "int4" else _PRUNED_SHARE
    pruned = entry_of(model.config, SHRINK) is not None or _zero_share(model) > least
    done = {
        "pruning": pruned,
        "quantization": quantization or int8_files,
        "int8": int8_files,
        weights: quantization,
        "onnx": variants,
        "transformers.js": variants,
    }
    only_quantized = not pruned and (quantization or (int8_files and _is_unchanged(card)))
    return replace(
        card,
        tags=[*card.tags, *(tag for tag, holds in done.items() if holds)],
        base_model_relation=card.base_model_relation or ("quantized" if only_quantized else "finetune"),
    )


def _is_unchanged(card: CardDetails) -> bool:
    """Whether the weights are those of the original, so that only the ONNX files differ."""
    found = next(one.audit for one in card.files.values() if one.audit is not None)
    return found.reference.model_fingerprint == found.candidate.model_fingerprint


def _zero_share(model: nn.Module) -> float:
    """Of the entries of the weight matrices."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    values = (matrix.dequantize() if is_quantized(matrix) else matrix for matrix in matrices)
    zeros = sum(int((matrix == 0).sum()) for matrix in values)
    return zeros / max(sum(matrix.numel() for matrix in matrices), 1)
