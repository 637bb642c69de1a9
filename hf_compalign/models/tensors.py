"""Weights that a library stores in another form than floats."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def plain_tensors(tensor: "Tensor") -> "Iterator[Tensor]":
    """A quantized tensor's integers and scales, or the tensor itself."""
    if not is_quantized(tensor):
        yield tensor
        return
    made_of: Any = tensor
    for name in made_of.__tensor_flatten__()[0]:
        yield from plain_tensors(getattr(tensor, name))


def is_quantized(tensor: "Tensor") -> bool:
    """Whether a library stores the tensor in another form than floats."""
    from torch.distributed.tensor import DTensor

    return hasattr(tensor, "__tensor_flatten__") and not isinstance(tensor, DTensor)
