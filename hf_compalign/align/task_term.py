"""The term of the labels: the loss that the model itself would compute from them, item by item."""

from functools import partial
from typing import Any

from torch import Tensor

from hf_compalign.align.losses import task_loss, value_loss, yes_no_loss
from hf_compalign.align.parts import values_of
from hf_compalign.tasks import Items, Task

# What models call the weight of their routers' loss.
_ROUTER_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef")


def router_loss(model: Any, outputs: Any) -> Tensor | None:
    """What a mixture of experts adds to its own loss, so that all experts are used; None where it adds nothing.

    It does with ``config.output_router_logits``.

    Raises:
        ValueError: nothing says how much it counts.
    """
    found: Tensor | None = outputs.get("aux_loss") if hasattr(outputs, "get") else None
    if found is None:
        return None
    weight = next((getattr(model, name) for name in _ROUTER_WEIGHTS if hasattr(model, name)), None)
    if weight is None:
        raise ValueError(
            f"{type(model).__name__} gives a loss of its routers, which it adds to its own, and has no "
            f"{' or '.join(_ROUTER_WEIGHTS)} that says how much it counts. Set config.output_router_logits=False, or "
            "give your own compute_loss_func=."
        )
    return weight * found


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
