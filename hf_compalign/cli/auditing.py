"""What hf-compalign audit does between reading its options and printing what came out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from huggingface_hub.utils.tqdm import enable_progress_bars
from transformers.utils.logging import disable_progress_bar

from hf_compalign.data import find_text_columns
from hf_compalign.labels import label_order, names_of
from hf_compalign.measure.attribution import AttributionOptions, attribution_agreement, opened_pair
from hf_compalign.measure.audit import Audit, CostRow, audit, with_attribution, with_contents
from hf_compalign.measure.footprint import footprint, footprint_section
from hf_compalign.measure.groups import Membership, group_membership, number_bins, text_length
from hf_compalign.measure.predictions import Columns, Predictions, is_raw, predict
from hf_compalign.models import FileModel, default_device, load_model
from hf_compalign.ship import Questions, machine_name, processor_of, timing_device
from hf_compalign.tasks import task_of

# Instead of a column of numbers: the words of the text.
WORDS = "words"
_TIMED_BATCH = 8
_TIMED_RUNS = 20


@dataclass(frozen=True)
class Job:
    """What to compare on which rows, and what to say of it; the models are paths or Hub ids.

    Without ``contents`` nothing that was asked is in the audit: neither texts, nor thumbnails, nor explanations, which
    hold the tokens of the texts.
    """

    reference: str
    candidate: str
    floor: str | None
    rows: Dataset
    columns: Columns
    groups: Sequence[str]
    bins: Sequence[str]
    limits: Mapping[str, float]
    min_group_size: int
    attribution: AttributionOptions | None
    latency: bool
    contents: bool
    batch_size: int


def audited(job: Job) -> tuple[Audit, dict[str, Predictions]]:
    """The audit of two models, and the predictions that it was made from.

    Raises:
        ValueError: as `audit` and `predict` do, and for groups, bins and attributions that cannot be had.
    """
    # No bar for reading a file, which is a matter of seconds; but one for a download.
    disable_progress_bar()
    enable_progress_bars()
    groups = _groups(job)
    # All of them, before one of them is run in vain.
    names = {"reference": job.reference, "candidate": job.candidate, **({"floor": job.floor} if job.floor else {})}
    models = {side: load_model(path) for side, path in names.items()}
    for model in models.values():
        label_order(*(names_of(one.config.id2label) for one in (models["reference"], model)))
    both = models["reference"], models["candidate"]
    if job.attribution:
        opened_pair(*both, job.rows, columns=job.columns, options=job.attribution)
    answers = {
        side: predict(model, job.rows, columns=job.columns, batch_size=job.batch_size, device=default_device(model))
        for side, model in models.items()
    }
    found = audit(
        answers["reference"],
        answers["candidate"],
        groups=groups or None,
        limits=job.limits,
        floor=answers.get("floor"),
        min_group_size=job.min_group_size,
    )
    found = _with_costs(found, job, models)
    task = task_of(models["reference"])
    if job.contents and is_raw(job.rows, task):
        ids = answers["reference"].ids.tolist()
        found = with_contents(found, job.rows, ids=ids, task=task, columns=job.columns)
    if job.attribution:
        pair = answers["reference"], answers["candidate"]
        agreement, explanations = attribution_agreement(
            *both, job.rows, predictions=pair, columns=job.columns, options=job.attribution
        )
        found = with_attribution(found, agreement, explanations if job.contents else {})
    return found, answers


def _groups(job: Job) -> dict[str, Membership]:
    """Attribute -> the groups of each row."""
    columns = [tuple(name.strip() for name in names.split(",")) for names in job.groups]
    attributes = [" x ".join(by) for by in columns]
    bins = [f"{name} (bins)" if name in attributes else name for name in job.bins]
    twice = next((name for name, n in Counter([*attributes, *bins]).items() if n > 1), None)
    if twice is not None:
        raise ValueError(
            f"Each of --groups and --bins is an attribute with a name of its own. Got {twice!r} twice. Leave one out, "
            "or rename a column."
        )
    found: dict[str, Membership] = {}
    for attribute, by in zip(attributes, columns, strict=True):
        found[attribute] = group_membership(job.rows, by[0] if len(by) == 1 else by)
    for attribute, name in zip(bins, job.bins, strict=True):
        found[attribute] = number_bins(_numbers(job, name))
    return found


def _numbers(job: Job, name: str) -> Any:
    if name in job.rows.column_names:
        return job.rows[name]
    if name == WORDS:
        return text_length(job.rows, find_text_columns(job.rows, job.columns.text))
    raise ValueError(
        f"There is no column {name!r} to be binned. The columns are {', '.join(job.rows.column_names)}; {WORDS!r} "
        "stands for the number of words in the text."
    )


def _with_costs(found: Audit, job: Job, models: Mapping[str, Any]) -> Audit:
    """The bytes and, if they are to be timed, the latencies of both models."""
    sizes = footprint(job.reference), footprint(job.candidate)
    latencies = None
    if job.latency:
        both = {side: models[side] for side in ("reference", "candidate")}
        device = timing_device(onnx=any(isinstance(model, FileModel) for model in both.values()))
        asked = {side: (model, processor_of(model, task_of(model), default=None)) for side, model in both.items()}
        timed = Questions(job.rows, job.columns).latencies(
            asked, sizes=(_TIMED_BATCH,), n_runs=_TIMED_RUNS, device=device
        )
        latencies = timed["reference"][_TIMED_BATCH], timed["candidate"][_TIMED_BATCH]
        milliseconds = latencies[0].median_ms, latencies[1].median_ms
        found = replace(found, latency_ms=milliseconds, machine=f"{machine_name(device)}, batches of {_TIMED_BATCH}")
    return replace(
        found,
        costs=tuple(CostRow(*map(str, row)) for row in footprint_section(*sizes, latencies=latencies).tables[0].rows),
        size_bytes=(sizes[0].size_bytes, sizes[1].size_bytes),
    )
