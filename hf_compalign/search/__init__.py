"""One number in, one folder out: the fastest or smallest file of a model that still answers like it, proved."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
