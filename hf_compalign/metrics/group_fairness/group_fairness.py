"""The evaluate metric ``group_fairness``: which groups a compressed model treats differently from its original."""

import math
from typing import Any

import datasets
import evaluate
import numpy as np
from evaluate.utils.file_utils import add_start_docstrings
from numpy.typing import ArrayLike

from hf_compalign.labels import IGNORED
from hf_compalign.measure.groups import (
    DEFAULT_ATTRIBUTE,
    MIN_GROUP_SIZE,
    Gap,
    GroupAudit,
    GroupOptions,
    audit_groups,
    normalized_groups,
)
from hf_compalign.measure.statistics import PARITY
from hf_compalign.metrics.classes import ClassMetric

_DESCRIPTION = """
Compares a compressed model (the student) with the model it was made from (the teacher) group by group: where more
answers change, where accuracy falls, and whether the usual fairness measures get worse.
"""

_INPUTS = """
Args:
    predictions: the student's predicted classes, one integer per example.
    references: the true classes, -100 where unknown.
    teacher_predictions: the teacher's predicted classes.
    groups: the group of each example, a list of the groups it is in, or None.
    min_group_size: optional, by default 30: smaller groups are listed, and count for nothing else.
    label: optional, the class of the fairness measures; by default the worst over the classes.
    n_classes: optional, how many classes there are; by default up to the largest one that occurs.
Returns:
    n_groups, n_ungrouped; mismatch_p; mismatch_gap, mismatch_gap_p and mismatch_gap_upper_bound; nfr_gap;
    worst_group_accuracy, teacher_worst_group_accuracy, worst_group_accuracy_drop and
    worst_group_accuracy_drop_upper_bound; for each fairness measure its value, teacher_<measure>, <measure>_change,
    <measure>_upper_bound, <measure>_all_groups, teacher_<measure>_all_groups and, as a list, <measure>_left_out; and
    per group, as lists, groups, group_n, group_mismatch_rate, group_nfr, group_accuracy, teacher_group_accuracy and
    group_p_adjusted.

Examples:
    >>> from hf_compalign.metrics import load_metric
    >>> group_fairness = load_metric("group_fairness")
    >>> found = group_fairness.compute(
    ...     predictions=[1, 0, 0, 0, 1, 1, 0, 0],
    ...     references=[1, 1, 0, 0, 1, 1, 0, 0],
    ...     teacher_predictions=[1, 1, 0, 0, 1, 1, 0, 0],
    ...     groups=["women", "women", "women", "women", "men", "men", "men", "men"],
    ...     min_group_size=2,
    ... )
    >>> found["groups"], found["group_mismatch_rate"], found["mismatch_gap"]
    (['women', 'men'], [0.25, 0.0], 0.25)
"""

_CITATION = """
@inproceedings{hardt2016equality,
  title = {Equality of Opportunity in Supervised Learning},
  author = {Hardt, Moritz and Price, Eric and Srebro, Nathan},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2016}
}
"""


# The name of each number of a fairness measure, and the field of a `FairnessRow`.
_OF_MEASURE = {
    "{}": "candidate",
    "teacher_{}": "reference",
    "{}_change": "change",
    "{}_upper_bound": "upper_bound",
    "{}_all_groups": "candidate_all_groups",
    "teacher_{}_all_groups": "reference_all_groups",
}


@add_start_docstrings(_DESCRIPTION, _INPUTS)
class GroupFairness(ClassMetric):
    """Comparison of a student's predictions with its teacher's, group by group."""

    def _info(self) -> evaluate.MetricInfo:
        names = ("predictions", "references", "teacher_predictions")
        answers = {name: datasets.Value("int64") for name in names}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(answers | {"groups": datasets.Sequence(datasets.Value("string"))}),
            reference_urls=["https://huggingface.co/papers/1610.02413", "https://fairlearn.org"],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add examples; their groups become lists, in whatever form they come."""
        if "groups" in kwargs:
            if predictions is None:
                raise ValueError("add_batch needs predictions, one for each of the groups. Got none.")
            listed = normalized_groups(kwargs["groups"], len(predictions))[DEFAULT_ATTRIBUTE]
            kwargs["groups"] = [list(names) for names in listed]
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one example."""
        if "groups" in kwargs:
            kwargs["groups"] = list(normalized_groups([kwargs["groups"]], 1)[DEFAULT_ATTRIBUTE][0])
        super().add(prediction=prediction, reference=reference, **kwargs)

    def _compute(
        self,
        predictions: ArrayLike,
        references: ArrayLike,
        *,
        teacher_predictions: ArrayLike,
        groups: list[list[str]],
        min_group_size: int = MIN_GROUP_SIZE,
        label: int | None = None,
        n_classes: int | None = None,
    ) -> dict[str, Any]:
        if n_classes is None:
            largest = (np.max(array, initial=IGNORED) for array in (predictions, references, teacher_predictions))
            n_classes = max(int(max(largest)) + 1, 1)
        if label is not None and not 0 <= label < n_classes:
            raise ValueError(f"label must be one of the {n_classes} classes, in [0, {n_classes}). Got {label}.")
        found = audit_groups(
            teacher_predictions,
            predictions,
            references,
            normalized_groups(groups, len(groups)),
            n_classes=n_classes,
            options=GroupOptions(min_group_size=min_group_size, most_classes=n_classes),
        )
        return _of_gap(found.gaps[0]) | _of_measures(found.gaps[0], label) | _of_groups(found)


def _of_gap(gap: Gap) -> dict[str, float]:
    return {
        "n_groups": gap.n_groups,
        "n_ungrouped": gap.n_ungrouped,
        "mismatch_p": gap.p_value,
        "mismatch_gap": gap.mismatch_gap,
        "mismatch_gap_p": gap.range_p_value,
        "mismatch_gap_upper_bound": gap.upper_bound,
        "nfr_gap": gap.nfr_gap,
        "worst_group_accuracy": gap.worst_group_accuracy_candidate,
        "teacher_worst_group_accuracy": gap.worst_group_accuracy_reference,
        "worst_group_accuracy_drop": gap.worst_group_accuracy_drop,
        "worst_group_accuracy_drop_upper_bound": gap.drop_upper_bound,
    }


def _of_measures(gap: Gap, label: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rows = {row.measure: row for row in gap.fairness if row.label == label}
    for measure in PARITY:
        row = rows.get(measure)  # None for a class that does not occur
        for name, field in _OF_MEASURE.items():
            found[name.format(measure)] = getattr(row, field) if row else math.nan
        found[f"{measure}_left_out"] = list(row.left_out) if row else []
    return found


def _of_groups(found: GroupAudit) -> dict[str, list[Any]]:
    return {
        "groups": [row.group for row in found.rows],
        "group_n": [row.n for row in found.rows],
        "group_mismatch_rate": [row.mismatch_rate for row in found.rows],
        "group_nfr": [row.nfr for row in found.rows],
        "group_accuracy": [row.accuracy_candidate for row in found.rows],
        "teacher_group_accuracy": [row.accuracy_reference for row in found.rows],
        "group_p_adjusted": [row.p_adjusted for row in found.rows],
    }
