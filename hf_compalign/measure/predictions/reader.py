"""A model and what reads its rows: opened, on its device, with the tokenizer or image processor beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign.data import find_image_column, find_text_columns, tokenized, with_pixels
from hf_compalign.models import check_prepared, default_device, load_processor
from hf_compalign.opening import Model, load_model, name_of
from hf_compalign.tasks import Task, task_of


@dataclass(frozen=True)
class Reader:
    """A model and what turns rows into its inputs.

    Attributes:
        network: the model.
        where: where it came from, for people; empty for one that was just made.
        task: what it answers.
        processing_class: its tokenizer or image processor; None where prepared rows need none.
    """

    network: PreTrainedModel
    where: str
    task: Task
    processing_class: Any

    def prepared(self, dataset: Dataset, *, text: Sequence[str] | None = None, image: str | None = None) -> Dataset:
        """The dataset with the model's inputs, truncated but not yet padded; as it is where it holds them already.

        Args:
            dataset: raw or prepared.
            text: the text column, or the two of a pair; by default found by their names.
            image: the column with the images; by default found by its type.

        Raises:
            ValueError: the columns cannot be told apart, or the dataset does not hold the model's inputs.
        """
        if is_raw(dataset, self.task):
            if self.task.model_input == "pixel_values":
                dataset = with_pixels(dataset, self.processing_class, find_image_column(dataset, image))
            else:
                dataset = tokenized(dataset, self.processing_class, find_text_columns(dataset, text))
        check_prepared(dataset, self.network)
        return dataset


def reader_of(
    model: Model,
    dataset: Dataset,
    *,
    processing_class: Any = None,
    device: str | torch.device | None = None,
) -> Reader:
    """Open a model for the rows of a dataset.

    Args:
        model: a module, a folder, a Hub id, or a file, as `hf_compalign.predict` takes it.
        dataset: raw or prepared.
        processing_class: the tokenizer or image processor; by default the one saved beside the model.
        device: where to run; by default where a given module is, or `default_device` for a loaded model.

    Raises:
        ValueError: no model is there, its head is not supported, or raw rows need a tokenizer or image processor and
            there is none.
    """
    network = load_model(model)
    opened = isinstance(model, str | Path)
    if device is None and opened:
        device = default_device(network)
    if device is not None:
        network = network.to(device)
    task = task_of(network)
    where = name_of(model)
    raw = is_raw(dataset, task)
    if processing_class is None and (raw or opened):
        processing_class = _processor_beside(where, task, needed=raw)
    return Reader(network, where, task, processing_class)


def is_raw(dataset: Dataset, task: Task) -> bool:
    """Whether the rows are texts or images that must become the model's inputs first."""
    return task.model_input not in dataset.column_names and dataset.format["type"] != "custom"


def _processor_beside(where: str, task: Task, *, needed: bool) -> Any:
    """What was saved beside the model; prepared rows only need it to be padded, if they differ in length."""
    try:
        return load_processor(where, task)
    except ValueError:
        if needed:
            raise
        return None
