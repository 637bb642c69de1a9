"""What an explanation of two models' answers holds: plain data, without torch and captum."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_compalign.measure.statistics import Estimate

NOISED = ("saliency", "input_x_gradient")  # the methods without a baseline to vary
SIMILARITIES = {
    "cosine": "cosine",
    "spearman": "Spearman",
    "top_k_overlap": "top-{top_k} overlap",
    "weighted_jaccard": "weighted Jaccard",
}


def similarity_title(similarity: str, top_k: int) -> str:
    """What to call a similarity.

    >>> similarity_title("top_k_overlap", 5)
    'top-5 overlap'
    """
    return SIMILARITIES.get(similarity, similarity).replace("{top_k}", str(top_k))


def compared_with(found: Mapping[str, Any]) -> dict[str, str]:
    """What every text, page and figure calls the two models that an agreement puts beside the candidate.

    >>> compared_with({"kind": "image", "method": "occlusion"})
    {'floor': 'the reference with random weights', 'repeat': 'the reference itself with another baseline'}
    """
    kept = ", but for the word embeddings" if found["kind"] == "text" else ""
    varied = "noise on its input" if found["method"] in NOISED else "another baseline"
    return {
        "floor": f"the reference with random weights{kept}",
        "repeat": f"the reference itself with {varied}",
    }


# Of the scores of an `Explanation`: all 17 digits would be most of an audit's file.
DECIMALS = 4


@dataclass(frozen=True)
class Explanation:
    """What both models look at in one item, for the same target.

    Attributes:
        kind: "text" or "image".
        target: the explained answer: the reference's class; of a label always 1, yes.
        tokens: of a text, without special tokens and padding; empty for an image.
        shape: of an image, the rows and columns of the grid; None for a text.
        reference: its score of each token or cell of the grid (row by row), the largest of them 1 or -1, rounded to 4
            decimals; all 0 where nothing is seen. Similarities are taken before the rounding.
    """

    kind: str
    target: int
    tokens: tuple[str, ...]
    shape: tuple[int, int] | None
    reference: tuple[float, ...]
    candidate: tuple[float, ...]


@dataclass(frozen=True)
class SimilarityRow:
    """How alike the attributions of both models are, by one similarity; means over items with 95 % intervals.

    Attributes:
        similarity: one of `SIMILARITIES`.
        all: over the sample of all items.
        agreeing: over the items that both models answer alike; ``mismatches`` over the others.
        floor: of an unrelated model: the reference against itself with random weights.
        repeat: of the method's own choices: the reference against itself with another baseline, or with noise. It is
            no bound: a candidate above it differs less than two choices do.
    """

    similarity: str
    all: Estimate
    agreeing: Estimate
    mismatches: Estimate
    floor: Estimate
    repeat: Estimate


@dataclass(frozen=True)
class AttributionAgreement:
    """Whether two models answer for the same reasons.

    Attributes:
        kind: "text" or "image".
        method: one of `METHODS`.
        n_items: items in the sample of all items; where examples have several, one of each of so many examples.
        n_agreeing: explained items that both models answer alike; ``n_mismatches`` differently.
        top_k: how many of the largest scores "top_k_overlap" compares.
        convergence_delta_reference: mean absolute gap between the sum of the attributions and the difference of the
            logits that they explain; nan where the method promises no such sum.
    """

    kind: str
    method: str
    n_items: int
    n_agreeing: int
    n_mismatches: int
    seed: int
    top_k: int
    convergence_delta_reference: float
    convergence_delta_candidate: float
    rows: tuple[SimilarityRow, ...]
