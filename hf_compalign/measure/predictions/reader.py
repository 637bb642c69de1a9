"""Open a model with the tokenizer or image processor that reads its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Audio, Dataset, Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase, SequenceFeatureExtractor

from hf_compalign.data import (
    LABELS,
    MAP_COLUMNS,
    check_rows,
    find_audio_column,
    find_image_column,
    find_map_column,
    find_word_column,
    rows_at,
    tokenized_as_read,
    tokenized_words,
    with_maps,
    with_pixels,
    with_sounds,
)
from hf_compalign.measure.predictions.columns import Columns
from hf_compalign.measure.predictions.items import RowItems, items_of_rows
from hf_compalign.measure.predictions.pixels import PIXELS_PER_IMAGE, Pixels
from hf_compalign.models import (
    check_prepared,
    checked_device,
    collator_for,
    default_device,
    image_channels,
    input_names,
    load_processor,
    position_limit,
    windows_of,
)
from hf_compalign.opening import Model, load_model, name_of
from hf_compalign.tasks import MEASURED, QUESTIONS, Task, task_of

_PROCESSOR = {"texts": "a tokenizer", "images": "an image processor", "sounds": "a feature extractor"}


@dataclass(frozen=True)
class Reader:
    """A model and what turns rows into its inputs."""

    network: PreTrainedModel
    where: str  # where it came from, for people; empty for a model made in memory
    task: Task
    processing_class: Any  # None where prepared rows need none

    def prepared(self, dataset: Dataset, columns: Columns | None = None) -> Dataset:
        """Turn raw rows into the model's inputs, truncated but not yet padded; leave prepared rows alone.

        Raises:
            ValueError: the columns are ambiguous, the dataset lacks the model's inputs, or a row cannot become one.
        """
        columns = Columns.of(columns)
        kind = "images" if self.task.model_input == "pixel_values" else "sounds" if self.task.reads_sounds else "texts"
        for other, column, name in (("images", "image", columns.image), ("sounds", "audio", columns.audio)):
            if name is not None and kind != other:
                reads = f"{type(self.network).__name__} reads {kind}"
                raise ValueError(f"{reads}. Got {name!r} as the {column} column: leave it out.")
        if columns.pixels_per_image is not None and not self.task.has_maps:
            raise ValueError(
                f"pixels_per_image is for models for image segmentation. Got a model for {self.task}: leave it out."
            )
        if is_raw(dataset, self.task):
            self._check_processor(kind)
            if kind == "images":
                dataset = self._with_pixels(dataset, columns)
            elif kind == "sounds":
                dataset = with_sounds(dataset, self.processing_class, find_audio_column(dataset, columns.audio))
            else:
                dataset = self._tokenized(dataset, columns)
        check_prepared(dataset, self.network)
        return dataset

    def _with_pixels(self, dataset: Dataset, columns: Columns) -> Dataset:
        column = find_image_column(dataset, columns.image, labels=columns.label)
        n_channels = image_channels(self.network)
        maps = find_map_column(dataset, columns.label) if self.task.has_maps else None
        if maps is None:
            return with_pixels(dataset, self.processing_class, column, n_channels=n_channels)
        return with_maps(dataset, self.processing_class, column, maps, n_channels=n_channels)

    def pixels(self, rows: Dataset, columns: Columns) -> Pixels | None:
        """What draws pixels of these rows, as given; None where items are no pixels."""
        if not self.task.has_maps:
            return None
        names: tuple[str, ...] = MAP_COLUMNS if columns.label is None else (columns.label,)
        if is_raw(rows, self.task):
            names = () if find_map_column(rows, columns.label) is None else (LABELS,)
        most = columns.pixels_per_image or PIXELS_PER_IMAGE
        return Pixels(self.task, self.network.config, names, wanted=len(names) == 1, most=most)

    def items(self, rows: Dataset, prepared: Dataset, columns: Columns) -> RowItems:
        """The items of these rows, as given and as the model's inputs."""
        task, config = self.task, self.network.config
        return items_of_rows(rows, prepared, task, config, columns=columns, tokenizer=self.processing_class)

    def batches(self, rows: Dataset, columns: Columns, *, size: int) -> list[dict[str, Any]]:
        """All rows, raw or prepared, as batches of the model's inputs."""
        prepared = self.prepared(rows, columns)
        starts = range(0, len(rows), size)
        return [dict(self.batch(prepared, range(start, min(start + size, len(rows))))) for start in starts]

    def _check_processor(self, kind: str) -> None:
        """Raise a ValueError unless the processing class is for what the model reads."""
        made_for = {"texts": PreTrainedTokenizerBase, "sounds": SequenceFeatureExtractor}
        fits = [other for other, of in made_for.items() if isinstance(self.processing_class, of)] or ["images"]
        if kind not in fits:
            raise ValueError(
                f"{type(self.network).__name__} needs {_PROCESSOR[kind]}. Got {type(self.processing_class).__name__}."
            )

    def _tokenized(self, dataset: Dataset, columns: Columns) -> Dataset:
        longest = position_limit(self.network)
        if self.task.label_depth == 1:
            words = find_word_column(dataset, columns.text) or columns.texts_in(dataset)[0]
            return tokenized_words(dataset, self.processing_class, words, longest=longest)
        if self.task.has_choices:
            raise ValueError(
                "The choices of a question are tokenized before they are asked. Got the columns "
                f"{', '.join(dataset.column_names)}. Give rows with input_ids, a list for each choice."
            )
        texts, windows = columns.texts_in(dataset), windows_of(self.network)
        return tokenized_as_read(dataset, self.processing_class, texts, windows=windows, longest=longest)

    def batch(self, prepared: Dataset, places: Sequence[int]) -> Mapping[str, Any]:
        """These rows of a prepared dataset as one batch of the model's inputs."""
        return collator_for(self.network, self.processing_class)(rows_at(prepared, places, input_names(self.network)))


