"""The term of the labels: the loss that the model itself would compute from them, item by item."""

from functools import partial
from typing import Any

from torch import Tensor

from hf_compalign.align.losses import task_loss, value_loss, yes_no_loss
from hf_compalign.align.parts import values_of
from hf_compalign.tasks import Items, Task


def note_problem(task: Task, config: Any) -> None:
    """Write into a model's config which of its head's problems it learns, as its own loss does when it sees labels.

    Of a config that names none, pipelines take a regression's value for a logit.
    """
    if task.problem and getattr(config, "problem_type", "") is None:
        config.problem_type = task.problem


def task_values(
    task: Task, items: Items, labels: Tensor | None, *, label_smoothing: float = 0.0, in_parts: bool = True
) -> Tensor:
    """[...]: the model's own loss on each item.

    Args:
        task: of the model.
        items: its answers.
        labels: of the batch, as `labels_in` finds them: those of several at once may lie between 0 and 1.
        label_smoothing: the share of a class that is spread over all; the labels of several at once have none, as in
            the stock Trainer.
        in_parts: whether terms of many classes are computed part by part; else these are the stock Trainer's own sums.
    """
    term: Any = value_loss
    targets = items.labels
    if task.yes_or_no:
        term, targets = yes_no_loss, targets if labels is None else labels
    elif task.categorical:
        term = partial(task_loss, label_smoothing=label_smoothing)
    if not in_parts:
        own: Tensor = term(items.logits, None, targets)
        return own
    (values,) = values_of([term], items.logits, None, targets)
    return values
