"""The card of a model that ships, and what was done to the model: tags, and the relation to the base model."""

from dataclasses import replace
from pathlib import Path

from huggingface_hub import ModelCard
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_compalign.compress import QUANTIZATION, SHRINK, entry_of
from hf_compalign.compress.quantize import quantization_of, scheme_of
from hf_compalign.measure.audit import Audit
from hf_compalign.models import is_quantized
from hf_compalign.report.card import CardDetails, write_card

_PRUNED_SHARE = 0.05  # training leaves fewer zeros by chance
_PRUNED_SHARE_IN_INT4 = 0.25  # 4 bits alone round some 14 % of the weights of a layer to zero
_INT8 = {"int8", "uint8", "quantized"}


def write_model_card(folder: str | Path, audit: Audit, *, details: CardDetails) -> ModelCard:
    """Write README.md into the folder of a compressed model; it is whole or not there.

    Args:
        folder: where `save_pretrained` wrote the compressed model. The card says how to load what its config records.
        audit: of the original (reference) and the compressed model (candidate).
        details: what the audit does not know.

    Returns:
        The card, whose own `push_to_hub` pushes it.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the details hold latencies but no footprints, or name a report that is not in the folder.
    """
    path = Path(folder) / "config.json"
    config = PreTrainedConfig.from_json_file(path) if path.is_file() else None
    scheme = (entry_of(config, QUANTIZATION) or {}).get("scheme")
    return write_card(folder, audit, details=details, scheme=scheme, shrunk=entry_of(config, SHRINK) is not None)


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
    found = next(one.audit for one in card.files.values() if one.audit is not None)
    unchanged = found.reference.model_fingerprint == found.candidate.model_fingerprint  # only the ONNX files differ
    only_quantized = not pruned and (quantization or (int8_files and unchanged))
    return replace(
        card,
        tags=[*card.tags, *(tag for tag, holds in done.items() if holds)],
        base_model_relation=card.base_model_relation or ("quantized" if only_quantized else "finetune"),
    )


def _zero_share(model: nn.Module) -> float:
    """The share of zeros in the weight matrices."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    values = (matrix.dequantize() if is_quantized(matrix) else matrix for matrix in matrices)
    zeros = sum(int((matrix == 0).sum()) for matrix in values)
    return zeros / max(sum(matrix.numel() for matrix in matrices), 1)
