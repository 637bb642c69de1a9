"""Workarounds for versions of dependencies, each with its reason and its expiry."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers.trainer_callback import CallbackHandler


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds a tokenizer.

    AutoTokenizer of transformers 5.23 makes up an empty one for a folder that has none, to which every word is unknown.
    To be removed when it refuses such a folder, as transformers 4 did.
    """
    return any(any(folder.glob(pattern)) for pattern in ("*token*", "vocab*", "*.model"))


def calling_handler() -> "CallbackHandler | None":
    """Who calls the callbacks of a Trainer; None outside of its events.

    The Trainer of transformers 5.23 logs the metrics of an evaluation before `on_evaluate`, and tells an event neither
    the Trainer nor who else listens, so a callback that measures something then cannot log it. The handler is found
    among the callers. To be removed when an event is given the Trainer, or what it adds to the metrics is logged.
    """
    from transformers.trainer_callback import CallbackHandler

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back
    return None
