"""The rows of a dataset that an audit is given, and the items of its predictions: which is which."""

from collections.abc import Mapping, Sequence

from datasets import Dataset, Image

from hf_compalign.measure.audit.opened import Opened, Side
from hf_compalign.measure.groups import Attribute, Membership
from hf_compalign.measure.predictions import Columns, Predictions, ids_of
from hf_compalign.tasks import TASKS, Task, task_of


def task_in(sides: Mapping[str, Side], dataset: Dataset, columns: Columns) -> Task:
    """What is asked: told by a model, or where there is none by what the rows hold."""
    for side in sides.values():
        if isinstance(side, Opened):
            return task_of(side.network)
    prepared = next((task for task in TASKS if task.model_input in dataset.column_names), None)
    if prepared is not None:
        return prepared
    images = any(isinstance(feature, Image) for feature in (dataset.features or {}).values())
    of_images = columns.image is not None or (images and columns.text is None)
    return next(task for task in TASKS if (task.model_input == "pixel_values") == of_images)


def row_ids_of(
    sides: Mapping[str, Side], answers: Mapping[str, Predictions], dataset: Dataset, *, task: Task, columns: Columns
) -> list[str]:
    """The name of each row of the dataset, which some or none of the models were asked just now."""
    asked = [answers[name] for name, side in sides.items() if isinstance(side, Opened)]
    ids: list[str] = (asked[0].ids if asked else ids_of(dataset, task, columns)).tolist()
    return ids


def groups_of_items(
    attributes: Mapping[str, Attribute], ids: Sequence[str] | None, reference: Predictions
) -> dict[str, Membership]:
    """Attribute -> the groups of the reference's items.

    Args:
        attributes: of items or of rows.
        ids: of the rows; None where there are no rows, or nothing of them is asked.
        reference: with the ids of the items.

    Raises:
        ValueError: the reference's predictions are of other rows.
    """
    place = {name: row for row, name in enumerate(ids or ())}
    items = reference.ids.tolist()
    unknown = [] if ids is None else [name for name in items if name not in place]
    if unknown:
        raise ValueError(
            f"The dataset must hold the rows that the predictions are of. {len(unknown)} of their {len(items)} items "
            f"are not among them, such as {unknown[0]!r}. Give the dataset that was predicted on, or predict on this "
            "one."
        )
    return {
        name: [one.groups[place[item]] for item in items] if one.of_rows else one.groups
        for name, one in attributes.items()
    }
