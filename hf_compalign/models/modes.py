"""What a run of a model must not change: the modes of its submodules, and the random numbers of a training."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each submodule gets its own mode back, as parts may be frozen."""
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
    """Let random numbers go on afterwards as if none had been drawn: those of Python, NumPy and torch.

    Args:
        seed: where they begin meanwhile; None lets them go on as they are.
    """
    states = random.getstate(), np.random.get_state()
    # Asking a GPU that is not in use yet for its state would start it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
                # torch.manual_seed would also seed a GPU that is started later.
                torch.default_generator.manual_seed(seed)
                if devices:
                    torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
