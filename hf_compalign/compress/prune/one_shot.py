"""Prune a model at once: choose the weights, remove them, correct the others where the method does."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign.compress.calibration import Batch, Loss, calibration_batches, own_loss
from hf_compalign.compress.inputs import check_finite, check_ran, input_norms, weight_gradients
from hf_compalign.compress.prune import scores
from hf_compalign.compress.prune.masks import check_pattern, check_shapes, compute_masks
from hf_compalign.compress.prune.second_order import prune_second_order_
from hf_compalign.compress.quantize import check_not_converted, drop_stale_record_
from hf_compalign.compress.select import by_output, listed, prunable_layers, prunable_weights, sparsity_of
from hf_compalign.compress.sharding import anywhere, laid_out_like, same_everywhere_, whole

# Each score, and the pattern it is meant for.
PATTERN_OF = {"magnitude": "global", "movement": "global", "taylor": "global", "wanda": "row", "obs": "layer"}
SCORES = tuple(PATTERN_OF)
CALIBRATED = ("taylor", "wanda", "obs")


@dataclass(frozen=True)
class Method:
    """How the weights to prune are chosen; the score's own pattern if none is given.

    >>> Method("wanda").pattern
    'row'
    """

    score: str = "magnitude"
    pattern: str = ""

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}. Got {self.score!r}.")
        if not self.pattern:
            object.__setattr__(self, "pattern", PATTERN_OF[self.score])
        if self.score == "obs" and self.pattern == "global":
            raise ValueError(
                "score='obs' goes layer by layer and cannot rank the weights of all layers together. Use the pattern "
                "layer, row or N:M; or another score with the pattern global."
            )

    @property
    def calibrated(self) -> bool:
        """Whether the choice needs calibration data."""
        return self.score in CALIBRATED

    @property
    def differentiates(self) -> bool:
        """Whether the choice needs gradients of a loss, and so the labels of the calibration data."""
        return self.score == "taylor"


@dataclass(frozen=True)
class Evidence:
    """What weights are judged by, besides their values."""

    batches: Sequence[Batch] = ()  # the calibration data
    loss: Loss | None = None  # what "taylor" differentiates; None is the model's own
    # The scores of "movement" by the weights' names, in the layout of the weights.
    learned: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PruningSummary:
    """What `prune_` did.

    Attributes:
        method: how the weights were chosen.
        n_weights: of each pruned weight matrix, by name.
        n_zeros: how many of them are 0 now.
        left_out: the names of the other linear and convolution layers.
    """

    method: Method
    n_weights: dict[str, int]
    n_zeros: dict[str, int]
    left_out: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """The share of 0 in all of them together."""
        return sum(self.n_zeros.values()) / sum(self.n_weights.values())

    def __str__(self) -> str:
        width = max(len(name) for name in self.n_weights)
        rows = [f"{name:<{width}}  {n:>10,}  {self.n_zeros[name] / n:>7.1%}" for name, n in self.n_weights.items()]
        total = sum(self.n_weights.values())
        title = f"score {self.method.score}, pattern {self.method.pattern}"
        together = f"{'together':<{width}}  {total:>10,}  {self.sparsity:>7.1%}"
        return "\n".join([title, *rows, together, f"left out: {listed(self.left_out) or 'nothing'}"])


def prune_(  # noqa: PLR0913 - what to prune, how and by which data
    model: nn.Module,
    sparsity: float,
    *,
    score: str = "magnitude",
    pattern: str | None = None,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> PruningSummary:
    """Prune a model in place and without training. The model stays an ordinary one, with zeros in its weights.

    "obs" keeps the model by far closest to what it was: it also corrects the weights that remain. Give it rows like
    those that the model will see, with more tokens than its layers have inputs; labels are not needed. To prune so and
    train on, use `PruningCallback(sparsity, score="obs")`, which holds the zeros.

    Args:
        model: runs where it is.
        sparsity: the share of weights to prune, in [0, 1).
        score: "magnitude"; "wanda", the magnitude times the norm of the input
            (https://huggingface.co/papers/2306.11695); "taylor", the first-order change of the loss
            (https://huggingface.co/papers/1906.10771); or "obs", second-order with weight correction
            (https://huggingface.co/papers/2301.00774). All but the first need calibration data.
        pattern: where weights are ranked together: "global", in each "layer", in each "row" of outputs, or "2:4" (any
            N:M). By default "global" for magnitude and taylor, "row" for wanda and "layer" for obs.
        calibration: batches as the model takes them: a DataLoader, a list, or a `datasets.Dataset` of rows that can be
            stacked.
        loss: (model, batch) -> the loss that "taylor" differentiates; None takes the model's own for the labels of the
            batch or, without labels, for its own predictions.
        include: patterns of module names to prune; by default all linear and convolution layers but the embeddings and
            the classification head (with the pooler).
        exclude: patterns of module names to leave out.

    Raises:
        ValueError: an argument out of range, with what is allowed; calibration data that are missing or do not fit; a
            model whose weights are quantized. The model is as it was.
    """
    method = Method(score, pattern or "")
    check_sparsity(sparsity)
    check_pattern(method.pattern, sparsity)
    if score == "movement":
        raise ValueError(
            "score='movement' is learned from the gradients of a training. Use PruningCallback(..., score='movement') "
            "with a Trainer; without training, score='obs' is the best."
        )
    if method.calibrated and calibration is None:
        raise ValueError(
            f"score={score!r} needs calibration data. Give calibration=, a DataLoader of some hundred rows."
        )
    if calibration is not None and not method.calibrated:
        raise ValueError(f"calibration= would be ignored: score={score!r} looks at the weights alone. Leave it out.")
    if loss is not None and not method.differentiates:
        raise ValueError(f"loss= would be ignored: score={score!r} takes no gradients. Leave it out.")
    check_not_converted(model, "pruned")
    weights = prunable_weights(model, include=include, exclude=exclude)
    check_weights(model, weights, method)
    batches = [] if calibration is None else calibration_batches(calibration, model, labeled=method.differentiates)
    prune_weights_(model, weights, sparsity, method=method, evidence=Evidence(batches, loss))
    drop_stale_record_(model)
    zeros = {name: round(sparsity_of({name: weight}) * weight.numel()) for name, weight in weights.items()}
    n_weights = {name: weight.numel() for name, weight in weights.items()}
    left_out = tuple(name for name in prunable_layers(model) if f"{name}.weight" not in weights)
    return PruningSummary(method, n_weights, zeros, left_out)


def prune_weights_(
    model: nn.Module, weights: Mapping[str, nn.Parameter], sparsity: float, *, method: Method, evidence: Evidence
) -> dict[str, Tensor]:
    """Prune weights, named as by `prunable_weights`, in place; every process of a distributed training must call this.

    Returns:
        The masks of bool, in the layout of the weights.
    """
    if method.score == "obs":
        masks = prune_second_order_(model, weights, sparsity, pattern=method.pattern, batches=evidence.batches)
        return {name: laid_out_like(mask, weights[name]) for name, mask in masks.items()}
    layers = {name: _layer(model, name) for name in weights}
    score_of = _score(model, weights, layers, method=method, evidence=evidence)
    masks = {}
    # Weights in shards are gathered one by one, unless all of them are ranked together.
    for names in [list(weights)] if method.pattern == "global" else [[name] for name in weights]:
        # What is pruned goes first again: it would otherwise come back where other weights have a score as low.
        zeros = {name: by_output(layers[name], whole(weights[name]) == 0) for name in names}
        judged = {name: score_of(name).masked_fill(zeros[name], -math.inf) for name in names}
        part = compute_masks(judged, sparsity, pattern=method.pattern)
        same_everywhere_(part.values())
        masks |= {name: laid_out_like(by_output(layers[name], mask), weights[name]) for name, mask in part.items()}
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].mul_(mask)
    return masks


def _score(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    layers: Mapping[str, nn.Module],
    *,
    method: Method,
    evidence: Evidence,
) -> Callable[[str], Tensor]:
    """The function from a weight's name to its scores, whole, as [out, ...]."""

    def weight(name: str) -> Tensor:
        return by_output(layers[name], whole(weights[name]))

    if any(anywhere(evidence.learned.values())):
        return lambda name: by_output(layers[name], whole(evidence.learned[name]))
    if method.score in {"magnitude", "movement"}:  # of which nothing is learned yet where student and teacher are equal
        return lambda name: scores.magnitude(weight(name))
    if method.score == "wanda":
        norms = input_norms(model, layers, evidence.batches)
        return lambda name: scores.wanda(weight(name), norms[name])
    totals: dict[str, Tensor] = {}
    for batch in evidence.batches:
        for name, gradient in weight_gradients(model, layers, batch, evidence.loss or own_loss).items():
            score = scores.taylor(weight(name), gradient)
            totals[name] = totals.get(name, 0) + score
    check_ran(layers, totals)
    for name, total in totals.items():
        check_finite(name, total, of="gradients")
    return totals.__getitem__


def check_sparsity(sparsity: float) -> None:
    """Refuse what is no share of weights that can be pruned."""
    if not 0 <= sparsity < 1:
        hint = f" Did you mean {sparsity / 100:g}?" if 1 < sparsity < 100 else ""
        raise ValueError(f"sparsity must be in [0, 1). Got {sparsity}.{hint}")


def check_weights(model: nn.Module, weights: Mapping[str, nn.Parameter], method: Method) -> None:
    """Refuse weights that a method cannot prune."""
    check_shapes({name: by_output(_layer(model, name), weight) for name, weight in weights.items()}, method.pattern)
    convolutions = [name.removesuffix(".weight") for name, weight in weights.items() if weight.ndim != 2]
    if method.calibrated and convolutions:
        rest = f"Take the linear layers alone, with exclude={convolutions}, or use"
        if len(convolutions) == len(weights):
            rest = "No other layer is there to prune: use"
        raise ValueError(
            f"score={method.score!r} prunes linear layers, and not convolutions: {', '.join(convolutions)}. {rest} the "
            "score magnitude."
        )
    for name, weight in weights.items():
        if not bool(whole(weight.isfinite().all())):
            raise ValueError(f"The weights {name} hold NaN or infinite values. Load a sound checkpoint.")


def _layer(model: nn.Module, weight: str) -> nn.Module:
    """The layer of a weight, by the weight's name."""
    return model.get_submodule(weight.removesuffix(".weight"))
