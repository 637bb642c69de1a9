"""A student that trains without dropout."""

from torch import nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def switch_dropout_off(model: nn.Module) -> None:
    """Put all modules in eval mode but those for which the training mode means something else than dropout.

    >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    >>> switch_dropout_off(model)
    >>> [module.training for module in model], model.training
    ([False, True], True)
    """
    for module in model.modules():
        # Gradient checkpointing is on in training mode only, batch norms learn their statistics, embeddings get their
        # noise and reversible layers (Reformer) run backward there; the model itself keeps saying that it trains.
        marked = any(hasattr(module, name) for name in ("neftune_noise_alpha", "backward_pass"))
        keeps = marked or isinstance(module, _BATCH_NORMS) or getattr(module, "gradient_checkpointing", False)
        if module is not model and not keeps:
            module.training = False
