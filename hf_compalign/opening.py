"""Any model from anywhere, and the fingerprint by which it is known again."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from torch import nn

from hf_compalign.compress import QUANTIZATION, entry_of
from hf_compalign.data import DIGITS
from hf_compalign.models import ONNX, OPENVINO, exported_files, load_processor, plain_tensors
from hf_compalign.tasks import Task, task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A module, a folder written by save_pretrained, a Hub id, or an exported file.
Model: TypeAlias = Union["PreTrainedModel", str, Path]


def load_model(model: Model) -> "PreTrainedModel":
    """A model as it is, or one from a local folder or the Hub, shrunk or not; or an ONNX or OpenVINO file as a model.

    Args:
        model: a module; the path of an .onnx file or an OpenVINO .xml file; a folder written by save_pretrained, or
            one with a single such file in it or in its onnx/ or openvino/ and no weights of PyTorch; or a Hub id.

    Raises:
        ValueError: no model is found there, there are several such files, or its head is not supported.
    """
    if not isinstance(model, nn.Module):
        model = _opened(model)
    task_of(model)
    return model


def _opened(where: str | Path) -> Any:
    path = _file(Path(where))
    if path is None:
        from hf_compalign.compress import load_compressed

        return load_compressed(where)
    if path.suffix == ONNX:
        from hf_compalign.models import OnnxModel

        return OnnxModel(path)
    from hf_compalign.models import OpenVinoModel

    return OpenVinoModel(path)


def _file(path: Path) -> Path | None:
    """The ONNX or OpenVINO file that a path means, or None where it means a model of PyTorch."""
    files = exported_files(path)
    if len(files) > 1:
        suffixes = {file.suffix for file in files}
        kinds = " and ".join(kind for suffix, kind in ((ONNX, "ONNX"), (OPENVINO, "OpenVINO")) if suffix in suffixes)
        names = ", ".join(str(file.relative_to(path)) for file in files)
        raise ValueError(f"The folder {path} holds several {kinds} files: {names}. Give the path of one of them.")
    return files[0] if files else None


def model_fingerprint(model: "nn.Module") -> str:
    """16 hex digits of a model's weights: names, shapes, dtypes and values of its state dict.

    What its config says of a quantisation counts too, since that changes the answers without changing the weights. A
    file that answers like a model has a ``fingerprint`` of its own, that of its bytes.
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
    """Where a model is or came from; empty for one that was just made."""
    if isinstance(model, str | Path):
        return str(model)
    return str(getattr(model, "path", model.config.name_or_path))


def processor_of(model: Model, task: Task, *, default: Any = None) -> Any:
    """The tokenizer or image processor that was saved beside a model, or else the default."""
    try:
        return load_processor(name_of(model), task)
    except ValueError:
        return default
