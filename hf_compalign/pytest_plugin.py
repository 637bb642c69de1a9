"""A fixture for pytest, there wherever the package is installed: does a model still answer like the original?

It loads torch and transformers when a test calls it, not when pytest starts.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hf_compalign.measure.audit import Audit


@pytest.fixture(scope="session")
def assert_same_answers() -> "Callable[..., Audit]":
    """A function that fails the test unless a candidate answers like the reference, within limits.

    It is called as ``assert_same_answers(reference, candidate, dataset, limits={"mismatch_rate": 0.01})`` and takes
    what `hf_compalign.audit` takes; ``reference`` may be the .npz file of ``hf-compalign record``, and ``dataset`` the
    path of a file or of a folder of images. It returns the audit.
    """
    return _assert_same_answers


def _assert_same_answers(
    reference: Any, candidate: Any, dataset: Any = None, *, limits: Mapping[str, float], **options: Any
) -> "Audit":
    __tracebackhide__ = True
    from hf_compalign._visible import cleaned
    from hf_compalign.data import load_file
    from hf_compalign.measure.audit import audit, failure, metrics_beside_fields
    from hf_compalign.search import as_chosen

    if not limits:
        raise ValueError("limits must say what the same answers are, such as {'mismatch_rate': 0.01}. Got none.")
    rows = load_file(dataset) if isinstance(dataset, str | Path) else dataset
    found = audit(reference, as_chosen(candidate), rows, limits=limits, **options)
    if not found.passed:
        pytest.fail(failure(cleaned(metrics_beside_fields(found.to_dict()))), pytrace=False)
    return found
