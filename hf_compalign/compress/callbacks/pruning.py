"""Pruning while a model trains."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_compalign.compress.callbacks.resuming import own_state, packed, unpacked
from hf_compalign.compress.masks import PATTERNS, compute_masks, prunable_weights
from hf_compalign.compress.schedules import Schedule, resolve_schedule
from hf_compalign.compress.scores import resolve_score
from hf_compalign.compress.sharding import (
    anywhere,
    is_sharded,
    laid_out_like,
    refuse_unsupported,
    same_everywhere_,
    whole,
)

logger = logging.getLogger(__name__)

# A mask is computed about this often on the way to the final sparsity, unless `every` says otherwise.
UPDATES = 20


class PruningCallback(TrainerCallback, ExportableState):
    """Prunes the weights of the linear and convolution layers while the model trains, with any `Trainer`.

    The masks are computed from the weights' scores with torch.nn.utils.prune, kept outside the model, and applied in
    place after every optimizer step. Every checkpoint is thus an ordinary one with zeros in it, and resumes exactly.
    `load_best_model_at_end` only considers checkpoints that have the final sparsity. The achieved sparsity is logged.
    Several processes, with DDP or FSDP version 2, prune the same weights as one.

    Args:
        sparsity: the final share of pruned weights, in [0, 1).
        pattern: "global" ranks the weights of all layers together, "layer" each layer's alone.
        schedule: "cubic", "linear" or "constant" (all at once), or a function from progress to share, both in [0, 1].
        window: begin and end of the schedule as shares of all optimizer steps; after the end the masks stand still.
        every: optimizer steps between two updates of the masks; None makes about 20 updates.
        score: how weights are ranked: "magnitude".
        include: patterns of module names to prune; by default all linear and convolution layers but the
            embeddings and the classification head (with the pooler).
        exclude: patterns of module names to leave out.

    Raises:
        ValueError: an argument out of range, with what is allowed.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        pattern: str = "global",
        schedule: str | Schedule = "cubic",
        window: tuple[float, float] = (0.0, 0.5),
        every: int | None = None,
        score: str = "magnitude",
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
    ) -> None:
        _check_arguments(sparsity, pattern, window, every)
        self.sparsity = sparsity
        self.pattern = pattern
        self.window = (float(window[0]), float(window[1]))
        self.every = every
        self.include = None if include is None else list(include)
        self.exclude = None if exclude is None else list(exclude)
        self._schedule = resolve_schedule(schedule)
        self._schedule_name = (
            schedule if isinstance(schedule, str) else getattr(schedule, "__qualname__", repr(schedule))
        )
        self._score = resolve_score(score)
        self._score_name = score
        self._weights: dict[str, nn.Parameter] = {}
        self._masks: dict[str, Tensor] = {}
        self._gathered_zeros: dict[str, str] | None = None
        self._span = (0, 0)

    # ---- the schedule ----

    def share_at(self, step: int) -> float:
        """The share of weights that are pruned after optimizer step number `step`."""
        begin, end = self._span
        if step < begin:
            return 0.0
        progress = 1.0 if step >= end else (step - begin) / (end - begin)
        return self.sparsity * self._schedule(progress)

    def _updates_at(self, step: int) -> bool:
        begin, end = self._span
        every = self.every or max(1, (end - begin) // UPDATES)
        return begin <= step <= end and ((step - begin) % every == 0 or step == end)

    def _final_step(self) -> int:
        """The first step from which the model has the final sparsity."""
        begin, end = self._span
        return next(s for s in range(begin, end + 1) if self._updates_at(s) and self.share_at(s) == self.sparsity)

    # ---- the Trainer's events ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the weights; prune them where the schedule begins at once; take up the masks of a resumed run."""
        refuse_unsupported(args, kwargs["model"])
        self._weights = prunable_weights(kwargs["model"], include=self.include, exclude=self.exclude)
        begin, end = (math.ceil(share * state.max_steps) for share in self.window)
        self._span = (begin, end)
        if state.global_step == 0:
            self._masks = {}
            if self._updates_at(0):
                self._update(0)
            self._apply()
        else:
            self._restore(own_state(state, type(self).__name__, self._recipe(), part="masks"))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the masks where the schedule says so, and apply them to the weights just trained."""
        step = state.global_step + 1
        if self._updates_at(step):
            self._update(step)
            if step == self._final_step():
                # A model measured before this step was not yet the one that was asked for.
                state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        self._apply()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put the sparsity beside the training loss."""
        if logs is not None and "loss" in logs and self._weights:
            logs["sparsity"] = self._sparsity()
            state.log_history[-1]["sparsity"] = logs["sparsity"]

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say so when training ended before the final sparsity."""
        if state.global_step < self._final_step():
            logger.warning(
                "Training ended at step %d, before the final sparsity of step %d: the model is %.1f %% sparse, not "
                "%.1f %%.",
                state.global_step,
                self._final_step(),
                100 * self._sparsity(),
                100 * self.sparsity,
            )

    # ---- the masks ----

    def _update(self, step: int) -> None:
        share = self.share_at(step)
        self._masks = {}
        if not share:
            return
        # Weights in shards are gathered one by one, unless all of them are ranked together.
        parts = [list(self._weights)] if self.pattern == "global" else [[name] for name in self._weights]
        for part in parts:
            weights = {name: whole(self._weights[name]) for name in part}
            masks = compute_masks(weights, share, pattern=self.pattern, score=self._score)
            same_everywhere_(masks.values())
            self._masks |= {name: laid_out_like(mask, self._weights[name]) for name, mask in masks.items()}

    def _apply(self) -> None:
        with torch.no_grad():
            for name, mask in self._masks.items():
                self._weights[name].mul_(mask)
        # One process alone asks for the state when a checkpoint is written, and could not gather shards then.
        sharded = any(is_sharded(weight) for weight in self._weights.values())
        self._gathered_zeros = self._unpruned_zeros() if sharded else None

    def _unpruned_zeros(self) -> dict[str, str]:
        """Where a weight is 0 that is not pruned: packed, by name, for the weights that have any."""

        def zeros(name: str) -> Tensor:
            return (self._weights[name] == 0) & self._masks[name]

        found = anywhere(zeros(name) for name in self._masks)
        return {name: packed(whole(zeros(name))) for name, has in zip(self._masks, found, strict=True) if has}

    def _sparsity(self) -> float:
        """The share of the weights that are 0, over all processes' shards."""
        zeros = sum(int(whole((weight == 0).sum())) for weight in self._weights.values())
        return zeros / sum(weight.numel() for weight in self._weights.values())

    # ---- resuming ----

    def _recipe(self) -> dict[str, Any]:
        return {
            "sparsity": self.sparsity,
            "pattern": self.pattern,
            "schedule": self._schedule_name,
            "window": list(self.window),
            "every": self.every,
            "score": self._score_name,
            "include": self.include,
            "exclude": self.exclude,
        }

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into trainer_state.json: the recipe, and what the zeros do not tell of the masks.

        A pruned weight is 0 in the checkpoint. So the mask is where the weight is not 0, plus the weights that are 0
        by chance: almost always none.
        """
        zeros = self._unpruned_zeros() if self._gathered_zeros is None else self._gathered_zeros
        kept = {"span": list(self._span), "masked": bool(self._masks), "unpruned_zeros": zeros}
        return {"args": self._recipe(), "attributes": {}, "masks": kept}

    def _restore(self, saved: dict[str, Any]) -> None:
        masks = saved["masks"]
        if tuple(masks["span"]) != self._span:
            raise ValueError(
                f"The checkpoint was pruned on a schedule over the optimizer steps {masks['span']}, and this run's is "
                f"{list(self._span)}. Resume with the same number of epochs, batch size and data."
            )
        self._masks = {}
        if masks["masked"]:
            for name, weight in self._weights.items():
                own = masks["unpruned_zeros"].get(name)
                self._masks[name] = weight.detach() != 0
                if own is not None:
                    self._masks[name] |= laid_out_like(unpacked(own, weight), weight)
        self._apply()


def _check_arguments(sparsity: float, pattern: str, window: tuple[float, float], every: int | None) -> None:
    if not 0 <= sparsity < 1:
        hint = f" Did you mean {sparsity / 100:g}?" if 1 < sparsity < 100 else ""
        raise ValueError(f"sparsity must be in [0, 1). Got {sparsity}.{hint}")
    if pattern not in PATTERNS:
        raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}. Got {pattern!r}.")
    if len(window) != 2 or not 0 <= window[0] <= window[1] <= 1:
        raise ValueError(
            f"window must be the begin and end of the schedule as shares of the training, 0 <= begin <= end <= 1. "
            f"Got {window}. The default (0.0, 0.5) prunes in the first half."
        )
    if every is not None and every < 1:
        raise ValueError(f"every must be 1 optimizer step or more, or None. Got {every}.")
