"""Run any model on any dataset."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_compalign._checks import check_whole
from hf_compalign._formats import plural
from hf_compalign.data import (
    ID_COLUMNS,
    combined_fingerprint,
    existing_column,
    find_audio_column,
    find_image_column,
    find_label_column,
    find_word_column,
    image_files,
    lengths,
    row_fingerprint,
    rows_at,
    sound_files,
)
from hf_compalign.measure.predictions.columns import Columns
from hf_compalign.measure.predictions.items import RowItems
from hf_compalign.measure.predictions.pairing import rows_of_items
from hf_compalign.measure.predictions.pixels import Pixels
from hf_compalign.measure.predictions.predictions import Predictions
from hf_compalign.measure.predictions.reader import Reader, is_raw, reader_of
from hf_compalign.measure.predictions.values import Values, values_of
from hf_compalign.models import (
    Collator,
    collator_for,
    evaluating,
    forward_logits,
    input_names,
    read_labels,
    runtime_of,
    unpadded_answers,
    unpadded_ids,
)
from hf_compalign.opening import model_fingerprint
from hf_compalign.tasks import REGRESSIONS, Task, task_of

_SAME_ROWS = (
    "Predict again on this dataset (hf-compalign record), or give the rows that they were made on: the same --dataset, "
    "--split, --max-samples and columns."
)


@dataclass(frozen=True)
class Asked:
    """A model's first answers, with the prepared rows to ask again while the model changes."""

    rows: Dataset
    collate: Collator
    batch_size: int
    items: RowItems
    answers: Predictions
    pixels: Pixels | None

    def again(self, network: PreTrainedModel) -> Predictions:
        """Run the changed model on the same rows. Its inputs and labels must be the same as before."""
        answers, _ = _run(network, self.rows, self.collate, self.batch_size, marks=(), pixels=self.pixels)
        return replace(self.answers, logits=self.items.logits(answers), model_fingerprint=model_fingerprint(network))


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
    """Run a model on every row, and take its answers item by item.

    An item is a text, an image or a sound with one class, or a multiple choice; a word of a text whose tokens have
    classes; a text, image or sound and one of several labels; or, for segmentation, one of 256 pixels drawn from each
    image, of which ``Columns(pixels_per_image=...)`` asks more or fewer. docs/tasks.md says more.

    Args:
        model: a module, a folder written by save_pretrained, a Hub id, an .onnx file or an OpenVINO .xml file.
        dataset: raw texts, images or sounds, or already tokenized texts, pixel values or features. Raw texts are cut to
            the model's positions.
        processing_class: the tokenizer, image processor or feature extractor; by default that saved beside the model.
        data_collator: how rows become a batch; by default as in the Trainer.
        columns: where to find what in a raw dataset.
        device: where to run; by default a given module stays where it is, and a loaded model takes a GPU if any.

    Returns:
        Logits [N, C], the labels in the model's order of label names, and a name for each item.

    Raises:
        ValueError: the dataset is empty or none of `datasets`, its columns are ambiguous, a row cannot become the
            model's input, or the labels are not the model's; a batch size or device that cannot be.
    """
    reader = reader_of(model, dataset, processing_class=processing_class, device=device)
    return ask(reader, dataset, collate=data_collator, columns=columns, batch_size=batch_size).answers


