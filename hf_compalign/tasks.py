"""The supported model heads, and their predictions as items."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_compalign.labels import IGNORED


@dataclass(frozen=True)
class Items:
    """Predictions one per position, the only form that the loss terms and the measures know.

    Attributes:
        logits: [..., C], float32 or wider.
        labels: [...], the right class of each item, or `IGNORED`.
        mask: [...] of bool, which positions are items at all (padding is not).
    """

    logits: Tensor
    labels: Tensor
    mask: Tensor

    @property
    def labeled(self) -> Tensor:
        """The items whose label is known, [...] of bool."""
        return self.mask & (self.labels != IGNORED)


def one_per_example(logits: Tensor, labels: Tensor | None) -> Items:
    """Single-label classification: logits [B, C], labels [B] (or [B, 1], as models allow) or None -> B items."""
    if labels is None:
        labels = torch.full(logits.shape[:-1], IGNORED, dtype=torch.long, device=logits.device)
    # Losses of half-precision logits need float32.
    logits = logits if logits.dtype == torch.float64 else logits.float()
    labels = labels.reshape(logits.shape[:-1])
    return Items(logits, labels, torch.ones_like(labels, dtype=torch.bool))


@dataclass(frozen=True)
class Task:
    """One kind of model head that the library can align and compare.

    Attributes:
        name: the Hub's pipeline tag.
        head: what the names of the model classes hold, such as DeiTForImageClassificationWithTeacher.
        auto_class: the class of `transformers` that loads such a model.
        model_input: the model's main input, a column of a prepared dataset.
        problem_types: the supported values of ``config.problem_type``.
        items: (logits, labels or None) -> `Items`.
    """

    name: str
    head: str
    auto_class: str
    model_input: str
    problem_types: tuple[str | None, ...] = (None, "single_label_classification")
    items: Callable[[Tensor, Tensor | None], Items] = one_per_example


TASKS = (
    Task(
        name="text-classification",
        head="ForSequenceClassification",
        auto_class="AutoModelForSequenceClassification",
        model_input="input_ids",
    ),
    Task(
        name="image-classification",
        head="ForImageClassification",
        auto_class="AutoModelForImageClassification",
        model_input="pixel_values",
    ),
)


def task_of(model: Any) -> Task:
    """The task of a model, by its config and its class, a base class, or an exported file's ``architectures``.

    Raises:
        ValueError: the head, its problem type or its number of labels is not supported.
    """
    names = getattr(model, "architectures", None) or [cls.__name__ for cls in type(model).__mro__]
    task = next((task for name in names for task in TASKS if task.head in name), None)
    if task is None:
        supported = ", ".join(f"{task.head} ({task.name})" for task in TASKS)
        raise ValueError(
            f"{names[0]} has a head that is not supported. Supported are model classes with one of these in their "
            f"names: {supported}."
        )
    config = model.config
    if not config.id2label:
        raise ValueError(
            f"The config of {names[0]} names no classes: id2label is {config.id2label}. Set config.id2label to "
            "{0: 'LABEL_0', 1: ...}, with a name for each logit."
        )
    problem_type = getattr(config, "problem_type", None)
    if problem_type not in task.problem_types or config.num_labels < 2:
        got = problem_type or f"num_labels={config.num_labels}, which is a regression"
        raise ValueError(
            f"{names[0]} is set up for a problem that is not supported. Got {got}; supported is "
            "single_label_classification with two labels or more."
        )
    return task


def logits_of(outputs: Any) -> Tensor:
    """The logits in a model's outputs, a mapping or a tuple, from a call without labels."""
    logits: Tensor = outputs["logits"] if hasattr(outputs, "keys") else outputs[0]
    return logits


def hidden_states_of(outputs: Any) -> tuple[Tensor, ...]:
    """The states of the embeddings and of each layer, from a call with ``output_hidden_states=True``.

    Raises:
        ValueError: the model returns none under that name, as encoder-decoders do.
    """
    states: tuple[Tensor, ...] | None = getattr(outputs, "hidden_states", None)
    if not states:
        raise ValueError(
            f"The model returns no hidden_states. Got a {type(outputs).__name__}. Compare the logits alone, or take a "
            "model that returns them."
        )
    return states
