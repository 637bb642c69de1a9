"""Running averages of the loss terms between two log lines, without asking the device for a value per step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TermMeter:
    """Sums of the terms, named in the order of `add`, and of their weights; and where each broke."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = tuple(names)
        self._first_broken = torch.full((len(self.names),), -1, device=device)
        self._sums = torch.zeros(2, len(self.names), device=device)
        self._steps = 0

    def add(self, losses: Tensor, weights: Tensor, *, step: int) -> None:
        """Take in one optimizer step's losses [K], already detached, and weights [K]."""
        unseen = ~torch.isfinite(losses) & (self._first_broken < 0)
        self._first_broken = torch.where(unseen, torch.full_like(self._first_broken, step), self._first_broken)
        self._sums += torch.stack([losses, weights.detach()])
        self._steps += 1

    def averages(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The mean losses and weights since the last call, over all processes, as log entries."""
        if not self._steps:
            return {}
        losses, weights = (reduce(self._sums) / self._steps).tolist()
        self._sums.zero_()
        self._steps = 0
        entries = {f"{name}_loss": value for name, value in zip(self.names, losses, strict=True)}
        return entries | {f"{name}_weight": value for name, value in zip(self.names, weights, strict=True)}

    def raise_if_broken(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Stop when a term was nan or infinite since training began, on whichever process."""
        # Averaged over processes, a -1 everywhere stays -1; all processes stop together or none does.
        if (reduce(self._first_broken.float()) == -1).all():
            return
        seen = zip(self.names, self._first_broken.tolist(), strict=True)
        found = ", ".join(f"{name} (step {step})" for name, step in seen if step >= 0) or "on another process"
        raise FloatingPointError(
            f"The loss became nan or infinite: {found}. In agreement, logits or kl but not in task, it comes from the "
            "teacher's logits; otherwise the student diverged: lower the learning rate, or use bf16 or float32 for "
            "fp16."
        )


class LossGuard(TrainerCallback):
    """Stops a training whose loss became nan or infinite, before a log line, an evaluation or a checkpoint is made.

    The check asks the device, so it is not called at every step.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check where the Trainer is about to log, evaluate or save."""
        if control.should_log or control.should_evaluate or control.should_save:
            self._check()

    on_epoch_end = on_step_end
