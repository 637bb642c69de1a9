"""INT8 files that keep to limits, at the price of layers left in float."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
