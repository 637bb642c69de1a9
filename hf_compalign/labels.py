"""Match the labels of two models by name."""

import re
from collections.abc import Mapping, Sequence

IGNORED = -100  # an unknown label, as in torch and transformers

_PLACEHOLDER = re.compile(r"LABEL_\d+")


def names_of(id2label: Mapping[int, str]) -> tuple[str, ...]:
    """The label names of a config's ``id2label``, in the order of the logits' columns.

    >>> names_of({1: "positive", 0: "negative"})
    ('negative', 'positive')
    """
    return tuple(str(id2label[index]) for index in sorted(id2label))


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether the names are the ``LABEL_0``, ``LABEL_1`` ... of a config that was never given any.

    >>> are_placeholders(["LABEL_0", "LABEL_1"])
    True
    """
    return all(_PLACEHOLDER.fullmatch(name) for name in names)


def label_order(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, ...] | None:
    """The position of each of our labels in theirs, or None if nothing needs to move.

    ``their_logits[..., order]`` has our column order. Names are compared without regard to case. If one side has only
    placeholder names, the positions are trusted (None), and callers should tell the user; see `are_placeholders`.

    >>> label_order(["negative", "positive"], ["Positive", "Negative"])
    (1, 0)
    >>> label_order(["a", "b"], ["a", "b"]) is None
    True

    Raises:
        ValueError: the numbers of labels or their names differ.
    """
    if len(ours) != len(theirs):
        raise ValueError(
            f"The two models must answer with the same labels. Got {len(ours)} labels ({_shown(ours)}) "
            f"against {len(theirs)} ({_shown(theirs)}). Use a model fine-tuned for the same task."
        )
    if are_placeholders(ours) or are_placeholders(theirs):
        return None
    folded = [name.casefold() for name in theirs]
    wanted = [name.casefold() for name in ours]
    if sorted(folded) != sorted(wanted) or len(set(folded)) != len(folded):
        raise ValueError(
            f"The two models must answer with the same labels. Got {_shown(ours)} against {_shown(theirs)}. "
            "If they mean the same, give both configs the same id2label."
        )
    order = tuple(folded.index(name) for name in wanted)
    return None if order == tuple(range(len(order))) else order


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown}, ... ({len(names) - 8} more)"
