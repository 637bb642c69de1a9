"""How to explain models, and which models have no explanation."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hf_compalign._checks import check_whole
from hf_compalign.models import FileModel, is_quantized, windows_of

TEXT, IMAGE = "text", "image"
# The first of each is the default.
METHODS: dict[str, tuple[str, ...]] = {
    TEXT: ("layer_integrated_gradients", "saliency", "input_x_gradient"),
    IMAGE: ("integrated_gradients", "saliency", "occlusion"),
}
OCCLUSION = "occlusion"
INTEGRATED = (METHODS[TEXT][0], METHODS[IMAGE][0])


@dataclass(frozen=True)
class AttributionOptions:
    """How to explain the answers of two models, and for which items.

    Attributes:
        method: for texts "layer_integrated_gradients", "saliency" or "input_x_gradient"; for images
            "integrated_gradients", "saliency" or "occlusion". None takes the first.
        n_items: items drawn at random from all of them; where examples have several, so many examples, and an item of
            each.
        n_mismatches: items to explain that the models answer differently. Where the sample holds fewer, more are drawn,
            which count for the mismatches alone; no two of the mismatches are of one example.
        top_k: how many of the largest scores "top_k_overlap" compares.
        n_steps: points of the integral of (layer) integrated gradients.
        seed: of the sample, the random weights and the noise.
        device: where both models run; by default where given modules are, and a GPU if there is one for loaded ones.

    Raises:
        ValueError: a number is out of its range, or there is no such method.
    """

    method: str | None = None
    n_items: int = 200
    n_mismatches: int = 50
    top_k: int = 5
    n_steps: int = 32
    batch_size: int = 16
    seed: int = 0
    device: str | torch.device | None = None

    def __post_init__(self) -> None:
        least = {"n_items": 1, "n_mismatches": 0, "top_k": 1, "n_steps": 1, "batch_size": 1, "seed": 0}
        for name, smallest in least.items():
            check_whole(name, getattr(self, name), least=smallest)

    def method_for(self, kind: str) -> str:
        """The method for "text" or "image"; a ValueError if it is for the other."""
        allowed = METHODS[kind]
        if self.method is not None and self.method not in allowed:
            raise ValueError(f"The method for {kind}s must be one of {', '.join(allowed)}. Got {self.method!r}.")
        return self.method or allowed[0]


def check_explainable(model: nn.Module, method: str) -> None:
    """Raise a ValueError for a method that follows gradients and a model that lets none through, or has windows."""
    if windows_of(model) is not None:
        raise ValueError(
            f"Texts that are read in windows are not explained. Got {type(model).__name__} with {windows_of(model)}. "
            "Leave the attribution out, or take config.text_windows out of both models."
        )
    if method == OCCLUSION:
        return
    instead = "Images can be explained with method='occlusion', which needs none."
    if isinstance(model, FileModel):
        raise ValueError(
            f"{method} follows gradients, and {model.path.name} is run by {model.runtime}, which has none. Explain the "
            f"PyTorch model that it was exported from. {instead}"
        )
    blocked = _blocked_layer(model)
    if blocked is not None:
        raise ValueError(
            f"{method} follows gradients, and the quantized layer {blocked} of {type(model).__name__} computes with "
            "integers, which let none through. Explain the model as it was before its conversion: prepared for the "
            f"same scheme it computes the same values. {instead}"
        )


def _blocked_layer(model: nn.Module) -> str | None:
    """A quantized layer whose output has no gradient by its input: the layers tell, whatever library made them."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and is_quantized(weight := layer.weight):
            with torch.enable_grad():
                read = torch.ones(1, weight.shape[1], dtype=weight.dtype, device=weight.device, requires_grad=True)
                answer = F.linear(read, weight).sum()
                # An answer that depends on no tensor with gradients has no backward pass at all.
                passes = answer.requires_grad and torch.autograd.grad(answer, read, allow_unused=True)[0] is not None
            if not passes:
                return name
    return None
