"""Whether teacher and student read the same tokens from the same ids."""

import logging
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_compalign.data import DIGITS, row_fingerprint
from hf_compalign.opening import name_of, processor_of
from hf_compalign.tasks import task_of

logger = logging.getLogger(__name__)

ANY_VOCABULARY = "any"


def tokenizer_of(model: Any, *given: Any) -> Any:
    """A tokenizer given, alone or in a collator, or else the one beside the model; None without one.

    Args:
        model: a classifier.
        *given: a tokenizer, collators, image processors or None; the first tokenizer counts.
    """
    task = task_of(model)
    if task.model_input != "input_ids":
        return None
    held = (found for one in given for found in (one, getattr(one, "tokenizer", None)))
    tokenizer = next((one for one in held if isinstance(one, PreTrainedTokenizerBase)), None)
    try:
        return processor_of(model, task) if tokenizer is None and name_of(model) else tokenizer
    except ImportError:  # what it needs is not installed
        return None


def vocabulary_of(model: Any, *given: Any) -> dict[str, int] | None:
    """Token -> id, of `tokenizer_of`; None without one, or where it has no list of tokens."""
    tokenizer = tokenizer_of(model, *given)
    try:
        return None if tokenizer is None else dict(tokenizer.get_vocab())
    except NotImplementedError:
        return None


def vocabulary_mark(vocabulary: Mapping[str, int] | None) -> str:
    """A short hash of a vocabulary, `ANY_VOCABULARY` where it is not known."""
    return ANY_VOCABULARY if vocabulary is None else row_fingerprint(vocabulary)[: DIGITS // 2]


def check_same_tokens(student: Any, teacher: Any, *given: Any) -> None:
    """Refuse a teacher that is known to read other tokens than the student; say where nothing is known.

    Args:
        student: a classifier.
        teacher: another.
        *given: what may be the student's tokenizer; see `vocabulary_of`.
    """
    ours, theirs = vocabulary_of(student, *given), vocabulary_of(teacher)
    if ours is None or theirs is None:
        _check_sizes(student, teacher)
    else:
        check_vocabularies(ours, theirs)


def check_vocabularies(ours: Mapping[str, int], theirs: Mapping[str, int]) -> None:
    """Refuse a student's and a teacher's vocabulary that give a token different ids."""
    differing = {token for token, _ in ours.items() ^ theirs.items()}
    if not differing:
        return
    token = min(differing)
    raise ValueError(
        f"Teacher and student must share a tokenizer. {len(differing)} tokens have different ids: {token!r}, for one, "
        f"is {theirs.get(token, 'unknown')} to the teacher, {ours.get(token, 'unknown')} to the student. Use the "
        "original of this student as its teacher, and its tokenizer; or let a teacher with its own tokenizer answer "
        "beforehand: carry_teacher_logits."
    )


def _check_sizes(student: Any, teacher: Any) -> None:
    ours, theirs = (getattr(model.config, "vocab_size", None) for model in (student, teacher))
    if ours != theirs:
        raise ValueError(
            f"Teacher and student must share a tokenizer. Got vocabularies of {theirs} and {ours} tokens, and no "
            "tokenizer of both. Use the original of this student as its teacher. If they do share one, and only their "
            "embeddings are padded, give it as processing_class= and save it beside the teacher with save_pretrained."
        )
    if ours is not None and name_of(teacher) != name_of(student):
        logger.warning(
            "The tokenizers of teacher and student cannot be compared: there is none in %r, or none was given as "
            "processing_class=. Their vocabularies have the same size.",
            name_of(teacher),
        )
