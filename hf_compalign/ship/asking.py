"""Ask several models the same questions, and time them side by side."""

import copy
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from hf_compalign.measure.footprint import Latency, interleaved_latency_ms
from hf_compalign.measure.predictions import Columns, Predictions, predict, reader_of
from hf_compalign.models import default_collator, device_of, input_names, load_processor
from hf_compalign.opening import load_model
from hf_compalign.tasks import Task

Model: TypeAlias = PreTrainedModel | str | Path


@dataclass(frozen=True)
class Questions:
    """What models are asked, and how.

    Attributes:
        dataset: raw or prepared, as `predict` takes it.
        columns: where to find what in a raw dataset.
        batch_size: rows at a time.
    """

    dataset: Dataset
    columns: Columns | None = None
    batch_size: int = 32

    def answers(self, model: Model, processor: Any) -> Predictions:
        """Of one model, on all rows."""
        return predict(
            model, self.dataset, processing_class=processor, columns=self.columns, batch_size=self.batch_size
        )

    def first_batch(self, network: PreTrainedModel, processor: Any, *, size: int) -> dict[str, Any]:
        """The model's inputs for the first rows, from the beginning again where there are fewer."""
        rows = self.dataset.select([index % len(self.dataset) for index in range(size)])
        columns = self.columns or Columns()
        reader = reader_of(network, rows, processing_class=processor)
        rows = reader.prepared(rows, text=columns.text, image=columns.image)
        known = input_names(network)
        return dict(default_collator(processor)([{name: row[name] for name in row if name in known} for row in rows]))

    def latencies(
        self, models: Mapping[str, tuple[Model, Any]], *, sizes: Sequence[int], n_runs: int, device: torch.device
    ) -> dict[str, dict[int, Latency]]:
        """Name -> batch size -> latency of one pass; of each batch size, all models in turn.

        Args:
            models: name -> (model, its processor).
            sizes: of the batches.
            n_runs: timed passes of each.
            device: where all of them run; a given module on another device stays where it is, and a copy is timed.
        """
        networks = {name: _on_device(model, device) for name, (model, _) in models.items()}
        found: dict[str, dict[int, Latency]] = {name: {} for name in models}
        for size in sizes:
            candidates = {
                name: (network, self.first_batch(network, models[name][1], size=size))
                for name, network in networks.items()
            }
            for name, latency in interleaved_latency_ms(candidates, n_runs=n_runs).items():
                found[name][size] = latency
        return found


def name_of(model: Model) -> str:
    """Where a model is or came from; empty for one that was just made."""
    return str(model) if isinstance(model, str | Path) else str(model.config.name_or_path)


def processor_of(model: Model, task: Task, *, default: Any) -> Any:
    """What was saved beside a model, or else the default."""
    try:
        return load_processor(name_of(model), task)
    except ValueError:
        return default


def timing_device(*, onnx: bool) -> torch.device:
    """Where models are timed: all on the CPU when ONNX files are among them, else on a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() and not onnx else "cpu")


def machine_name(device: torch.device) -> str:
    """What runs there, for people: the processor, how much of it is used, and the versions that matter for speed."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{_cpu_name()} (threads: {torch.get_num_threads()}, CPUs: {os.cpu_count()})"
    return f"{where}, {platform.system()}, {_versions()}"


def _cpu_name() -> str:
    """Only Linux tells the model's name, in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> str:
    found = []
    for package in ("torch", "onnxruntime", "openvino"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _on_device(model: Model, device: torch.device) -> PreTrainedModel:
    network = load_model(model)
    if isinstance(model, nn.Module) and device_of(network).type != device.type:
        network = copy.deepcopy(network)
    return network.to(device)
