"""What an audit is given: models to ask or predictions that hold their answers, and the rows of a dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign.labels import label_order
from hf_compalign.measure.audit.options import AuditOptions
from hf_compalign.measure.groups import Attribute, Membership
from hf_compalign.measure.predictions import (
    YES_NO,
    Columns,
    Predictions,
    checked_rows,
    predict,
    rows_of_items,
    task_of_rows,
)
from hf_compalign.models import check_same_reading, default_device
from hf_compalign.opening import load_model, processor_of
from hf_compalign.tasks import MEASURED, Task, task_of


@dataclass(frozen=True)
class Opened:
    """A model, what reads its rows, and what it is asked."""

    path: str | Path | None  # of its weights; None for a module
    network: PreTrainedModel
    processor: Any  # None where `predict` looks for it beside the module
    dataset: Dataset
    options: AuditOptions

    def answers(self) -> Predictions:
        """What it answers; a model that was opened for this runs on a GPU if there is one."""
        return predict(
            self.network,
            self.dataset,
            processing_class=self.processor,
            columns=self.options.columns,
            batch_size=self.options.batch_size or 32,
            device=None if self.path is None else default_device(self.network),
        )


Side: TypeAlias = Predictions | Opened


def opened_sides(given: Mapping[str, Any], dataset: Dataset | None, options: AuditOptions) -> dict[str, Side]:
    """All models opened, their labels and the rows of given answers compared, before one of them runs in vain."""
    sides: dict[str, Side] = {}
    for name, one in given.items():
        if isinstance(one, Predictions):
            sides[name] = one
        elif isinstance(one, str | Path) and Path(one).suffix == ".npz":
            sides[name] = Predictions.load(one)
        elif dataset is None:
            call = ", ".join(_word_for(given[side]) for side in ("reference", "candidate"))
            raise ValueError(
                f"The {name} is a model, and there is no dataset to ask it. Give one, such as audit({call}, "
                "dataset=test); or give Predictions alone."
            )
        else:
            network, processor = load_model(one), options.processing_class
            path = one if isinstance(one, str | Path) else None
            if processor is None and path is not None:
                processor = processor_of(path, task_of(network))
            sides[name] = Opened(path, network, processor, dataset, options)
    # Choices have names once they are asked.
    known = [names for side in sides.values() if (names := _class_names(side))]
    for names in known[1:]:
        label_order(known[0], names)
    check_same_reading({name: side.network for name, side in sides.items() if isinstance(side, Opened)})
    asked = [side for side in sides.values() if isinstance(side, Opened)]
    if asked and dataset is not None:
        for side in sides.values():
            if isinstance(side, Predictions):
                checked_rows(
                    side, dataset, task=task_of(asked[0].network, MEASURED), columns=Columns.of(options.columns)
                )
    return sides


def _class_names(side: Side) -> tuple[str, ...]:
    """What a side answers with; the labels themselves where an answer is yes or no to each."""
    if isinstance(side, Predictions):
        return side.label_names
    task = task_of(side.network, MEASURED)
    return YES_NO if task.yes_or_no else task.class_names(side.network.config)


def answers_of(given: Any, dataset: Dataset, options: AuditOptions) -> Predictions:
    """The answers of one model, or given ones as they are."""
    (side,) = opened_sides({"reference": given}, dataset, options).values()
    return side if isinstance(side, Predictions) else side.answers()


def _word_for(one: Any) -> str:
    return repr(str(one)) if isinstance(one, str | Path) else "predictions" if isinstance(one, Predictions) else "model"


def task_in(sides: Mapping[str, Side], dataset: Dataset, columns: Columns) -> Task:
    """The task of a model, or without one what the rows hold."""
    for side in sides.values():
        if isinstance(side, Opened):
            return task_of(side.network)
    return task_of_rows(dataset, columns)


def groups_of_items(
    attributes: Mapping[str, Attribute], ids: Sequence[str] | None, reference: Predictions
) -> dict[str, Membership]:
    """Attribute -> the groups of the reference's items; ``ids`` are those of the rows, None without rows.

    Raises:
        ValueError: the items are not of these rows.
    """
    rows = [] if ids is None else rows_of_items(reference.ids.tolist(), ids, reference.examples)
    return {name: [one.groups[row] for row in rows] if one.of_rows else one.groups for name, one in attributes.items()}
