"""The figures of matplotlib: one function for each.

Those that take an ``audit`` take an `Audit` or its ``to_dict()``. All raise an ImportError where matplotlib is not
installed, and a ValueError where there is nothing to show, such as groups of an audit without any.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
