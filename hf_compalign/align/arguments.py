"""The options of the alignment, a dataclass beside TrainingArguments."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

from hf_compalign._trainer import flag
from hf_compalign.align.losses import Focus
from hf_compalign.align.transfer_images import IMAGE_KINDS
from hf_compalign.align.transfer_texts import TEXT_KINDS
from hf_compalign.align.weighting import (
    SOFTADAPT_VARIANTS,
    WEIGHTINGS,
    RandomWeighting,
    RoundRobinWeighting,
    SoftAdaptWeighting,
    UncertaintyWeighting,
    Weighting,
)

# The weights of the terms by name; a term that is not there takes no part.
PRESETS: Mapping[str, Mapping[str, float]] = {
    "default": {"logits": 1.0, "hidden": 1.0},
    "logits": {"logits": 1.0},
    "paper": {"task": 1.0, "agreement": 1.0, "logits": 1.0},
    "kd": {"task": 1.0, "kl": 1.0},
    "labels": {"task": 1.0},
}
TERMS = ("task", "agreement", "logits", "margin", "kl", "hidden", "attention", "attribution")

# Options that only work together with others: (their prefix, whether that is there, what they need, in words).
_NEEDS = (
    ("temperature", lambda a: "kl" in a.weights(), "kl_weight > 0"),
    ("hidden_layers", lambda a: {"hidden", "attention"} & a.weights().keys(), "hidden_weight or attention_weight > 0"),
    ("hidden_projection", lambda a: "hidden" in a.weights(), "hidden_weight > 0"),
    ("soft_agreement", lambda a: "agreement" in a.weights(), "agreement_weight > 0"),
    ("weighting", lambda a: len(a.weights()) > 1, "two terms or more, as preset='paper' has"),
    ("softadapt_", lambda a: a.weighting == "softadapt", "weighting='softadapt'"),
    ("focal_", lambda a: a.needs_teacher, "a teacher term with weight > 0"),
    ("only_where_teacher_is_right", lambda a: a.needs_teacher, "a teacher term with weight > 0"),
    ("student_dropout", lambda a: a.needs_teacher, "a teacher term with weight > 0"),
    ("transfer_kinds", lambda a: a.transfer > 0, "transfer > 0"),
    ("transfer", lambda a: a.needs_teacher, "a teacher term with weight > 0"),
)


@dataclass
class AlignmentArguments:
    """What the student is trained on besides its labels. Nothing needs setting.

    A preset names the terms and their weights. "default" is the squared error between the two models' logits and the
    distance of their hidden states, both 0 where the student is its teacher: labels are not needed. Where the states
    cannot be compared, with cached logits or a student of another shape, it is "logits", the first of the two alone.
    "paper" is the loss of https://huggingface.co/papers/2012.01604 with its three terms weighted alike: cross-entropy
    with the labels, cross-entropy with the teacher's predictions, and the squared error of the logits. "kd" is
    distillation (https://huggingface.co/papers/1503.02531): the labels and the KL divergence at temperature 2. "labels"
    is the loss of the stock Trainer, and a teacher then only measures. A weight that is given takes the preset's place.

    Raises:
        ValueError: an option out of range, or one that would be ignored because what it belongs to is off.
    """

    preset: str = flag("default", f"Which terms, with which weights: {', '.join(PRESETS)}.")
    task_weight: float | None = flag(None, "Weight of the cross-entropy with the labels; by default the preset's.")
    agreement_weight: float | None = flag(
        None, "Weight of the cross-entropy with the teacher's predictions; by default the preset's."
    )
    logits_weight: float | None = flag(
        None, "Weight of the squared error between the two models' logits; by default the preset's."
    )
    margin_weight: float | None = flag(
        None, "Weight of the squared error between the two models' margins of the teacher's answer; by default none."
    )
    kl_weight: float | None = flag(
        None, "Weight of the KL divergence from the teacher at `temperature`; by default the preset's."
    )
    hidden_weight: float | None = flag(
        None, "Weight of the distance between the two models' hidden states; by default the preset's."
    )
    attention_weight: float | None = flag(
        None,
        "Weight of the KL divergence of the student's attention maps from the teacher's; by default none. Both models "
        "must compute with attn_implementation='eager'.",
    )
    attribution_weight: float | None = flag(
        None,
        "Weight of the squared difference of the two models' normalized input gradients; by default none. Of "
        "classifiers of texts and images alone, and costly: each step goes backward through both models once more, and "
        "twice through the student's gradient.",
    )
    hidden_layers: list[int] | None = flag(
        None,
        "For each hidden state of the student, the embeddings first, the number of the teacher's that it follows: 0 "
        "for the embeddings, 1 for the first layer, -1 for none. By default its own number, or evenly spaced up to the "
        "last where the teacher has more layers. Attention maps follow the same layers.",
    )
    hidden_projection: bool = flag(
        False, "Learn a linear projection of the student's hidden states to the width of a wider or narrower teacher's."
    )
    teacher_weights: list[float] | None = flag(
        None, "How much each of several teachers counts in the mean of their logits; by default all alike."
    )
    temperature: float = flag(2.0, "Temperature T of the KL term, scaled by T^2.")
    soft_agreement: bool = flag(False, "Agree with the teacher's probabilities instead of its predicted class.")
    only_where_teacher_is_right: bool = flag(
        False, "Zero the teacher's terms on items whose label shows that the teacher is wrong there."
    )
    focal_alpha: float = flag(1.0, "Weight of the teacher's terms on items on which the teacher is wrong.")
    focal_beta: float = flag(0.0, "What is added to it on items on which the teacher is right, or nobody knows.")
    student_dropout: bool = flag(
        False,
        "Keep the student's dropout on while a teacher term is active. Off by default: the teacher "
        "answers without dropout, so a student with dropout matches it only up to its own noise.",
    )
    transfer: float = flag(
        0.0,
        "Share of every training batch that is replaced by inputs without labels, made from the batch itself and "
        "answered by the live teacher.",
    )
    transfer_kinds: list[str] | None = flag(
        None,
        f"How: {', '.join(IMAGE_KINDS)} for images, {', '.join(TEXT_KINDS)} for texts; one is drawn for each input. "
        "By default mixup, or splice.",
    )
    weighting: str = flag("fixed", f"How the terms are weighted: {', '.join(WEIGHTINGS)}.")
    softadapt_variant: str = flag("loss_weighted", f"SoftAdapt's variant: {', '.join(SOFTADAPT_VARIANTS)}.")
    softadapt_beta: float = flag(0.1, "SoftAdapt's sensitivity to the slopes.")
    softadapt_window: int = flag(5, "Optimizer steps that SoftAdapt looks back.")

    def __post_init__(self) -> None:
        _check_choice("preset", self.preset, tuple(PRESETS))
        for name, weight in self._all_weights().items():
            if not 0 <= weight < float("inf"):
                raise ValueError(
                    f"{name}_weight must be a finite number >= 0. Got {weight}. Use 0 to leave the term out."
                )
        if not self.weights():
            raise ValueError(
                f"All loss weights are 0: nothing would be trained. The preset {self.preset!r} has "
                f"{_listed(PRESETS[self.preset])}. For the stock Trainer's loss take preset='labels'."
            )
        _check_focus(self)
        _check_choice("weighting", self.weighting, WEIGHTINGS)
        _check_choice("softadapt_variant", self.softadapt_variant, SOFTADAPT_VARIANTS)
        if self.temperature <= 0:
            raise ValueError(f"temperature must be > 0. Got {self.temperature}. 1.0 means no softening.")
        _check_transfer(self.transfer, self.transfer_kinds)
        if self.transfer == 1 and "task" in self.weights():
            raise ValueError(
                f"task_weight={self.weights()['task']:g} would be ignored: with transfer=1 no item keeps its label. "
                "Set task_weight=0, or replace less than all."
            )
        if self.softadapt_window < 2:
            raise ValueError(
                f"softadapt_window must be 2 steps or more. Got {self.softadapt_window}. The default is 5."
            )
        for option, (prefix, holds, need) in product(fields(self), _NEEDS):
            name, value = option.name, getattr(self, option.name)
            if name.startswith(prefix) and value != option.default and not holds(self):
                raise ValueError(f"{name}={value!r} would be ignored: it needs {need}. Set that, or leave {name} out.")

    @property
    def needs_teacher(self) -> bool:
        """Whether any term with a teacher takes part."""
        return any(name != "task" for name in self.weights())

    @property
    def focus(self) -> Focus | None:
        """How the teacher's terms depend on whether the teacher is right; None where they do not."""
        if self.only_where_teacher_is_right:
            return Focus(alpha=0.0, beta=1.0)
        given = Focus(self.focal_alpha, self.focal_beta)
        return None if given == Focus() else given

    def weights(self) -> dict[str, float]:
        """The terms that take part, with their weights."""
        return {name: weight for name, weight in self._all_weights().items() if weight > 0}

    def _all_weights(self) -> dict[str, float]:
        given = {name: getattr(self, f"{name}_weight") for name in TERMS}
        preset = PRESETS[self.preset]
        return {name: float(preset.get(name, 0.0) if weight is None else weight) for name, weight in given.items()}

    def recipe(self) -> dict[str, Any]:
        """The options with the weights in force, as plain JSON values; how a preset is called does not matter."""
        options = asdict(self) | {f"{name}_weight": weight for name, weight in self._all_weights().items()}
        del options["preset"]
        return options

    def __str__(self) -> str:
        weights = self.weights()
        changed = "" if weights == PRESETS[self.preset] else " with other weights"
        return f"preset {self.preset}{changed}: {_listed(weights)}"

    def build_weighting(self, seed: int) -> Weighting:
        """A fresh weighting for the terms that take part, in the order of `weights`."""
        base = list(self.weights().values())
        if self.weighting == "random":
            return RandomWeighting(base, seed=seed)
        if self.weighting == "round_robin":
            return RoundRobinWeighting(base)
        if self.weighting == "softadapt":
            return SoftAdaptWeighting(
                base, variant=self.softadapt_variant, beta=self.softadapt_beta, window=self.softadapt_window
            )
        if self.weighting == "uncertainty":
            return UncertaintyWeighting(base)
        return Weighting(base)


def _listed(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items())


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}. Got {value!r}.")


