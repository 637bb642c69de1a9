"""Write what ships: the weights, the exported files, an audit of each, and the card that says so."""

import importlib.util
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign._exported import ONNX, OPENVINO, format_of
from hf_compalign._folders import staged_folder
from hf_compalign._tables import as_text
from hf_compalign._visible import public_name
from hf_compalign.measure.audit import Audit, AuditOptions, audit, checked_limits
from hf_compalign.measure.footprint import Latency, footprint, latencies_on, machine_name, timing_device
from hf_compalign.measure.predictions import Columns, Predictions
from hf_compalign.models import FileModel, load_processor
from hf_compalign.opening import Model, load_model, name_of, processor_of
from hf_compalign.report.card import ORIGINAL, CardDetails, Deferred, Measured, files_table, wide_files
from hf_compalign.report.page import write_report
from hf_compalign.ship.card import with_what_was_done, write_model_card
from hf_compalign.ship.deferral import Deferral, DeferringModel
from hf_compalign.ship.deferrals import (
    check_deferrals,
    opened_pairs,
    pair_audit_name,
    pair_name,
    refuse_left_deferrals,
    save_deferrals,
)
from hf_compalign.ship.earlier import weights_in
from hf_compalign.ship.hub import WEIGHTS, audit_name
from hf_compalign.ship.reference import reference_answers
from hf_compalign.ship.variants import checked_variants, copy_variants, refuse_left_variants
from hf_compalign.tasks import MEASURED, task_of

logger = logging.getLogger(__name__)

REPORT = "report.html"


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
        about: the file that the card and the page begin with, by its name in the folder, together with what is behind
            it if it defers; by default the weights.
    """

    card: CardDetails | None = None
    processing_class: Any = None
    columns: Columns | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    batch_size: int = 32
    timed_batch_sizes: Sequence[int] = (1, 8)
    n_runs: int = 20
    about: str | None = None


@dataclass(frozen=True)
class Artifact:
    """What `save_artifact` wrote; ``print`` shows it as a table.

    Attributes:
        folder: where.
        files: the measurements of "original", of the weights and of each exported file, by its name in the folder.
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


def save_artifact(  # noqa: PLR0913 - what ships, of which files, and what it is held against
    model: PreTrainedModel | str | Path,
    folder: str | Path,
    *,
    reference: Predictions | PreTrainedModel | str | Path,
    dataset: Dataset,
    onnx: Sequence[str | Path] | Mapping[str, str | Path] = (),
    openvino: Sequence[str | Path] | Mapping[str, str | Path] = (),
    deferrals: Mapping[str, Deferral | str | Path] | None = None,
    details: ArtifactDetails | None = None,
    overwrite: bool = False,
    dropped: Collection[str] = (),
) -> Artifact:
    """Write a compressed model as it ships, with an audit of each of its files against the original.

    The Hub, Optimum, sentence-transformers and Transformers.js read the layout of the folder: ``model.safetensors``,
    ``config.json`` and the processor, their ``audit.json``, the card ``README.md``, for each ONNX file
    ``onnx/<name>.onnx`` with ``onnx/<name>.audit.json``, and for each OpenVINO file ``openvino/<name>.xml`` with its
    ``.bin`` and ``openvino/<name>.audit.json``. With the extra `report`, ``report.html`` shows all audits as one page,
    with the ids of the changed items but none of their texts. The audits are of the files as they were written.
    `push_to_hub` sends the folder.

    Args:
        model: the compressed model: a module, a folder or a Hub id.
        folder: the folder to write. All of it appears at the end, or nothing.
        reference: the original model; or its predictions on the dataset, which have no size and no latency.
        dataset: what all models answer, as `predict` takes it.
        onnx: files of `export_onnx`, which keep their names; or new names -> files, where two have one name:
            ``{"model_int8": "a/model_int8.onnx", "model_quantized": "b/model_int8.onnx"}``. Transformers.js calls
            `model` fp32, `model_int8` int8 and `model_quantized` q8.
        openvino: files of `export_openvino` likewise, called `openvino_model` or `openvino_model_<what>`.
        deferrals: which answers of a file count, from `fit_deferral`: name in the folder -> deferral, or its path, such
            as ``{"onnx/model_int8.onnx": deferral}``, or the name of the weights. Each becomes ``<name>.deferral.json``
            beside its file (``deferral.json`` for the weights), where `DeferringModel` finds it. The file and what is
            behind it are audited together too, ``<name>.pair.audit.json``, if that is in the folder or the reference.
        details: what the card says, the processor, limits for the audits, what is timed.
        overwrite: replace files of the same names in the folder, and remove a ``report.html`` of other audits.
        dropped: with ``overwrite``, the names of other files in the folder that go, such as `artifact_files` of it.

    Returns:
        The audits, sizes and latencies of all files.

    Raises:
        ValueError: the folder holds files, or with ``overwrite`` other exported files, deferrals or weights of another
            kind; an exported file is not there, has the name of another or has other labels; a deferral is for no file
            of the folder, or was fitted for another one; there is no processor; the model is itself an exported file or
            a `DeferringModel`; or the models cannot be compared on the dataset.
    """
    details, folder = details or ArtifactDetails(), Path(folder)
    checked_limits(details.limits)
    variants = checked_variants({ONNX: onnx, OPENVINO: openvino})
    rules = {name: Deferral.of(deferral) for name, deferral in (deferrals or {}).items()}
    refuse_left_variants(folder, variants, dropped)
    refuse_left_deferrals(folder, rules, dropped)
    with staged_folder(folder, overwrite=overwrite, dropped=[REPORT, *dropped]) as work:
        compressed = _torch_model(model)
        processor = _write_model(compressed, work, details.processing_class)
        copy_variants(variants, work, compressed.config)
        weights = next(name for name in WEIGHTS if (work / name).is_file())
        _refuse_other_weights(folder, work, weights, dropped)
        places: dict[str, Model] = {weights: work, **{name: work / name for name in variants}}
        check_deferrals(rules, places)
        _check_about(details.about, places)
        pairs = opened_pairs(rules, places, None if isinstance(reference, Predictions) else reference)
        card = _card_of(details.card, compressed, reference, folder)
        asking = AuditOptions(details.columns, processor, details.batch_size)
        original = reference_answers(reference, dataset, task=task_of(compressed, MEASURED), options=asking)
        # A local path says nothing to others.
        original = replace(original, model=public_name(original.model or card.base_model))
        asked = {name: (place, audit_name(name)) for name, place in places.items()}
        asked |= {pair_name(name): (pair, pair_audit_name(name)) for name, pair in pairs.items()}
        audits = {}
        for name, (place, record) in asked.items():
            found = audit(original, place, dataset, limits=details.limits, options=asking)
            audits[name] = replace(found, candidate=replace(found.candidate, model=f"{card.name}/{name}"))
            audits[name].save(work / record)
        models = {name: (place, processor) for name, (place, _) in asked.items()}
        if not isinstance(reference, Predictions):
            models[ORIGINAL] = (reference, processor_of(reference, task_of(compressed, MEASURED), default=processor))
        device = timing_device(files=bool(variants))
        files = _measured(models, audits, _times(models, dataset, details, device))
        machine = machine_name(device) if details.timed_batch_sizes else ""
        said = save_deferrals(work, rules, {name: audits[name].candidate for name in places}, original)
        first, words = _about(details.about, pairs, said) if details.about else (weights, "")
        card = replace(card, files=files, machine=machine, deferrals=said, about=words)
        card = replace(card, report=_report(work, files, first))
        write_model_card(work, audits[first], details=with_what_was_done(card, compressed))
    return Artifact(folder, files, machine)


