"""Compress a fine-tuned transformer, and prove, example by example, that it still answers like the original.

The public names are loaded on first use: importing the package costs milliseconds, not the seconds of torch
and transformers.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_compalign.align.arguments import AlignmentArguments
    from hf_compalign.align.teacher import cache_teacher_logits
    from hf_compalign.align.trainer import AlignedDistillationTrainer
    from hf_compalign.compress.callbacks import PruningCallback, QuantizationCallback, ShrinkCallback
    from hf_compalign.compress.export import export_onnx
    from hf_compalign.compress.loading import load_compressed
    from hf_compalign.compress.openvino_export import export_openvino
    from hf_compalign.compress.pruning import prune_
    from hf_compalign.compress.quantize import quantize_
    from hf_compalign.compress.shrink import shrink_
    from hf_compalign.measure.audit import Audit, audit
    from hf_compalign.measure.footprint import footprint
    from hf_compalign.measure.predict import predict
    from hf_compalign.measure.predictions import Predictions
    from hf_compalign.metrics import load_metric
    from hf_compalign.ship.artifact import save_artifact
    from hf_compalign.ship.hub import push_to_hub
    from hf_compalign.ship.repair import repair_onnx

    __version__: str

__all__ = [
    "AlignedDistillationTrainer",
    "AlignmentArguments",
    "Audit",
    "Predictions",
    "PruningCallback",
    "QuantizationCallback",
    "ShrinkCallback",
    "__version__",
    "audit",
    "cache_teacher_logits",
    "export_onnx",
    "export_openvino",
    "footprint",
    "load_compressed",
    "load_metric",
    "predict",
    "prune_",
    "push_to_hub",
    "quantize_",
    "repair_onnx",
    "save_artifact",
    "shrink_",
]

_HOMES = {
    "AlignedDistillationTrainer": "align.trainer",
    "AlignmentArguments": "align.arguments",
    "Audit": "measure.audit",
    "Predictions": "measure.predictions",
    "PruningCallback": "compress.callbacks",
    "QuantizationCallback": "compress.callbacks",
    "ShrinkCallback": "compress.callbacks",
    "audit": "measure.audit",
    "cache_teacher_logits": "align.teacher",
    "export_onnx": "compress.export",
    "export_openvino": "compress.openvino_export",
    "footprint": "measure.footprint",
    "load_compressed": "compress.loading",
    "load_metric": "metrics",
    "predict": "measure.predict",
    "prune_": "compress.pruning",
    "push_to_hub": "ship.hub",
    "quantize_": "compress.quantize",
    "repair_onnx": "ship.repair",
    "save_artifact": "ship.artifact",
    "shrink_": "compress.shrink",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("hf-compalign")
    elif name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
