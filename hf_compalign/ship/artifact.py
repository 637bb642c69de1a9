"""Write what ships: the weights, the ONNX files, an audit of each, and the card that says so."""

import importlib.util
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign._folders import staged_folder
from hf_compalign._tables import as_text
from hf_compalign.measure.audit import Audit, AuditOptions, audit, checked_limits
from hf_compalign.measure.footprint import Latency, footprint, latencies_on, machine_name, timing_device
from hf_compalign.measure.predictions import Columns, Predictions
from hf_compalign.models import FileModel, OnnxModel, load_processor
from hf_compalign.opening import Model, load_model, name_of, processor_of
from hf_compalign.report.card import ORIGINAL, CardDetails, Measured, files_table, public_name, wide_files
from hf_compalign.report.page import write_report
from hf_compalign.ship.card import with_what_was_done, write_model_card
from hf_compalign.ship.hub import ONNX, WEIGHTS, audit_name
from hf_compalign.ship.reference import reference_answers
from hf_compalign.tasks import task_of

logger = logging.getLogger(__name__)

REPORT = "report.html"
_VARIANT = re.compile(r"model(_[a-z0-9]+)*")


@dataclass(frozen=True)
class ArtifactDetails:
    """What `save_artifact` cannot find out by itself, or does differently by default.

    Attributes:
        card: what the card says besides the numbers; by default only what the model and the reference tell.
        processing_class: the tokenizer or image processor; by default the one saved beside the model.
        columns: where to find what in a raw dataset.
        limits: for the verdict of each audit, such as ``{"mismatch_rate": 0.02}``.
        batch_size: rows at a time for the predictions.
        timed_batch_sizes: the batches whose passes are timed; empty to time nothing.
        n_runs: timed passes of each model and batch.
    """

    card: CardDetails | None = None
    processing_class: Any = None
    columns: Columns | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    batch_size: int = 32
    timed_batch_sizes: Sequence[int] = (1, 8)
    n_runs: int = 20


@dataclass(frozen=True)
class Artifact:
    """What `save_artifact` wrote; ``print`` shows it as a table.

    Attributes:
        folder: where.
        files: the measurements of "original", of the weights and of each ONNX file, by its name in the folder.
        machine: where they were timed; empty when they were not.
    """

    folder: Path
    files: Mapping[str, Measured]
    machine: str = ""

    @property
    def passed(self) -> bool:
        """Whether every file keeps all limits; True when none was set."""
        return all(one.audit.passed for one in self.files.values() if one.audit is not None)

    def __str__(self) -> str:
        times = f"Medians and quartiles of times on {self.machine}. {wide_files(self.files)}" if self.machine else ""
        return "\n".join(filter(None, [str(self.folder), as_text(files_table(self.files)), times.rstrip()]))