def predict_values(
    model: PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    processing_class: Any = None,
    data_collator: Collator | None = None,
    columns: Columns | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> Values:
    """Run a regression on every row; the arguments are those of `predict`.

    Returns:
        A number for each row, or for each row and each of the model's labels.

    Raises:
        ValueError: the model answers with classes, or whatever `predict` refuses.
    """
    how: dict[str, Any] = {"processing_class": processing_class, "device": device}
    reader, columns = reader_of(model, dataset, among=REGRESSIONS, **how), Columns.of(columns)
    check_whole("batch_size", batch_size, least=1)
    config, task = reader.network.config, reader.task
    column = find_label_column(dataset, columns.label)
    labels = None if column is None else [*read_labels(dataset, column, task, config)]
    raw_marks = _raw_marks(dataset, task, columns) if is_raw(dataset, task) else None
    prepared = reader.prepared(dataset, columns)
    collate = collator_for(reader.network, reader.processing_class, data_collator)
    found, marks = _run(reader.network, prepared, collate, batch_size, marks=raw_marks)
    ids, mark = row_ids(prepared, columns.id, marks), combined_fingerprint(marks)
    return values_of(found, ids, labels, task.class_names(config), model=reader.where, data_fingerprint=mark)


def ask(
    reader: Reader, dataset: Dataset, *, collate: Collator | None = None, columns: Columns | None, batch_size: int
) -> Asked:
    """As `predict`, but keep what it takes to ask the same rows again."""
    columns, network, task = Columns.of(columns), reader.network, reader.task
    check_whole("batch_size", batch_size, least=1)
    given = dataset
    # Two models may prepare the same text or image differently, so hash the raw rows where there are any.
    raw_marks = _raw_marks(dataset, task, columns) if is_raw(dataset, task) else None
    dataset = reader.prepared(dataset, columns)
    pixels = reader.pixels(given, columns)
    known = pixels or reader.items(given, dataset, columns)
    collate = collator_for(network, reader.processing_class, collate)
    found, marks = _run(network, dataset, collate, batch_size, marks=raw_marks, pixels=pixels)
    items = known.items() if isinstance(known, Pixels) else known
    answers = Predictions(
        logits=items.logits(found),
        labels=items.labels,
        ids=items.ids(row_ids(dataset, columns.id, marks)),
        label_names=items.classes,
        examples=items.examples,
        model=reader.where,
        model_fingerprint=model_fingerprint(network),
        data_fingerprint=combined_fingerprint(marks),
        runtime=runtime_of(network).asked_by(batch_size),
    )
    return Asked(dataset, collate, batch_size, items, answers, pixels)


def _run(
    model: PreTrainedModel,
    dataset: Dataset,
    collate: Collator,
    batch_size: int,
    *,
    marks: Sequence[str] | None,
    pixels: Pixels | None = None,
) -> tuple[list[np.ndarray], list[str]]:
    """The answer to each row, without padding, or to its ``pixels``; and the marks, by default of the main inputs."""
    known, task = input_names(model), task_of(model)
    main = task.model_input
    order = _longest_first(dataset, main)
    answers: dict[int, np.ndarray] = {}
    own = dict(enumerate(marks or ()))
    with evaluating(model):
        for start in tqdm(range(0, len(dataset), batch_size), desc="Predicting", leave=False):
            places = order[start : start + batch_size]
            rows = rows_at(dataset, places, known if pixels is None else (*known, *pixels.names))
            inputs = [{name: row[name] for name in known if name in row} for row in rows]
            if marks is None:
                own |= {place: row_fingerprint({main: row[main]}) for place, row in zip(places, inputs, strict=True)}
            ids = unpadded_ids(inputs, task)
            batch = collate(inputs)
            found = forward_logits(model, batch)
            if pixels is None:
                each = unpadded_answers(found.cpu(), ids, batch, task)
            else:
                each = pixels.answers(places, rows, own, found)
            answers |= {place: answer.numpy() for place, answer in zip(places, each, strict=True)}
    return [answers[row] for row in range(len(dataset))], [own[row] for row in sorted(own)]


def _longest_first(dataset: Dataset, main: str) -> list[int]:
    """The rows in the order to ask them: a batch is padded to its longest text, so texts of one length go together."""
    if main != "input_ids" or main not in dataset.column_names:
        return [*range(len(dataset))]
    return np.argsort(-lengths(dataset, main), kind="stable").tolist()


def ids_of(dataset: Dataset, task: Task, columns: Columns) -> np.ndarray:
    """The names [N] that `predict` gives the rows."""
    return row_ids(dataset, columns.id, _marks(dataset, task, columns))


def parts_of(
    answers: Predictions, dataset: Dataset, parts: Iterable[Sequence[int]], *, task: Task, columns: Columns
) -> list[Predictions]:
    """The answers to each of these parts of the rows, as `predict` names the rows of the part alone.

    Args:
        answers: to all rows, in any order.
        dataset: the rows.
        parts: the positions of the rows in each part.
        task: of the model that answered.
        columns: where to find what in a raw dataset.

    Raises:
        ValueError: the answers are to other rows.
    """
    names, marks = checked_rows(answers, dataset, task=task, columns=columns)
    shared = answers.examples is not None
    row_of = rows_of_items(answers.ids.tolist(), names, answers.examples)
    found = []
    for rows in parts:
        place = {row: position for position, row in enumerate(rows)}
        # The items of the part, row by row, and the place of each one's row in it.
        items = sorted((item for item, row in enumerate(row_of) if row in place), key=lambda item: place[row_of[item]])
        places, own = [place[row_of[item]] for item in items], [marks[row] for row in rows]
        of_rows = row_ids(dataset.select(rows), columns.id, own)
        ends = (str(answers.ids[item]).removeprefix(names[row_of[item]]) for item in items)
        arrays = {name: getattr(answers, name)[items] for name in ("logits", "labels", "mask")}
        arrays["ids"] = np.array([f"{of_rows[at]}{end}" for at, end in zip(places, ends, strict=True)])
        fingerprint = combined_fingerprint(own) if answers.data_fingerprint else ""
        examples = np.array(places) if shared else None
        found.append(replace(answers, **arrays, examples=examples, data_fingerprint=fingerprint))
    return found


def checked_rows(
    answers: Predictions, dataset: Dataset, *, task: Task, columns: Columns
) -> tuple[list[str], list[str]]:
    """The names of the rows, and a hash of what is asked in each, if the answers are to these rows, in any order.

    Raises:
        ValueError: the answers are to other rows.
    """
    marks = _marks(dataset, task, columns)
    names, known = row_ids(dataset, columns.id, marks).tolist(), set(answers.ids.tolist())
    missing = [name for name in names if name not in known]
    # Items that share examples have names of their own.
    if answers.examples is None and (missing or len(names) != len(known)):
        raise ValueError(
            f"The predictions must be of the rows of the dataset. They are of {plural(len(known), 'item')}, and "
            f"{len(missing)} of {plural(len(names), 'row')} are not among them. {_SAME_ROWS}"
        )
    if answers.data_fingerprint not in ("", combined_fingerprint(marks)):
        raise ValueError(
            "The predictions must be of the rows of the dataset. The ids match, but the data differ: "
            f"{answers.data_fingerprint} against {combined_fingerprint(marks)}. {_SAME_ROWS}"
        )
    return names, marks


def _marks(dataset: Dataset, task: Task, columns: Columns) -> list[str]:
    """A hash of what a model is asked in each row."""
    if is_raw(dataset, task):
        return _raw_marks(dataset, task, columns)
    main = task.model_input
    return [row_fingerprint({main: row[main]}) for row in dataset]


def _raw_marks(dataset: Dataset, task: Task, columns: Columns) -> list[str]:
    """A hash of the text, image or sound in each row of a raw dataset."""
    return [row_fingerprint(row) for row in asked_of(dataset, task, columns)]


def asked_of(dataset: Dataset, task: Task, columns: Columns) -> Iterable[Mapping[str, Any]]:
    """The text, image or sound in each row of a raw dataset; of files the bytes, or the path."""
    if task.model_input == "pixel_values":
        column = find_image_column(dataset, columns.image, labels=columns.label)
        files = image_files(dataset.select_columns([column]), column)
        return ({"image": row[column]["bytes"] or row[column]["path"]} for row in files)
    if task.reads_sounds:
        column = find_audio_column(dataset, columns.audio)
        files = sound_files(dataset.select_columns([column]), column)
        return ({"audio": _content(row[column])} for row in files)
    words = find_word_column(dataset, columns.text) if task.label_depth == 1 else None
    return dataset.select_columns([words] if words else list(columns.texts_in(dataset)))


def _content(sound: Any) -> Any:
    """What tells a sound from others: the bytes of a file, or its path, or its samples."""
    return sound["bytes"] or sound["path"] if isinstance(sound, Mapping) else sound


def row_ids(dataset: Dataset, wanted: str | None, marks: Sequence[str]) -> np.ndarray:
    """Names [N] of the rows: from an id column if it is unique, else their hashes, numbered where two are equal."""
    names = ID_COLUMNS if wanted is None else [existing_column(dataset.column_names, wanted)]
    for name in names:
        if name in dataset.column_names:
            found = [_id(value) for value in dataset.with_format(None).select_columns([name])[:][name]]
            if None not in found and len(set(found)) == len(found):
                return np.array(found)
            if wanted:
                problem = f"is empty in row {found.index(None)}" if None in found else "names several rows alike"
                raise ValueError(f"The id column {wanted!r} {problem}. Name another, or none.")
    seen: Counter[str] = Counter()
    ids = []
    for mark in marks:
        seen[mark] += 1
        ids.append(mark if seen[mark] == 1 else f"{mark}#{seen[mark]}")
    return np.array(ids)


def _id(value: Any) -> str | None:
    """The name that an id column gives a row; a whole number is the same as a float, which a csv with gaps makes it."""
    if isinstance(value, float):
        return None if isnan(value) else str(int(value) if value.is_integer() else value)
    return None if value is None else str(value)
