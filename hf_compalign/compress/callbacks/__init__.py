"""Compression as callbacks of any Trainer: what they do to the model is in its weights, not in its modules."""

from hf_compalign.compress.callbacks.pruning import PruningCallback
from hf_compalign.compress.callbacks.quantizing import QuantizationCallback
from hf_compalign.compress.callbacks.shrinking import ShrinkCallback

__all__ = ["PruningCallback", "QuantizationCallback", "ShrinkCallback"]
