"""What goes into the linear layers of a model while it runs on calibration data, and the gradients there."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign.compress.calibration import Batch, Loss, loss_of, run_model, token_rows
from hf_compalign.compress.sharding import in_shards
from hf_compalign.models import evaluating, widest_float

Layers = Mapping[str, nn.Module]


class _Enough(Exception):  # noqa: N818 - no error: what comes after the layer need not run
    pass


@contextmanager
def _hooked(layers: Layers, hook: Callable[..., Any], *, outputs: bool = False) -> Iterator[None]:
    """Hook each of the layers: before it runs, or with outputs=True after it. The hook takes its name first."""
    handles = []
    for name, layer in layers.items():
        register = layer.register_forward_hook if outputs else layer.register_forward_pre_hook
        handles.append(register(partial(hook, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Group:
    """Layers that read the same inputs, like query, key and value; ``n_calls`` times in one run of the model."""

    names: tuple[str, ...]
    n_calls: int


def check_ran(layers: Iterable[str], seen: Container[str]) -> None:
    """Refuse layers that did not run."""
    for name in layers:
        if name not in seen:
            raise ValueError(
                f"The layer {name} does not run on the calibration data, so its inputs are not known. Leave it "
                f"out with exclude={[name.removesuffix('.weight')]}, or give data that it runs on."
            )


def check_finite(name: str, values: Tensor, *, of: str = "inputs") -> None:
    """Refuse a layer whose values are NaN or infinite.

    Raises:
        ValueError: names it.
    """
    if not values.isfinite().all():
        raise ValueError(
            f"The {of} of {name} on the calibration data are NaN or infinite. Check the data and the weights of the "
            "model; in float16 it may need bfloat16 or float32."
        )


def in_order(model: nn.Module, layers: Layers, batch: Batch) -> list[Group]:
    """The layers in the order in which they run."""
    # The tensors are kept for as long as they are compared: a freed one's id is given to the next.
    seen: dict[str, list[Tensor]] = {}

    def note(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        seen.setdefault(name, []).append(args[0])

    with evaluating(model), torch.no_grad(), _hooked(layers, note):
        run_model(model, batch)
    check_ran(layers, seen)
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, inputs in seen.items():
        groups.setdefault(tuple(id(tensor) for tensor in inputs), []).append(name)
    return [Group(tuple(names), len(key)) for key, names in groups.items()]


def rows_into(
    model: nn.Module,
    layer: nn.Module,
    batch: Batch,
    *,
    n_calls: int,
    rounding: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """[n, in], float32: the tokens that go into a layer, one call after the other; what comes after it does not run.

    They are as ``rounding`` makes them of all that goes into a call, of padding too.
    """
    found: list[Tensor] = []
    # Weights in shards are gathered and freed around each module: such a run must not be cut short.
    run_on = in_shards(model)

    def keep(_: str, __: nn.Module, args: tuple[Any, ...]) -> None:
        values = args[0] if rounding is None else rounding(args[0])
        found.append(token_rows(values, batch).float())
        if len(found) == n_calls and not run_on:
            raise _Enough

    with evaluating(model), torch.no_grad(), _hooked({"": layer}, keep), suppress(_Enough):
        run_model(model, batch)
    return torch.cat(found)


def input_norms(model: nn.Module, layers: Layers, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """For each layer [in], float32: the L2 norm of every input feature over all tokens."""
    squares: dict[str, Tensor] = {}

    def add(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        squares[name] = squares.get(name, 0) + token_rows(args[0], batch).float().square().sum(0)

    with evaluating(model), torch.no_grad(), _hooked(layers, add):
        for batch in batches:
            run_model(model, batch)
    check_ran(layers, squares)
    for name, total in squares.items():
        check_finite(name, total)
    return {name: total.sqrt() for name, total in squares.items()}


def weight_gradients(model: nn.Module, layers: Layers, batch: Batch, loss: Loss) -> dict[str, Tensor]:
    """For each layer that runs [out, in], float32: the gradient of the loss; no parameter's own is touched."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def keep(name: str, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        output = output if output.requires_grad else output.detach().requires_grad_()
        calls.setdefault(name, []).append((args[0].detach(), output))
        return output

    with evaluating(model), torch.enable_grad(), _hooked(layers, keep, outputs=True):
        value = loss_of(model, batch, loss)
        nodes = [output for pairs in calls.values() for _, output in pairs]
        gradients = iter(torch.autograd.grad(value, nodes, materialize_grads=True) if nodes else ())

    def product(inputs: Tensor) -> Tensor:
        # Under autocast the two differ in their type.
        return next(gradients).flatten(0, -2).float().T @ inputs.flatten(0, -2).float()

    return {name: torch.stack([product(inputs) for inputs, _ in pairs]).sum(0) for name, pairs in calls.items()}


class InputStatistics:
    """Means and second moments of a layer's inputs in the original model and, token by token, in the compressed one.

    Sums are kept on the device of the inputs, in float64 where it has that.
    """

    def __init__(self, n_features: int, device: torch.device) -> None:
        dtype = widest_float(device)
        self.n_tokens = 0
        # Of values less those of `_shifts`: where a feature's mean is large, its variance would be lost in rounding.
        self._shifts = torch.zeros(2, n_features, device=device)
        self._sums = torch.zeros(2, n_features, dtype=dtype, device=device)
        self._products = torch.zeros(2, n_features, n_features, dtype=dtype, device=device)

    def add(self, original: Tensor, compressed: Tensor) -> None:
        """Take in the same tokens of both models, [n, features] each."""
        if not self.n_tokens:
            self._shifts = torch.stack([original.mean(0), compressed.mean(0)])
        self.n_tokens += len(original)
        original, compressed = original - self._shifts[0], compressed - self._shifts[1]
        for index, rows in enumerate((original, compressed)):
            self._sums[index] += rows.sum(0)
            self._products[index] += rows.T @ compressed

    def means(self) -> tuple[Tensor, Tensor]:
        """[features] of the original and of the compressed model."""
        original, compressed = self._shifts + self._sums / self.n_tokens
        return original, compressed

    def moments(self, *, centered: bool) -> tuple[Tensor, Tensor]:
        """[features, features] of the original's with the compressed model's inputs, and of the latter alone.

        E[x y^T] and E[y y^T]; or, centered, the covariances.
        """
        original, compressed = self._sums / self.n_tokens
        cross, own = self._products / self.n_tokens
        cross, own = cross - torch.outer(original, compressed), own - torch.outer(compressed, compressed)
        if not centered:
            original, compressed = self.means()
            cross, own = cross + torch.outer(original, compressed), own + torch.outer(compressed, compressed)
        return cross, own
