"""Metrics as modules of the evaluate library: `load_metric` loads them from the installed package."""

from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def load_metric(name: str, **kwargs: Any) -> Any:
    """Load one of this package's metrics, such as ``mismatch``, as an ``evaluate.Metric``.

    Args:
        name: the metric's name.
        kwargs: passed on to ``evaluate.load``. ``keep_in_memory`` is on by default, so nothing is written to the
            user's cache between ``add_batch`` and ``compute``.

    Raises:
        ValueError: there is no such metric.
    """
    available = sorted(script.stem for script in _FOLDER.glob("*/*.py") if script.stem == script.parent.name)
    if name not in available:
        raise ValueError(f"There is no metric {name!r}. Available: {', '.join(available)}.")
    import evaluate

    return evaluate.load(str(_FOLDER / name), **{"keep_in_memory": True, **kwargs})
