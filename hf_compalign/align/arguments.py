"""The options of the alignment, a dataclass beside TrainingArguments."""

from dataclasses import dataclass, fields
from itertools import product

from hf_compalign._trainer import flag
from hf_compalign.align.losses import TermFunction, task_loss, teacher_terms
from hf_compalign.align.weighting import (
    SOFTADAPT_VARIANTS,
    WEIGHTINGS,
    RandomWeighting,
    RoundRobinWeighting,
    SoftAdaptWeighting,
    UncertaintyWeighting,
    Weighting,
)

# Options that only work together with others: (their prefix, whether that is there, what they need, in words).
_NEEDS = (
    ("temperature", lambda a: a.kl_weight > 0, "kl_weight > 0"),
    ("soft_agreement", lambda a: a.agreement_weight > 0, "agreement_weight > 0"),
    ("softadapt_", lambda a: a.weighting == "softadapt", "weighting='softadapt'"),
    ("only_where_teacher_is_right", lambda a: a.needs_teacher, "a teacher term with weight > 0"),
    ("student_dropout", lambda a: a.needs_teacher, "a teacher term with weight > 0"),
)


@dataclass
class AlignmentArguments:
    """What the student is trained on besides its labels. Nothing needs setting.

    The default is the loss of https://huggingface.co/papers/2012.01604 with equal weights: cross-entropy with the
    labels, cross-entropy with the teacher's predictions, and the squared error of the logits. With all teacher
    weights 0 the training is that of the stock Trainer, and a teacher only measures.

    Raises:
        ValueError: an option out of range, or one that would be ignored because what it belongs to is off.
    """

    task_weight: float = flag(1.0, "Weight of the cross-entropy with the labels.")
    agreement_weight: float = flag(1.0, "Weight of the cross-entropy with the teacher's predictions.")
    logits_weight: float = flag(1.0, "Weight of the squared error between the two models' logits.")
    kl_weight: float = flag(0.0, "Weight of the KL divergence from the teacher at `temperature`.")
    temperature: float = flag(2.0, "Temperature T of the KL term, scaled by T^2.")
    soft_agreement: bool = flag(False, "Agree with the teacher's probabilities instead of its predicted class.")
    only_where_teacher_is_right: bool = flag(
        False, "Zero the teacher's terms on items whose label shows that the teacher is wrong there."
    )
    student_dropout: bool = flag(
        False,
        "Keep the student's dropout on while a teacher term is active. Off by default: the teacher "
        "answers without dropout, so a student with dropout matches it only up to its own noise.",
    )
    weighting: str = flag("fixed", f"How the terms are weighted: {', '.join(WEIGHTINGS)}.")
    softadapt_variant: str = flag("loss_weighted", f"SoftAdapt's variant: {', '.join(SOFTADAPT_VARIANTS)}.")
    softadapt_beta: float = flag(0.1, "SoftAdapt's sensitivity to the slopes.")
    softadapt_window: int = flag(5, "Optimizer steps that SoftAdapt looks back.")

    def __post_init__(self) -> None:
        for name in ("task_weight", "agreement_weight", "logits_weight", "kl_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name} must be a finite number >= 0. Got {getattr(self, name)}. Use 0 to leave the term out."
                )
        if not self.weights():
            raise ValueError("All loss weights are 0: nothing would be trained. Set task_weight=1.0, say.")
        _check_choice("weighting", self.weighting, WEIGHTINGS)
        _check_choice("softadapt_variant", self.softadapt_variant, SOFTADAPT_VARIANTS)
        if self.temperature <= 0:
            raise ValueError(f"temperature must be > 0. Got {self.temperature}. 1.0 means no softening.")
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

    def weights(self) -> dict[str, float]:
        """The terms that take part, with their weights."""
        weights = {
            "task": self.task_weight,
            "agreement": self.agreement_weight,
            "logits": self.logits_weight,
            "kl": self.kl_weight,
        }
        return {name: float(weight) for name, weight in weights.items() if weight > 0}

    def terms(self) -> dict[str, TermFunction]:
        """The functions of the terms that take part, in the order of `weights`."""
        functions = {"task": task_loss} | teacher_terms(
            soft_agreement=self.soft_agreement,
            temperature=self.temperature,
            only_where_teacher_is_right=self.only_where_teacher_is_right,
        )
        return {name: functions[name] for name in self.weights()}

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


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}. Got {value!r}.")
