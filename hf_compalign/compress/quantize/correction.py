"""Float weights that, rounded, come closest to what the layers of the original give."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from hf_compalign.compress.calibration import Batch
from hf_compalign.compress.quantize import fake, quanto, torchao
from hf_compalign.compress.quantize.fake import quantized_layers
from hf_compalign.compress.quantize.prepared import prepared_record
from hf_compalign.compress.quantize.schemes import scheme_of
from hf_compalign.compress.reconstruction import Rounded, reconstruct_
from hf_compalign.compress.seen import LINEAR

_BACKENDS = {"onnxruntime": fake, "torchao": torchao, "quanto": quanto}


def correct_(model: nn.Module, original: nn.Module, batches: Sequence[Batch]) -> None:
    """Correct the linear layers of a prepared model for the rounding, in place and in the order in which they run.

    Each is fitted by regression: for its rounded inputs in the model so far it should give what the original's gives
    for those there. Zeros stay, and so do weights that another layer shares. Its bias then takes the average error of
    the rounded weights.

    Args:
        model: prepared and, where its scheme has ranges, calibrated.
        original: the same model in float, from before it was prepared.
        batches: the calibration data.

    Raises:
        ValueError: a layer does not run, or its inputs are NaN or infinite. The model is as it was.
    """
    backend = _BACKENDS[scheme_of(prepared_record(model).scheme).backend]
    uses = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    layers: dict[str, Any] = {name: one for name, one in quantized_layers(model).items() if isinstance(one, LINEAR)}
    masks = {f"{name}.weight": one.weight.detach() != 0 for name, one in layers.items() if uses[id(one.weight)] == 1}
    reconstruct_(model, masks, batches, rounded=Rounded(original, backend.rounded_weight, backend.rounded_input))
