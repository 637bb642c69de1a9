"""Versions of dependencies, and the pip command for a missing optional one."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Name -> version of the packages that are installed.

    >>> list(installed_versions(["torch", "no-such-package"]))
    ['torch']
    """
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@contextmanager
def needs_extra(extra: str, *, what: str) -> Iterator[None]:
    """Turn a failed import of an optional dependency into an ImportError that says how to install it.

    >>> with needs_extra("onnx", what="The export to ONNX"):
    ...     import no_such_package
    Traceback (most recent call last):
    ImportError: The export to ONNX needs packages that are not installed (No module named 'no_such_package'). ...

    Args:
        extra: the name of the extra in pyproject.toml.
        what: what needs it, as the beginning of a sentence.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{what} needs packages that are not installed ({error}). Install them: pip install 'hf-compalign[{extra}]'"
        ) from error
