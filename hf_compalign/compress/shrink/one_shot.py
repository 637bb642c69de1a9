"""Remove the heads, neurons and layers that matter least from a model, at once and without training."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hf_compalign.compress.calibration import Batch, Loss, calibration_batches
from hf_compalign.compress.quantize import check_not_converted, drop_stale_record_
from hf_compalign.compress.reconstruction import reconstruct_
from hf_compalign.compress.shrink.architectures import layers_of
from hf_compalign.compress.shrink.budget import Budget, plan_for
from hf_compalign.compress.shrink.cutting import cut_, removal_masks
from hf_compalign.compress.shrink.plan import LayerPlan, ShrinkPlan
from hf_compalign.compress.shrink.scores import UNIT_SCORES, unit_scores


@dataclass(frozen=True)
class ShrinkSummary:
    """What `shrink_` did; each pair holds the number before and after.

    >>> print(ShrinkSummary(ShrinkPlan(()), layers=(6, 4), heads=(72, 48), neurons=(9216, 3072), parameters=(100, 40)))
                 before   after
    layers            6       4
    heads            72      48
    neurons        9216    3072
    parameters      100      40

    Attributes:
        plan: what stayed, as it was numbered before.
        layers: the transformer layers.
        heads: the attention heads of all layers.
        neurons: the neurons of the feed-forward parts of all layers.
        parameters: all numbers that the model holds; tied ones count once.
    """

    plan: ShrinkPlan
    layers: tuple[int, int]
    heads: tuple[int, int]
    neurons: tuple[int, int]
    parameters: tuple[int, int]

    def __str__(self) -> str:
        rows = {name: getattr(self, name) for name in ("layers", "heads", "neurons", "parameters")}
        width = max(7, *(len(str(number)) + 2 for pair in rows.values() for number in pair))
        lines = [("", "before", "after"), *((name, *map(str, pair)) for name, pair in rows.items())]
        return "\n".join(f"{name:<10}{before:>{width}}{after:>{width}}" for name, before, after in lines)


def shrink_(  # noqa: PLR0913 - each option of the budget is one of the public verb
    model: nn.Module,
    *,
    heads: float = 0.0,
    ffn: float = 0.0,
    n_layers: int = 0,
    target_flops: float | None = None,
    target_latency: float | None = None,
    uniform: bool = False,
    score: str | None = None,
    calibration: Iterable[Any] | None = None,
    reconstruct: bool | None = None,
    loss: Loss | None = None,
) -> ShrinkSummary:
    """Remove the heads, neurons and layers that matter least, in place: smaller matrices, nothing masked.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> model = BertForSequenceClassification(BertConfig(hidden_size=48, num_attention_heads=4, intermediate_size=96))
    >>> print(shrink_(model, heads=0.25, ffn=0.5, n_layers=2))
               before   after
    ...

    Args:
        model: a transformer of a supported architecture; in training or evaluation mode, and it stays in that.
        heads: share of the attention heads that go, in [0, 1), of the layers that stay.
        ffn: share of the neurons of the feed-forward parts that go, likewise.
        n_layers: how many whole layers go first.
        target_flops: share of the dense model's FLOPs that may remain, for the first calibration batch.
        target_latency: share of the dense model's latency that may remain, likewise, measured where the model is.
        uniform: whether all layers stay equally wide, as stock configs have it. Otherwise units are ranked across
            the layers.
        score: how units are ranked: "taylor" or "magnitude", see `unit_scores`; None takes "taylor" where there is
            calibration data, else "magnitude".
        calibration: a DataLoader, batches, or a `datasets.Dataset`; a few hundred rows do.
        reconstruct: whether the layers that read the removed units are corrected by least squares, so that the outputs
            stay close on the calibration data; None does so where there are any.
        loss: (model, batch) -> the loss that "taylor" differentiates; None takes the model's own for the labels of the
            batch or, without labels, for its own predictions.

    Raises:
        ValueError: an architecture, budget or data that do not fit, an option that would be ignored, or a model whose
            weights are quantized. The model is then as it was.
    """
    budget = Budget(heads, ffn, n_layers, target_flops, target_latency, uniform)
    score = score or ("magnitude" if calibration is None else "taylor")
    reconstruct = calibration is not None if reconstruct is None else reconstruct
    _check_options(budget, score, has_data=calibration is not None, reconstruct=reconstruct, has_loss=loss is not None)
    check_not_converted(model, "shrunk")
    before = _counts(model)
    batches = [] if calibration is None else calibration_batches(calibration, model, labeled=score == "taylor")
    scores = unit_scores(model, batches, score=score, loss=loss)
    plan = plan_for(model, scores, budget, inputs=batches[0] if batches else None)
    corrected = _corrected_copy(model, plan, batches) if reconstruct else None
    cut_(model, plan)
    if corrected is not None:
        model.load_state_dict(corrected.state_dict())
    drop_stale_record_(model)
    return ShrinkSummary(plan, *zip(before, _counts(model), strict=True))


def _corrected_copy(model: nn.Module, plan: ShrinkPlan, batches: Sequence[Batch]) -> nn.Module:
    """A copy of the model cut by the plan, its weights corrected for the heads and neurons that are gone."""
    corrected = copy.deepcopy(model)
    whole = ShrinkPlan.whole(model).layers
    cut_(corrected, ShrinkPlan(tuple(whole[kept.index] for kept in plan.layers)))
    rest = ShrinkPlan(tuple(LayerPlan(index, kept.heads, kept.neurons) for index, kept in enumerate(plan.layers)))
    masks = removal_masks(corrected, rest)
    if masks:
        reconstruct_(corrected, masks, batches)
    cut_(corrected, rest)
    return corrected


def _counts(model: nn.Module) -> tuple[int, int, int, int]:
    """Layers, heads, neurons and parameters."""
    layers = layers_of(model)
    return (
        len(layers),
        sum(layer.n_heads for layer in layers),
        sum(layer.n_neurons for layer in layers),
        sum(parameter.numel() for parameter in model.parameters()),
    )


def _check_options(budget: Budget, score: str, *, has_data: bool, reconstruct: bool, has_loss: bool) -> None:
    """Refuse what cannot be done without calibration data, and what would be ignored."""
    if score not in UNIT_SCORES:
        raise ValueError(f"score must be one of {', '.join(UNIT_SCORES)}. Got {score!r}.")
    if not has_data:
        for needed, option in (
            (score == "taylor", "score='taylor'"),
            (reconstruct, "reconstruct=True"),
            (budget.target is not None, budget.target and budget.target[0]),
        ):
            if needed:
                raise ValueError(f"{option} needs calibration data. Pass calibration=, a few hundred rows or batches.")
    if has_loss and score != "taylor":
        raise ValueError(f"loss= would be ignored: score={score!r} takes no gradients. Leave it out.")
    if has_data and score == "magnitude" and not reconstruct and budget.target is None:
        raise ValueError(
            "calibration= would be ignored: score='magnitude' and reconstruct=False need no data. Leave it out."
        )
