"""A small file that answers where it is sure, an original that answers the rest, and how often that can differ."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
