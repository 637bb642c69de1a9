"""Open a model with the tokenizer or image processor that reads its rows."""

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
    """A model and what turns rows into its inputs."""

    network: PreTrainedModel
    where: str  # where it came from, for people; empty for a model made in memory
    task: Task
    processing_class: Any  # None where prepared rows need none

    def prepared(self, dataset: Dataset, *, text: Sequence[str] | None = None, image: str | None = None) -> Dataset:
        """Turn raw rows into the model's inputs, truncated but not yet padded; leave prepared rows alone.

        Raises:
            ValueError: the columns are ambiguous, or the dataset lacks the model's inputs.
        """
        if is_raw(dataset, self.task):
            if self.task.model_input == "pixel_values":
                dataset = with_pixels(dataset, self.processing_class, find_image_column(dataset, image))
            else:
                dataset = tokenized(dataset, self.processing_class, find_text_columns(dataset, text))
        check_prepared(dataset, self.network)
        return dataset


def reader_of(
    model: Model, dataset: Dataset, *, processing_class: Any = None, device: str | torch.device | None = None
) -> Reader:
    """Open a model for the rows of a dataset; the arguments are those of `hf_compalign.predict`.

    Raises:
        ValueError: there are no rows or no model, its head is not supported, or raw rows have no tokenizer or image
            processor.
    """
    if len(dataset) == 0:
        raise ValueError("The dataset is empty. Give it at least one row.")
    network = load_model(model)
    opened = isinstance(model, str | Path)
    if device is None and opened:
        device = default_device(network)
    if device is not None:
        network = network.to(device)
    task, where = task_of(network), name_of(model)
    raw = is_raw(dataset, task)
    if processing_class is None and (raw or opened):
        try:
            processing_class = load_processor(where, task)
        except ValueError:
            # Prepared rows need it only for padding, if they differ in length.
            if raw:
                raise
    return Reader(network, where, task, processing_class)


def is_raw(dataset: Dataset, task: Task) -> bool:
    """Whether the rows are texts or images that must become the model's inputs first."""
    # A transform, such as that of `with_pixels`, makes the inputs on access.
    return task.model_input not in dataset.column_names and dataset.format["type"] != "custom"
