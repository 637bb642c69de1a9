"""What the Trainer's model card says beside what the Trainer knows: the teacher, the alignment, and the callbacks."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hf_compalign._files import write_text_atomic
from hf_compalign._visible import public_name
from hf_compalign.align.arguments import AlignmentArguments

_BEFORE = "\n## Training procedure\n"  # where transformers' draft tells of the training; at the end without it


def complete_card(
    path: Path, *, alignment: AlignmentArguments, teachers: Sequence[str], callbacks: Iterable[Any]
) -> None:
    """Add the alignment to the card that the Trainer drafted, and what every callback with a ``card_section`` says.

    Args:
        path: the card.
        alignment: the terms in force.
        teachers: paths or Hub ids; of a path the card has its last folder alone. Empty where nobody knows.
        callbacks: those of the Trainer.
    """
    card = ModelCard.load(path)
    made = ["hf_compalign", *(["knowledge-distillation"] if alignment.needs_teacher else [])]
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *made]))
    sections = [_alignment(alignment, teachers), *(one.card_section() for one in callbacks if _has_section(one))]
    text, mark, rest = card.text.partition(_BEFORE)
    card.text = "\n\n".join([text.rstrip(), *filter(None, sections)]) + f"\n{mark}{rest}"
    write_text_atomic(path, f"{card}\n")


def _alignment(alignment: AlignmentArguments, teachers: Sequence[str]) -> str:
    named = " and ".join(f"`{public_name(name)}`" for name in teachers if name) or "the model that it was made from"
    whom = "the mean of its teachers" if len(teachers) > 1 else "its teacher"
    return (
        "## Alignment\n\n"
        f"Trained with [hf_compalign](https://huggingface.co/papers/2012.01604) to answer like {whom}, {named}. "
        f"The terms of the loss and their weights: {alignment}."
    )


def _has_section(callback: Any) -> bool:
    return hasattr(callback, "card_section")
