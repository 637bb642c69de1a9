"""The supported model heads: a row each, with what makes items of their answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from hf_compalign.labels import names_of
from hf_compalign.tasks import answers
from hf_compalign.tasks.items import Items
from hf_compalign.tasks.targets import (
    POSITION_COLUMNS,
    Targets,
    of_decoded_tokens,
    of_examples,
    of_next_tokens,
    of_pixels,
    of_positions,
    of_questions,
    of_tokens,
    of_values,
)

SINGLE = "single_label_classification"
MULTI = "multi_label_classification"
REGRESSION = "regression"
AUDIO_INPUTS = ("input_values", "input_features")


@dataclass(frozen=True)
class Task:
    """One kind of model head that the library can align.

    Attributes:
        name: the Hub's pipeline tag.
        head: what the names of the model classes hold, such as DeiTForImageClassificationWithTeacher.
        auto_class: the class of `transformers` that loads such a model.
        model_input: the model's main input, a column of a prepared dataset.
        problem: which of a head's several problems, as ``config.problem_type`` has it; empty where it has one.
        targets: (labels or None, inputs, config) -> the labels [...] and the mask [...] of the items.
        answer: a model's outputs -> its answer, one tensor [B, ...].
        logits: (answer, the items' labels) -> their logits [..., C].
        label_names: the usual columns of labels.
        label_depth: 0 where a row has the class of its only item, 1 where it has a list of classes; None where labels
            are no classes of the config.
        class_axis: of the answer, where the config's ``id2label`` names classes; None where it does not.
        cached_shape: (length of a row's main input, config) -> the shape of the answer to a row; None where answers are
            too large to be cached.
        padded_axis: of the answer to a row, the one as long as the row; None where there is none.
        padding_counts: whether the positions of padding take part in what is answered.
    """

    name: str
    head: str
    auto_class: str
    model_input: str
    problem: str = ""
    targets: Targets = of_examples
    answer: Callable[[Any], Tensor] = answers.logits_of
    logits: Callable[[Tensor, Tensor], Tensor] = answers.as_they_are
    label_names: tuple[str, ...] = ("labels",)
    label_depth: int | None = None
    class_axis: int | None = None
    cached_shape: Callable[[int, Any], tuple[int, ...]] | None = None
    padded_axis: int | None = None
    padding_counts: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.problem})" if self.problem not in ("", SINGLE) else self.name

    @property
    def categorical(self) -> bool:
        """Whether items have classes; those of a regression have a value."""
        return self.problem != REGRESSION

    @property
    def decodes(self) -> bool:
        """Whether the model reads a target too, to answer token by token of it."""
        return self.targets is of_decoded_tokens

    @property
    def predicts_tokens(self) -> bool:
        """Whether the classes are the tokens of the vocabulary, as those of a language model."""
        return self.name in ("fill-mask", "text-generation", "text2text-generation")

    @property
    def has_choices(self) -> bool:
        """Whether a row holds several texts to choose from."""
        return self.name == "multiple-choice"

    @property
    def has_maps(self) -> bool:
        """Whether the labels of a row are a map, each of whose pixels is an item."""
        return self.targets is of_pixels

    @property
    def reads_sounds(self) -> bool:
        """Whether what is asked is a sound."""
        return self.model_input in AUDIO_INPUTS

    @property
    def yes_or_no(self) -> bool:
        """Whether each label is a question of its own."""
        return self.problem == MULTI

    @property
    def shares_examples(self) -> bool:
        """Whether an example may hold several items with classes of their own, such as words."""
        return self.yes_or_no or self.label_depth == 1 or self.has_maps

    @property
    def is_classifier(self) -> bool:
        """Whether an example of text or image gets one class of those in the config."""
        return self in CLASSIFIERS

    def items(self, answer: Tensor, labels: Tensor | None, inputs: Mapping[str, Any], config: Any) -> Items:
        """A model's answer to a batch as items; ``labels`` as `labels_in` finds them."""
        labels, mask = self.targets(labels, inputs, config)
        return Items(self.logits(answer, labels), labels, mask)

    def class_names(self, config: Any) -> tuple[str, ...]:
        """The names of the classes, by which two models are matched; none where the config does not name them."""
        return () if self.class_axis is None else names_of(config.id2label)


def _one_for_each_label(length: int, config: Any) -> tuple[int, ...]:
    return (config.num_labels,)


# What the functions of a task are, by what is answered.
_CLASS: dict[str, Any] = {"label_depth": 0, "class_axis": -1, "cached_shape": _one_for_each_label}
_LABELS: dict[str, Any] = {
    "problem": MULTI,
    "targets": of_questions,
    "logits": answers.yes_or_no,
    "class_axis": -1,
    "cached_shape": _one_for_each_label,
}
_VALUES = _LABELS | {"problem": REGRESSION, "targets": of_values, "logits": answers.values}
_PROBLEMS = (_CLASS | {"problem": SINGLE}, _LABELS, _VALUES)
_TEXT = ("text-classification", "ForSequenceClassification", "AutoModelForSequenceClassification", "input_ids")
_IMAGE = ("image-classification", "ForImageClassification", "AutoModelForImageClassification", "pixel_values")
_AUDIO = ("audio-classification", "ForAudioClassification", "AutoModelForAudioClassification", AUDIO_INPUTS[0])
_CAUSAL = ("AutoModelForCausalLM", "input_ids")

TASKS = (
    *(Task(*_TEXT, **problem) for problem in _PROBLEMS),
    *(Task(*_IMAGE, **problem) for problem in _PROBLEMS),
    *(Task(*_AUDIO, **problem) for problem in _PROBLEMS[:2]),
    # Wav2Vec2 and its like, whose loss takes one class alone.
    Task(_AUDIO[0], _TEXT[1], *_AUDIO[2:], **_PROBLEMS[0]),
    Task(
        "token-classification",
        "ForTokenClassification",
        "AutoModelForTokenClassification",
        "input_ids",
        targets=of_tokens,
        label_depth=1,
        class_axis=-1,
        cached_shape=lambda length, config: (length, config.num_labels),
        padded_axis=0,
    ),
    Task(
        "multiple-choice",
        "ForMultipleChoice",
        "AutoModelForMultipleChoice",
        "input_ids",
        cached_shape=lambda length, config: (length,),
    ),
    Task(
        "question-answering",
        "ForQuestionAnswering",
        "AutoModelForQuestionAnswering",
        "input_ids",
        targets=of_positions,
        answer=answers.span_logits_of,
        label_names=POSITION_COLUMNS,
        cached_shape=lambda length, config: (2, length),
        padded_axis=1,
        padding_counts=True,
    ),
    Task(
        "image-segmentation",
        "ForSemanticSegmentation",
        "AutoModelForSemanticSegmentation",
        "pixel_values",
        targets=of_pixels,
        logits=answers.pixels,
        class_axis=1,
    ),
    Task("fill-mask", "ForMaskedLM", "AutoModelForMaskedLM", "input_ids", targets=of_tokens),
    Task("text-generation", "ForCausalLM", *_CAUSAL, targets=of_next_tokens),
    Task("text-generation", "GPT2LMHeadModel", *_CAUSAL, targets=of_next_tokens),
    Task(
        "text2text-generation",
        "ForConditionalGeneration",
        "AutoModelForSeq2SeqLM",
        "input_ids",
        targets=of_decoded_tokens,
    ),
)
# One class for each text or image: what input gradients and the transfer are for.
CLASSIFIERS = tuple(task for task in TASKS[:6] if task.problem == SINGLE)
# The same, or several labels for each: what may defer to another model.
LABELERS = tuple(task for task in TASKS[:6] if task.categorical)

# What models can be asked and audited for: those, sounds, words, choices and pixels.
MEASURED = (
    *CLASSIFIERS,
    *(task for task in TASKS if task.problem == MULTI),
    *(task for task in TASKS if task.reads_sounds and task.problem == SINGLE),
    *(task for task in TASKS if task.name in ("token-classification", "multiple-choice", "image-segmentation")),
)
QUESTIONS = tuple(task for task in TASKS if task.name == "question-answering")
# What answers with numbers.
REGRESSIONS = tuple(task for task in TASKS if not task.categorical)
# What can become a file, which all of these functions then ask.
EXPORTED = (*MEASURED, *QUESTIONS, *REGRESSIONS)


def task_of(model: Any, among: Sequence[Task] = TASKS) -> Task:
    """The task of a model, by its config and its class, a base class, or an exported file's ``architectures``.

    Raises:
        ValueError: the head, its problem type or its number of labels is not among them.
    """
    names = getattr(model, "architectures", None) or [cls.__name__ for cls in type(model).__mro__]
    found = next((tasks for name in names if (tasks := [one for one in among if _fits(one, name, model)])), None)
    if found is None:
        supported = ", ".join(dict.fromkeys(f"{task.head} ({task.name})" for task in among))
        raise ValueError(
            f"{names[0]} has a head that is not supported. Supported are model classes with one of these in their "
            f"names: {supported}."
        )
    config = model.config
    if found[0].class_axis is not None and not config.id2label:
        raise ValueError(
            f"The config of {names[0]} names no classes: id2label is {config.id2label}. Set config.id2label to "
            "{0: 'LABEL_0', 1: ...}, with a name for each logit."
        )
    problem = _problem(config)
    task = next((one for one in found if one.problem in ("", problem)), None)
    if task is None or (task.class_axis is not None and task.problem in ("", SINGLE) and config.num_labels < 2):
        got = getattr(config, "problem_type", None) or f"num_labels={config.num_labels}"
        got = f"{got}, which is a regression" if got == "num_labels=1" and found[0].problem else got
        more = [one.problem for one in found if one.problem not in ("", SINGLE)]
        if len(more) < len(found):
            more.append(f"{SINGLE} with two labels or more")
        raise ValueError(
            f"{names[0]} is set up for a problem that is not supported. Got {got}; supported is {' or '.join(more)}."
        )
    return replace(task, model_input=model.main_input_name) if task.reads_sounds else task


def _fits(task: Task, name: str, model: Any) -> bool:
    """Whether a class of this name has the task's head and reads what the task is about."""
    main = getattr(model, "main_input_name", None)
    if task.head not in name:
        return False
    if task.reads_sounds:
        return main in AUDIO_INPUTS
    if task.head == "ForConditionalGeneration" and not model.config.is_encoder_decoder:
        return False  # it reads images too
    # Heads on images are named so, but others may stand on models of text, audio or images.
    return task.model_input != "input_ids" or main not in (*AUDIO_INPUTS, "pixel_values")


def _problem(config: Any) -> str:
    """The problem that a head of several is set up for, as transformers tells it."""
    named = getattr(config, "problem_type", None)
    return str(named or (REGRESSION if config.num_labels == 1 else SINGLE))
