"""The frozen original, run beside the student: one model, or several whose logits are averaged."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_compalign.align.inside import Inside, Watch
from hf_compalign.data import combined_fingerprint
from hf_compalign.labels import label_order
from hf_compalign.models import explaining_tokens, input_names, known_inputs
from hf_compalign.opening import load_model, model_fingerprint
from hf_compalign.tasks import task_of


@dataclass(frozen=True)
class Answer:
    """What a teacher says of a batch.

    Attributes:
        logits: [B, ...], float32, as the model gives them, in the order of the student's labels.
        inside: what it was asked to show of its inside.
    """

    logits: Tensor
    inside: Inside = field(default_factory=Inside)


class LiveTeacher:
    """A model put in eval mode and run without gradients, whose logits come in the order of the student's labels.

    Its parameters stay as they are: a copy of it can be trained.
    """

    def __init__(self, model: PreTrainedModel, student_labels: Sequence[str]) -> None:
        self.model = model.eval()
        self.student_labels = tuple(student_labels)
        self.task = task_of(model)
        self._order = label_order(student_labels, self.task.class_names(model.config))

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """The model, as the only one."""
        return (self.model,)

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the model takes."""
        return input_names(self.model)

    def to(self, device: torch.device) -> None:
        """Move the teacher to the student's device; a model that is spread or quantized stays where it is."""
        if getattr(self.model, "hf_device_map", None) is None and not getattr(self.model, "is_quantized", False):
            self.model.to(device)

    def answer(
        self,
        inputs: Mapping[str, Any],
        autocast: AbstractContextManager[Any] | None = None,
        *,
        asked: Collection[str] = (),
    ) -> Answer:
        """What the model says of a batch, computed in the given autocast, and what it is asked to show: of `INNER`."""
        watch = Watch(self.model, known_inputs(self.model, inputs), asked)
        gradients = torch.set_grad_enabled("attribution" in asked)
        with autocast or nullcontext(), gradients, watch, explaining_tokens(self.model, watch.inputs):
            outputs = self.model(**watch.inputs, **watch.options)
            own = self.task.answer(outputs).float()
            inside = watch.seen(outputs, own, own).detached()
        logits = own.detach()
        if self._order is not None and self.task.class_axis is not None:
            logits = logits.index_select(self.task.class_axis, torch.tensor(self._order, device=logits.device))
        return Answer(logits, inside)

    @cached_property
    def fingerprint(self) -> str:
        """Which weights these are; see `model_fingerprint`. The teacher is frozen, so it is worked out once."""
        return model_fingerprint(self.model)


class TeacherEnsemble:
    """Several teachers as one, whose logits are the weighted mean of theirs, label by label.

    The mean of logits has the predictions of the geometric mean of theirs, one of the two means that
    https://huggingface.co/papers/1503.02531 names. It has no inside.

    Args:
        members: two or more for the same student.
        shares: how much each counts; they add up to 1.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> models = [BertForSequenceClassification(BertConfig(vocab_size=9, **shape)) for _ in range(2)]
    >>> one, other = (LiveTeacher(model, ("LABEL_0", "LABEL_1")) for model in models)
    >>> batch = {"input_ids": torch.tensor([[1, 2]])}
    >>> mean = (one.answer(batch).logits + other.answer(batch).logits) / 2
    >>> torch.allclose(TeacherEnsemble([one, other], [0.5, 0.5]).answer(batch).logits, mean)
    True
    """

    def __init__(self, members: Sequence[LiveTeacher], shares: Sequence[float]) -> None:
        self.members = tuple(members)
        self.shares = tuple(shares)
        self.task = members[0].task
        self.student_labels = members[0].student_labels

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """The model of each."""
        return tuple(member.model for member in self.members)

    @property
    def input_names(self) -> tuple[str, ...]:
        """What one of them takes, or several."""
        return tuple(dict.fromkeys(name for member in self.members for name in member.input_names))

    def to(self, device: torch.device) -> None:
        """Move each to the student's device, as `LiveTeacher.to`."""
        for member in self.members:
            member.to(device)

    def answer(
        self,
        inputs: Mapping[str, Any],
        autocast: AbstractContextManager[Any] | None = None,
        *,
        asked: Collection[str] = (),
    ) -> Answer:
        """What they say of a batch together.

        Raises:
            ValueError: their answers have several shapes, or they are asked for an inside.
        """
        if asked:
            raise ValueError(f"Several teachers have no {', '.join(asked)} in common. Take one teacher.")
        with autocast or nullcontext():
            answers = [member.answer(inputs).logits for member in self.members]
        if len({answer.shape for answer in answers}) > 1:
            shapes = ", ".join(str(tuple(answer.shape)) for answer in answers)
            raise ValueError(f"The answers of several teachers must have one shape. Got {shapes}. Take one of them.")
        parts = [share * one.to(answers[0].device) for share, one in zip(self.shares, answers, strict=True)]
        return Answer(torch.stack(parts).sum(0))

    @cached_property
    def fingerprint(self) -> str:
        """Which weights these are, and how much each teacher counts; in any order."""
        counted: dict[str, float] = {}
        for member, share in zip(self.members, self.shares, strict=True):
            counted[member.fingerprint] = counted.get(member.fingerprint, 0.0) + share
        return combined_fingerprint(f"{known}*{share:.9f}" for known, share in counted.items())


def loaded_teachers(teacher: Any) -> tuple[PreTrainedModel, ...]:
    """The models of ``teacher=``: a module, a folder or a Hub id, or a list of such.

    Raises:
        ValueError: one cannot be loaded, or the list is empty.
    """
    given = teacher if isinstance(teacher, list | tuple) else [teacher]
    if not given:
        raise ValueError(f"teacher must be a model, or a list with some. Got {teacher!r}. Leave it out for none.")
    return tuple(load_model(one) for one in given)


def live_teacher(
    models: Sequence[PreTrainedModel], student_labels: Sequence[str], weights: Sequence[float] | None = None
) -> LiveTeacher | TeacherEnsemble:
    """The models as one teacher of a student with these labels.

    Raises:
        ValueError: they do not do the same task, or the labels do not match; or there is not one weight for each of
            several models.
    """
    first = task_of(models[0])
    for other in map(task_of, models[1:]):
        if str(other) != str(first):
            raise ValueError(f"All teachers must do the same task. Got {first} and {other}. Leave one out.")
    shares = shares_of(weights, len(models))
    members = [LiveTeacher(model, student_labels) for model in models]
    return members[0] if len(members) == 1 else TeacherEnsemble(members, shares)


def shares_of(weights: Sequence[float] | None, n_teachers: int) -> list[float]:
    """How much each teacher counts; they add up to 1.

    Raises:
        ValueError: weights are given, and there is not one for each of several teachers.
    """
    if weights is None:
        return [1 / max(n_teachers, 1)] * n_teachers
    if n_teachers < 2 or len(weights) != n_teachers or not all(0 < weight < inf for weight in weights):
        raise ValueError(
            "teacher_weights must hold a finite number > 0 for each of several teachers. Got "
            f"{[*weights]} for {n_teachers}. Leave a teacher out rather than give it 0; by default all count alike."
        )
    return [weight / sum(weights) for weight in weights]