def reader_of(
    model: Model,
    dataset: Dataset,
    *,
    processing_class: Any = None,
    device: str | torch.device | None = None,
    among: Sequence[Task] = MEASURED,
) -> Reader:
    """Open a model of one of these tasks for the rows of a dataset; the arguments are those of `hf_compalign.predict`.

    Raises:
        ValueError: there are no rows, no model or no such device, the head is not supported, or raw rows have no
            tokenizer or image processor.
    """
    check_rows(dataset)
    network = load_model(model)
    if among is MEASURED:
        _check_has_classes(network)
    opened = isinstance(model, str | Path)
    if device is None and opened:
        device = default_device(network)
    if device is not None:
        network = network.to(checked_device(device))
    task, where = task_of(network, among), name_of(model)
    raw = is_raw(dataset, task)
    if processing_class is None and (raw or opened):
        try:
            processing_class = load_processor(where, task)
        except ValueError:
            # Prepared rows need it only for padding, if they differ in length.
            if raw:
                raise
    return Reader(network, where, task, processing_class)


def _check_has_classes(network: PreTrainedModel) -> None:
    """Raise a ValueError that says what to do instead, unless the model can be asked for classes."""
    task, name = task_of(network), type(network).__name__
    if task in QUESTIONS:
        raise ValueError(
            f"{name} answers with spans of texts, and not with classes. Ask it with predict_spans, and compare two "
            "with compare_spans."
        )
    if not task.categorical:
        raise ValueError(
            f"{name} is a regression: it answers with numbers, and not with classes. Ask it with predict_values, and "
            "compare two with compare_values(reference, candidate, tolerance=...), or as rerankers with compare_ranks."
        )
    if task.name not in {one.name for one in MEASURED}:
        raise ValueError(
            f"predict and audit do not ask models for {task.name}, such as {name}: they would keep the logits of the "
            "whole vocabulary for every token. AlignedDistillationTrainer compares two of them as it goes: give the "
            "reference as its teacher= and the candidate as its model=, and evaluate() says eval_mismatch_rate and "
            "eval_kl."
        )


def is_raw(dataset: Dataset, task: Task) -> bool:
    """Whether the rows are texts, images or sounds that must become the model's inputs first."""
    # A transform, such as that of `with_pixels`, makes the inputs on access.
    return task.model_input not in dataset.column_names and dataset.format["type"] != "custom"


def task_of_rows(dataset: Dataset, columns: Columns) -> Task:
    """The task that rows are for, by what they hold."""
    if find_word_column(dataset, columns.text) is not None:
        return next(task for task in MEASURED if task.label_depth == 1)
    prepared = next((task for task in MEASURED if task.model_input in dataset.column_names), None)
    if prepared is not None:
        return prepared
    held = {type(feature) for feature in (dataset.features or {}).values()} if columns.text is None else set()
    if columns.audio is not None or Audio in held:
        return next(task for task in MEASURED if task.reads_sounds)
    of_images = columns.image is not None or Image in held
    return next(task for task in MEASURED if (task.model_input == "pixel_values") == of_images)
