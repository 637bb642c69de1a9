"""The demo: a real data set, a small model, pruned and recovered in four ways, everything kept in a folder."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
