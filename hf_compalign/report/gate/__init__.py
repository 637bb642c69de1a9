"""An audit as a gate shows it: a summary in Markdown, and test cases."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