def _check_focus(options: AlignmentArguments) -> None:
    alpha, beta = options.focal_alpha, options.focal_beta
    if not (0 <= alpha < float("inf") and 0 <= beta < float("inf") and alpha + beta > 0):
        raise ValueError(
            f"focal_alpha and focal_beta must be finite numbers >= 0, and not both 0. Got {alpha} and {beta}. 1 and 0 "
            "weigh all items alike."
        )
    if options.only_where_teacher_is_right and (alpha, beta) != (1.0, 0.0):
        raise ValueError(
            f"only_where_teacher_is_right is focal_alpha=0 and focal_beta=1. Got {alpha} and {beta} beside it. Give "
            "one or the other."
        )


def _check_transfer(share: float, kinds: list[str] | None) -> None:
    if not 0 <= share <= 1:
        hint = f" Did you mean {share / 100:g}?" if 1 < share <= 100 else " 0.5 replaces half of every batch."
        raise ValueError(f"transfer must be a share in [0, 1]. Got {share}.{hint}")
    allowed = (*IMAGE_KINDS, *TEXT_KINDS)
    if kinds is not None and (isinstance(kinds, str) or not kinds or not {*kinds} <= {*allowed}):
        raise ValueError(f"transfer_kinds must be a list with some of {', '.join(allowed)}. Got {kinds!r}.")
