"""Compression as callbacks of any Trainer: until training ends, every checkpoint is an ordinary one."""

from hf_compalign.compress.callbacks.pruning import PruningCallback
from hf_compalign.compress.callbacks.quantizing import QuantizationCallback
from hf_compalign.compress.callbacks.shrinking import ShrinkCallback

__all__ = ["PruningCallback", "QuantizationCallback", "ShrinkCallback"]
