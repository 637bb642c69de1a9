"""Several models timed side by side on the first rows of a dataset."""

import copy
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from hf_compalign.measure.footprint.latency import interleaved_latency_ms
from hf_compalign.measure.footprint.record import Latency
from hf_compalign.measure.predictions import Columns, reader_of
from hf_compalign.models import device_of
from hf_compalign.opening import Model, load_model


def latencies_on(
    dataset: Dataset,
    models: Mapping[str, tuple[Model, Any]],
    *,
    columns: Columns | None = None,
    batch_sizes: Sequence[int],
    n_runs: int = 20,
    device: torch.device,
) -> dict[str, dict[int, Latency]]:
    """Name -> batch size -> latency of one pass on the first rows; for each batch size, all models in turn.

    ``models`` is name -> (model, its tokenizer or image processor). All run on the ``device``. A given module on
    another device stays there, and a copy is timed.
    """
    networks = {name: opened_on(model, device) for name, (model, _) in models.items()}
    found: dict[str, dict[int, Latency]] = {name: {} for name in models}
    for size in batch_sizes:
        batches = {
            name: first_batch(network, dataset, size=size, processing_class=models[name][1], columns=columns)
            for name, network in networks.items()
        }
        candidates = {name: (network, batches[name]) for name, network in networks.items()}
        for name, latency in interleaved_latency_ms(candidates, n_runs=n_runs).items():
            found[name][size] = latency
    return found


def opened_on(model: Model, device: torch.device) -> PreTrainedModel:
    """A model on the device; a given module on another device stays there, and this is a copy."""
    network = load_model(model)
    elsewhere = isinstance(model, nn.Module) and device_of(network).type != device.type
    return (copy.deepcopy(network) if elsewhere else network).to(device)


def first_batch(
    network: PreTrainedModel,
    dataset: Dataset,
    *,
    size: int,
    processing_class: Any = None,
    columns: Columns | None = None,
) -> dict[str, Any]:
    """The model's inputs for the first ``size`` rows, repeated if there are fewer."""
    (found,) = batches_of(network, dataset, sizes=(size,), processing_class=processing_class, columns=columns)
    return found


def batches_of(
    network: PreTrainedModel,
    dataset: Dataset,
    *,
    sizes: Sequence[int],
    processing_class: Any = None,
    columns: Columns | None = None,
) -> list[dict[str, Any]]:
    """The model's inputs for batches of these sizes, one after the other; after the last row comes the first again."""
    columns, starts = Columns.of(columns), [0, *accumulate(sizes)]
    rows = dataset.select([index % len(dataset) for index in range(starts[-1])])
    reader = reader_of(network, rows, processing_class=processing_class)
    rows = reader.prepared(rows, columns)
    return [dict(reader.batch(rows, range(start, stop))) for start, stop in pairwise(starts)]
