"""A student that trains without dropout."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_compalign._compat import checkpointed_in_evaluation, needs_training_mode

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Put all modules in eval mode but those for which the training mode means something else than dropout.

    They stay so after the block, for the backward pass: it computes again what gradient checkpointing has not kept.
    Layers are checkpointed in training mode only. They keep it, and have the eval mode while they compute. What holds
    them would switch the cache off in training mode, which is done here.

    >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    >>> with without_dropout(model):
    ...     [module.training for module in model], model.training
    ([False, True], True)
    """
    with ExitStack() as stack:
        checkpointed = {module for module in model.modules() if getattr(module, "gradient_checkpointing", False)}
        for module in model.modules():
            if checkpointed:
                stack.enter_context(_without_cache(getattr(module, "config", None)))
            if module is model:
                continue
            if module in checkpointed and isinstance(module, GradientCheckpointingLayer):
                stack.enter_context(checkpointed_in_evaluation(module))
            elif not (_has_another_meaning(module) or (module in checkpointed and needs_training_mode(module))):
                module.training = False
        yield


@contextmanager
def _without_cache(config: Any) -> Iterator[None]:
    used = getattr(config, "use_cache", False)
    if used:
        config.use_cache = False
    try:
        yield
    finally:
        if used:
            config.use_cache = used


def _has_another_meaning(module: nn.Module) -> bool:
    """Batch norms learn their statistics, embeddings get their noise, and reversible layers (Reformer) run backward."""
    marked = any(hasattr(module, name) for name in ("neftune_noise_alpha", "backward_pass"))
    return marked or isinstance(module, _BATCH_NORMS)
