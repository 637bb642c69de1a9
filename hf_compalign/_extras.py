"""Optional dependencies: what is missing, and the pip command that brings it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs_extra(extra: str, *, what: str) -> Iterator[None]:
    """Around the imports of an optional dependency: an ImportError that says how to install it.

    >>> with needs_extra("onnx", what="The export to ONNX"):
    ...     import no_such_package
    Traceback (most recent call last):
    ImportError: The export to ONNX needs packages that are not installed (No module named 'no_such_package'). ...

    Args:
        extra: the name of the extra in pyproject.toml.
        what: what needs it, as the beginning of a sentence.

    Raises:
        ImportError: an import in the block failed.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{what} needs packages that are not installed ({error}). Install them: pip install 'hf-compalign[{extra}]'"
        ) from error
