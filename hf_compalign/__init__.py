"""Compress a fine-tuned transformer, and prove, example by example, that it still answers like the original.

The public names stand in ``__init__.pyi`` and are loaded on first use: importing the package costs milliseconds, not
the seconds of torch and transformers.
"""

from typing import Any

import lazy_loader

_public_name, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hf-compalign")
    return _public_name(name)


def __dir__() -> list[str]:
    return sorted(__all__)
