"""The model card: what the Hub shows of a compressed model, with the numbers of its audit."""

import math
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_compalign._exported import FORMATS, ONNX
from hf_compalign._files import write_text_atomic
from hf_compalign._tables import section_as_markdown
from hf_compalign._visible import is_hub_id, public_name
from hf_compalign.measure.audit import Audit, findings
from hf_compalign.measure.footprint import footprint_section
from hf_compalign.report.card.asking import asking
from hf_compalign.report.card.details import CardDetails
from hf_compalign.report.card.files import (
    depending_files,
    exported_files,
    files_table,
    js_options,
    pairs,
    precisions,
    wide_files,
)

TEMPLATE = Path(__file__).parent.parent / "templates" / "model_card.md"
TAGS = ("hf_compalign", "model-compression")
# The metrics of the audit that go into the card's model-index, with their names on the Hub.
INDEXED = {
    "accuracy_candidate": ("accuracy", "Accuracy"),
    "f1_candidate": ("f1", "F1"),
    "mcc_candidate": ("matthews_correlation", "Matthews correlation"),
    "agreement": ("agreement", "Agreement with the original"),
    "mismatch_rate": ("mismatch_rate", "Mismatch rate against the original"),
    "nfr": ("nfr", "Negative flip rate against the original"),
}


def write_card(
    folder: str | Path,
    audit: Audit,
    *,
    details: CardDetails,
    scheme: str | None = None,
    shrunk: bool = False,
    in_windows: bool = False,
) -> ModelCard:
    """The card of `hf_compalign.ship.write_model_card`.

    Args:
        folder: as there.
        audit: as there.
        details: as there.
        scheme: how the weights are quantized; None where they are not. Only `load_compressed` opens such a model.
        shrunk: whether the layers have widths of their own. Only `load_compressed` opens such a model too.
        in_windows: whether long texts are read in windows, which only this package does.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r} to write the card into. Save the model first.")
    if details.report is not None and not (folder / details.report).is_file():
        raise ValueError(f"There is no report {details.report!r} in {str(folder)!r}. Write it with write_report first.")
    name = details.name or folder.name
    card = ModelCard.from_template(
        _metadata(audit, details, name),
        template_path=str(TEMPLATE),
        name=name,
        origin=public_name(details.base_model),
        details=details,
        audit=audit,
        found=findings(audit),
        costs=_costs(details),
        files_table=files_table(details.files),
        wide_spread=wide_files(details.files),
        depending=depending_files(details.files),
        formats=[one.name for one in FORMATS if exported_files(details.files, one)],
        onnx_files=exported_files(details.files, ONNX),
        js_options=js_options(details.files),
        openvino_files=precisions(details.files),
        pairs=pairs(details),
        asking=asking(details.task, name, folder),
        scheme=scheme,
        shrunk=shrunk,
        in_windows=in_windows,
    )
    write_text_atomic(folder / "README.md", f"{card}\n")
    return card


def _metadata(audit: Audit, details: CardDetails, name: str) -> ModelCardData:
    results = _results(audit, details)
    # The format has one model to a card, so the metric's name tells the file.
    for file in exported_files(details.files, *FORMATS):
        results += _results(details.files[file].audit, details, of=f" ({file})")
    base: dict[str, Any] = {}
    if is_hub_id(details.base_model):
        relation = details.base_model_relation or "finetune"
        base = {"base_model": details.base_model, "base_model_relation": relation}
    distilled = ["knowledge-distillation"] if "Alignment" in details.recipe else []
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=details.task,
        tags=list(dict.fromkeys([*TAGS, *distilled, *details.tags])),
        model_name=name.rpartition("/")[2],
        eval_results=results,
        datasets=[details.dataset_id] if details.dataset_id else None,
        **base,
    )


def _results(audit: Audit | None, details: CardDetails, *, of: str = "") -> list[EvalResult]:
    metrics = {} if audit is None else audit.metrics
    return [
        EvalResult(
            task_type=details.task,
            dataset_type=details.dataset_id or details.dataset,
            dataset_name=details.dataset,
            dataset_config=details.dataset_config,
            dataset_split=details.dataset_split,
            metric_type=metric,
            metric_name=f"{title}{of}",
            metric_value=metrics[key],
        )
        for key, (metric, title) in INDEXED.items()
        if not math.isnan(metrics.get(key, math.nan))
    ]


def _costs(details: CardDetails) -> str:
    if details.footprints is None:
        if details.latencies is not None:
            raise ValueError("A card shows latencies beside the footprints. Got no footprints: give both, or neither.")
        return ""
    sides = ("original", "compressed")
    return section_as_markdown(footprint_section(*details.footprints, latencies=details.latencies, sides=sides))
