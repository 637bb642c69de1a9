"""The evaluate metric ``prediction_shift``: how far a compressed model's probabilities are from its original's."""

from collections.abc import Sequence

import datasets
import evaluate
from evaluate.utils.file_utils import add_start_docstrings
from numpy.typing import ArrayLike

from hf_compalign.metrics.probabilities import check_same_classes, divergences, probability_pair, table_of

_DESCRIPTION = """
Measures how far the probabilities of a compressed model (the student) are from those of the model it was made from
(the teacher), example by example, whether or not the predicted class changed.
"""

_INPUTS = """
Args:
    probabilities: the student's probabilities, one row per example and one column per class.
    teacher_probabilities: the teacher's probabilities.
    logits: optional, the student's logits, [N, C].
    teacher_logits: optional, the teacher's logits, [N, C].
Returns:
    kl, js_distance, probability_loyalty; logit_error with logits.

Examples:
    >>> from hf_compalign.metrics import load_metric
    >>> prediction_shift = load_metric("prediction_shift")
    >>> found = prediction_shift.compute(
    ...     probabilities=[[0.5, 0.5], [0.1, 0.9]],
    ...     teacher_probabilities=[[1.0, 0.0], [0.1, 0.9]],
    ... )
    >>> round(found["kl"], 4), round(found["js_distance"], 4)
    (0.3466, 0.279)
"""

_CITATION = """
@inproceedings{xu2021beyond,
  title = {Beyond Preserved Accuracy: Evaluating Loyalty and Robustness of {BERT} Compression},
  author = {Xu, Canwen and Zhou, Wangchunshu and Ge, Tao and Xu, Ke and McAuley, Julian and Wei, Furu},
  booktitle = {Proceedings of the 2021 Conference on Empirical Methods in Natural Language Processing},
  year = {2021}
}
"""


@add_start_docstrings(_DESCRIPTION, _INPUTS)
class PredictionShift(evaluate.Metric):
    """Divergences between the student's and the teacher's probabilities."""

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"probabilities": row, "teacher_probabilities": row}),
            reference_urls=["https://huggingface.co/papers/2109.03228"],
        )

    def _compute(
        self,
        *,
        probabilities: Sequence[Sequence[float]],
        teacher_probabilities: Sequence[Sequence[float]],
        logits: ArrayLike | None = None,
        teacher_logits: ArrayLike | None = None,
    ) -> dict[str, float]:
        n = len(probabilities)
        found = divergences(*probability_pair(teacher_probabilities, probabilities, n=n))
        if logits is None and teacher_logits is None:
            return found
        if logits is None or teacher_logits is None:
            raise ValueError(
                "logit_error needs both models' logits. Got one of logits and teacher_logits: give both, or neither."
            )
        teacher, student = table_of("teacher_logits", teacher_logits, n=n), table_of("logits", logits, n=n)
        check_same_classes(teacher, student)
        return found | {"logit_error": float(((teacher - student) ** 2).mean())}
