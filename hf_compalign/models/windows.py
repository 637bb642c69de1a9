"""Texts that are longer than a model: it reads windows of them, and answers with the mean of their logits."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hf_compalign._compat import become
from hf_compalign.data import Windows
from hf_compalign.models.padding import starts_at
from hf_compalign.models.pooling import (
    ENTRY,
    IDS,
    MASK,
    OF_WINDOWS,
    flat_windows,
    is_windows,
    pooled,
    spread,
    windows_of,
)
from hf_compalign.models.running import Collator, default_collator, without_adapters
from hf_compalign.models.tokens import position_limit
from hf_compalign.tasks import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_in_windows(model: "PreTrainedModel", *, length: int | None = None, stride: int) -> "PreTrainedModel":
    """Let a classifier or regression of texts read long texts in windows; its logits are the mean over the windows.

    Its config says so from then on, as ``text_windows``: it is saved along, and whatever of this package opens the
    model, or a file exported from it, reads texts so. Its rows have a list of windows in ``input_ids``
    (`hf_compalign.data.tokenized_windows`), its batches are [B, windows, tokens]; those of [B, tokens] are as ever.

    Args:
        model: which is changed.
        length: tokens of a window, special ones included; by default as many as the model has positions.
        stride: tokens that two windows share.

    Returns:
        The same model.

    Raises:
        ValueError: it does another task, a length has to be said, or it is longer than the model's positions; or
            Accelerate has wrapped the model.
    """
    task, limit = task_of(model), position_limit(model)
    if task.head != "ForSequenceClassification":
        raise ValueError(
            f"A classifier or regression of whole texts can read them in windows. Got {type(model).__name__}. Answers "
            "to questions are found in windows by predict_spans."
        )
    if length is None and limit is None:
        raise ValueError(f"{type(model).__name__} takes texts of any length. Say with length= how long a window is.")
    windows = Windows(limit if length is None else length, stride)  # type: ignore[arg-type]  # one of them is there
    if limit is not None and windows.length > limit:
        raise ValueError(f"length must be at most {limit}, the positions of the model. Got {length}.")
    if "forward" in vars(model):
        raise ValueError(
            f"This {type(model).__name__} is wrapped for a training, by Accelerate. Call read_in_windows before it, or "
            "load the model again."
        )
    setattr(model.config, ENTRY, asdict(windows))
    return follow_config(model)


def follow_config(model: Any) -> Any:
    """The model, which from now on takes windows if its config says so."""
    from transformers import PreTrainedModel

    inner = without_adapters(model)
    # Exported files, and pairs that defer, take them as they are.
    if isinstance(inner, PreTrainedModel) and windows_of(inner) and not hasattr(type(inner), "takes_windows"):
        become(inner, _windowed(type(inner)))  # type: ignore[arg-type]  # a class can be hashed
    return model


@cache
def _windowed(stock: type) -> type:
    """The class that also takes batches of windows; it has the name of the stock class, by which it is saved."""

    @wraps(stock.forward)  # type: ignore[attr-defined]  # what it takes is read from its signature
    def forward(self: Any, *args: Any, **inputs: Any) -> Any:
        given = inspect.signature(stock.forward).bind_partial(self, *args).arguments if args else {}  # type: ignore[attr-defined]
        inputs |= {name: value for name, value in given.items() if name != "self"}
        if not is_windows(inputs):
            return stock.forward(self, **inputs)  # type: ignore[attr-defined]
        labels, in_fields = inputs.pop("labels", None), inputs.pop("return_dict", None)
        in_fields = getattr(self.config, "return_dict", True) if in_fields is None else in_fields
        flat, places = flat_windows(inputs)
        outputs = stock.forward(self, **flat, return_dict=True)  # type: ignore[attr-defined]
        found = dict(outputs) | {"logits": pooled(outputs["logits"], places)}
        for name in {"hidden_states", "attentions"} & found.keys():
            # As of several texts in a row, empty windows included.
            found[name] = tuple(spread(layer, places).flatten(0, 1) for layer in found[name])
        if labels is not None:
            logits = found["logits"]
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config)
            found = {"loss": loss} | found
        answer = type(outputs)(**found)
        return answer if in_fields else answer.to_tuple()

    namespace = {"forward": forward, "takes_windows": True, "__reduce__": lambda self: (_blank, (stock,), vars(self))}
    same = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(stock.__name__, (stock,), namespace | same)


def _blank(stock: type) -> Any:
    """A model without its contents, for pickle, which looks for a class by its name."""
    cls: Any = _windowed(stock)
    return cls.__new__(cls)


@dataclass(frozen=True)
class WindowCollator:
    """Rows with a list of windows become a batch [B, windows, tokens]; empty windows have an attention mask of 0.

    Attributes:
        collate: for rows with one text: it pads the windows, and whatever else the rows have.
    """

    collate: Collator

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of some rows."""
        parts = [_windows_in(row) for row in rows]
        windows = [window for part in parts for window in part]
        batch = dict(self.collate([dict(window) for window in windows]))
        if MASK not in batch:
            batch[MASK] = _mask_of([window[IDS] for window in windows], batch[IDS])
        sizes = [len(part) for part in parts]
        firsts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        found = {name: value[firsts] for name, value in batch.items() if name not in OF_WINDOWS}
        # A collator that is one of these already has made texts of one window of each.
        of_windows = {name: batch[name].flatten(0, -2) for name in OF_WINDOWS if name in batch}
        return found | {
            name: pad_sequence([*value.split(sizes)], batch_first=True) for name, value in of_windows.items()
        }


def _windows_in(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each window; one that was not cut is one window."""
    if not len(row[IDS]) or not isinstance(row[IDS][0], Sequence | Tensor | np.ndarray) or not np.ndim(row[IDS][0]):
        return [dict(row)]
    rest = {name: value for name, value in row.items() if name not in OF_WINDOWS}
    names = [name for name in OF_WINDOWS if name in row]
    return [rest | {name: row[name][window] for name in names} for window in range(len(row[IDS]))]


def _mask_of(texts: Sequence[Any], padded: Tensor) -> Tensor:
    """1 where a padded text [N, tokens] has its own tokens."""
    mask = torch.zeros_like(padded)
    for row, (text, whole) in enumerate(zip(texts, padded.tolist(), strict=True)):
        own = torch.as_tensor(text).tolist()
        begin = starts_at(own, whole)
        mask[row, begin : begin + len(own)] = 1
    return mask


def collator_for(model: nn.Module, processing_class: Any = None, given: Collator | None = None) -> Collator:
    """How a model's rows become a batch: with the given collator, or that of `default_collator`.

    Rows with several texts, of a multiple choice, need a collator for them; those with windows need none of their own.
    """
    if windows_of(model) is not None:
        return WindowCollator(given or default_collator(processing_class))
    return given or default_collator(processing_class, choices=task_of(model).has_choices)
