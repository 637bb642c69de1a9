"""Which file to deploy: what each changes, how fast it is, and what it takes, side by side."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
