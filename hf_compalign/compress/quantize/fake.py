"""The arithmetic of ONNX Runtime's dynamic INT8, in float and differentiable: what a training can see of it.

Rounding passes gradients on as they are (https://huggingface.co/papers/1308.3432). No value lies outside of a range
that is taken from the values themselves, so that no gradient is cut off.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_compalign._compat import become

# Integers become fractions by these powers of two, which changes no digit: sums of products then stay below the number
# of features, and do not overflow in float16.
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
        weight: [out, in], of which a zero stays a zero.

    Returns:
        The levels [out, in] and the scales [out, 1], in float32; gradients pass through the levels to the weight.
    """
    weight = weight.float()
    scale = _usable(weight.detach().abs().amax(1, keepdim=True) / 127)
    bound = scale.new_tensor(127.0)
    return _Rounded.apply(weight / scale, -bound, bound), scale


def asymmetric_levels(values: Tensor, of: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Whole numbers, of which 0 stands for 0.0, and one scale: values ≈ levels * scale.

    low = min(0, values), high = max(0, values), scale = (high - low) / 255, zero = round(-low / scale), and the levels
    are clipped to [-zero, 255 - zero]: those of uint8 with its zero point taken off.

    >>> asymmetric_levels(torch.tensor([-1.0, 0.0, 1.55]))
    (tensor([-100.,    0.,  155.]), tensor(0.0100))

    Args:
        values: of any shape.
        of: the tensor whose range counts; the values themselves if left out.

    Returns:
        The levels in the shape of the values and the scale, in float32; gradients pass through the levels.
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
    """A linear layer whose weights are rounded to int8 by row, and its input to uint8, a range for each batch.

    Integers are multiplied, as ONNX Runtime does it: float32 sums them without rounding errors as long as they stay
    below 2^24.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The output in the type that the plain layer gives."""
        levels, scale = asymmetric_levels(input)
        weights, scales = symmetric_levels(self.weight)
        product = F.linear(levels * _INPUT_UNIT, weights * _WEIGHT_UNIT)
        output = product * (scale * scales.flatten() / (_INPUT_UNIT * _WEIGHT_UNIT))
        if self.bias is not None:
            output = output + self.bias
        # Under autocast the product has its type already.
        return output.to(product.dtype if torch.is_autocast_enabled(input.device.type) else input.dtype)


class FakeQuantizedEmbedding(nn.Embedding):
    """An embedding whose table is rounded to uint8, with one range for all of it."""

    def forward(self, input: Tensor) -> Tensor:
        """The rows of the rounded table."""
        levels, scale = asymmetric_levels(super().forward(input), self.weight)
        return (levels * scale).to(self.weight.dtype)


FAKE_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FakeQuantizedLinear,
    nn.Embedding: FakeQuantizedEmbedding,
}


def fake_quantize_(layer: nn.Module) -> None:
    """Make a linear layer or embedding round from now on; its parameters, hooks and names stay as they are."""
    become(layer, FAKE_OF[type(layer)])


def restore_(layer: nn.Module) -> None:
    """Make a layer that rounds a plain one again."""
    become(layer, next(plain for plain, fake in FAKE_OF.items() if type(layer) is fake))


def linear_like(layer: Any) -> nn.Linear:
    """A plain linear layer of the same sizes: without memory, so that no random numbers are drawn for its weights."""
    return nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")


def put_(model: nn.Module, name: str, layer: Any) -> None:
    """Put another linear layer in the place of one, with its parameters: the same objects."""
    old: Any = model.get_submodule(name)
    layer.weight, layer.bias = old.weight, old.bias
    model.set_submodule(name, layer.train(old.training))


def put_plain_(model: nn.Module, name: str) -> None:
    """Put a plain linear layer in the place of one that a library made."""
    put_(model, name, linear_like(model.get_submodule(name)))


def quantized_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers and embeddings that are quantized as the model stands, by name; by whichever library."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Embedding))
        and (isinstance(module, tuple(FAKE_OF.values())) or _is_foreign(module) or _is_foreign(module.weight))
    }


def _is_foreign(thing: nn.Module | Tensor) -> bool:
    """Whether the class of a layer or of its weight is one of the libraries'."""
    return type(thing).__module__.partition(".")[0] in ("torchao", "optimum")
