"""The loss terms of a step -> one scalar: fixed, random, round robin, SoftAdapt and learned weights.

All of a weighting's state is in its buffers and parameters, so that a checkpoint can hold it. `step` is called
once after each optimizer step with that step's losses; in between, the weights stand still.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

WEIGHTINGS = ("fixed", "random", "round_robin", "softadapt", "uncertainty")
SOFTADAPT_VARIANTS = ("original", "normalized", "loss_weighted")


class Weighting(nn.Module):
    """Fixed weights, and the base of the others: loss = sum_k w_k * L_k.

    Equal weights do as well as anything intricate: https://huggingface.co/papers/2012.01604

    Args:
        base: [K], the user's weight of each term, > 0.

    >>> weighting = Weighting([1.0, 0.5])
    >>> weighting(torch.tensor([2.0, 4.0])).item()
    4.0
    """

    base: Tensor
    factors: Tensor
    observes = False  # needs the losses of each step, averaged over processes

    def __init__(self, base: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("base", torch.tensor(base, dtype=torch.float32))
        self.register_buffer("factors", torch.ones(len(base)))

    def weights(self) -> Tensor:
        """[K], the weights in force."""
        return self.base * self.factors

    def forward(self, losses: Tensor, *, batches: int | Tensor = 1) -> Tensor:
        """The scalar to minimize.

        Args:
            losses: [K], the terms of one batch.
            batches: how many batches the optimizer step has.
        """
        return (self.weights() * losses).sum()

    def step(self, losses: Tensor, step: int) -> None:
        """Take note of the losses of an optimizer step, and set the weights of the next.

        Args:
            losses: [K], the terms of the whole step; where it `observes`, averaged over processes.
            step: its number; the first is 1.
        """


class RandomWeighting(Weighting):
    """Softmax of N(0, 1) draws, new at every step: the baseline that intricate weightings must beat.

    The draws depend on the seed and the step alone, so that all processes, and a resumed run, draw alike.
    https://huggingface.co/papers/2111.10603

    Args:
        base: [K], the user's weight of each term, > 0.
        seed: of the draws.

    >>> weighting = RandomWeighting([1.0, 1.0], seed=0)
    >>> round(weighting.weights().sum().item(), 6)
    1.0
    """

    def __init__(self, base: Sequence[float], *, seed: int = 0) -> None:
        super().__init__(base)
        self.seed = seed
        self.step(self.factors, 0)

    def step(self, losses: Tensor, step: int) -> None:
        """Draw the next weights."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        self.factors.copy_(torch.randn(len(self.factors), generator=generator).softmax(0))


class RoundRobinWeighting(Weighting):
    """One term per step, in turn.

    >>> weighting = RoundRobinWeighting([1.0, 2.0])
    >>> weighting.step(torch.tensor([0.3, 0.4]), 1)
    >>> weighting.weights().tolist()
    [0.0, 2.0]
    """

    def __init__(self, base: Sequence[float]) -> None:
        super().__init__(base)
        self.step(self.factors, 0)

    def step(self, losses: Tensor, step: int) -> None:
        """Go on to the next term."""
        self.factors.zero_()
        self.factors[step % len(self.factors)] = 1.0


