"""Weights that a library holds in another form than their floats."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def plain_tensors(tensor: "Tensor") -> "Iterator[Tensor]":
    """The tensors that one is made of: integers and scales where a library holds them as one of floats; or itself."""
    if not is_quantized(tensor):
        yield tensor
        return
    made_of: Any = tensor
    for name in made_of.__tensor_flatten__()[0]:
        yield from plain_tensors(getattr(tensor, name))


def is_quantized(tensor: "Tensor") -> bool:
    """Whether a library holds the tensor in another form than its floats."""
    from torch.distributed.tensor import DTensor

    return hasattr(tensor, "__tensor_flatten__") and not isinstance(tensor, DTensor)
