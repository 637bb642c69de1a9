"""Units that go: what a model is made of, what its parts are worth and cost, and cutting them out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
