"""What holds for every test: no network, none of the user's caches, one thread, no progress bars, little collected."""

import gc
import os
import shutil
import tempfile

import pytest

_HF_HOME = tempfile.mkdtemp(prefix="hf-compalign-tests-")

# Set here, before any test module is imported, because the libraries read them when they are first imported.
os.environ |= {
    "HF_HOME": _HF_HOME,
    "HF_HUB_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "PYTHONFAULTHANDLER": "1",  # of the processes that tests start
}
for _library in ("HUB", "DATASETS", "EVALUATE", "METRICS", "MODULES"):
    os.environ.pop(f"HF_{_library}_CACHE", None)  # it would win over HF_HOME


@pytest.fixture(scope="module", autouse=True)
def _what_stays_is_not_garbage():
    """The Trainer collects garbage often, and would look through all imported libraries each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def traced_once():
    """Exports of the same model trace it once."""
    import traced

    with traced.traced_once():
        yield


def pytest_unconfigure():
    shutil.rmtree(_HF_HOME, ignore_errors=True)
