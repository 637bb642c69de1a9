"""The evaluate metric ``mismatch``: how many predictions of a compressed model differ from its original's."""

import datasets
import evaluate
from evaluate.utils.file_utils import add_start_docstrings
from numpy.typing import ArrayLike

from hf_compalign.measure.statistics import Cells, proportions, rate
from hf_compalign.metrics.classes import ClassMetric
from hf_compalign.metrics.probabilities import divergences, probability_pair

_DESCRIPTION = """
Counts the examples that a compressed model (the student) answers differently from the model it was made from
(the teacher), and separates harmful changes from harmless ones.
"""

_INPUTS = """
Args:
    predictions: the student's predicted classes, one integer per example.
    references: the true classes, -100 where unknown.
    teacher_predictions: the teacher's predicted classes.
    probabilities: optional, the student's probabilities, [N, C].
    teacher_probabilities: optional, the teacher's probabilities, [N, C].
Returns:
    mismatch_rate, cie, agreement over all examples; cie_u, nfr, pfr, flip_rate, btc, bec, accuracy,
    teacher_accuracy, accuracy_change over the labeled ones; kl and probability_loyalty with probabilities.

Examples:
    >>> from hf_compalign.metrics import load_metric
    >>> mismatch = load_metric("mismatch")
    >>> found = mismatch.compute(
    ...     predictions=[0, 1, 1, 0, 2],
    ...     references=[0, 1, 0, 1, 1],
    ...     teacher_predictions=[0, 1, 0, 0, 0],
    ... )
    >>> found["cie"], found["mismatch_rate"], found["cie_u"], found["nfr"]
    (2, 0.4, 1, 0.2)
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
class Mismatch(ClassMetric):
    """Paired comparison of a student's predictions with its teacher's."""

    def _info(self) -> evaluate.MetricInfo:
        names = ("predictions", "references", "teacher_predictions")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({name: datasets.Value("int64") for name in names}),
            reference_urls=["https://huggingface.co/papers/2012.01604"],
        )

    def _compute(
        self,
        predictions: ArrayLike,
        references: ArrayLike,
        *,
        teacher_predictions: ArrayLike,
        probabilities: ArrayLike | None = None,
        teacher_probabilities: ArrayLike | None = None,
    ) -> dict[str, float]:
        counts = proportions(teacher_predictions, predictions, references)
        found = {name: rate(*pair) for name, pair in counts.items()}
        found["accuracy"] = found.pop("accuracy_candidate")
        found["teacher_accuracy"] = found.pop("accuracy_reference")
        found["accuracy_change"] = Cells.count(teacher_predictions, predictions, references).accuracy_change
        found["cie"] = counts["mismatch_rate"][0]
        found["cie_u"] = counts["nfr"][0]
        if probabilities is None and teacher_probabilities is None:
            return found
        if probabilities is None or teacher_probabilities is None:
            raise ValueError(
                "kl and probability_loyalty need both models' probabilities. "
                "Got one of probabilities and teacher_probabilities: give both, or neither."
            )
        shift = divergences(*probability_pair(teacher_probabilities, probabilities, n=counts["agreement"][1]))
        return found | {name: shift[name] for name in ("kl", "probability_loyalty")}
