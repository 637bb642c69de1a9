"""Workarounds for versions of dependencies, each with its reason and its expiry."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
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


def built_with(stock: Any, change: "Callable[[nn.Module], object]") -> Any:
    """A class of transformers whose models are changed as soon as they are built, before their weights are read.

    from_pretrained of transformers 5.17 to 5.24 builds a model by its config alone, and refuses weights of other
    widths; nothing is called in between. So it builds a class of its own here, of the same name: by that it finds the
    conversions of the names of weights. To be removed when from_pretrained can be given a model to fill, or a config
    can hold widths by layer.
    """

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        change(self)

    namespace = {"__init__": build, "__module__": stock.__module__, "__qualname__": stock.__qualname__}
    return type(stock.__name__, (stock,), namespace)


def become(module: "nn.Module", cls: type) -> None:
    """Give a module another class that holds the same, and leave its parameters, hooks and places as they are.

    All state of a module of torch 2.11 to 2.13 is in its `__dict__`, so that its class is only what it computes. To be
    removed together with `built_with`, and when torch can replace a module along with its hooks.
    """
    module.__class__ = cls


def forget_reading(model: Any) -> None:
    """Let a model of torchao be saved that from_pretrained has read.

    save_pretrained of transformers 5.17 to 5.24 reverses what from_pretrained did to the names of weights, and ends in
    NotImplementedError at torchao's (https://github.com/huggingface/transformers/pull/43096). Without the note of what
    was done it saves the model as one that was never read. To be removed when that is merged.
    """
    vars(model).pop("_weight_conversions", None)


def make_gradients_contiguous(layer: "nn.Module") -> None:
    """Give what computes the gradients of a layer a contiguous one.

    The backward pass of optimum-quanto 0.2.7 takes a view of the gradient, which fails on one that attention has
    transposed (https://github.com/huggingface/optimum-quanto/issues/327). To be removed when it takes another shape
    by `reshape`.
    """

    def hook(layer: "nn.Module", args: Any, output: "Tensor") -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient.contiguous())

    layer.register_forward_hook(hook)
