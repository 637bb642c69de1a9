"""Open any model, and identify it by a fingerprint."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from torch import nn

from hf_compalign._files import AUDIT_NAME, read_json
from hf_compalign._records import built
from hf_compalign.compress import QUANTIZATION, entry_of
from hf_compalign.data import DIGITS
from hf_compalign.models import (
    ONNX,
    OPENVINO,
    OnnxModel,
    OpenVinoModel,
    exported_files,
    load_processor,
    plain_tensors,
)
from hf_compalign.tasks import Task, task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A module, a folder written by save_pretrained, a Hub id, or an exported file.
Model: TypeAlias = Union["PreTrainedModel", str, Path]


def load_model(model: Model) -> "PreTrainedModel":
    """Open a model, from any place and in any form.

    Args:
        model: a module; the path of an .onnx file or an OpenVINO .xml file; a folder written by save_pretrained; a
            folder with one such file, in it or in its onnx/ or openvino/, and no weights of PyTorch; or a Hub id.

    Raises:
        ValueError: this is no model, there is none, there are several files, its head is not supported, or it lies in a
            folder of `save_artifact` with the audit of other weights.
    """
    if not isinstance(model, nn.Module):
        if not isinstance(model, str | Path):
            raise ValueError(f"A model is a module, a path or a Hub id. Got {type(model).__name__}.")
        model = _opened(model)
    task_of(model)
    return model


def _opened(where: str | Path) -> Any:
    path = _file(Path(where))
    if path is None:
        from hf_compalign.compress import load_compressed

        model = load_compressed(where)
        _check_artifact(Path(where), model)
        return model
    return OnnxModel(path) if path.suffix == ONNX else OpenVinoModel(path)


def _file(path: Path) -> Path | None:
    """The ONNX or OpenVINO file that a path means; None for a model of PyTorch."""
    files = exported_files(path)
    if len(files) > 1:
        suffixes = {file.suffix for file in files}
        kinds = " and ".join(kind for suffix, kind in ((ONNX, "ONNX"), (OPENVINO, "OpenVINO")) if suffix in suffixes)
        names = ", ".join(str(file.relative_to(path)) for file in files)
        raise ValueError(f"The folder {path} holds several {kinds} files: {names}. Give the path of one of them.")
    return files[0] if files else None


@dataclass(frozen=True)
class _Audited:
    model: str
    model_fingerprint: str


@dataclass(frozen=True)
class _AuditOf:
    """What an audit says of its candidate."""

    candidate: _Audited


def _check_artifact(folder: Path, model: "nn.Module") -> None:
    """Refuse a folder of save_artifact whose weights are no longer those of its audit; other audits say nothing."""
    path = folder / AUDIT_NAME
    if not path.is_file():
        return
    try:
        audited = built(_AuditOf, read_json(path)).candidate
    except ValueError:  # no audit; a push refuses it
        return
    if audited.model.endswith((".safetensors", ".safetensors.index.json")):
        check_belongs(path, audited.model_fingerprint, folder, model)


def check_belongs(audit: Path, audited: str, where: Path, model: "nn.Module") -> None:
    """Refuse an audit of other weights, as after a training into the folder."""
    found = model_fingerprint(model)
    if audited != found:
        raise ValueError(
            f"{audit} is of other weights ({audited or 'unknown'}) than those of {where} ({found}), which have changed "
            f"since. Write the folder again with save_artifact and overwrite=True; or remove {audit.name}, to audit "
            "them again."
        )


def model_fingerprint(model: "nn.Module") -> str:
    """16 hex digits of a model's state dict: names, shapes, dtypes and values; of an exported file, of its bytes.

    A quantization in the config counts too, since it changes the answers without changing the weights.
    """
    import torch

    own: str | None = getattr(model, "fingerprint", None)
    if own is not None:
        return own
    digest = hashlib.blake2b(digest_size=DIGITS // 2)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        for part in plain_tensors(tensor.detach()):
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    rounding = entry_of(getattr(model, "config", None), QUANTIZATION)
    if rounding is not None:
        digest.update(json.dumps(rounding, sort_keys=True).encode())
    return digest.hexdigest()


def name_of(model: Model) -> str:
    """Where a model is or came from; empty for one made in memory."""
    if isinstance(model, str | Path):
        return str(model)
    return str(getattr(model, "path", model.config.name_or_path))


def processor_of(model: Model, task: Task, *, default: Any = None) -> Any:
    """The tokenizer or image processor saved beside a model, or else the default."""
    try:
        return load_processor(name_of(model), task)
    except ValueError:
        return default