class SoftAdaptWeighting(Weighting):
    """SoftAdapt: more weight to the terms that fall slowest over the last `window` steps.

    With s_k the slope of loss k (forward finite difference of the highest order that the window allows):
    original w = softmax(beta * s); normalized takes s / sum(s) for s, with the signed sum of the author's code,
    so that while the losses fall it prefers the terms that fall fastest; loss_weighted, which the author
    recommends, takes w_k proportional to mean(L_k) * exp(beta * s_k). Until the window is full the weights
    are 1. https://huggingface.co/papers/1912.12355

    Args:
        base: [K], the user's weight of each term, > 0.
        variant: "original", "normalized" or "loss_weighted".
        beta: how much the slopes matter; 0 not at all.
        window: optimizer steps, 2 or more.

    >>> weighting = SoftAdaptWeighting([1.0, 1.0], variant="original", beta=1.0, window=2)
    >>> for step, losses in enumerate([[2.0, 2.0], [1.0, 2.0]], start=1):
    ...     weighting.step(torch.tensor(losses), step)
    >>> [round(weight, 2) for weight in weighting.weights().tolist()]
    [0.27, 0.73]
    """

    observes = True
    history: Tensor
    coefficients: Tensor

    def __init__(
        self, base: Sequence[float], *, variant: str = "loss_weighted", beta: float = 0.1, window: int = 5
    ) -> None:
        super().__init__(base)
        self.variant = variant
        self.beta = beta
        self.register_buffer("history", torch.full((window, len(base)), math.nan))
        powers = np.vander(np.arange(window), window, increasing=True).T
        difference = np.linalg.solve(powers, np.eye(window)[1])
        self.register_buffer("coefficients", torch.tensor(difference, dtype=torch.float32), persistent=False)

    def step(self, losses: Tensor, step: int) -> None:
        """Put the losses into the window, and weigh the terms by it once it is full."""
        self.history.copy_(torch.cat([self.history[1:], losses.detach().unsqueeze(0).to(self.history)]))
        # A where() instead of an if: asking the device whether the window is full would stall every step.
        full = torch.isfinite(self.history).all()
        self.factors.copy_(torch.where(full, self._adapted(), torch.ones_like(self.factors)))

    def _adapted(self) -> Tensor:
        slopes = self.coefficients @ self.history
        if self.variant == "normalized":
            total = slopes.sum()
            tiny = torch.finfo(total.dtype).tiny
            slopes = slopes / torch.where(total.abs() > tiny, total, torch.full_like(total, tiny))
        weights = (self.beta * slopes).softmax(0)
        if self.variant == "loss_weighted":
            weights = weights * self.history.mean(0)
            weights = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
        return weights


class UncertaintyWeighting(Weighting):
    """Learned weights: sum_k exp(-s_k) / 2 * L_k + s_k / 2, with s_k trained along with the model.

    The optimum is exp(s_k) = L_k, so the weight of a term near 0 (logit pairing while the student still equals
    its teacher) would grow without bound: s_k is kept within +-`bound`.
    https://huggingface.co/papers/1705.07115

    Args:
        base: [K], the user's weight of each term, > 0.
        bound: of |s_k|.

    >>> UncertaintyWeighting([1.0, 1.0])(torch.tensor([2.0, 4.0])).item()
    3.0
    """

    def __init__(self, base: Sequence[float], *, bound: float = 4.0) -> None:
        super().__init__(base)
        self.bound = bound
        self.log_variance = nn.Parameter(torch.zeros(len(base)))

    def weights(self) -> Tensor:
        """[K], base * exp(-s) / 2."""
        return self.base * torch.exp(-self.log_variance) / 2

    def forward(self, losses: Tensor, *, batches: int | Tensor = 1) -> Tensor:
        """The scalar to minimize over the model and s; s counts once in a step, however many batches it has."""
        # Projected in place: a clamp inside the graph has no gradient outside its range and would never let go.
        with torch.no_grad():
            self.log_variance.clamp_(-self.bound, self.bound)
        return (self.weights() * losses).sum() + self.log_variance.sum() / (2 * batches)


def state_as_json(weighting: Weighting) -> dict[str, list[float]]:
    """A weighting's buffers and parameters as plain lists; every float32 survives the way there and back."""
    return {name: tensor.tolist() for name, tensor in weighting.state_dict().items()}


def load_json_state(weighting: Weighting, state: Mapping[str, Any]) -> None:
    """Put back what `state_as_json` gave.

    Raises:
        ValueError: it is not the state of such a weighting.
    """
    loaded = {}
    for name, tensor in weighting.state_dict().items():
        try:
            values = np.asarray(state.get(name), dtype=np.float64)
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"{name} must be numbers: {error}.") from error
        if values.shape != tuple(tensor.shape) or np.isinf(values).any():
            raise ValueError(f"{name} is not that of {type(weighting).__name__}.")
        loaded[name] = torch.tensor(values, dtype=tensor.dtype)
    weighting.load_state_dict(loaded)
