"""Workarounds for versions of dependencies, each with its reason and its expiry."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def image_processor_class() -> Any:
    """AutoImageProcessor, which reads images with Pillow where there is no torchvision.

    transformers 5.17 exports a placeholder that asks for torchvision, because the file of the class names a class of
    that backend. The class in the file works. Fixed in 5.18 by https://github.com/huggingface/transformers/pull/48616:
    to be removed, for `transformers.AutoImageProcessor`, when 5.17 is no longer supported.
    """
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return AutoImageProcessor


def exported_graph(exported: Any) -> Any:
    """The graph, of onnx_ir, in what the OnnxExporter of transformers returns.

    Up to 5.22 this is the ONNXProgram of torch, whose graph is its `model`; 5.23 wraps it in an ExportedModel, whose
    graph is its `program`. To be removed, for `exported.program`, when 5.22 is no longer supported.
    """
    return exported.program if hasattr(exported, "program") else exported.model
