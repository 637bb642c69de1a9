"""The model card: what the Hub shows of a compressed model, with the numbers of its audit."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported, but not in an __all__

from hf_compalign._files import write_text_atomic
from hf_compalign.measure.audit import Audit
from hf_compalign.measure.footprint import Footprint
from hf_compalign.measure.footprint_text import Row, footprint_notes, footprint_rows
from hf_compalign.measure.latency import Latency

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
TAGS = ("hf_compalign", "model-compression", "knowledge-distillation")
# The metrics of the audit that go into the card's model-index, with their names on the Hub.
INDEXED = {
    "accuracy_candidate": ("accuracy", "Accuracy"),
    "agreement": ("agreement", "Agreement with the original"),
    "mismatch_rate": ("mismatch_rate", "Mismatch rate against the original"),
    "nfr": ("nfr", "Negative flip rate against the original"),
}


@dataclass(frozen=True)
class CardDetails:
    """What a card says that an audit does not know.

    Attributes:
        task: the Hub's pipeline tag, such as "text-classification".
        base_model: a Hub id or a folder: the original, or what it was fine-tuned from. The Hub's metadata only take
            an id.
        dataset: what both models were compared on, for people.
        dataset_id: the same on the Hub; None for files of one's own.
        dataset_config: which configuration of it.
        dataset_split: which split of it.
        name: what the model is loaded by; by default the name of its folder.
        tags: in addition to `TAGS`, such as "pruning".
        recipe: how the model was made: heading -> option -> value.
        footprints: of the original and of the compressed model.
        latencies: of both, timed side by side by `interleaved_latency_ms`; shown with the footprints.
    """

    task: str
    base_model: str
    dataset: str
    dataset_id: str | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None
    name: str | None = None
    tags: Sequence[str] = ()
    recipe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    footprints: tuple[Footprint, Footprint] | None = None
    latencies: tuple[Latency, Latency] | None = None


def write_model_card(folder: str | Path, audit: Audit, *, details: CardDetails) -> ModelCard:
    """Write README.md into the folder of a compressed model; it is whole or not there.

    Args:
        folder: where `save_pretrained` wrote the compressed model.
        audit: of the original (reference) and the compressed model (candidate).
        details: what the audit does not know.

    Returns:
        The card, to be pushed with its own `push_to_hub`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the details hold latencies but no footprints.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r} to write the card into. Save the model first.")
    name = details.name or folder.name
    costs_table, costs_notes = _costs(details)
    card = ModelCard.from_template(
        _metadata(audit, details, name),
        template_path=str(TEMPLATE),
        name=name,
        # A local path says nothing to others.
        origin=details.base_model if _is_hub_id(details.base_model) else Path(details.base_model).name,
        details=details,
        audit=audit,
        models_table=_models_table(audit),
        changes_table=_changes_table(audit),
        costs_table=costs_table,
        costs_notes=costs_notes,
        own_widths=_has_own_widths(folder),
    )
    write_text_atomic(folder / "README.md", f"{card}\n")
    return card


def _has_own_widths(folder: Path) -> bool:
    """Whether the saved model has layers that no stock config describes, so that from_pretrained cannot open it."""
    config = folder / "config.json"
    return config.is_file() and "compression" in json.loads(config.read_text(encoding="utf-8"))


def _metadata(audit: Audit, details: CardDetails, name: str) -> ModelCardData:
    results = [
        EvalResult(
            task_type=details.task,
            dataset_type=details.dataset_id or details.dataset,
            dataset_name=details.dataset,
            dataset_config=details.dataset_config,
            dataset_split=details.dataset_split,
            metric_type=metric,
            metric_name=title,
            metric_value=audit.metrics[key],
        )
        for key, (metric, title) in INDEXED.items()
        if not math.isnan(audit.metrics[key])
    ]
    # The Hub knows adapter, finetune, merge and quantized. A pruned model with all its layers is a finetune.
    base: dict[str, Any] = {}
    if _is_hub_id(details.base_model):
        base = {"base_model": details.base_model, "base_model_relation": "finetune"}
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=details.task,
        tags=[*TAGS, *details.tags],
        model_name=name.rpartition("/")[2],
        eval_results=results,
        datasets=[details.dataset_id] if details.dataset_id else None,
        **base,
    )


def _is_hub_id(name: str) -> bool:
    if Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _models_table(audit: Audit) -> list[tuple[str, str, str]]:
    """Rows of (what, original, compressed)."""
    if not audit.n_labelled:
        return []
    return [("accuracy", _rate(audit, "accuracy_reference"), _rate(audit, "accuracy_candidate"))]


def _costs(details: CardDetails) -> tuple[list[Row], list[str]]:
    """Rows of (what, original, compressed, ratio), and what one must know to read them."""
    if details.footprints is None:
        if details.latencies is not None:
            raise ValueError("A card shows latencies beside the footprints. Got no footprints: give both, or neither.")
        return [], []
    original, compressed = details.footprints
    return (
        footprint_rows(original, compressed, latencies=details.latencies),
        footprint_notes(original, compressed, latencies=details.latencies),
    )


def _changes_table(audit: Audit) -> list[tuple[str, str, str]]:
    """Rows of (what, count or value, rate with its interval)."""
    rows = [("answers that differ (mismatches)", str(audit.metrics["cie"]), _rate(audit, "mismatch_rate"))]
    if audit.cells is not None:
        rows.append(("right before, wrong now (NFR)", str(audit.cells.lost), _rate(audit, "nfr")))
        rows.append(("wrong before, right now (PFR)", str(audit.cells.gained), _rate(audit, "pfr")))
    rows.append(("KL divergence from the original", f"{audit.metrics['kl']:.4g} nats", ""))
    return rows


def _rate(audit: Audit, name: str) -> str:
    low, high = audit.metrics[f"{name}_interval"]
    return f"{100 * audit.metrics[name]:.2f} % ({100 * low:.2f} to {100 * high:.2f} %)"


def changed_options(arguments: Any) -> dict[str, Any]:
    """The options of a dataclass that are not at their default, for a card's recipe."""
    options = {option.name: (getattr(arguments, option.name), option.default) for option in fields(arguments)}
    return {name: value for name, (value, default) in options.items() if value != default}
