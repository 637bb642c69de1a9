"""The model card: what the Hub shows of a compressed model, with the numbers of its audit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported, but not in an __all__

from hf_compalign._files import write_text_atomic
from hf_compalign._formats import count, interval, megabytes, percent
from hf_compalign._tables import Section, Table, as_markdown, escaped
from hf_compalign.measure.audit import Audit, judged_together, metrics_beside_fields, sections_of
from hf_compalign.measure.footprint import Footprint, Latency, footprint_section, quartiles, wide_spread

TEMPLATE = Path(__file__).parent.parent / "templates" / "model_card.md"
TAGS = ("hf_compalign", "model-compression")
RELATIONS = ("adapter", "finetune", "merge", "quantized")  # how the Hub relates a model to its base model
ORIGINAL = "original"  # the model that was compressed, among the files
# The metrics of the audit that go into the card's model-index, with their names on the Hub.
INDEXED = {
    "accuracy_candidate": ("accuracy", "Accuracy"),
    "f1_candidate": ("f1", "F1"),
    "mcc_candidate": ("matthews_correlation", "Matthews correlation"),
    "agreement": ("agreement", "Agreement with the original"),
    "mismatch_rate": ("mismatch_rate", "Mismatch rate against the original"),
    "nfr": ("nfr", "Negative flip rate against the original"),
}
# Transformers.js has these names for files in onnx/. It loads others by their file name.
_JS_DTYPES = {"model": "fp32", "model_quantized": "q8"}
_JS_DTYPES |= {f"model_{dtype}": dtype for dtype in ("fp16", "int8", "uint8", "q4", "q4f16", "bnb4")}


@dataclass(frozen=True)
class Measured:
    """One of the models that a card sets side by side.

    Attributes:
        audit: against the original; None for the original itself.
        accuracy: share of right answers; nan without labels.
        size_bytes: of its weights; None when unknown.
        latencies: batch size -> latency of one forward pass, all models in turn; empty when not timed.
    """

    audit: Audit | None
    accuracy: float
    size_bytes: int | None = None
    latencies: Mapping[int, Latency] = field(default_factory=dict)


@dataclass(frozen=True)
class CardDetails:
    """What a card says that an audit does not know.

    Attributes:
        task: the Hub's pipeline tag, such as "text-classification".
        base_model: a Hub id or a folder: the original, or what it was fine-tuned from. The Hub's metadata take only
            an id.
        dataset: what both models were compared on, for people.
        dataset_id: its Hub id; None for files of one's own.
        dataset_config: its configuration.
        dataset_split: its split.
        name: what the model is loaded by; by default the name of its folder.
        tags: in addition to `TAGS`, such as "pruning".
        recipe: how the model was made: heading -> option -> value.
        footprints: of the original and of the compressed model.
        latencies: of both, timed side by side by `interleaved_latency_ms`; shown with the footprints.
        base_model_relation: "finetune", the default, or "quantized". To the Hub, a pruned model with all its layers
            is a fine-tuned one.
        files: the original, as `ORIGINAL`, the weights and each ONNX file, by name; as `save_artifact` measures them.
        machine: where they were timed.
        report: the page of `hf_compalign.write_report`, by its name in the folder; the card links it.

    Raises:
        ValueError: the Hub does not know such a relation to the base model.
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
    base_model_relation: str | None = None
    files: Mapping[str, Measured] = field(default_factory=dict)
    machine: str = ""
    report: str | None = None

    def __post_init__(self) -> None:
        if self.base_model_relation not in (None, *RELATIONS):
            raise ValueError(
                f"base_model_relation must be one of {', '.join(RELATIONS)}. Got {self.base_model_relation!r}."
            )


