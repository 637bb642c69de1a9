"""What a prediction is: a model's logits and a batch's labels, laid out one item per position."""

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
        labels: [...], the right class of each item, `IGNORED` where it is not known.
        mask: [...] of bool, which positions are items at all (padding is not).
    """

    logits: Tensor
    labels: Tensor
    mask: Tensor

    @property
    def labelled(self) -> Tensor:
        """[...] of bool: the items whose label is known."""
        return self.mask & (self.labels != IGNORED)


@dataclass(frozen=True)
class Task:
    """One kind of model head that the library can align and compare.

    Attributes:
        name: the Hub's pipeline tag.
        head: how the names of the model classes with this head end.
        auto_class: the class of `transformers` that loads such a model.
        model_input: the model's main input, which a prepared dataset has as a column.
        problem_types: the values of ``config.problem_type`` that are supported.
        items: (logits, labels or None) -> `Items`.
    """

    name: str
    head: str
    auto_class: str
    model_input: str
    problem_types: tuple[str | None, ...]
    items: Callable[[Tensor, Tensor | None], Items]


def one_per_example(logits: Tensor, labels: Tensor | None) -> Items:
    """Single-label classification: logits [B, C], labels [B] (or [B, 1], as models allow) or None -> B items."""
    if labels is None:
        labels = torch.full(logits.shape[:-1], IGNORED, dtype=torch.long, device=logits.device)
    # Losses of half-precision logits are computed in float32.
    logits = logits if logits.dtype == torch.float64 else logits.float()
    labels = labels.reshape(logits.shape[:-1])
    return Items(logits, labels, torch.ones_like(labels, dtype=torch.bool))


SINGLE_LABEL = (None, "single_label_classification")

TASKS = (
    Task(
        name="text-classification",
        head="ForSequenceClassification",
        auto_class="AutoModelForSequenceClassification",
        model_input="input_ids",
        problem_types=SINGLE_LABEL,
        items=one_per_example,
    ),
    Task(
        name="image-classification",
        head="ForImageClassification",
        auto_class="AutoModelForImageClassification",
        model_input="pixel_values",
        problem_types=SINGLE_LABEL,
        items=one_per_example,
    ),
)


def task_of_class(class_name: str) -> Task:
    """The task of a model class, by the end of its name.

    Raises:
        ValueError: no supported task has such a head.
    """
    for task in TASKS:
        if class_name.endswith(task.head):
            return task
    supported = ", ".join(f"{task.head} ({task.name})" for task in TASKS)
    raise ValueError(
        f"{class_name} has a head that is not supported. Supported are model classes ending in: {supported}."
    )


def task_of(model: Any) -> Task:
    """The task of a model, by its class (or one it derives from) and its config.

    A file that answers like a model has ``architectures``, the classes that it was exported from.

    Raises:
        ValueError: the head, its problem type or its number of labels is not supported.
    """
    names = getattr(model, "architectures", None) or [cls.__name__ for cls in type(model).__mro__]
    known = [name for name in names if any(name.endswith(task.head) for task in TASKS)]
    task = task_of_class(known[0] if known else names[0])
    config = model.config
    problem_type = getattr(config, "problem_type", None)
    if problem_type not in task.problem_types or config.num_labels < 2:
        got = problem_type or f"num_labels={config.num_labels}, which is a regression"
        raise ValueError(
            f"{names[0]} is set up for a problem that is not supported. Got {got}; supported is "
            "single_label_classification with two labels or more."
        )
    return task


def logits_of(outputs: Any) -> Tensor:
    """The logits among a model's outputs, called without labels: a mapping or a plain tuple."""
    logits: Tensor = outputs["logits"] if hasattr(outputs, "keys") else outputs[0]
    return logits
