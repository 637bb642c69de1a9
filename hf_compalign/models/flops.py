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
        model: with attention "eager" or "sdpa", if any; the counter knows no other kernels.
        inputs: keyword arguments of its forward, on its device.
    """
    with evaluating(model), torch.inference_mode(), _countable_attention(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return int(counter.get_total_flops())


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Run attention as plain matrix products, all of which torch's counter sees."""
    # Torch 2.13 counts neither the CPU's flash kernel nor the fused `nn.TransformerEncoderLayer`.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
