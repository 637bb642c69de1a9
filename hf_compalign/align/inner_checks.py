"""Whether what goes on inside of two models can be compared, and which of their layers belong together."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_compalign._compat import attention_of
from hf_compalign.align.arguments import AlignmentArguments
from hf_compalign.align.inside import INNER
from hf_compalign.models import windows_of

logger = logging.getLogger(__name__)

# What two models must share for all their hidden states to be about the same.
_SHAPE = ("model_type", "num_hidden_layers", "hidden_size")
_WHAT = {"hidden": "Hidden states", "attention": "Attention maps", "attribution": "Gradients of inputs"}


def fitted(trainer: Any, teachers: Sequence[PreTrainedModel]) -> AlignmentArguments:
    """The trainer's arguments as they are in force: with the layers that belong together where models differ in depth.

    The default's term of the hidden states is left out where they cannot be compared.

    Raises:
        ValueError: what is asked for cannot be compared.
    """
    alignment: AlignmentArguments = trainer.alignment
    student: PreTrainedModel = trainer.model
    by_default = alignment.preset == "default" and alignment.hidden_weight is None
    if by_default and not (alignment.hidden_layers or alignment.hidden_projection):
        wrong = _why_not_by_default(student, teachers)
        if wrong:
            logger.info("Only logits are aligned. %s", wrong)
            alignment = replace(alignment, preset="logits")
    asked = [name for name in INNER if name in alignment.weights()]
    if not asked:
        return alignment
    try:
        _check_teachers(asked, teachers)
        if "hidden" in asked:
            _check_widths(alignment, student, teachers[0])
        if "attention" in asked:
            _check_attention(student, teachers[0])
        if "attribution" in asked:
            _check_gradients(trainer, teachers[0])
        if {"hidden", "attention"} & {*asked}:
            alignment = replace(alignment, hidden_layers=_layers(alignment, student, teachers[0]))
    except ValueError as error:
        raise ValueError(f"{error} Or leave {' and '.join(f'{name}_weight' for name in asked)} out.") from error
    if alignment.hidden_layers and "attention" in asked and max(alignment.hidden_layers[1:]) < 1:
        raise ValueError(
            f"hidden_layers={alignment.hidden_layers} lets no layer of the student follow one of the teacher, and only "
            "layers have attention maps. Leave attention_weight out, or give a layer one to follow."
        )
    return alignment


def _why_not_by_default(student: PreTrainedModel, teachers: Sequence[PreTrainedModel]) -> str | None:
    try:
        _check_teachers(["hidden"], teachers)
    except ValueError as error:
        return str(error)
    if differing := _differing(student, teachers[0], _SHAPE):
        return differing
    config = student.config
    if not all(getattr(config, fact, None) for fact in _SHAPE) or config.is_encoder_decoder:
        return f"A {config.model_type} may not return hidden states; hidden_weight=1 asks for them."
    return None


def _differing(student: PreTrainedModel, teacher: PreTrainedModel, facts: Sequence[str]) -> str | None:
    for fact in facts:
        ours, theirs = (getattr(model.config, fact, None) for model in (student, teacher))
        if ours != theirs:
            return (
                "Hidden states are compared one by one between models of the same type, depth and width. Got "
                f"{fact}={ours} of the student and {theirs} of the teacher."
            )
    return None


def _check_teachers(asked: Sequence[str], teachers: Sequence[PreTrainedModel]) -> None:
    what = " and ".join(_WHAT[name] for name in asked)
    if not teachers:
        raise ValueError(f"{what} are not cached with the logits: they need a live teacher. Pass teacher=.")
    if len(teachers) > 1:
        raise ValueError(
            f"{what} of {len(teachers)} teachers have no mean, since each model has its own features. Give one teacher."
        )


def _check_widths(alignment: AlignmentArguments, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    ours, theirs = (getattr(model.config, "hidden_size", None) for model in (student, teacher))
    if alignment.hidden_projection and ours == theirs:
        raise ValueError(
            f"hidden_projection=True would be ignored: the hidden states of both models have the width {ours}. Leave "
            "it out."
        )
    if ours != theirs and not (alignment.hidden_projection and ours and theirs):
        raise ValueError(
            f"Hidden states of one width can be compared. Got hidden_size={ours} of the student and {theirs} of the "
            "teacher. With hidden_projection=True a projection from one width to the other is learned."
        )


def _layers(alignment: AlignmentArguments, student: PreTrainedModel, teacher: PreTrainedModel) -> list[int] | None:
    """Which of the teacher's states each of the student's follows; None where each follows that of its number."""
    ours, theirs = (getattr(model.config, "num_hidden_layers", None) for model in (student, teacher))
    given = alignment.hidden_layers
    if given is None:
        if differing := _differing(student, teacher, ("model_type",)):
            raise ValueError(f"{differing} Say with hidden_layers= which layers belong together.")
        if ours == theirs:
            return None
        if not (ours and theirs and ours < theirs):
            differing = _differing(student, teacher, ("num_hidden_layers",))
            raise ValueError(f"{differing} Say with hidden_layers= which layers belong together.")
        # With twice the layers every second one, and so on.
        return [round(place * theirs / ours) for place in range(ours + 1)]
    if not ours or not theirs:
        raise ValueError("hidden_layers needs models whose configs say num_hidden_layers. Leave it out.")
    wrong = len(given) != ours + 1 or not all(-1 <= layer <= theirs for layer in given)
    if wrong or max(given) < 0:
        raise ValueError(
            f"hidden_layers must hold a number for the embeddings of the student and each of its {ours} layers, in "
            f"[0, {theirs}] for the teacher's that it follows, or -1 for none; not all -1. Got {given}. "
            f"{[round(place * theirs / ours) for place in range(ours + 1)]}, say."
        )
    return given


def _check_attention(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    for model, owner in ((student, "student"), (teacher, "teacher")):
        if model.config.is_encoder_decoder:
            raise ValueError(
                f"An encoder-decoder has attention maps of three kinds, and none is compared. Got a "
                f"{model.config.model_type} for the {owner}."
            )
        own = attention_of(model)
        if own not in (None, "eager"):
            raise ValueError(
                f"Only attn_implementation='eager' returns attention maps. Got {own!r} of the {owner}. Load both "
                "models with attn_implementation='eager', or call model.set_attn_implementation('eager') on them."
            )
    ours, theirs = (getattr(model.config, "num_attention_heads", None) for model in (student, teacher))
    if ours != theirs:
        raise ValueError(
            f"Attention maps are compared head by head. Got {ours} heads of the student and {theirs} of the teacher."
        )


def _check_gradients(trainer: Any, teacher: PreTrainedModel) -> None:
    student, args = trainer.model, trainer.args
    if not trainer.task.is_classifier:
        raise ValueError(
            "Gradients of inputs are compared for classifiers of texts and images, whose answer is one logit. Got a "
            f"model for {trainer.task}."
        )
    if windows_of(student) is not None:
        raise ValueError(
            "Gradients of inputs are compared for texts that are read at once. Got a student with windows."
        )
    for option, given in (
        ("gradient_checkpointing", args.gradient_checkpointing),
        ("torch_compile", args.torch_compile),
        ("deepspeed", trainer.is_deepspeed_enabled),
        ("fsdp", trainer.is_fsdp_enabled),
    ):
        if given:
            raise ValueError(f"The gradient of a gradient is not to be had with {option}. Leave {option} out.")
    own = attention_of(student)
    if own not in (None, "eager", "sdpa"):
        raise ValueError(
            f"The gradient of a gradient needs attn_implementation='sdpa' or 'eager'. Got {own!r} of the student. Call "
            "model.set_attn_implementation('sdpa') on it."
        )
    if trainer.task.model_input == "pixel_values":
        return
    ours, theirs = (_width_of_embeddings(model) for model in (student, teacher))
    if ours is None or ours != theirs:
        raise ValueError(
            "Gradients are compared with respect to embeddings of tokens, which must have one width. Got "
            f"{ours} of the student and {theirs} of the teacher, None where a model has no one table of them."
        )


def _width_of_embeddings(model: PreTrainedModel) -> int | None:
    table = model.get_input_embeddings()
    # An encoder-decoder reads two texts with one table.
    return table.embedding_dim if isinstance(table, nn.Embedding) and not model.config.is_encoder_decoder else None
