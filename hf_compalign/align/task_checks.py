"""What of a trainer's options means nothing for its task is refused before any training."""

from typing import Any

from hf_compalign.tasks import Task

# The terms about classes, which a regression has none of.
_OF_CLASSES = ("agreement", "margin", "kl")


def check_options(task: Task, trainer: Any) -> None:
    """Refuse options of a trainer that mean nothing for its task."""
    wanted = [*task.label_names]
    if len(wanted) > 1 and [*trainer.label_names] != wanted:
        raise ValueError(
            f"label_names must be {wanted} for {task.name}. Got {trainer.label_names}. Leave it out, and name the "
            "columns so."
        )
    if len(wanted) == 1 and len(trainer.label_names) != 1:
        raise ValueError(
            f"label_names must hold one name. Got {trainer.label_names}. Name the one column with the class labels."
        )
    if task.categorical:
        return
    asked = trainer.alignment.weights()
    for name in _OF_CLASSES:
        if name in asked:
            raise ValueError(
                f"The {name} term compares classes, and a regression answers with numbers. Got {trainer.alignment}. "
                f"Take the preset 'default', 'logits' or 'labels', or set {name}_weight=0."
            )
    if trainer.alignment.focus is not None:
        raise ValueError(
            "only_where_teacher_is_right, focal_alpha and focal_beta ask whether the teacher's class is the label, and "
            "a regression has no classes. Leave them out."
        )
    if trainer.args.label_smoothing_factor > 0:
        raise ValueError(
            "label_smoothing_factor spreads a label over the other classes, and a regression has none. Leave it out."
        )
