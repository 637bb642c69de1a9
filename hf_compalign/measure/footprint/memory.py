"""How much memory a model takes while it answers, seen in a process of its own."""

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_compalign.models import FileModel, RuntimeSettings
from hf_compalign.opening import Model, load_model, open_file

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PASSES = 3


def peak_memory_bytes(models: Sequence[Model], inputs: Mapping[str, Any]) -> int | None:
    """How far the memory of a new process grows at most while it opens models and runs each on the inputs three times.

    That is weights, what the runtime makes of them, and activations; what Python and its libraries take does not count.

    Args:
        models: folders, Hub ids or files, opened as `load_model` does, or a `FileModel`, which keeps its settings.
        inputs: tensors for one pass of each model, on the CPU.

    Returns:
        Bytes; None where a model is a module in memory, which no other process can open, or the system is not Linux.
    """
    places = [_place(model) for model in models]
    if None in places or not _RESET.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.npz"
        np.savez(path, allow_pickle=False, **{name: np.asarray(value) for name, value in inputs.items()})
        asked = json.dumps({"places": places, "inputs": str(path), "threads": torch.get_num_threads()})
        command = [sys.executable, "-m", "hf_compalign.measure.footprint.memory", asked]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The process that measures memory failed: {done.stderr.strip()[-2000:]}")
    return int(done.stdout.split()[-1])


def _place(model: Model) -> Any:
    """Where a model is, and its settings, as JSON; None for a module in memory."""
    if isinstance(model, FileModel):
        return [str(model.path.absolute()), asdict(model.settings)]
    return [str(model), None] if isinstance(model, str | Path) else None


def _growth(asked: Mapping[str, Any]) -> int:
    """In this process: the peak of its memory from now on, less what it takes now."""
    torch.set_num_threads(asked["threads"])
    with np.load(asked["inputs"]) as stored:
        inputs = {name: torch.from_numpy(stored[name]) for name in stored}
    # Libraries take memory too, some of them when a first model is opened and run.
    _run(asked["places"], inputs)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")  # forgets the peak so far
    before = _kilobytes("VmRSS")
    _run(asked["places"], inputs)
    return 1024 * (_kilobytes("VmHWM") - before)


def _run(places: Sequence[Any], inputs: Mapping[str, torch.Tensor]) -> None:
    """Open all models, and run each."""
    opened = [_opened(where, settings) for where, settings in places]
    with torch.inference_mode():
        for model in opened:
            for _ in range(_PASSES):
                model(**inputs)


def _opened(where: str, settings: Mapping[str, Any] | None) -> Any:
    model: Any = load_model(where) if settings is None else open_file(Path(where), settings=RuntimeSettings(**settings))
    return model.eval()


def _kilobytes(name: str) -> int:
    line = next(one for one in _STATUS.read_text().splitlines() if one.startswith(f"{name}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    print(_growth(json.loads(sys.argv[1])))
