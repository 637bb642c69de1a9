"""Run a model on batches of rows."""

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor

from hf_compalign.data import LABEL_COLUMNS, check_filled, check_rows, naming_rows
from hf_compalign.models.devices import device_of, on_device
from hf_compalign.models.pooling import IDS, windows_of
from hf_compalign.models.tokens import check_tokens, explaining_tokens
from hf_compalign.tasks import POSITION_COLUMNS, logits_of, task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Collator = Callable[[list[dict[str, Any]]], Mapping[str, Any]]
"""Rows -> a batch of tensors, as a Trainer's data_collator."""


def without_adapters(model: Any) -> Any:
    """The model that PEFT has wrapped, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def input_names(model: "PreTrainedModel") -> tuple[str, ...]:
    """The arguments of the model's forward without labels, or the inputs that a file declares."""
    declared: tuple[str, ...] | None = getattr(model, "input_names", None)
    if declared is not None:
        return declared
    return _input_names(type(without_adapters(model)).forward)


@cache
def _input_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    left_out = ("self", *LABEL_COLUMNS, *POSITION_COLUMNS)
    return tuple(name for name in inspect.signature(forward).parameters if name not in left_out)


def known_inputs(model: "PreTrainedModel", batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch's inputs that the model knows, on its device, without labels and other columns.

    Images and sounds for a model of 16 bits are of its dtype, which not every architecture sees to by itself.
    """
    known = input_names(model)
    inputs = on_device({name: value for name, value in batch.items() if name in known}, device_of(model))
    own = getattr(model, "dtype", None)
    if own in (torch.bfloat16, torch.float16):
        floats = {name: one for name, one in inputs.items() if isinstance(one, Tensor) and one.is_floating_point()}
        inputs |= {name: one.to(own) for name, one in floats.items()}
    return inputs


def default_collator(processing_class: Any = None, *, choices: bool = False) -> Collator:
    """As in the Trainer: padded by a tokenizer or feature extractor, else stacked; ``choices``: several texts a row."""
    if choices:
        return _choices_collator(default_collator(processing_class))
    from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, SequenceFeatureExtractor

    of_texts = isinstance(processing_class, PreTrainedTokenizerBase) and processing_class.pad_token is not None
    if of_texts or isinstance(processing_class, SequenceFeatureExtractor):
        return DataCollatorWithPadding(processing_class)
    return _stack


def _choices_collator(collate: Collator) -> Collator:
    """The collator for rows with several texts each, one for each choice, from one for single texts."""

    def collated(rows: list[dict[str, Any]]) -> Mapping[str, Any]:
        sizes = {len(next(iter(row.values()))) for row in rows}
        if len(sizes) > 1:
            raise ValueError(
                f"The rows of a batch must have as many choices each. Got {min(sizes)} and {max(sizes)}. Give all "
                "questions the same number, or a data_collator= that fills them up."
            )
        n_choices = sizes.pop()
        texts = [{name: row[name][place] for name in row} for row in rows for place in range(n_choices)]
        return {name: values.reshape(len(rows), n_choices, -1) for name, values in collate(texts).items()}

    return collated


def _stack(rows: list[dict[str, Any]]) -> Mapping[str, Any]:
    from transformers import default_data_collator

    try:
        return default_data_collator(rows)
    except ValueError as error:
        raise ValueError(
            "The rows cannot be stacked into a batch, since they differ in length or shape. Pass processing_class=, "
            "the tokenizer that pads them (with a pad_token, such as tokenizer.pad_token = tokenizer.eos_token), or a "
            f"data_collator=. ({error})"
        ) from error


def forward_logits(model: "PreTrainedModel", batch: Mapping[str, Any]) -> Tensor:
    """Logits [..., C] in float32 for a batch, without gradients and in the model's present mode."""
    return logits_of(forward(model, batch)).float()


def forward(model: "PreTrainedModel", batch: Mapping[str, Any], **options: Any) -> Any:
    """What the model returns for a batch and its own options, without gradients and in its present mode."""
    inputs = known_inputs(model, batch)
    with torch.no_grad(), explaining_tokens(model, inputs):
        return model(**inputs, **options)


def check_texts_of_rows(dataset: Dataset, model: "PreTrainedModel") -> None:
    """Refuse rows with several texts for a model that reads one; warn where one that reads windows gets whole texts.

    Raises:
        ValueError: the rows hold windows, and the model reads none.
    """
    feature = (dataset.features or {}).get(IDS)
    if feature is None or task_of(model).has_choices:
        return
    several, windows = hasattr(getattr(feature, "feature", None), "feature"), windows_of(model)
    if several and windows is None:
        raise ValueError(
            f"Each row holds several texts in {IDS!r}, such as windows, and {type(model).__name__} reads one. Call "
            "read_in_windows(model, stride=...), or tokenize without windows."
        )
    if windows is not None and not several:
        logger.warning(
            "The model reads texts in %s, and each of these rows holds one text, as it is. Cut texts into windows with "
            "hf_compalign.data.tokenized_windows.",
            windows,
        )


def check_prepared(dataset: Dataset, model: "PreTrainedModel") -> None:
    """Raise a ValueError if a dataset is empty, lacks the model's inputs, or has a row that the model cannot take."""
    check_rows(dataset)
    needed = task_of(model).model_input
    with naming_rows(dataset):
        columns = list(dataset[0])
    if needed not in columns:
        raise ValueError(
            f"The dataset must hold the model's inputs. Got the columns {', '.join(columns)}; "
            f"{type(model).__name__} needs {needed!r}. Tokenize the texts, or turn the images or sounds into its "
            "inputs, first."
        )
    if dataset.format["type"] != "custom":
        check_texts_of_rows(dataset, model)
        check_filled(dataset, needed)
        check_tokens(dataset, model)
