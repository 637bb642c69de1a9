"""The options of the compression, a dataclass beside TrainingArguments."""

from dataclasses import dataclass, field, fields

from transformers import TrainerCallback

from hf_compalign.compress.callbacks import SCHEDULES, PruningCallback, QuantizationCallback, ShrinkCallback
from hf_compalign.compress.prune import PATTERNS, SCORES
from hf_compalign.compress.quantize import SCHEMES


@dataclass
class CompressionArguments:
    """How a script makes the model smaller: the arguments of its callbacks as flags.

    >>> [type(callback).__name__ for callback in CompressionArguments(sparsity=0.5).callbacks()]
    ['PruningCallback']
    >>> CompressionArguments().callbacks()
    []

    Raises:
        ValueError: an option out of range, or one that would be ignored: nothing is pruned, removed or quantized.
    """

    shrink_heads: float = field(default=0.0, metadata={"help": "Share of the attention heads to remove, in [0, 1)."})
    shrink_ffn: float = field(default=0.0, metadata={"help": "Share of the feed-forward neurons to remove, in [0, 1)."})
    shrink_layers: int = field(default=0, metadata={"help": "Whole layers to remove."})
    shrink_uniform: bool = field(
        default=False, metadata={"help": "Keep all layers equally wide, as stock configs have it."}
    )
    shrink_begin: float = field(default=0.0, metadata={"help": "Share of the training at which removing begins."})
    shrink_end: float = field(default=0.5, metadata={"help": "Share of the training at which all is removed."})

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

    quantization_scheme: str | None = field(
        default=None, metadata={"help": f"How to quantize: {', '.join(SCHEMES)}. Nothing is quantized if left out."}
    )
    quantization_begin: float = field(
        default=0.0, metadata={"help": "Share of the training after which the model is trained with the rounding."}
    )
    quantization_include: list[str] | None = field(
        default=None, metadata={"help": "Patterns of module names to quantize; all layers but the head if left out."}
    )
    quantization_exclude: list[str] | None = field(
        default=None, metadata={"help": "Patterns of module names to leave in float."}
    )

    def __post_init__(self) -> None:
        self.callbacks()  # checks the values, before a model is loaded
        for prefix, used, nothing, way in (
            ("shrink_", self._shrinks, "removed", "Set shrink_heads, shrink_ffn or shrink_layers above 0"),
            ("pruning_", self.sparsity > 0, "pruned", "Set sparsity above 0"),
            ("quantization_", self.quantization_scheme is not None, "quantized", "Set quantization_scheme"),
        ):
            for option in fields(self):
                value = getattr(self, option.name)
                if option.name.startswith(prefix) and not used and value != option.default:
                    raise ValueError(
                        f"{option.name}={value!r} would be ignored: nothing is {nothing}. {way}, or leave "
                        f"{option.name} out."
                    )

    @property
    def _shrinks(self) -> bool:
        return any((self.shrink_heads, self.shrink_ffn, self.shrink_layers))

    @property
    def tags(self) -> list[str]:
        """What a model card says was done, in the Hub's words.

        >>> CompressionArguments(shrink_ffn=0.5, quantization_scheme="onnxruntime-w8a8").tags
        ['pruning', 'quantization']
        """
        pruned, quantized = self._shrinks or self.sparsity > 0, self.quantization_scheme is not None
        return [tag for tag, done in (("pruning", pruned), ("quantization", quantized)) if done]

    def callbacks(self) -> list[TrainerCallback]:
        """Fresh callbacks for a Trainer, in the order in which they can be combined."""
        found: list[TrainerCallback] = []
        if self._shrinks:
            found.append(
                ShrinkCallback(
                    heads=self.shrink_heads,
                    ffn=self.shrink_ffn,
                    layers=self.shrink_layers,
                    uniform=self.shrink_uniform,
                    window=(self.shrink_begin, self.shrink_end),
                )
            )
        if self.sparsity != 0:
            found.append(
                PruningCallback(
                    self.sparsity,
                    score=self.pruning_score,
                    pattern=self.pruning_pattern,
                    schedule=self.pruning_schedule,
                    window=(self.pruning_begin, self.pruning_end),
                    every=self.pruning_every,
                    include=self.pruning_include,
                    exclude=self.pruning_exclude,
                )
            )
        if self.quantization_scheme is not None:
            found.append(
                QuantizationCallback(
                    self.quantization_scheme,
                    begin=self.quantization_begin,
                    include=self.quantization_include,
                    exclude=self.quantization_exclude,
                )
            )
        return found
