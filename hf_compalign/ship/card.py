"""The card of a model that ships, and what was done to the model: tags, and the relation to the base model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_compalign._exported import FORMATS, ONNX, format_of
from hf_compalign._formats import percent
from hf_compalign.compress import QUANTIZATION, SHRINK, entry_of, prunable_layers, sparsity_of
from hf_compalign.compress.quantize import quantization_of, scheme_of
from hf_compalign.measure.audit import Audit
from hf_compalign.models import is_quantized, windows_in
from hf_compalign.report.card import CardDetails, write_card

# A layer with a larger share of zeros is pruned. Training leaves fewer by chance; 8 bits round some 2 % of the weights
# to zero, more in a layer with a few very large ones, and 4 bits some 14 %.
_PRUNED_SHARE = {"": 0.05, "int8": 0.1, "int4": 0.25}
_INT8 = {"int8", "uint8", "qint8", "quint8", "quantized"}


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
    shrunk, in_windows = entry_of(config, SHRINK) is not None, windows_in(config) is not None
    return write_card(folder, audit, details=details, scheme=scheme, shrunk=shrunk, in_windows=in_windows)


def with_what_was_done(card: CardDetails, model: PreTrainedModel) -> CardDetails:
    """Tags and the relation to the base model, by what the model and the files are."""
    quantization = quantization_of(model)
    weights = scheme_of(quantization.scheme).weights if quantization else ""
    formats = {name: format_of(name) for name in card.files}
    int8_files = [name for name in card.files if formats[name] and _INT8 & set(Path(name).stem.split("_"))]
    zeros = _zeros(model, least=_PRUNED_SHARE[weights])
    pruned = entry_of(model.config, SHRINK) is not None or bool(zeros)
    done = {
        "pruning": pruned,
        "quantization": quantization or int8_files,
        "int8": int8_files,
        weights: quantization,
        **{one.folder: one in formats.values() for one in FORMATS},
        "transformers.js": ONNX in formats.values(),
    }
    found = next(one.audit for one in card.files.values() if one.audit is not None)
    unchanged = found.reference.model_fingerprint == found.candidate.model_fingerprint  # only the exported files differ
    only_quantized = not pruned and (quantization or (int8_files and unchanged))
    return replace(
        card,
        tags=[*card.tags, *(tag for tag, holds in done.items() if holds)],
        recipe={**card.recipe, **zeros},
        base_model_relation=card.base_model_relation or ("quantized" if only_quantized else "finetune"),
    )


def _zeros(model: nn.Module, *, least: float) -> dict[str, dict[str, str]]:
    """What a recipe says of the layers that have a larger share of zeros than ``least``; nothing without any."""
    layers: dict[str, Any] = prunable_layers(model)
    weights = {id(layer.weight): layer.weight for layer in layers.values()}
    plain = {key: one.dequantize() if is_quantized(one) else one for key, one in weights.items()}
    pruned = {key: one for key, one in plain.items() if sparsity_of({key: one}) > least}
    if not pruned:
        return {}
    return {"Pruned weights": {"sparsity": percent(sparsity_of(pruned)), "layers": f"{len(pruned)} of {len(plain)}"}}
