"""What a training's transfer works on; where it cannot, it is refused with the way out."""

import logging
from typing import Any

from torch import nn

from hf_compalign.align.answered import LOGITS_COLUMN
from hf_compalign.align.transfer import NEEDS_LIVE_TEACHER, Transfer
from hf_compalign.align.transfer_images import IMAGE_KINDS, Images
from hf_compalign.align.transfer_texts import TEXT_KINDS, Texts, Tokens
from hf_compalign.align.vocabulary import tokenizer_of
from hf_compalign.models import input_names, position_limit, windows_of

logger = logging.getLogger(__name__)

_STRUCTURE = ("bos", "eos", "cls", "sep", "pad")
# What models take that read images as lists of patches, of several shapes.
_OF_PATCHES = {"pixel_attention_mask", "spatial_shapes"}


def transfer_of(trainer: Any) -> Transfer | None:
    """The transfer of a trainer with its models and data; None without one.

    Raises:
        ValueError: there is no live teacher, or the kinds are not for what the models read.
    """
    options = trainer.alignment
    if not options.transfer:
        return None
    if not trainer.task.is_classifier:
        raise ValueError(
            f"transfer makes texts or images that have one class each. Got a model for {trainer.task}. Leave transfer "
            "out."
        )
    if windows_of(trainer.model) is not None:
        raise ValueError("transfer makes texts that are read at once. Got a model with windows. Leave transfer out.")
    if not trainer.teachers or LOGITS_COLUMN in (getattr(trainer.train_dataset, "column_names", None) or ()):
        raise ValueError(NEEDS_LIVE_TEACHER)
    images = trainer.task.model_input == "pixel_values"
    allowed = tuple(IMAGE_KINDS) if images else TEXT_KINDS
    kinds = options.transfer_kinds or allowed[:1]
    if wrong := [kind for kind in kinds if kind not in allowed]:
        raise ValueError(
            f"{type(trainer.model).__name__} reads {'images' if images else 'texts'}, and {', '.join(wrong)} of "
            f"transfer_kinds cannot be made of them. Choose from {', '.join(allowed)}."
        )
    inputs = _images(trainer) if images else _texts(trainer, kinds)
    return Transfer(options.transfer, kinds, inputs, label=trainer.label_names[0])


def _images(trainer: Any) -> Images:
    for model in (trainer.model, *trainer.teachers):
        names = input_names(model)
        if "pixel_values" not in names or _OF_PATCHES.intersection(names):
            raise ValueError(
                f"transfer makes images of whole images of one shape, and {type(model).__name__} reads "
                f"{', '.join(names[:3])}: patches or ids. Use models of pixel_values alone, or leave transfer out."
            )
    return Images()


def _texts(trainer: Any, kinds: Any) -> Texts:
    student, teachers = trainer.model, trainer.teachers
    tokenizer = tokenizer_of(student, trainer.processing_class, trainer.data_collator)
    ids: dict[str, Any] = {name: _id(name, tokenizer, student.config) for name in (*_STRUCTURE, "mask", "unk")}
    for kind, name, why in (
        ("splice", "pad", "padding at its end"),
        ("drop", "pad", "padding at its end"),
        ("mask", "mask", "a mask token"),
    ):
        if kind in kinds and ids[name] is None:
            raise ValueError(
                f"transfer_kinds={kind!r} needs {why}, and neither the tokenizer nor the config has a {name}_token_id. "
                f"Set it, or choose others of {', '.join(TEXT_KINDS)}."
            )
    if tokenizer is None:
        logger.warning(
            "No tokenizer is known, so transfer keeps only the special tokens that the config names. Give it as "
            "processing_class=."
        )
    structure = {ids[name] for name in _STRUCTURE}
    # An unknown word is a word.
    others = {*getattr(tokenizer, "all_special_ids", ())} - {ids["mask"], ids["unk"]}
    tokens = Tokens(
        special=tuple(sorted(one for one in structure | others if one is not None)),
        padding={
            "input_ids": ids["pad"] or 0,
            "attention_mask": 0,
            "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
        },
        mask=ids["mask"],
        left=getattr(tokenizer, "padding_side", "right") == "left",
        longest=min((limit for limit in map(position_limit, (student, *teachers)) if limit), default=None),
        n_ids=None if tokenizer is None else len(tokenizer),
    )
    # Of several teachers the first says which words are alike.
    embedding = _embedding(teachers[0]) if "replace" in kinds else None
    names = {name for model in (student, *teachers) for name in input_names(model)}
    return Texts(tokens, frozenset(names), embedding)


def _id(name: str, tokenizer: Any, config: Any) -> Any:
    source = config if tokenizer is None else tokenizer
    found = getattr(source, f"{name}_token_id", None)
    if found is None and name == "pad":  # the models tell padding by their config
        found = getattr(config, "pad_token_id", None)
    return found


def _embedding(teacher: Any) -> Any:
    embedding = teacher.get_input_embeddings() if hasattr(teacher, "get_input_embeddings") else None
    if not isinstance(embedding, nn.Embedding):
        raise ValueError(
            f"transfer_kinds='replace' takes similar words from the teacher's embedding of tokens, and "
            f"{type(teacher).__name__} has none. Choose others of {', '.join(TEXT_KINDS)}."
        )
    return embedding
