"""Calibration data: some batches that a model is run on, to see which of its weights and units matter."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from hf_compalign.models import (
    default_collator,
    device_of,
    input_names,
    is_windows,
    known_inputs,
    labeled_loader,
    on_device,
    random_state_kept,
    token_problem,
    window_rows,
    windows_of,
)

Batch = Mapping[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
"""(model, batch) -> the scalar whose gradient says what matters."""

# Rows that a callback takes of the training data where it is given no calibration data of its own.
ROWS = 512
BATCH_SIZE = 32


def calibration_batches(
    calibration: Iterable[Any], model: nn.Module, *, labeled: bool = False
) -> list[dict[str, Tensor]]:
    """The batches of the calibration data, checked, each with the tensors that are there.

    Args:
        calibration: a DataLoader or another iterable of batches as the model takes them; or a `datasets.Dataset` of
            rows that can be stacked. A few hundred rows do.
        model: the model that will be run on them.
        labeled: whether labels will be needed; then those of a dataset are matched with the model's by name.

    Raises:
        ValueError: there is no batch, one lacks the model's input, holds NaN or infinite values, or tokens that the
            model cannot take; or the labels that will be needed are not the model's.
    """
    if isinstance(calibration, Dataset):
        calibration = DataLoader(calibration, batch_size=BATCH_SIZE, collate_fn=_stacked)
    if isinstance(calibration, (str, bytes, Mapping)) or not isinstance(calibration, Iterable):
        raise ValueError(
            "calibration must be a DataLoader, a list of batches or a datasets.Dataset. Got "
            f"{type(calibration).__name__}."
        )
    if labeled and isinstance(calibration, DataLoader):
        calibration = labeled_loader(calibration, model)
    # A loader that shuffles gives the same rows at every call, and a training's own random numbers go on as before.
    with random_state_kept(seed=0):
        batches = [_checked(batch, model) for batch in calibration]
    if not batches:
        raise ValueError("calibration holds no batch. Give at least one; a few hundred rows do.")
    return batches


def _stacked(rows: list[dict[str, Any]]) -> Mapping[str, Any]:
    try:
        return default_collator()(rows)
    except ValueError as error:
        raise ValueError(
            "The rows of the calibration data cannot be stacked, since they differ in length or shape. Give a "
            "DataLoader with a collate_fn that pads them, like DataCollatorWithPadding(tokenizer)."
        ) from error


def _checked(batch: Any, model: nn.Module) -> dict[str, Tensor]:
    needed = str(model.main_input_name)
    columns = dict(batch) if isinstance(batch, Mapping) else {}
    tensors = {name: value for name, value in columns.items() if isinstance(value, Tensor)}
    if needed not in tensors or tensors[needed].ndim < 2:
        got = ", ".join(f"{name} ({type(value).__name__})" for name, value in columns.items())
        raise ValueError(
            f"A calibration batch must hold the inputs of {type(model).__name__} as tensors of several rows, with "
            f"{needed!r} among them. Got {got or type(batch).__name__}. Tokenize the texts, or turn the images into "
            "pixel values, and collate them as for training."
        )
    problem = token_problem(model, tensors)
    if problem is not None:
        raise ValueError(f"The model cannot take the calibration data. {problem}")
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"The calibration data hold NaN or infinite values in {name!r}. Remove those rows.")
    return window_rows(tensors) if windows_of(model) and is_windows(tensors) else tensors


def training_batches(loader: DataLoader[Any], model: nn.Module) -> list[dict[str, Tensor]]:
    """Calibration batches from the data of a training: evenly spaced rows, the same at every call and in every process.

    Neither the loader's order nor any random state is touched, and random transforms give the same values every time.
    """
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            "The training data are a stream, so no rows of them can be taken for calibration. Give calibration=, "
            f"a list of batches of some {ROWS} rows together."
        )
    n_rows = min(ROWS, len(dataset))
    with random_state_kept(seed=0):
        rows = [dataset[index * len(dataset) // n_rows] for index in range(n_rows)]
        parts = [rows[begin : begin + BATCH_SIZE] for begin in range(0, n_rows, BATCH_SIZE)]
        return calibration_batches([loader.collate_fn(part) for part in parts], model)


def run_model(model: nn.Module, batch: Batch) -> Any:
    """The model's outputs for a batch without its labels."""
    return model(**known_inputs(model, batch))


def token_rows(values: Tensor, batch: Batch) -> Tensor:
    """[n, features]: values, [..., tokens, features] or [items, features], without those of padding."""
    mask = batch.get("attention_mask")
    if mask is not None:
        mask = mask.flatten(0, -2) if mask.ndim > 1 else mask  # multiple choice: [items, choices, tokens]
        if mask.shape == values.shape[:-1]:
            return values[mask.to(values.device).bool()]
    return values.flatten(0, -2)


def own_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The model's loss for the labels, or else their cross-entropy; without labels, that of its own predictions."""
    known = (*input_names(model), "labels", "start_positions", "end_positions")
    config: Any = model.config
    problem_type = config.problem_type
    try:
        outputs = model(**on_device({name: batch[name] for name in known if name in batch}, device_of(model)))
    finally:
        config.problem_type = problem_type  # which the model writes down when it first sees labels
    if outputs.get("loss") is not None:
        return outputs.loss
    logits = outputs.get("logits")
    if logits is not None and problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, (logits.detach() > 0).to(logits.dtype))
    if logits is None or logits.shape[-1] < 2 or problem_type not in (None, "single_label_classification"):
        raise ValueError(
            f"The calibration data have no labels, and {type(model).__name__} does not predict classes, "
            "which could serve as the label. Add the column 'labels', or give loss=, a function of the model and "
            "a batch."
        )
    logits = token_rows(logits, batch)
    # A distilled DeiT takes labels and gives no loss.
    labels = batch.get("labels", logits.detach().argmax(-1)).to(logits.device)
    return F.cross_entropy(logits, labels)


def loss_of(model: nn.Module, batch: Batch, loss: Loss) -> Tensor:
    """The value of a loss, checked."""
    value = loss(model, batch)
    if value.ndim or not value.requires_grad:
        raise ValueError(
            "loss must return a scalar that depends on the model's outputs in a differentiable way. Got a tensor of "
            f"shape {list(value.shape)}" + ("." if value.requires_grad else " without a gradient.")
        )
    return value
