"""Any model x any dataset -> `Predictions`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_compalign.data import (
    ID_COLUMNS,
    combined_fingerprint,
    find_image_column,
    find_label_column,
    find_text_columns,
    label_ids,
    row_fingerprint,
)
from hf_compalign.labels import IGNORED, names_of
from hf_compalign.measure.predictions.predictions import Predictions
from hf_compalign.measure.predictions.reader import is_raw, reader_of
from hf_compalign.models import Collator, default_collator, evaluating, forward_logits, input_names
from hf_compalign.opening import model_fingerprint
from hf_compalign.tasks import Task, task_of


@dataclass(frozen=True)
class Columns:
    """Which columns of a raw dataset to read; what is None is found by its type and usual names.

    Attributes:
        text: the text column, or the two of a pair.
        image: the column with the images.
        label: the column with the right answers.
        id: the column that names each row; by default `id`, `idx` or `guid`, else a hash of its text or image.
    """

    text: Sequence[str] | None = None
    image: str | None = None
    label: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Asked:
    """Rows that a model was asked, ready for it to be asked again while it changes: only its passes are done anew.

    Attributes:
        rows: the dataset with the model's inputs.
        collate: how rows become a batch.
        batch_size: rows at a time.
        answers: what the model answered the first time.
    """

    rows: Dataset
    collate: Collator
    batch_size: int
    answers: Predictions

    def again(self, network: PreTrainedModel) -> Predictions:
        """What the model answers now. It must still read the same inputs and have the same labels."""
        logits, _ = _run(network, self.rows, self.collate, self.batch_size, marked=False)
        return replace(self.answers, logits=logits, model_fingerprint=model_fingerprint(network))


def predict(
    model: PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    processing_class: Any = None,
    data_collator: Collator | None = None,
    columns: Columns | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> Predictions:
    """The model's logits on every row, with the labels and a name for each row.

    Args:
        model: a module; a folder written by save_pretrained, or a Hub id; or an .onnx file or an OpenVINO
            .xml file, run by their runtimes.
        dataset: raw texts or images, or already tokenized texts or pixel values.
        processing_class: the tokenizer or image processor; by default the one saved beside the model.
        data_collator: how rows become a batch; by default as in the Trainer.
        columns: where to find what in a raw dataset.
        batch_size: rows at a time.
        device: where to run; by default where a given module is, or `default_device` for a loaded model.

    Returns:
        Predictions with logits [N, C]; labels follow the model's order of label names.

    Raises:
        ValueError: the dataset is empty, its columns cannot be told apart, or its labels are not the model's.
    """
    return ask(
        model,
        dataset,
        processing_class=processing_class,
        data_collator=data_collator,
        columns=columns,
        batch_size=batch_size,
        device=device,
    ).answers


def ask(
    model: PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    processing_class: Any = None,
    data_collator: Collator | None = None,
    columns: Columns | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> Asked:
    """As `predict`, whose answers come with what it takes to ask the same rows again."""
    columns = columns or Columns()
    if len(dataset) == 0:
        raise ValueError("The dataset is empty. Give it at least one row.")
    reader = reader_of(model, dataset, processing_class=processing_class, device=device)
    network = reader.network
    names = names_of(network.config.id2label)
    label_column = find_label_column(dataset, columns.label)
    labels = np.full(len(dataset), IGNORED)
    if label_column is not None:
        labels = label_ids(dataset, label_column, names)
    # Of the texts and images themselves, which are the same for two models that prepare them differently.
    raw = is_raw(dataset, reader.task)
    of_inputs = raw_marks(dataset, reader.task, columns) if raw else []
    dataset = reader.prepared(dataset, text=columns.text, image=columns.image)
    collate = data_collator or default_collator(reader.processing_class)
    logits, marks = _run(network, dataset, collate, batch_size, marked=not raw)
    marks = of_inputs if raw else marks
    answers = Predictions(
        logits=logits,
        labels=labels,
        ids=row_ids(dataset, columns.id, marks),
        label_names=names,
        model=reader.where,
        model_fingerprint=model_fingerprint(network),
        data_fingerprint=combined_fingerprint(marks),
    )
    return Asked(dataset, collate, batch_size, answers)


def _run(
    model: PreTrainedModel, dataset: Dataset, collate: Collator, batch_size: int, *, marked: bool
) -> tuple[np.ndarray, list[str]]:
    """Logits [N, C] and, if they are to be marked, a hash of each row's main input."""
    known = input_names(model)
    main = task_of(model).model_input
    logits: list[np.ndarray] = []
    marks: list[str] = []
    with evaluating(model):
        for rows in _batches(dataset, batch_size):
            inputs = [{name: row[name] for name in row if name in known} for row in rows]
            if marked:
                marks.extend(row_fingerprint({main: row[main]}) for row in inputs)
            logits.append(forward_logits(model, collate(inputs)).cpu().numpy())
    return np.concatenate(logits), marks


def _batches(dataset: Dataset, batch_size: int) -> Iterator[list[dict[str, Any]]]:
    for start in tqdm(range(0, len(dataset), batch_size), desc="Predicting", leave=False):
        batch = dataset[start : start + batch_size]
        yield [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def ids_of(dataset: Dataset, task: Task, columns: Columns) -> np.ndarray:
    """[N] of str: the names that `predict` gives the rows, in their order."""
    main = task.model_input
    raw = is_raw(dataset, task)
    marks = raw_marks(dataset, task, columns) if raw else [row_fingerprint({main: row[main]}) for row in dataset]
    return row_ids(dataset, columns.id, marks)


def raw_marks(dataset: Dataset, task: Task, columns: Columns) -> list[str]:
    """A hash of the text or image in each row of a raw dataset."""
    rows: Iterable[Mapping[str, Any]]
    if task.model_input == "pixel_values":
        column = find_image_column(dataset, columns.image)
        files = dataset.select_columns([column]).cast_column(column, Image(decode=False))
        rows = ({"image": row[column]["bytes"] or row[column]["path"]} for row in files)
    else:
        rows = dataset.select_columns(list(find_text_columns(dataset, columns.text)))
    return [row_fingerprint(row) for row in rows]


def row_ids(dataset: Dataset, wanted: str | None, marks: Sequence[str]) -> np.ndarray:
    """[N] of str: an id column with a value of its own for each row, else the hash of its inputs.

    Raises:
        ValueError: the wanted column is not there, or names several rows alike.
    """
    if wanted is not None and wanted not in dataset.column_names:
        raise ValueError(f"There is no id column {wanted!r}. The columns are {', '.join(dataset.column_names)}.")
    for name in (wanted,) if wanted else ID_COLUMNS:
        if name in dataset.column_names:
            values = np.asarray(dataset.select_columns([name]).with_format("numpy")[:][name]).astype(str)
            if len(np.unique(values)) == len(values):
                return values
            if wanted:
                raise ValueError(f"The id column {wanted!r} names several rows alike. Name another, or none.")
    seen: dict[str, int] = {}
    ids = []
    for mark in marks:
        seen[mark] = seen.get(mark, 0) + 1
        ids.append(mark if seen[mark] == 1 else f"{mark}#{seen[mark]}")
    return np.array(ids)
