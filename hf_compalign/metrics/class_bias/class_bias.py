"""The evaluate metric ``class_bias``: how unequally compression changed the error rates of the classes."""

import datasets
import evaluate
import numpy as np
from evaluate.utils.file_utils import add_start_docstrings
from numpy.typing import ArrayLike

from hf_compalign.labels import IGNORED
from hf_compalign.measure.statistics import class_bias
from hf_compalign.metrics.classes import ClassMetric

_DESCRIPTION = """
Compares the error rates per class of a compressed model (the student) with those of the model it was made from (the
teacher): which classes are now given too often or missed too often, and how unequal these changes are.
"""

_INPUTS = """
Args:
    predictions: the student's predicted classes, one integer per example.
    references: the true classes, -100 where unknown.
    teacher_predictions: the teacher's predicted classes.
    n_classes: optional, how many classes there are; by default up to the largest one that occurs.
Returns:
    cev, sde, n_skipped; and per class, as lists, fpr, teacher_fpr, fpr_change, fnr, teacher_fnr, fnr_change.

Examples:
    >>> from hf_compalign.metrics import load_metric
    >>> class_bias = load_metric("class_bias")
    >>> found = class_bias.compute(
    ...     predictions=[0, 1, 1, 1, 1, 0],
    ...     references=[0, 0, 0, 1, 1, 1],
    ...     teacher_predictions=[0, 1, 0, 1, 1, 0],
    ... )
    >>> found["fpr_change"], found["fnr_change"], found["cev"]
    ([0.0, 100.0], [100.0, 0.0], 2500.0)
"""

_CITATION = """
@article{blakeney2021simon,
  title = {Simon Says: Evaluating and Mitigating Bias in Pruned Neural Networks with Knowledge Distillation},
  author = {Blakeney, Cody and Huish, Nathaniel and Yan, Yan and Zong, Ziliang},
  journal = {arXiv preprint arXiv:2106.07849},
  year = {2021}
}
"""


@add_start_docstrings(_DESCRIPTION, _INPUTS)
class ClassBias(ClassMetric):
    """Change of the one-vs-rest error rates of each class."""

    def _info(self) -> evaluate.MetricInfo:
        names = ("predictions", "references", "teacher_predictions")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({name: datasets.Value("int64") for name in names}),
            reference_urls=["https://huggingface.co/papers/2106.07849"],
        )

    def _compute(
        self,
        predictions: ArrayLike,
        references: ArrayLike,
        *,
        teacher_predictions: ArrayLike,
        n_classes: int | None = None,
    ) -> dict[str, float | int | list[float]]:
        if n_classes is None:
            largest = (np.max(array, initial=IGNORED) for array in (predictions, references, teacher_predictions))
            n_classes = max(int(max(largest)) + 1, 0)
        found = class_bias(teacher_predictions, predictions, references, n_classes)
        return {
            "cev": found.cev,
            "sde": found.sde,
            "n_skipped": found.n_skipped,
            "fpr": [row.fpr_candidate for row in found.rows],
            "teacher_fpr": [row.fpr_reference for row in found.rows],
            "fpr_change": [row.fpr_change for row in found.rows],
            "fnr": [row.fnr_candidate for row in found.rows],
            "teacher_fnr": [row.fnr_reference for row in found.rows],
            "fnr_change": [row.fnr_change for row in found.rows],
        }
