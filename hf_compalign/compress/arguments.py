"""The options of the compression, a dataclass beside TrainingArguments."""

import inspect
from dataclasses import dataclass, fields
from typing import Any

from transformers import TrainerCallback

from hf_compalign._trainer import flag
from hf_compalign.compress.callbacks import SCHEDULES, PruningCallback, QuantizationCallback, ShrinkCallback
from hf_compalign.compress.prune import PATTERNS, SCORES
from hf_compalign.compress.quantize import SCHEMES
from hf_compalign.compress.shrink import UNIT_SCORES


def _defaults(callback: type[TrainerCallback]) -> dict[str, Any]:
    return {name: argument.default for name, argument in inspect.signature(callback).parameters.items()}


_SHRINK, _PRUNING, _QUANTIZATION = map(_defaults, (ShrinkCallback, PruningCallback, QuantizationCallback))


@dataclass
class CompressionArguments:
    """How a script makes the model smaller: the arguments of its callbacks as flags, all but their calibration data.

    >>> [type(callback).__name__ for callback in CompressionArguments(sparsity=0.5).callbacks()]
    ['PruningCallback']
    >>> CompressionArguments().callbacks()
    []

    Raises:
        ValueError: an option out of range, or one that would be ignored: nothing is pruned, removed or quantized.
    """

    shrink_heads: float = flag(_SHRINK["heads"], "Share of the attention heads to remove, in [0, 1).")
    shrink_ffn: float = flag(_SHRINK["ffn"], "Share of the feed-forward neurons to remove, in [0, 1).")
    shrink_n_layers: int = flag(_SHRINK["n_layers"], "How many whole layers to remove.")
    shrink_target_flops: float | None = flag(
        _SHRINK["target_flops"], "Share of the FLOPs that may remain, in place of shrink_heads and shrink_ffn."
    )
    shrink_target_latency: float | None = flag(
        _SHRINK["target_latency"], "Share of the latency on this machine that may remain, likewise."
    )
    shrink_uniform: bool = flag(_SHRINK["uniform"], "Keep all layers equally wide, as stock configs have it.")
    shrink_score: str = flag(_SHRINK["score"], f"How units are ranked: {', '.join(UNIT_SCORES)}.")
    shrink_schedule: str = flag(_SHRINK["schedule"], f"How the removal proceeds: {', '.join(SCHEDULES)}.")
    shrink_begin: float = flag(_SHRINK["begin"], "Share of the training at which removing begins.")
    shrink_end: float = flag(_SHRINK["end"], "Share of the training at which all is removed.")
    shrink_every: int | None = flag(
        _SHRINK["every"], "Optimizer steps between two removals; about 20 removals if left out."
    )
    shrink_reconstruct: bool = flag(
        _SHRINK["reconstruct"], "Correct what reads the removed units by least squares, at every removal."
    )

    sparsity: float = flag(0.0, "Final share of pruned weights, in [0, 1). 0 prunes nothing.")
    pruning_score: str = flag(_PRUNING["score"], f"How weights are ranked: {', '.join(SCORES)}.")
    pruning_pattern: str | None = flag(
        _PRUNING["pattern"], f"Where weights are ranked: {', '.join(PATTERNS)} or N:M; the score's own if left out."
    )
    pruning_schedule: str | None = flag(
        _PRUNING["schedule"], f"How the sparsity rises: {', '.join(SCHEDULES)}; the score's own if left out."
    )
    pruning_begin: float = flag(_PRUNING["begin"], "Share of the training at which pruning begins.")
    pruning_end: float = flag(_PRUNING["end"], "Share of the training at which the final sparsity is reached.")
    pruning_every: int | None = flag(
        _PRUNING["every"], "Optimizer steps between two updates of the masks; about 20 updates if left out."
    )
    pruning_include: list[str] | None = flag(
        _PRUNING["include"], "Patterns of module names to prune; all layers but embeddings and the head if left out."
    )
    pruning_exclude: list[str] | None = flag(
        _PRUNING["exclude"], "Patterns of module names to leave out of the pruning."
    )

    quantization_scheme: str | None = flag(
        None, f"How to quantize: {', '.join(SCHEMES)}. Nothing is quantized if left out."
    )
    quantization_begin: float = flag(
        _QUANTIZATION["begin"], "Share of the training after which the model is trained with the rounding."
    )
    quantization_reconstruct: bool = flag(
        _QUANTIZATION["reconstruct"], "Correct the linear layers by least squares when the rounding begins."
    )
    quantization_include: list[str] | None = flag(
        _QUANTIZATION["include"], "Patterns of module names to quantize; all layers but the head if left out."
    )
    quantization_exclude: list[str] | None = flag(
        _QUANTIZATION["exclude"], "Patterns of module names to leave in float."
    )

    def __post_init__(self) -> None:
        self.callbacks()  # checks the values, before a model is loaded
        for prefix, used, nothing, way in (
            ("shrink_", self._shrinks, "removed", "Set shrink_heads, shrink_ffn, shrink_n_layers or a target"),
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
        has_target = (self.shrink_target_flops, self.shrink_target_latency) != (None, None)
        return has_target or any((self.shrink_heads, self.shrink_ffn, self.shrink_n_layers))

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
            found.append(ShrinkCallback(**self._options("shrink_")))
        if self.sparsity != 0:
            found.append(PruningCallback(self.sparsity, **self._options("pruning_")))
        if self.quantization_scheme is not None:
            found.append(QuantizationCallback(**self._options("quantization_")))
        return found

    def _options(self, prefix: str) -> dict[str, Any]:
        """The callback's arguments: the fields whose names begin so."""
        named = (option.name for option in fields(self) if option.name.startswith(prefix))
        return {name.removeprefix(prefix): getattr(self, name) for name in named}
