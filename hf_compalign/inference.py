"""Load a model and its processor, and run it on the rows of a dataset."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from hf_compalign._compat import has_tokenizer, image_processor_class
from hf_compalign.columns import LABEL_COLUMNS
from hf_compalign.tasks import Task, logits_of, task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ONNX = ".onnx"
OPENVINO = ".xml"
# Where a folder may hold files that answer like a model.
_FILES = (f"*{ONNX}", f"onnx/*{ONNX}", f"openvino_model*{OPENVINO}", f"openvino/openvino_model*{OPENVINO}")
# A folder that has one of these is opened as a model of PyTorch, whatever else is in it.
_TORCH_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")

Collator = Callable[[list[dict[str, Any]]], Mapping[str, Any]]


def load_model(model: "PreTrainedModel | str | Path") -> "PreTrainedModel":
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
        from hf_compalign.compress.loading import load_compressed

        return load_compressed(where)
    if path.suffix == ONNX:
        from hf_compalign.onnx_model import OnnxModel

        return OnnxModel(path)
    from hf_compalign.openvino_model import OpenVinoModel

    return OpenVinoModel(path)


def exported_files(path: Path, *, weights: bool = True) -> list[Path]:
    """The ONNX and OpenVINO files that a path means; none where it means a model of PyTorch.

    Args:
        path: a file or a folder.
        weights: whether weights of PyTorch make the folder that of a model of PyTorch, whatever else is in it.
    """
    if path.suffix in (ONNX, OPENVINO):
        return [path]
    if not path.is_dir() or (weights and any(next(path.glob(pattern), None) for pattern in _TORCH_WEIGHTS)):
        return []
    return [file for pattern in _FILES for file in sorted(path.glob(pattern))]


def _file(path: Path) -> Path | None:
    """The ONNX or OpenVINO file that a path means, or None where it means a model of PyTorch."""
    files = exported_files(path)
    if len(files) > 1:
        suffixes = {file.suffix for file in files}
        kinds = " and ".join(kind for suffix, kind in ((ONNX, "ONNX"), (OPENVINO, "OpenVINO")) if suffix in suffixes)
        names = ", ".join(str(file.relative_to(path)) for file in files)
        raise ValueError(f"The folder {path} holds several {kinds} files: {names}. Give the path of one of them.")
    return files[0] if files else None


def load_processor(path: str | Path, task: Task) -> Any:
    """The tokenizer or image processor that was saved beside a model; for a file like .onnx, perhaps one folder above.

    Raises:
        ValueError: there is none.
    """
    import transformers

    text = task.model_input == "input_ids"
    auto_class = transformers.AutoTokenizer if text else image_processor_class()
    files = exported_files(Path(path))
    if files:
        beside = files[0].absolute().parent
        path = beside if has_tokenizer(beside) or any(beside.glob("*processor_config.json")) else beside.parent
    try:
        if text and Path(path).is_dir() and not has_tokenizer(Path(path)):
            raise OSError("The folder holds no tokenizer file.")
        return auto_class.from_pretrained(str(path))
    except (OSError, ValueError, KeyError) as error:
        kind = "tokenizer" if text else "image processor"
        raise ValueError(
            f"No {kind} could be loaded from {str(path)!r}. Save it beside the model with save_pretrained, or pass "
            f"processing_class=. ({error})"
        ) from error


def default_device(model: "PreTrainedModel") -> str | None:
    """Where a loaded model had best run: on a GPU if there is one. None for a file, whose runtime may not know GPUs."""
    on_gpu = torch.cuda.is_available() and next(model.parameters(), None) is not None
    return "cuda" if on_gpu else None


def input_names(model: "PreTrainedModel") -> tuple[str, ...]:
    """The arguments of the model's forward, without the labels; or the inputs that a file declares."""
    declared: tuple[str, ...] | None = getattr(model, "input_names", None)
    if declared is not None:
        return declared
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return _input_names(type(base).forward)


@cache
def _input_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Asked for every batch, so worked out once for each class of models."""
    return tuple(name for name in inspect.signature(forward).parameters if name not in ("self", *LABEL_COLUMNS))


def default_collator(processing_class: Any = None) -> Collator:
    """What the Trainer would take: padding by the tokenizer where there is one, stacking otherwise."""
    from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

    return (
        DataCollatorWithPadding(processing_class) if isinstance(processing_class, PreTrainedTokenizerBase) else _stack
    )


def _stack(rows: list[dict[str, Any]]) -> Mapping[str, Any]:
    from transformers import default_data_collator

    try:
        return default_data_collator(rows)
    except ValueError as error:
        raise ValueError(
            "The rows cannot be stacked into a batch, since they differ in length or shape. Pass processing_class=, "
            f"the tokenizer that pads them, or a data_collator=. ({error})"
        ) from error


def forward_logits(model: "PreTrainedModel", batch: Mapping[str, Any]) -> Tensor:
    """Logits [..., C] in float32 of the batch's inputs that the model knows; no gradients.

    The batch is moved to the model's device; the model's mode (train or eval) is the caller's business.
    """
    parameter = next(model.parameters(), None)
    device = model.device if parameter is None else parameter.device
    known = input_names(model)
    inputs = {name: value.to(device) for name, value in batch.items() if name in known}
    with torch.no_grad():
        return logits_of(model(**inputs)).float()


def check_prepared(dataset: Dataset, model: "PreTrainedModel") -> None:
    """Refuse a dataset that is empty or does not hold the model's inputs yet.

    Raises:
        ValueError: what is missing, and what to do.
    """
    if len(dataset) == 0:
        raise ValueError("The dataset is empty. Give it at least one row.")
    needed = task_of(model).model_input
    columns = list(dataset[0])
    if needed not in columns:
        raise ValueError(
            f"The dataset must hold the model's inputs. Got the columns {', '.join(columns)}; "
            f"{type(model).__name__} needs {needed!r}. Tokenize the texts, or turn the images into pixel values, first."
        )
