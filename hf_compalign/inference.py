"""Load a model and its processor, and run it on the rows of a dataset."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from hf_compalign._compat import has_tokenizer
from hf_compalign.columns import LABEL_COLUMNS
from hf_compalign.tasks import Task, logits_of, task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Collator = Callable[[list[dict[str, Any]]], Mapping[str, Any]]


def load_model(model: "PreTrainedModel | str | Path") -> "PreTrainedModel":
    """A model as it is, or loaded from a local folder or the Hub, shrunk or not.

    Raises:
        ValueError: no model is found there, or its head is not supported.
    """
    if not isinstance(model, nn.Module):
        from hf_compalign.compress.loading import load_compressed

        model = load_compressed(model)
    task_of(model)
    return model


def load_processor(path: str | Path, task: Task) -> Any:
    """The tokenizer or the image processor that was saved beside a model.

    Raises:
        ValueError: there is none.
    """
    import transformers

    text = task.model_input == "input_ids"
    auto_class = transformers.AutoTokenizer if text else transformers.AutoImageProcessor
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


def input_names(model: "PreTrainedModel") -> tuple[str, ...]:
    """The arguments of the model's forward, without the labels."""
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
    device = next(model.parameters()).device
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
