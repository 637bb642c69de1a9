"""Workarounds for versions of dependencies, each with its reason and its expiry."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainerState


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds a tokenizer.

    AutoTokenizer of transformers 5.23 makes up an empty one for a folder that has none, to which every word is unknown.
    To be removed when it refuses such a folder, as transformers 4 did.
    """
    return any(any(folder.glob(pattern)) for pattern in ("*token*", "vocab*", "*.model"))


def add_to_log(state: "TrainerState", numbers: Mapping[str, float]) -> None:
    """Put numbers into the line of ``log_history`` that belongs to the event that is under way.

    The Trainer of transformers 5.23 appends a copy of what it logs to ``log_history`` before it calls `on_log` and
    `on_evaluate`, so what a callback adds to the logs or metrics of the event is not there. To be removed when it is.
    """
    if state.log_history and state.log_history[-1].get("step") == state.global_step:
        state.log_history[-1].update(numbers)
