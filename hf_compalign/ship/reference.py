"""The answers that the files that ship are compared with."""

from dataclasses import replace
from typing import Any

from datasets import Dataset

from hf_compalign.measure.audit import AuditOptions, answers_of
from hf_compalign.measure.predictions import Predictions
from hf_compalign.opening import processor_of
from hf_compalign.tasks import Task


def reference_answers(reference: Any, dataset: Dataset, *, task: Task, options: AuditOptions) -> Predictions:
    """The answers of a model with the processor beside it, or else that of the options; given ones as they are."""
    if isinstance(reference, Predictions):
        return reference
    own = processor_of(reference, task, default=options.processing_class)
    return answers_of(reference, dataset, replace(options, processing_class=own))
