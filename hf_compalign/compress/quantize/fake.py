"""The arithmetic of ONNX Runtime's dynamic INT8, in float and differentiable.

Rounding passes gradients through unchanged (https://huggingface.co/papers/1308.3432). Ranges come from the values
themselves, so no value lies outside and no gradient is cut off.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_compalign._compat import become
from hf_compalign.compress.select import by_output

# These powers of two make fractions of the integers without changing a digit. Sums of products then stay below the
# number of features, and do not overflow in float16.
_WEIGHT_UNIT = 1 / 128
_INPUT_UNIT = 1 / 256


class _Rounded(torch.autograd.Function):
    """The nearest whole numbers, half to even, clipped; gradients pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return values.round().clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def symmetric_levels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers in [-127, 127] and the scale of each row: weight ≈ levels * scale, scale = max |row| / 127.

    >>> levels, scale = symmetric_levels(torch.tensor([[1.27, -0.5], [0.0, 0.0]]))
    >>> levels, scale.flatten()
    (tensor([[127., -50.],
            [  0.,   0.]]), tensor([0.0100, 1.0000]))

    Args:
        weight: [out, in]; zeros stay zeros.

    Returns:
        The levels [out, in], which pass gradients, and the scales [out, 1], in float32.
    """
    weight = weight.float()
    scale = _usable(weight.detach().abs().amax(1, keepdim=True) / 127)
    bound = scale.new_tensor(127.0)
    return _Rounded.apply(weight / scale, -bound, bound), scale


def asymmetric_levels(values: Tensor, of: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Whole numbers and one scale: values ≈ levels * scale, and level 0 is 0.0.

    low = min(0, values), high = max(0, values), scale = (high - low) / 255, zero = round(-low / scale). Levels are
    clipped to [-zero, 255 - zero]: those of uint8 minus the zero point.

    >>> asymmetric_levels(torch.tensor([-1.0, 0.0, 1.55]))
    (tensor([-100.,    0.,  155.]), tensor(0.0100))

    Args:
        values: of any shape.
        of: the tensor whose range counts; the values themselves if left out.

    Returns:
        The levels in the shape of the values, which pass gradients, and the scale, in float32.
    """
    values = values.float()
    low, high = (values if of is None else of).detach().aminmax()
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    scale = _usable((high - low) / 255)
    zero = (-low / scale).round().clamp(0, 255)
    return _Rounded.apply(values / scale, -zero, 255 - zero), scale


def _usable(scale: Tensor) -> Tensor:
    """The scale, or 1 where all values are 0."""
    return torch.where(scale < torch.finfo(scale.dtype).tiny, torch.ones_like(scale), scale)


class FakeQuantizedLinear(nn.Linear):
    """A linear layer that rounds its weights to int8 by row, and its input to uint8 by batch.

    It multiplies integers, like ONNX Runtime: float32 sums them exactly up to 2^24.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The output in the type that the plain layer gives."""
        return _rounded_product(input, self.weight, self.bias)


class FakeQuantizedConv1D(Conv1D):
    """GPT-2's linear layer, whose weight is [in, out], that rounds likewise."""

    def forward(self, x: Tensor) -> Tensor:
        """The output in the type that the plain layer gives."""
        return _rounded_product(x, self.weight.T, self.bias)


def _rounded_product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a linear layer with a weight of [out, in] gives when both are rounded."""
    levels, scale = asymmetric_levels(input)
    weights, scales = symmetric_levels(weight)
    product = F.linear(levels * _INPUT_UNIT, weights * _WEIGHT_UNIT)
    output = product * (scale * scales.flatten() / (_INPUT_UNIT * _WEIGHT_UNIT))
    if bias is not None:
        output = output + bias
    # Under autocast the product has its type already.
    return output.to(product.dtype if torch.is_autocast_enabled(input.device.type) else input.dtype)


class FakeQuantizedEmbedding(nn.Embedding):
    """An embedding that rounds its table to uint8, with one range for all of it."""

    def forward(self, input: Tensor) -> Tensor:
        """The rows of the rounded table."""
        levels, scale = asymmetric_levels(super().forward(input), self.weight)
        return (levels * scale).to(self.weight.dtype)


_FAKE_OF: dict[type, type[nn.Module]] = {
    nn.Linear: FakeQuantizedLinear,
    Conv1D: FakeQuantizedConv1D,
    nn.Embedding: FakeQuantizedEmbedding,
}


def fake_of(plain: type) -> type[nn.Module] | None:
    """The class that computes what a class of layers does, but rounds; None for classes that may compute anything.

    An embedding of a model's own, such as BART's, that leaves the look-up to `super().forward` finds the rounding one
    there.
    """
    if plain in _FAKE_OF or not issubclass(plain, nn.Embedding) or issubclass(plain, FakeQuantizedEmbedding):
        return _FAKE_OF.get(plain)
    if plain.forward is nn.Embedding.forward or "super" in plain.forward.__code__.co_names:
        _FAKE_OF[plain] = type(f"FakeQuantized{plain.__name__}", (plain, FakeQuantizedEmbedding), {})
    return _FAKE_OF.get(plain)


def fake_quantize_(layer: nn.Module) -> None:
    """Make a layer whose class has one that rounds round from now on; its parameters, hooks and names stay."""
    become(layer, cast(type, fake_of(type(layer))))


def restore_(layer: nn.Module) -> None:
    """Undo `fake_quantize_`."""
    become(layer, type(layer).__bases__[0])


def rounded_weight(layer: Any) -> Tensor:
    """The weight that a rounding linear layer multiplies with, in the shape of its own."""
    levels, scales = symmetric_levels(by_output(layer, layer.weight))
    return by_output(layer, levels * scales).detach()


def rounded_input(layer: Any, values: Tensor) -> Tensor:
    """What a rounding linear layer makes of its inputs."""
    levels, scale = asymmetric_levels(values)
    return levels * scale


def linear_like(layer: Any) -> nn.Linear:
    """A plain linear layer of the same sizes, on the meta device: it draws no random numbers."""
    return nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")


def put_(model: nn.Module, name: str, layer: Any) -> None:
    """Replace a linear layer; the new one gets the same parameter objects."""
    old: Any = model.get_submodule(name)
    layer.weight, layer.bias = old.weight, old.bias
    model.set_submodule(name, layer.train(old.training))


def put_plain_(model: nn.Module, name: str) -> None:
    """Replace a library's linear layer by a plain one."""
    put_(model, name, linear_like(model.get_submodule(name)))


def quantized_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers and embeddings that any library has quantized, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D, nn.Embedding))
        and (isinstance(module, tuple(_FAKE_OF.values())) or _is_foreign(module) or _is_foreign(module.weight))
    }


def _is_foreign(thing: nn.Module | Tensor) -> bool:
    """Whether torchao or optimum-quanto defines the class of a layer or weight."""
    return type(thing).__module__.partition(".")[0] in ("torchao", "optimum")
