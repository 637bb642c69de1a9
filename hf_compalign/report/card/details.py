"""What a card says that an audit does not know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from hf_compalign.measure.audit import Audit
from hf_compalign.measure.footprint import Footprint, Latency

RELATIONS = ("adapter", "finetune", "merge", "quantized")  # how the Hub relates a model to its base model
ORIGINAL = "original"  # the model that was compressed, among the files


@dataclass(frozen=True)
class Measured:
    """One of the models that a card sets side by side.

    Attributes:
        audit: against the original; None for the original itself.
        accuracy: share of right answers; nan without labels.
        size_bytes: of its weights; None when unknown.
        latencies: batch size -> latency of one forward pass, all models in turn; empty when not timed.
    """

    audit: Audit | None
    accuracy: float
    size_bytes: int | None = None
    latencies: Mapping[int, Latency] = field(default_factory=dict)


@dataclass(frozen=True)
class Deferred:
    """What a card says of a file that answers where it is sure.

    Attributes:
        words: how much it answers, and how much of that may differ, in sentences.
        behind: the model that answers the rest: a Hub id, a local folder's name, or a file among those of the card.
        pair: whether that file is meant together with the model behind it.
    """

    words: str
    behind: str
    pair: bool = False


@dataclass(frozen=True)
class CardDetails:
    """What a card says that an audit does not know.

    Attributes:
        task: the Hub's pipeline tag, such as "text-classification".
        base_model: a Hub id or a folder: the original, or what it was fine-tuned from. The Hub's metadata take only
            an id.
        dataset: what both models were compared on, for people.
        dataset_id: its Hub id; None for files of one's own.
        dataset_config: its configuration.
        dataset_split: its split.
        name: what the model is loaded by; by default the name of its folder.
        tags: in addition to `TAGS`, such as "pruning".
        recipe: how the model was made: heading -> option -> value.
        footprints: of the original and of the compressed model.
        latencies: of both, timed side by side by `interleaved_latency_ms`; shown with the footprints.
        base_model_relation: "finetune", the default, or "quantized". To the Hub, a pruned model with all its layers
            is a fine-tuned one.
        files: the original, as `ORIGINAL`, the weights and each exported file, by name; as `save_artifact` measures
            them.
        deferrals: those of the files that leave some items to another model, by name.
        about: which of the files the card begins with, in words; by default the weights.
        machine: where they were timed.
        report: the page of `hf_compalign.write_report`, by its name in the folder; the card links it.

    Raises:
        ValueError: the Hub does not know such a relation to the base model.
    """

    task: str
    base_model: str
    dataset: str
    dataset_id: str | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None
    name: str | None = None
    tags: Sequence[str] = ()
    recipe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    footprints: tuple[Footprint, Footprint] | None = None
    latencies: tuple[Latency, Latency] | None = None
    base_model_relation: str | None = None
    files: Mapping[str, Measured] = field(default_factory=dict)
    deferrals: Mapping[str, Deferred] = field(default_factory=dict)
    about: str = ""
    machine: str = ""
    report: str | None = None

    def __post_init__(self) -> None:
        if self.base_model_relation not in (None, *RELATIONS):
            raise ValueError(
                f"base_model_relation must be one of {', '.join(RELATIONS)}. Got {self.base_model_relation!r}."
            )


def changed_options(arguments: Any) -> dict[str, Any]:
    """The options of a dataclass that are not at their default, for a card's recipe."""
    options = {option.name: (getattr(arguments, option.name), option.default) for option in fields(arguments)}
    return {name: value for name, (value, default) in options.items() if value != default}
