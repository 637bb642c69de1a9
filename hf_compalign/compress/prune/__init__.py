"""Weights that go: scores, masks, and pruning a model in one call."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
