"""The items that a candidate answers differently: what changed, how sure both models were, and what was asked."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_compalign.labels import IGNORED
from hf_compalign.measure.attribution import Explanation
from hf_compalign.measure.statistics import Array, ItemScores

# What became of an item in words, the most harmful first.
CHANGES = {
    "lost": "right, now wrong",
    "different_wrong": "wrong, now otherwise",
    "unlabeled": "no label",
    "gained": "wrong, now right",
}


@dataclass(frozen=True)
class ChangedItem:
    """One item that the two models answer differently.

    Attributes:
        id: its name in both predictions.
        cell: "lost", "gained" or "different_wrong" as in `hf_compalign.measure.statistics.Cells`; "unlabeled" where
            no label is known.
        label: the right class; None when unknown.
        reference: its answer, as ``candidate``.
        reference_confidence: its probability of its own answer, as ``candidate_confidence``.
        reference_margin: the reference's probability of its answer minus that of its second best.
        kl: KL(reference || candidate), in nats.
        groups: as "attribute: group".
        texts: the text or the pair of texts; empty unless wanted.
        image: a thumbnail as a data URI of a PNG; empty unless wanted.
        name: the file of its image, within the folder of all images; empty unless wanted and known.
        explanation: what both models look at; None unless it was worked out.
    """

    id: str
    cell: str
    label: int | None
    reference: int
    candidate: int
    reference_confidence: float
    candidate_confidence: float
    reference_margin: float
    kl: float
    groups: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    image: str = ""
    name: str = ""
    explanation: Explanation | None = None


def changed_items(
    ids: NDArray[np.str_],
    answers: tuple[Array, Array, Array],
    scores: ItemScores,
    groups: Mapping[str, list[tuple[str, ...]]],
    *,
    most: int,
) -> tuple[ChangedItem, ...]:
    """Up to ``most`` changed items of N: lost right answers first, and the surest first among them.

    ``answers`` end with the labels; ``groups`` is attribute -> the groups of each item.
    """
    reference, candidate, labels = answers
    changed = np.flatnonzero(reference != candidate)
    cells = [*CHANGES]
    kinds = np.select(
        [labels == IGNORED, reference == labels, candidate == labels],
        [cells.index(name) for name in ("unlabeled", "lost", "gained")],
        cells.index("different_wrong"),
    )
    order = np.lexsort((changed, -scores.reference_confidence[changed], kinds[changed]))
    return tuple(
        ChangedItem(
            id=str(ids[item]),
            cell=cells[kinds[item]],
            label=None if labels[item] == IGNORED else int(labels[item]),
            reference=int(reference[item]),
            candidate=int(candidate[item]),
            reference_confidence=float(scores.reference_confidence[item]),
            candidate_confidence=float(scores.candidate_confidence[item]),
            reference_margin=float(scores.reference_margin[item]),
            kl=float(scores.kl[item]),
            groups=tuple(f"{attribute}: {group}" for attribute, of in groups.items() for group in of[item]),
        )
        for item in changed[order][:most].tolist()
    )