def _check_about(name: str | None, places: Mapping[str, Model]) -> None:
    if name not in (None, *places):
        raise ValueError(
            f"There is no file {name!r} in the artifact for the card to be about. It holds {', '.join(places)}. Name "
            "one of these in about=."
        )


def _about(name: str, pairs: Collection[str], said: Mapping[str, Deferred]) -> tuple[str, str]:
    """The audit that the card begins with, and what it is of, in words."""
    if name not in pairs:
        return name, f"`{name}`"
    return pair_name(name), f"`{name}` with `{said[name].behind}` behind it, which answers what it is not sure of"


def _refuse_other_weights(folder: Path, work: Path, weights: str, dropped: Collection[str]) -> None:
    """Loaders would pick either, and the audit is of the new weights alone."""
    left = sorted(name for name in weights_in(folder) - {*dropped} if not (work / name).exists())
    if left:
        raise ValueError(
            f"{folder} holds {', '.join(left)}, other weights than the new {weights}. Remove it, or give another "
            "folder."
        )


def _torch_model(model: Model) -> PreTrainedModel:
    network = load_model(model)
    if isinstance(network, DeferringModel):
        raise ValueError(
            "model must be one PyTorch model, and a DeferringModel is two. Give the weights that its candidate was "
            "exported from, the candidate's file in onnx= or openvino=, and its deferral in deferrals=, by the name "
            "that the file has in the artifact."
        )
    if isinstance(network, FileModel):
        form = format_of(network.path) or ONNX
        raise ValueError(
            f"model must be the PyTorch model that was exported, and {network.path} is an {form.name} file. Give it in "
            f"{form.folder}=."
        )
    return network


def _write_model(model: PreTrainedModel, work: Path, processor: Any) -> Any:
    """The model and its processor, which is returned."""
    if processor is None:
        processor = load_processor(name_of(model), task_of(model, MEASURED))
    model.save_pretrained(work)
    processor.save_pretrained(work)
    return processor


def _card_of(
    given: CardDetails | None, model: PreTrainedModel, reference: Model | Predictions, folder: Path
) -> CardDetails:
    """The details of the card, by default what the model, the reference and the folder tell."""
    base = (reference.model if isinstance(reference, Predictions) else name_of(reference)) or "the original"
    card = given or CardDetails(task_of(model, MEASURED).name, base_model=base, dataset="the evaluation data")
    return replace(card, name=card.name or folder.resolve().name)


def _times(
    models: Mapping[str, tuple[Model, Any]], dataset: Dataset, details: ArtifactDetails, device: torch.device
) -> dict[str, dict[int, Latency]]:
    return latencies_on(
        dataset,
        models,
        columns=details.columns,
        batch_sizes=details.timed_batch_sizes,
        n_runs=details.n_runs,
        device=device,
    )


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


def _report(work: Path, files: Mapping[str, Measured], first: str) -> str | None:
    """Write the page of all files, one of them first, without texts of the dataset, if the extra `report` is there."""
    # An import that fails for another reason must be seen.
    if importlib.util.find_spec("matplotlib") is None:
        logger.info(
            "%s is left out, as matplotlib is not installed. Install it: pip install 'hf-compalign[report]'", REPORT
        )
        return None
    original, ordered = files[ORIGINAL], {first: files[first], **files}
    write_report(
        work / REPORT, [_with_costs(one.audit, original, one) for one in ordered.values() if one.audit is not None]
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