def save_artifact(
    model: PreTrainedModel | str | Path,
    folder: str | Path,
    *,
    reference: Predictions | PreTrainedModel | str | Path,
    dataset: Dataset,
    onnx: Sequence[str | Path] | Mapping[str, str | Path] = (),
    details: ArtifactDetails | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write a compressed model as it ships, with an audit of each of its files against the original.

    The Hub, Optimum and Transformers.js read the layout of the folder: ``model.safetensors``, ``config.json`` and the
    processor, their ``audit.json``, the card ``README.md``, and for each ONNX file ``onnx/<name>.onnx`` with
    ``onnx/<name>.audit.json``. With the extra `report`, ``report.html`` shows all audits as one page, with the ids of
    the changed items but none of their texts. The audits are of the files as they were written. `push_to_hub` sends
    the folder.

    Args:
        model: the compressed model: a module, a folder or a Hub id.
        folder: the folder to write. All of it appears at the end, or nothing.
        reference: the original model; or its predictions on the dataset, which have no size and no latency.
        dataset: what all models answer, as `predict` takes it.
        onnx: files of `export_onnx`, which keep their names; or new names -> files, where two have one name:
            ``{"model_int8": "a/model_int8.onnx", "model_quantized": "b/model_int8.onnx"}``. Transformers.js calls
            `model` fp32, `model_int8` int8 and `model_quantized` q8.
        details: what the card says, the processor, limits for the audits, what is timed.
        overwrite: replace files of the same names in the folder, and remove a ``report.html`` of other audits.

    Returns:
        The audits, sizes and latencies of all files.

    Raises:
        ValueError: the folder holds files, or with ``overwrite`` other ONNX files or weights of another kind; an ONNX
            file is not there, has the name of another or has other labels; there is no processor; the model is itself
            an ONNX file; or the models cannot be compared on the dataset.
    """
    details = details or ArtifactDetails()
    checked_limits(details.limits)
    variants = _variants(onnx)
    _refuse_leftovers(Path(folder), variants)
    with staged_folder(folder, overwrite=overwrite, dropped=[REPORT]) as work:
        compressed = _torch_model(model)
        processor = _write_model(compressed, work, details.processing_class)
        _copy_variants(variants, work, compressed.config)
        weights = next(name for name in WEIGHTS if (work / name).is_file())
        _refuse_other_weights(Path(folder), work, weights)
        models: dict[str, tuple[Model, Any]] = {weights: (work, processor)}
        models |= {name: (work / name, processor) for name in variants}
        if not isinstance(reference, Predictions):
            models[ORIGINAL] = (reference, processor_of(reference, task_of(compressed), default=processor))
        card = _card_of(details.card, compressed, reference, Path(folder))
        asking = AuditOptions(details.columns, processor, details.batch_size)
        original = reference_answers(reference, dataset, task=task_of(compressed), options=asking)
        # A local path says nothing to others.
        original = replace(original, model=public_name(original.model or card.base_model))
        audits = {}
        for name in (weights, *variants):
            found = audit(original, models[name][0], dataset, limits=details.limits, options=asking)
            audits[name] = replace(found, candidate=replace(found.candidate, model=f"{card.name}/{name}"))
            audits[name].save(work / audit_name(name))
        device = timing_device(files=bool(variants))
        times = latencies_on(
            dataset,
            models,
            columns=details.columns,
            batch_sizes=details.timed_batch_sizes,
            n_runs=details.n_runs,
            device=device,
        )
        files, machine = _measured(models, audits, times), machine_name(device) if details.timed_batch_sizes else ""
        card = with_what_was_done(replace(card, files=files, machine=machine), compressed)
        report = _report(work, files)
        write_model_card(work, audits[weights], details=replace(card, report=report))
    return Artifact(Path(folder), files, machine)


def _variants(onnx: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    """Name in the artifact -> file, checked."""
    if isinstance(onnx, Mapping):
        named = [(name.removesuffix(".onnx"), Path(path)) for name, path in onnx.items()]
    else:
        named = [(Path(path).stem, Path(path)) for path in ([onnx] if isinstance(onnx, str | Path) else onnx)]
    found: dict[str, Path] = {}
    for stem, path in named:
        if path.suffix != ".onnx" or not path.is_file():
            raise ValueError(f"There is no ONNX file {str(path)!r}. Make it with export_onnx, and give its path.")
        if not _VARIANT.fullmatch(stem):
            raise ValueError(
                f"An ONNX file of an artifact is called model or model_<what>, in small letters. Got {stem!r}. Name "
                f"it, say onnx={{'model_int8': {str(path)!r}}}."
            )
        name = f"{ONNX}/{stem}.onnx"
        if name in found:
            raise ValueError(
                f"Two files would be {name}: {found[name]} and {path}. Name each, say "
                f"onnx={{'{stem}': {str(found[name])!r}, 'model_quantized': {str(path)!r}}}."
            )
        found[name] = path
    return found


def _refuse_leftovers(folder: Path, variants: Mapping[str, Path]) -> None:
    """An ONNX file of an earlier artifact would lie there with an audit of another model."""
    left = sorted({f"{ONNX}/{path.name}" for path in (folder / ONNX).glob("*.onnx")} - variants.keys())
    if left:
        raise ValueError(
            f"{folder} holds {', '.join(left)}, which would be no part of the new artifact. Remove it, list it in "
            "onnx=, or give another folder."
        )


def _refuse_other_weights(folder: Path, work: Path, weights: str) -> None:
    """Loaders would pick either, and the audit is of the new weights alone."""
    left = sorted(path.name for path in folder.glob("model*.safetensors*") if not (work / path.name).exists())
    if left:
        raise ValueError(
            f"{folder} holds {', '.join(left)}, other weights than the new {weights}. Remove it, or give another "
            "folder."
        )


def _torch_model(model: Model) -> PreTrainedModel:
    network = load_model(model)
    if isinstance(network, FileModel):
        raise ValueError(
            f"model must be the PyTorch model that was exported, and {network.path} is an ONNX file. Give it in onnx=."
        )
    return network


def _write_model(model: PreTrainedModel, work: Path, processor: Any) -> Any:
    """The model and its processor, which is returned."""
    if processor is None:
        processor = load_processor(name_of(model), task_of(model))
    model.save_pretrained(work)
    processor.save_pretrained(work)
    return processor


def _copy_variants(variants: Mapping[str, Path], work: Path, config: Any) -> None:
    for name, source in variants.items():
        (work / ONNX).mkdir(exist_ok=True)
        path, *beside = _opened(source, config).files
        shutil.copyfile(path, work / name)
        # The file names those beside it, which hold its weights if they exceed 2 GB.
        for part in beside:
            within = part.relative_to(path.parent)
            target = work / ONNX / within
            if target.exists():
                raise ValueError(f"Two ONNX files keep their weights in a {within}. Export one under another name.")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part, target)


def _opened(source: Path, config: Any) -> OnnxModel:
    """The file, with the config it was exported with if that lies there; the artifact has one for all."""
    has_own = any((folder / "config.json").is_file() for folder in (source.parent, source.parent.parent))
    found = OnnxModel(source, config=None if has_own else config)
    if found.config.id2label != config.id2label:
        raise ValueError(
            f"{source} is of another model: its config.json has the labels {found.config.id2label}, the model has "
            f"{config.id2label}. Export the model that ships."
        )
    return found


def _card_of(
    given: CardDetails | None, model: PreTrainedModel, reference: Model | Predictions, folder: Path
) -> CardDetails:
    """The details of the card, by default what the model, the reference and the folder tell."""
    base = (reference.model if isinstance(reference, Predictions) else name_of(reference)) or "the original"
    card = given or CardDetails(task_of(model).name, base_model=base, dataset="the evaluation data")
    return replace(card, name=card.name or folder.resolve().name)


def _measured(
    models: Mapping[str, tuple[Model, Any]], audits: Mapping[str, Audit], times: Mapping[str, Mapping[int, Latency]]
) -> dict[str, Measured]:
    accuracies = {ORIGINAL: next(iter(audits.values())).metrics["accuracy_reference"]}
    accuracies |= {name: audited.metrics["accuracy_candidate"] for name, audited in audits.items()}
    sizes = {name: footprint(model).size_bytes for name, (model, _) in models.items()}
    return {
        name: Measured(audits.get(name), accuracy, sizes.get(name), times.get(name, {}))
        for name, accuracy in accuracies.items()
    }


def _report(work: Path, files: Mapping[str, Measured]) -> str | None:
    """Write the page of all files, without texts of the dataset, where the extra `report` is installed."""
    # An import that fails for another reason must be seen.
    if importlib.util.find_spec("matplotlib") is None:
        logger.info(
            "%s is left out, as matplotlib is not installed. Install it: pip install 'hf-compalign[report]'", REPORT
        )
        return None
    original = files[ORIGINAL]
    write_report(
        work / REPORT, [_with_costs(one.audit, original, one) for one in files.values() if one.audit is not None]
    )
    return REPORT


def _with_costs(found: Audit, original: Measured, one: Measured) -> Audit:
    """The audit of a file, with its size and latency beside those of the original."""
    batch = max(original.latencies.keys() & one.latencies, default=None)
    times = None if batch is None else (original.latencies[batch], one.latencies[batch])
    sizes = None
    if original.size_bytes is not None and one.size_bytes is not None:
        sizes = (original.size_bytes, one.size_bytes)
    return replace(found, size_bytes=sizes, latency=times)
