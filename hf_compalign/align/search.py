"""What a search for hyperparameters, or for the best model, is for."""

from collections.abc import Callable, Mapping
from typing import Any

from hf_compalign.tasks import Task

MISMATCHES = "mismatch_rate"
SHIFT = "rms_shift"


def distance_metric(task: Task) -> str:
    """What an evaluation calls the distance of student and teacher, the lower the better; of values that of a shift."""
    return MISMATCHES if task.categorical else SHIFT


def closest(eval_dataset: Any, direction: Any, metric: str) -> Callable[[Mapping[str, float]], float]:
    """The objective of a search that has none of its own: the `distance_metric`, the mean of it over several datasets.

    Raises:
        ValueError: the direction is not "minimize"; or, while it searches, the evaluation has no such number.
    """
    if direction != "minimize":
        raise ValueError(
            f"Without compute_objective= the objective is the {metric}, which is to be minimized. Got direction="
            f"{direction!r}. Leave it out, or give compute_objective= too: lambda metrics: metrics['eval_accuracy'], "
            "say."
        )
    datasets = [f"{name}_" for name in eval_dataset] if isinstance(eval_dataset, dict) else [""]
    names = [f"eval_{dataset}{metric}" for dataset in datasets]

    def objective(metrics: Mapping[str, float]) -> float:
        if missing := [name for name in names if name not in metrics]:
            raise ValueError(
                f"The evaluation has no {missing[0]} to minimize. Give the evaluation dataset the teacher's logits "
                "(cache_teacher_logits), pass teacher=, or give compute_objective=."
            )
        return sum(metrics[name] for name in names) / len(names)

    return objective
