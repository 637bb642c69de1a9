"""The evaluate metric ``calibration_shift``: whether a compressed model's confidences still mean what they say."""

import datasets
import evaluate
import numpy as np
from evaluate.utils.file_utils import add_start_docstrings
from numpy.typing import ArrayLike

from hf_compalign.measure.statistics import ItemScores, calibration_shift
from hf_compalign.metrics.classes import ClassMetric
from hf_compalign.metrics.probabilities import log_probabilities, probability_pair

_DESCRIPTION = """
Compares the calibration of a compressed model (the student) with that of the model it was made from (the teacher):
expected calibration error, Brier score and negative log-likelihood of both, and the changes with intervals.
"""

_INPUTS = """
Args:
    references: the true classes, -100 where unknown.
    probabilities: the student's probabilities, one row per example and one column per class.
    teacher_probabilities: the teacher's probabilities.
    n_bins: optional, bins of equal width for the calibration error, 15 by default.
    n_resamples: optional, bootstrap draws for the intervals, 1000 by default.
    seed: optional, of the draws, 0 by default.
Returns:
    ece, brier, nll of the student, teacher_ece, teacher_brier, teacher_nll; the changes ece_change, brier_change,
    nll_change and the ends of their 95 % intervals, such as ece_change_low and ece_change_high; n.

Examples:
    >>> from hf_compalign.metrics import load_metric
    >>> calibration_shift = load_metric("calibration_shift")
    >>> found = calibration_shift.compute(
    ...     references=[0, 1, 1, 0],
    ...     probabilities=[[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.1]],
    ...     teacher_probabilities=[[0.7, 0.3], [0.3, 0.7], [0.7, 0.3], [0.7, 0.3]],
    ... )
    >>> round(found["teacher_ece"], 3), round(found["ece"], 3), round(found["ece_change"], 3)
    (0.05, 0.15, 0.1)
"""

_CITATION = """
@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {International Conference on Machine Learning},
  year = {2017}
}
"""


@add_start_docstrings(_DESCRIPTION, _INPUTS)
class CalibrationShift(ClassMetric):
    """Calibration of the student's and the teacher's probabilities."""

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"references": datasets.Value("int64"), "probabilities": row, "teacher_probabilities": row}
            ),
            reference_urls=["https://huggingface.co/papers/1706.04599"],
        )

    def _compute(
        self,
        references: ArrayLike,
        *,
        probabilities: ArrayLike,
        teacher_probabilities: ArrayLike,
        n_bins: int = 15,
        n_resamples: int = 1000,
        seed: int = 0,
    ) -> dict[str, float | int]:
        labels = np.asarray(references)
        p, q = probability_pair(teacher_probabilities, probabilities, n=len(labels))
        scores = ItemScores.of(log_probabilities(p), log_probabilities(q), labels)
        shift = calibration_shift(
            p.argmax(axis=1), q.argmax(axis=1), labels, scores, n_bins=n_bins, n_resamples=n_resamples, seed=seed
        )
        found: dict[str, float | int] = {"n": shift.n}
        for name in ("ece", "brier", "nll"):
            change = getattr(shift, f"{name}_change")
            found |= {name: getattr(shift.candidate, name), f"teacher_{name}": getattr(shift.reference, name)}
            found |= {f"{name}_change": change.value}
            found |= {f"{name}_change_low": change.low, f"{name}_change_high": change.high}
        return found