def write_card(
    folder: str | Path, audit: Audit, *, details: CardDetails, scheme: str | None = None, shrunk: bool = False
) -> ModelCard:
    """The card of `hf_compalign.ship.write_model_card`.

    Args:
        folder: as there.
        audit: as there.
        details: as there.
        scheme: how the weights are quantized; None where they are not. Only `load_compressed` opens such a model.
        shrunk: whether the layers have widths of their own. Only `load_compressed` opens such a model too.
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
        found=_findings(audit),
        costs=_costs(details),
        files_table=files_table(details.files),
        wide_spread=wide_files(details.files),
        onnx_files=_onnx_files(details.files),
        js_options=_js_options(details.files),
        scheme=scheme,
        shrunk=shrunk,
    )
    write_text_atomic(folder / "README.md", f"{card}\n")
    return card


def _metadata(audit: Audit, details: CardDetails, name: str) -> ModelCardData:
    results = _results(audit, details)
    # The format has one model to a card, so the metric's name tells the file.
    for file in _onnx_files(details.files):
        results += _results(details.files[file].audit, details, of=f" ({file})")
    base: dict[str, Any] = {}
    if _is_hub_id(details.base_model):
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


def public_name(model: str) -> str:
    """What to call a model to others: its id, or its folder without the local path to it."""
    return model if _is_hub_id(model) else Path(model).name


def _is_hub_id(name: str) -> bool:
    if Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _onnx_files(files: Mapping[str, Measured]) -> list[str]:
    return [name for name in files if name.endswith(".onnx")]


def _js_options(files: Mapping[str, Measured]) -> str:
    """The options with which Transformers.js loads the last of the ONNX files; empty without any."""
    found = _onnx_files(files)
    if not found:
        return ""
    stem = Path(found[-1]).stem
    return f'dtype: "{_JS_DTYPES[stem]}"' if stem in _JS_DTYPES else f'dtype: "fp32", model_file_name: "{stem}"'


def files_table(files: Mapping[str, Measured]) -> Table:
    """A row for each file, and the columns of which something is known."""
    batch_sizes = sorted({size for one in files.values() for size in one.latencies})
    times = (f"ms, batch {size}" for size in batch_sizes)
    header = ("", "accuracy", "mismatches", "mismatch rate", "limits", "MB", *times)
    rows = [(name, *_file_cells(one, batch_sizes)) for name, one in files.items()]
    known = [column for column in zip(header, *rows, strict=True) if any(column[1:])]
    cells = zip(*(column[1:] for column in known), strict=True)
    return Table("Files", [column[0] for column in known], list(cells))


def wide_files(files: Mapping[str, Measured]) -> str:
    """A sentence about the files with a wide spread of their times; empty without any."""
    timed = {name: [time for time in one.latencies.values() if time.is_wide] for name, one in files.items()}
    return wide_spread({name: wide[0] for name, wide in timed.items() if wide})


def _file_cells(measured: Measured, batch_sizes: Sequence[int]) -> tuple[str, ...]:
    audit, size = measured.audit, measured.size_bytes
    differs = rate = limits = ""
    if audit is not None:
        numbers = audit.metrics
        differs = f"{count(numbers['cie'])} of {count(audit.n)}"
        rate = f"{percent(numbers['mismatch_rate'])} ({interval(numbers['mismatch_rate_interval'])})"
        limits = judged_together(audit.limits) if audit.limits else ""
    times = [measured.latencies.get(batch_size) for batch_size in batch_sizes]
    return (
        "" if math.isnan(measured.accuracy) else percent(measured.accuracy),
        *(differs, rate, limits),
        "" if size is None else megabytes(size),
        *("" if time is None else quartiles(time) for time in times),
    )


def _findings(audit: Audit) -> str:
    """The short tables of an audit; the card has a part of its own for the costs."""
    found = metrics_beside_fields(replace(audit, items=(), group_rates=(), costs=()).to_dict())
    shown = (section for section in sections_of(found) if section.shown(0))
    return "\n\n".join(f"**{escaped(section.title)}**\n\n{_markdown(section)}" for section in shown)


def _costs(details: CardDetails) -> str:
    if details.footprints is None:
        if details.latencies is not None:
            raise ValueError("A card shows latencies beside the footprints. Got no footprints: give both, or neither.")
        return ""
    sides = ("original", "compressed")
    return _markdown(footprint_section(*details.footprints, latencies=details.latencies, sides=sides))


def _markdown(section: Section) -> str:
    """The short tables of a section, and the sentences about them."""
    return "\n\n".join([*map(as_markdown, section.shown(0)), *map(escaped, section.notes)])


def changed_options(arguments: Any) -> dict[str, Any]:
    """The options of a dataclass that are not at their default, for a card's recipe."""
    options = {option.name: (getattr(arguments, option.name), option.default) for option in fields(arguments)}
    return {name: value for name, (value, default) in options.items() if value != default}
