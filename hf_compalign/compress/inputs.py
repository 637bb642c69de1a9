"""What goes into the linear layers of a model while it runs on calibration data, and the gradients there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign._modes import evaluating
from hf_compalign.compress.calibration import Batch, Loss, run_model
from hf_compalign.compress.sharding import is_sharded

Layers = Mapping[str, nn.Module]


class _Enough(Exception):  # noqa: N818 - no error: what comes after the layer need not run
    pass


@contextmanager
def _hooked(layers: Layers, hook: Callable[[str], Callable[..., Any]], *, outputs: bool = False) -> Iterator[None]:
    """A forward hook, made for its name, on each of the layers: before it runs, or after it with the outputs."""
    handles = [
        layer.register_forward_hook(hook(name)) if outputs else layer.register_forward_pre_hook(hook(name))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def token_rows(values: Tensor, batch: Batch) -> Tensor:
    """[n, features]: the values of a layer, [..., tokens, features], without those of padding."""
    mask = batch.get("attention_mask")
    if mask is not None:
        mask = mask.flatten(0, -2) if mask.ndim > 1 else mask  # multiple choice: [items, choices, tokens]
        if mask.shape == values.shape[:-1]:
            return values[mask.to(values.device).bool()]
    return values.flatten(0, -2)


@dataclass(frozen=True)
class Group:
    """Layers that read the same inputs, like query, key and value; ``n_calls`` times in one run of the model."""

    names: tuple[str, ...]
    n_calls: int


def in_order(model: nn.Module, layers: Layers, batch: Batch) -> list[Group]:
    """The layers in the order in which they run.

    Raises:
        ValueError: one of them does not run.
    """
    # The tensors are kept for as long as they are compared: a freed one's id is given to the next.
    seen: dict[str, list[Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, args: seen.setdefault(name, []).append(args[0])

    with evaluating(model), torch.no_grad(), _hooked(layers, note):
        run_model(model, batch)
    for name in layers:
        if name not in seen:
            raise ValueError(
                f"The layer {name} does not run on the calibration data, so nothing is known of its inputs. Leave it "
                f"out with exclude={[name.removesuffix('.weight')]}, or give data that it runs on."
            )
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, inputs in seen.items():
        groups.setdefault(tuple(id(tensor) for tensor in inputs), []).append(name)
    return [Group(tuple(names), len(key)) for key, names in groups.items()]


def rows_into(model: nn.Module, layer: nn.Module, batch: Batch, *, n_calls: int) -> Tensor:
    """[n, in], float32: the tokens that go into a layer, one call after the other; what comes after it does not run."""
    found: list[Tensor] = []
    # Weights in shards are gathered and freed around each module: such a run must not be cut short.
    run_on = any(is_sharded(parameter) for parameter in model.parameters())

    def keep(_: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            found.append(token_rows(args[0], batch).float())
            if len(found) == n_calls and not run_on:
                raise _Enough

        return hook

    with evaluating(model), torch.no_grad(), _hooked({"": layer}, keep), suppress(_Enough):
        run_model(model, batch)
    return torch.cat(found)


def input_norms(model: nn.Module, layers: Layers, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """For each layer [in]: the L2 norm of every input feature over all tokens."""
    inputs: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args: inputs.append((name, args[0]))

    squares: dict[str, Tensor] = {}
    with evaluating(model), torch.no_grad(), _hooked(layers, keep):
        for batch in batches:
            inputs.clear()
            run_model(model, batch)
            for name, values in inputs:
                added = token_rows(values, batch).float().square().sum(0)
                squares[name] = squares[name] + added if name in squares else added
    return {name: total.sqrt() for name, total in squares.items()}


def weight_gradients(model: nn.Module, layers: Layers, batch: Batch, loss: Loss) -> dict[str, Tensor]:
    """For each layer [out, in]: the gradient of the loss; those of the parameters are not touched."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            output = output if output.requires_grad else output.detach().requires_grad_()
            calls.setdefault(name, []).append((args[0].detach(), output))
            return output

        return hook

    with evaluating(model), torch.enable_grad(), _hooked(layers, keep, outputs=True):
        value = loss(model, batch)
        nodes = [output for pairs in calls.values() for _, output in pairs]
        gradients = iter(torch.autograd.grad(value, nodes, materialize_grads=True))
    return {
        name: torch.stack([next(gradients).flatten(0, -2).T @ inputs.flatten(0, -2) for inputs, _ in pairs]).sum(0)
        for name, pairs in calls.items()
    }


class InputStatistics:
    """Means and second moments of a layer's inputs in the original model and, token by token, in the compressed one.

    Args:
        n_features: of the inputs.
        device: where they are; sums are kept in float64 wherever the device has it.
    """

    def __init__(self, n_features: int, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.n_tokens = 0
        self._sums = torch.zeros(2, n_features, dtype=dtype, device=device)
        self._products = torch.zeros(2, n_features, n_features, dtype=dtype, device=device)

    def add(self, original: Tensor, compressed: Tensor) -> None:
        """Take in the same tokens of both models, [n, features] each."""
        self.n_tokens += len(original)
        for index, rows in enumerate((original, compressed)):
            self._sums[index] += rows.sum(0)
            self._products[index] += rows.T @ compressed

    def means(self) -> tuple[Tensor, Tensor]:
        """[features] of the original and of the compressed model."""
        original, compressed = self._sums / self.n_tokens
        return original, compressed

    def moments(self, *, centred: bool) -> tuple[Tensor, Tensor]:
        """[features, features] of the original's with the compressed model's inputs, and of the latter alone.

        E[x y^T] and E[y y^T]; or, centred, the covariances.
        """
        cross, own = self._products / self.n_tokens
        if centred:
            original, compressed = self.means()
            cross, own = cross - torch.outer(original, compressed), own - torch.outer(compressed, compressed)
        return cross, own
