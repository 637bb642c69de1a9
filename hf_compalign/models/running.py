"""Load a model and its processor, and run it on the rows of a dataset."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor

from hf_compalign.data import LABEL_COLUMNS
from hf_compalign.models.devices import device_of, on_device
from hf_compalign.tasks import logits_of, task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Collator = Callable[[list[dict[str, Any]]], Mapping[str, Any]]


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


def known_inputs(model: "PreTrainedModel", batch: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs in a batch that the model knows, on its device; no labels, no other columns."""
    known = input_names(model)
    return on_device({name: value for name, value in batch.items() if name in known}, device_of(model))


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
    with torch.no_grad():
        return logits_of(model(**known_inputs(model, batch))).float()


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
