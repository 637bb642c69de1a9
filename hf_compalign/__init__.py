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
    from hf_compalign.measure.attribution.agreement import attribution_agreement
    from hf_compalign.measure.attribution.options import AttributionOptions
    from hf_compalign.measure.audit import audit
    from hf_compalign.measure.audit_callback import AuditCallback
    from hf_compalign.measure.audit_record import Audit
    from hf_compalign.measure.candidates import compare_candidates
    from hf_compalign.measure.footprint import footprint
    from hf_compalign.measure.groups.membership import group_membership
    from hf_compalign.measure.predict import predict
    from hf_compalign.measure.predictions import Predictions
    from hf_compalign.metrics import load_metric
    from hf_compalign.report.page import write_report
    from hf_compalign.ship.artifact import save_artifact
    from hf_compalign.ship.hub import push_to_hub
    from hf_compalign.ship.repair import repair_onnx

    __version__: str

__all__ = [
    "AlignedDistillationTrainer",
    "AlignmentArguments",
    "AttributionOptions",
    "Audit",
    "AuditCallback",
    "Predictions",
    "PruningCallback",
    "QuantizationCallback",
    "ShrinkCallback",
    "__version__",
    "attribution_agreement",
    "audit",
    "cache_teacher_logits",
    "compare_candidates",
    "export_onnx",
    "export_openvino",
    "footprint",
    "group_membership",
    "load_compressed",
    "load_metric",
    "predict",
    "prune_",
    "push_to_hub",
    "quantize_",
    "repair_onnx",
    "save_artifact",
    "shrink_",
    "write_report",
]

_HOMES = {
    "AlignedDistillationTrainer": "align.trainer",
    "AlignmentArguments": "align.arguments",
    "AttributionOptions": "measure.attribution.options",
    "Audit": "measure.audit_record",
    "AuditCallback": "measure.audit_callback",
    "Predictions": "measure.predictions",
    "PruningCallback": "compress.callbacks",
    "QuantizationCallback": "compress.callbacks",
    "ShrinkCallback": "compress.callbacks",
    "attribution_agreement": "measure.attribution.agreement",
    "audit": "measure.audit",
    "cache_teacher_logits": "align.teacher",
    "compare_candidates": "measure.candidates",
    "export_onnx": "compress.export",
    "export_openvino": "compress.openvino_export",
    "footprint": "measure.footprint",
    "group_membership": "measure.groups.membership",
    "load_compressed": "compress.loading",
    "load_metric": "metrics",
    "predict": "measure.predict",
    "prune_": "compress.pruning",
    "push_to_hub": "ship.hub",
    "quantize_": "compress.quantize",
    "repair_onnx": "ship.repair",
    "save_artifact": "ship.artifact",
    "shrink_": "compress.shrink",
    "write_report": "report.page",
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
