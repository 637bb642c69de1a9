"""Open any model, and say where it came from."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from torch import nn

from hf_compalign._exported import FORMATS, format_of
from hf_compalign._files import CHOSEN_NAME
from hf_compalign.compress import model_fingerprint
from hf_compalign.models import (
    FileModel,
    OnnxModel,
    OpenVinoModel,
    RuntimeSettings,
    exported_files,
    follow_config,
    load_processor,
)
from hf_compalign.tasks import EXPORTED, TASKS, Task, task_of

__all__ = ["Model", "load_model", "model_fingerprint", "name_of", "open_file", "processor_of"]

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# A module, a folder written by save_pretrained, a Hub id, or an exported file.
Model: TypeAlias = Union["PreTrainedModel", str, Path]
_RUN_BY: dict[str, type[FileModel]] = {one.suffix: one for one in (OnnxModel, OpenVinoModel)}


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
    task_of(model, EXPORTED if isinstance(model, FileModel) else TASKS)  # files of other tasks are not written
    opened: PreTrainedModel = follow_config(model)
    return opened


def _opened(where: str | Path) -> Any:
    path = _file(Path(where))
    if path is None:
        from hf_compalign.compress import load_compressed

        if (Path(where) / CHOSEN_NAME).is_file():
            logger.warning(
                "%s is a folder of compress_model. This opens its weights of PyTorch; hf_compalign.load_chosen(folder) "
                "opens what was chosen.",
                where,
            )
        return load_compressed(where)
    return open_file(path)


def open_file(path: Path, *, config: Any = None, settings: RuntimeSettings | None = None) -> FileModel:
    """Open an exported file by its suffix, with this config or the one beside it; see `FileModel`."""
    return _RUN_BY[path.suffix](path, config=config, settings=settings)


def _file(path: Path) -> Path | None:
    """The ONNX or OpenVINO file that a path means; None for a model of PyTorch."""
    files = exported_files(path)
    if len(files) > 1:
        formats = {format_of(file) for file in files}
        kinds = " and ".join(one.name for one in FORMATS if one in formats)
        names = ", ".join(str(file.relative_to(path)) for file in files)
        raise ValueError(f"The folder {path} holds several {kinds} files: {names}. Give the path of one of them.")
    return files[0] if files else None


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
