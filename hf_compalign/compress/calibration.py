"""Calibration data: some batches that a model is run on, to see which of its weights and units matter."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_compalign.inference import default_collator, input_names

Batch = Mapping[str, Tensor]
# model, batch -> the scalar whose gradient says what matters
Loss = Callable[[nn.Module, Batch], Tensor]

# Rows that a callback takes of the training data where it is given no calibration data of its own.
ROWS = 512
BATCH_SIZE = 32


def calibration_batches(calibration: Iterable[Any], model: nn.Module) -> list[dict[str, Tensor]]:
    """The batches of the calibration data, checked, each with the tensors that are there.

    Args:
        calibration: a DataLoader or another iterable of batches as the model takes them; or a `datasets.Dataset` of
            rows that can be stacked. A few hundred rows do.
        model: the model that will be run on them.

    Raises:
        ValueError: there is no batch, one lacks the model's input, or holds NaN or infinite values.
    """
    if isinstance(calibration, Dataset):
        calibration = DataLoader(calibration, batch_size=BATCH_SIZE, collate_fn=default_collator())
    if isinstance(calibration, (str, bytes, Mapping)) or not isinstance(calibration, Iterable):
        raise ValueError(
            "calibration must be a DataLoader, a list of batches or a datasets.Dataset. Got "
            f"{type(calibration).__name__}."
        )
    needed = model.main_input_name
    batches = []
    for batch in calibration:
        if not isinstance(batch, Mapping) or needed not in batch:
            got = ", ".join(batch) if isinstance(batch, Mapping) else type(batch).__name__
            raise ValueError(
                f"A calibration batch must hold the inputs of {type(model).__name__}, with {needed!r} among them. Got "
                f"{got}. Tokenize the texts, or turn the images into pixel values, and collate them as for training."
            )
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        for name, value in tensors.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise ValueError(f"The calibration data hold NaN or infinite values in {name!r}. Remove those rows.")
        batches.append(tensors)
    if not batches:
        raise ValueError("calibration holds no batch. Give at least one; a few hundred rows do.")
    return batches


def training_batches(loader: DataLoader[Any], model: nn.Module) -> list[dict[str, Tensor]]:
    """Calibration batches from the data of a training: evenly spaced rows, the same at every call and in every process.

    Neither the loader's order nor any random state is touched, and random transforms give the same values every time.

    Raises:
        ValueError: the data have no length, or the batches do not fit the model.
    """
    dataset = loader.dataset
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            "The training data have no length, so that no rows of them can be taken for calibration. Give "
            f"calibration=, a list of batches of some {ROWS} rows together."
        )
    n_rows = min(ROWS, len(dataset))
    with _seeded(0):
        rows = [dataset[index * len(dataset) // n_rows] for index in range(n_rows)]
        parts = [rows[begin : begin + BATCH_SIZE] for begin in range(0, n_rows, BATCH_SIZE)]
        return calibration_batches([loader.collate_fn(part) for part in parts], model)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of the CPU from a seed for a while; then they go on as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def on_device(batch: Batch, model: nn.Module) -> dict[str, Tensor]:
    """The batch where the model is."""
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}


def known_inputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """What of a batch the model knows, without labels and columns for others, where the model is."""
    known = input_names(model)
    return {name: value for name, value in on_device(batch, model).items() if name in known}


def run_model(model: nn.Module, batch: Batch) -> Any:
    """The model's outputs for a batch without its labels."""
    return model(**known_inputs(model, batch))


def own_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The model's loss for the labels; without labels, the cross-entropy of its own predictions."""
    known = (*input_names(model), "labels", "start_positions", "end_positions")
    config: Any = model.config
    problem_type = config.problem_type
    try:
        outputs = model(**{name: value for name, value in on_device(batch, model).items() if name in known})
    finally:
        config.problem_type = problem_type  # which the model writes down when it first sees labels
    if outputs.get("loss") is not None:
        return outputs.loss
    logits = outputs[0]
    return F.cross_entropy(logits.flatten(0, -2), logits.detach().argmax(-1).flatten())
