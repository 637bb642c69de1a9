"""Which items a batch holds, and their labels, told from the batch alone: what is counted before a model answers.

Every function is (labels or None, the batch's inputs, the model's config) -> (labels [...], mask [...] of bool).
"""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_compalign.labels import IGNORED

Inputs = Mapping[str, Any]
Targets = Callable[[Tensor | None, Inputs, Any], tuple[Tensor, Tensor]]

logger = logging.getLogger(__name__)

POSITION_COLUMNS = ("start_positions", "end_positions")


def of_examples(labels: Tensor | None, inputs: Inputs, config: Any) -> tuple[Tensor, Tensor]:
    """One class per example: labels [B] (or [B, 1], as models allow) -> [B].

    Raises:
        ValueError: an example has several labels.
    """
    if labels is not None and labels.numel() != len(labels):
        raise ValueError(
            f"Each example has one class, and so one label. Got labels of shape {tuple(labels.shape)} in a batch. Of a "
            "model with several labels or numbers for each, set config.problem_type to 'multi_label_classification' or "
            "'regression'."
        )
    labels = _unknown(inputs) if labels is None else labels.reshape(len(labels))
    return labels, torch.ones_like(labels, dtype=torch.bool)


def of_questions(labels: Tensor | None, inputs: Inputs, config: Any) -> tuple[Tensor, Tensor]:
    """One question per example and label, [B, C] -> [B, C]: 0 or 1, what is nearer to a target in between.

    Raises:
        ValueError: a target is neither in [0, 1] nor -100.
    """
    if labels is None:
        labels = _unknown(inputs, config.num_labels)
    else:
        unknown = labels == IGNORED
        wrong = ~(unknown | ((labels >= 0) & (labels <= 1)))
        if wrong.any():
            raise ValueError(
                "Labels of several at once are 1 for each label that holds and 0 for each that does not, in between "
                f"where nobody is sure, and {IGNORED} where nobody knows. Got {labels[wrong][0].item():g} in a batch. "
                "Fix the labels, or what the data_collator makes of them."
            )
        labels = (labels >= 0.5).long().masked_fill(unknown, IGNORED)
    return labels, torch.ones_like(labels, dtype=torch.bool)


def of_values(labels: Tensor | None, inputs: Inputs, config: Any) -> tuple[Tensor, Tensor]:
    """The numbers of a regression, [B] or [B, C] -> [B, C]; nan where unknown, and nothing else: -100 is a number."""
    if labels is None:
        labels = _unknown(inputs, config.num_labels).float() * torch.nan
    elif (labels == IGNORED).any():
        say_ignored_is_a_value()
    labels = labels if labels.dtype == torch.float64 else labels.float()
    labels = labels.reshape(len(labels), -1)
    return labels, torch.ones_like(labels, dtype=torch.bool)


@cache
def say_ignored_is_a_value() -> None:
    """Warn once that what marks unknown classes is a number like any other in a regression."""
    logger.warning(
        "Values of a regression are %d, and are taken for what they are: it marks the classes that nobody knows, and "
        "nan the values. If nobody knows these, give nan for them.",
        IGNORED,
    )


def of_tokens(labels: Tensor | None, inputs: Inputs, config: Any) -> tuple[Tensor, Tensor]:
    """[B, tokens]: the labeled tokens, since labels leave special tokens and later pieces of words out.

    Without labels all tokens but padding.
    """
    if labels is not None:
        return labels, labels != IGNORED
    mask = _tokens(inputs)
    return torch.full_like(mask, IGNORED, dtype=torch.long), mask


def of_next_tokens(labels: Tensor | None, inputs: Inputs, config: Any) -> tuple[Tensor, Tensor]:
    """[B, tokens]: at each token the one after it, which a causal language model predicts there."""
    if labels is not None:
        labels = F.pad(labels, (0, 1), value=IGNORED)[..., 1:]
        return labels, labels != IGNORED
    mask = _tokens(inputs)
    mask = mask & F.pad(mask, (0, 1))[..., 1:]
    return torch.full_like(mask, IGNORED, dtype=torch.long), mask


def of_decoded_tokens(labels: Tensor | None, inputs: Inputs, config: Any) -> tuple[Tensor, Tensor]:
    """[B, tokens of the target].

    Raises:
        ValueError: there is no target.
    """
    if labels is None:
        raise ValueError(
            "An encoder-decoder answers token by token of a target text, and the batch holds none under 'labels'. "
            "Tokenize the targets into that column, and collate with DataCollatorForSeq2Seq."
        )
    return labels, labels != IGNORED


def of_positions(labels: Tensor | None, inputs: Inputs, config: Any) -> tuple[Tensor, Tensor]:
    """[B, 2]: where the answer starts and ends. As in transformers, a position beyond the text is unknown."""
    ids = inputs["input_ids"]
    if labels is None:
        labels = _unknown(inputs, 2)
    else:
        labels = labels.clamp(0, ids.shape[1])
        labels = labels.masked_fill(labels == ids.shape[1], IGNORED)
    return labels, torch.ones_like(labels, dtype=torch.bool)


def of_pixels(labels: Tensor | None, inputs: Inputs, config: Any) -> tuple[Tensor, Tensor]:
    """[B, height, width]; the pixels of the config's ignored label are no items.

    Raises:
        ValueError: there is no map of labels.
    """
    if labels is None:
        raise ValueError(
            "The items of a segmentation are the pixels of its label maps, and the batch holds none under 'labels'. "
            "Give each image a map of class ids, height x width."
        )
    labels = labels.long().masked_fill(labels == getattr(config, "semantic_loss_ignore_index", 255), IGNORED)
    return labels, labels != IGNORED


def _unknown(inputs: Inputs, *sizes: int) -> Tensor:
    rows = next(value for value in inputs.values() if isinstance(value, Tensor))
    return torch.full((len(rows), *sizes), IGNORED, dtype=torch.long, device=rows.device)


def _tokens(inputs: Inputs) -> Tensor:
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask.bool()
