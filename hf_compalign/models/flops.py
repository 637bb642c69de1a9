"""Floating-point operations of a forward pass, counted by torch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hf_compalign.models.modes import evaluating


def count_flops(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """FLOPs of one forward pass in evaluation mode; a multiplication and an addition are two.

    >>> count_flops(nn.Linear(3, 2), {"input": torch.zeros(5, 3)})
    60

    Args:
        model: with attention "eager" or "sdpa", if it has any: the counter knows no other kernels.
        inputs: keyword arguments of its forward, on its device.
    """
    with evaluating(model), torch.inference_mode(), _countable_attention(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return int(counter.get_total_flops())


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Attention as plain matrix products: as many of them, and all known to torch's counter.

    Torch 2.13 does not count the flash kernel of the CPU, nor the fused one of `nn.TransformerEncoderLayer`.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
