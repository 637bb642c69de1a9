"""The options of the compression, a dataclass beside TrainingArguments."""

from dataclasses import dataclass, field, fields

from hf_compalign.compress.callbacks import PruningCallback
from hf_compalign.compress.masks import PATTERNS
from hf_compalign.compress.pruning import SCORES
from hf_compalign.compress.schedules import SCHEDULES


@dataclass
class CompressionArguments:
    """How a script makes the model smaller: the arguments of `PruningCallback` as flags.

    >>> CompressionArguments(sparsity=0.5).callbacks()[0].sparsity
    0.5
    >>> CompressionArguments().callbacks()
    []

    Raises:
        ValueError: an option out of range, or one that would be ignored because nothing is pruned.
    """

    sparsity: float = field(
        default=0.0, metadata={"help": "Final share of pruned weights, in [0, 1). 0 prunes nothing."}
    )
    pruning_score: str = field(default="magnitude", metadata={"help": f"How weights are ranked: {', '.join(SCORES)}."})
    pruning_pattern: str | None = field(
        default=None,
        metadata={"help": f"Where weights are ranked: {', '.join(PATTERNS)} or N:M; the score's own if left out."},
    )
    pruning_schedule: str | None = field(
        default=None,
        metadata={"help": f"How the sparsity rises: {', '.join(SCHEDULES)}; the first is all at once, obs's default."},
    )
    pruning_begin: float = field(default=0.0, metadata={"help": "Share of the training at which pruning begins."})
    pruning_end: float = field(
        default=0.5, metadata={"help": "Share of the training at which the final sparsity is reached."}
    )
    pruning_every: int | None = field(
        default=None,
        metadata={"help": "Optimizer steps between two updates of the masks; about 20 updates if left out."},
    )
    pruning_include: list[str] | None = field(
        default=None,
        metadata={"help": "Patterns of module names to prune; all layers but embeddings and the head if left out."},
    )
    pruning_exclude: list[str] | None = field(
        default=None, metadata={"help": "Patterns of module names to leave out of the pruning."}
    )

    def __post_init__(self) -> None:
        self.callbacks()  # checks the values, before a model is loaded
        if self.sparsity > 0:
            return
        for option in fields(self):
            value = getattr(self, option.name)
            if value != option.default:
                raise ValueError(
                    f"{option.name}={value!r} would be ignored: nothing is pruned. Set sparsity above 0, or leave "
                    f"{option.name} out."
                )

    def callbacks(self) -> list[PruningCallback]:
        """Fresh callbacks for a Trainer."""
        if self.sparsity == 0:
            return []
        return [
            PruningCallback(
                self.sparsity,
                pattern=self.pruning_pattern,
                schedule=self.pruning_schedule,
                window=(self.pruning_begin, self.pruning_end),
                every=self.pruning_every,
                score=self.pruning_score,
                include=self.pruning_include,
                exclude=self.pruning_exclude,
            )
        ]
