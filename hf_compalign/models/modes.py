"""Run a model without changing its submodules' modes or the random numbers of a training."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode in the block; then each submodule has its own mode back, since parts may be frozen."""
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def random_state_kept(*, seed: int | None = None) -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch after the block, which begins with ``seed`` if given."""
    python, numpy = random.getstate(), np.random.get_state()
    # Reading the state of an idle GPU would start it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
                # torch.manual_seed would also seed a GPU that starts later.
                torch.default_generator.manual_seed(seed)
                if devices:
                    torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
