"""Calibration data: some batches that a model is run on, to see which of its weights and units matter."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

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


def on_device(batch: Batch, model: nn.Module) -> dict[str, Tensor]:
    """The batch where the model is."""
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}


def run_model(model: nn.Module, batch: Batch) -> Any:
    """The model's outputs for the inputs it knows; labels and columns for others are left out."""
    known = input_names(model)
    return model(**{name: value for name, value in on_device(batch, model).items() if name in known})


def own_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The model's loss for the labels; without labels, the cross-entropy of its own predictions."""
    known = (*input_names(model), "labels", "start_positions", "end_positions")
    outputs = model(**{name: value for name, value in on_device(batch, model).items() if name in known})
    if outputs.get("loss") is not None:
        return outputs.loss
    logits = outputs[0]
    return F.cross_entropy(logits.flatten(0, -2), logits.detach().argmax(-1).flatten())
