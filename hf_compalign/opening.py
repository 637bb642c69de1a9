"""Where a model came from, and what reads its rows."""

from pathlib import Path
from typing import Any, TypeAlias

from transformers import PreTrainedModel

from hf_compalign.models import load_processor
from hf_compalign.tasks import Task

Model: TypeAlias = PreTrainedModel | str | Path
"""A module, a folder written by save_pretrained, a Hub id, or an exported file."""


def name_of(model: Model) -> str:
    """Where a model is or came from; empty for one that was just made."""
    if isinstance(model, str | Path):
        return str(model)
    return str(getattr(model, "path", model.config._name_or_path))


def processor_of(model: Model, task: Task, *, default: Any = None) -> Any:
    """The tokenizer or image processor that was saved beside a model, or else the default."""
    try:
        return load_processor(name_of(model), task)
    except ValueError:
        return default
