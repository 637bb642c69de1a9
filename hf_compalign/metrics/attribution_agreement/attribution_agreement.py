"""The evaluate metric ``attribution_agreement``: whether a compressed model looks at what its original looks at."""

import datasets
import evaluate
import numpy as np
from evaluate.utils.file_utils import add_start_docstrings
from numpy.typing import ArrayLike

from hf_compalign.measure.attribution import SIMILARITIES, similarities
from hf_compalign.metrics.classes import ClassMetric

_DESCRIPTION = """
Compares the attributions of a compressed model (the student) with those of the model it was made from (the teacher),
example by example, also over the examples that both answer alike, and over those that they do not.
"""

_INPUTS = """
Args:
    predictions: the student's predicted classes, one integer per example.
    teacher_predictions: the teacher's predicted classes.
    attributions: the student's signed scores of each example's tokens or pixels, a list of floats per example.
    teacher_attributions: the teacher's scores of the same tokens or pixels.
    top_k: optional, how many of the largest absolute scores top_k_overlap compares; 5.
Returns:
    cosine, spearman, top_k_overlap and weighted_jaccard, each the mean over all examples, and the same with _agreeing
    and _mismatches, over the examples that the two models answer alike and those that they do not.

Examples:
    >>> from hf_compalign.metrics import load_metric
    >>> agreement = load_metric("attribution_agreement")
    >>> found = agreement.compute(
    ...     predictions=[1, 0],
    ...     teacher_predictions=[1, 1],
    ...     attributions=[[0.6, 0.8, 0.0], [1.0, 0.0]],
    ...     teacher_attributions=[[0.6, 0.8, 0.0], [0.0, 1.0]],
    ...     top_k=1,
    ... )
    >>> found["top_k_overlap"], found["top_k_overlap_agreeing"], found["cosine_mismatches"]
    (0.5, 1.0, 0.0)
"""

_CITATION = """
@article{joseph2020going,
  title = {Going Beyond Classification Accuracy Metrics in Model Compression},
  author = {Joseph, Vinu and Siddiqui, Shoaib Ahmed and Bhaskara, Aditya and Gopalakrishnan, Ganesh and
            Muralidharan, Saurav and Garland, Michael and Ahmed, Sheraz and Dengel, Andreas},
  journal = {arXiv preprint arXiv:2012.01604},
  year = {2020}
}
"""


@add_start_docstrings(_DESCRIPTION, _INPUTS)
class AttributionAgreement(ClassMetric):
    """Paired comparison of a student's attributions with its teacher's."""

    def _info(self) -> evaluate.MetricInfo:
        classes = {name: datasets.Value("int64") for name in ("predictions", "teacher_predictions")}
        scores = {
            name: datasets.Sequence(datasets.Value("float64")) for name in ("attributions", "teacher_attributions")
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(classes | scores),
            reference_urls=["https://huggingface.co/papers/2012.01604"],
        )

    def _compute(
        self,
        predictions: ArrayLike,
        *,
        teacher_predictions: ArrayLike,
        attributions: list[list[float]],
        teacher_attributions: list[list[float]],
        top_k: int = 5,
    ) -> dict[str, float]:
        changed = np.asarray(predictions) != np.asarray(teacher_predictions)
        pairs = zip(teacher_attributions, attributions, strict=True)
        found = [similarities(teacher, student, top_k=top_k) for teacher, student in pairs]
        groups = {"": changed | True, "_agreeing": ~changed, "_mismatches": changed}
        return {
            f"{name}{suffix}": _mean(np.array([one[name] for one in found])[items])
            for suffix, items in groups.items()
            for name in SIMILARITIES
        }


def _mean(values: ArrayLike) -> float:
    """The mean of the values that are not nan; nan without any."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")
