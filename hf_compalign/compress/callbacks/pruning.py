"""Pruning while a model trains."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerState, TrainingArguments

from hf_compalign.compress.callbacks.base import CompressionCallback
from hf_compalign.compress.callbacks.order import join_pruning, leave
from hf_compalign.compress.callbacks.packing import packed, unpacked
from hf_compalign.compress.callbacks.schedules import Schedule
from hf_compalign.compress.callbacks.survivors import Survivors, prune_survivors_, survivors_of
from hf_compalign.compress.callbacks.timing import Timing
from hf_compalign.compress.prune import (
    Evidence,
    Method,
    check_pattern,
    check_sparsity,
    check_weights,
    movement,
    prune_weights_,
)
from hf_compalign.compress.quantize import check_not_converted, drop_stale_record_
from hf_compalign.compress.select import prunable_weights, sparsity_of
from hf_compalign.compress.sharding import (
    anywhere,
    in_shards,
    is_sharded,
    laid_out_like,
    refuse_unsupported,
    same_everywhere_,
    whole,
)

# Where the optimizer's state keeps the learned scores.
MOVEMENT = "movement_score"

# The share of the weights that a stage of obs prunes on a linear schedule.
STAGE = 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PruningProgress:
    """How far a pruning is, as a checkpoint holds it; see `PruningCallback._progress`."""

    span: tuple[int, int]
    masked: bool
    unpruned_zeros: Mapping[str, str]


class PruningCallback(CompressionCallback):
    """Prunes the weights of the linear and convolution layers while the model trains, with any `Trainer`.

    The masks are computed from the weights' scores, kept outside the model, and applied in place after every optimizer
    step. Every checkpoint is thus an ordinary one with zeros in it, and resumes exactly.
    `load_best_model_at_end` and early stopping only look at what has the final sparsity. The achieved one is logged.
    Several processes, with DDP or FSDP version 2, prune the same weights as one.

    Args:
        sparsity: the final share of pruned weights, in [0, 1).
        score: how weights are ranked: "magnitude"; "movement", learned from the gradients of the training
            (https://huggingface.co/papers/2005.07683); "wanda", "taylor" or "obs" as in `prune_`, by calibration.
        pattern: where weights are ranked together: "global", in each "layer", in each "row" of outputs, or "2:4" (any
            N:M). By default "global", but "row" for wanda and "layer" for obs.
        schedule: "cubic", "linear" or "constant" (all at once), or a function from progress to share, both in [0, 1].
            By default "cubic"; for obs, whose every update takes as long as that of `prune_`, "constant": the model is
            pruned at the beginning, and the rest of the training recovers. With "linear" obs prunes in stages, each
            corrected towards what the weights trained so far compute.
        begin: share of all optimizer steps at which the schedule begins.
        end: share of them at which it ends; from then on the masks stand still.
        every: optimizer steps between two updates of the masks; None makes about 20 updates, for obs stages of 10 %
            of the weights.
        calibration: for wanda, taylor and obs: batches as the model takes them, a DataLoader or a list; by default 512
            rows of the training data.
        include: patterns of module names to prune; by default all linear and convolution layers but the
            embeddings and the classification head (with the pooler).
        exclude: patterns of module names to leave out.

    Raises:
        ValueError: an argument out of range, with what is allowed.
    """

    progress = PruningProgress

    def __init__(  # noqa: PLR0913 - what to prune, how, when and by which data
        self,
        sparsity: float,
        *,
        score: str = "magnitude",
        pattern: str | None = None,
        schedule: str | Schedule | None = None,
        begin: float = 0.0,
        end: float = 0.5,
        every: int | None = None,
        calibration: Iterable[Any] | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
    ) -> None:
        self.method = Method(score, pattern or "")
        check_sparsity(sparsity)
        check_pattern(self.method.pattern, sparsity)
        self.sparsity = sparsity
        self.include = include
        self.exclude = exclude
        schedule = schedule or ("constant" if score == "obs" else "cubic")
        stages = math.ceil(round(sparsity / STAGE, 6)) if score == "obs" else None
        super().__init__(Timing(schedule, begin, end, every, stages), calibration)
        _check_evidence(self.method, calibration, begins_at_once=self.timing.begins_at_once)
        self._evidence = Evidence()
        self._model: nn.Module = nn.Module()
        self._weights: dict[str, nn.Parameter] = {}
        self._masks: dict[str, Tensor] = {}
        self._survivors: Survivors | None = None
        self._gathered_zeros: dict[str, str] | None = None

    @classmethod
    def holding(
        cls, model: nn.Module, *, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
    ) -> "PruningCallback":
        """One that holds the zeros that a model has, such as those of `prune_`, while it trains.

        Raises:
            ValueError: there are none.
        """
        sparsity = sparsity_of(prunable_weights(model, include=include, exclude=exclude))
        if sparsity == 0:
            raise ValueError("The model has no zeros to hold. Prune it first, with prune_(model, sparsity).")
        # By magnitude, so much of the weights is just what is 0 already.
        return cls(sparsity, schedule="constant", begin=0, end=0, include=include, exclude=exclude)

    # ---- the Trainer's events ----

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Find the weights; prune them where the schedule begins at once; take up the masks of a resumed run."""
        model = kwargs["model"]
        refuse_unsupported(args, model)
        check_not_converted(model, "pruned")
        self._model = model
        self._weights = prunable_weights(model, include=self.include, exclude=self.exclude)
        check_weights(model, self._weights, self.method)
        self._evidence = self._find_evidence(resumed=state.global_step > 0, **kwargs)
        saved = self._begin(args, state)
        join_pruning(model, state, self)
        drop_stale_record_(model)
        self._survivors, self._masks = None, {}
        if saved is not None:
            self._restore(saved)
        elif self.timing.updates_at(0):
            self._update(0)
        self._apply()

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Add up how the gradients move the weights, for the score that learns from it."""
        for name, score in self._evidence.learned.items():
            gradient = self._weights[name].grad
            if gradient is not None:
                # A loss scaled too high for float16 overflows now and then; the optimizer skips that step.
                score.add_(movement(self._weights[name], gradient).nan_to_num(0.0, 0.0, 0.0))

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Update the masks where the schedule says so, and apply them to the weights just trained."""
        step = state.global_step + 1
        for name, score in self._evidence.learned.items():
            # Only now: an optimizer takes a state that is not empty for its own.
            if self._weights[name].grad is not None:
                kwargs["optimizer"].state[self._weights[name]][MOVEMENT] = score
        # The step has moved what is pruned, which would be judged, and judge others, as if it had come back.
        self._apply()
        if self.timing.updates_at(step):
            self._update(step)
            self._apply()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Say so when training ended before the final sparsity."""
        leave(self._model, self)
        if state.global_step < self.timing.final_step:
            logger.warning(
                "Training ended at step %d, before the final sparsity of step %d: the model is %.1f %% sparse, not "
                "%.1f %%.",
                state.global_step,
                self.timing.final_step,
                100 * self._sparsity(),
                100 * self.sparsity,
            )

    # ---- the masks ----

    def _update(self, step: int) -> None:
        share = self.sparsity * self.timing.share_at(step)
        if not share:
            return
        self._find_survivors()
        prune = prune_weights_ if self._survivors is None else partial(prune_survivors_, survivors=self._survivors)
        self._masks = prune(self._model, self._weights, share, method=self.method, evidence=self._evidence)

    def _find_survivors(self) -> None:
        self._survivors = survivors_of(self._model, self._weights, known=self._survivors)

    def _find_evidence(self, *, resumed: bool, optimizer: Any, train_dataloader: Any, **_: Any) -> Evidence:
        """What the scores need from the data and from the training so far."""
        if self.method.score == "movement":
            _check_trained(self._weights)
            # Beside the optimizer's moments, and so saved and resumed with them, in the layout of the weights.
            stored = {name: optimizer.state.get(weight, {}).get(MOVEMENT) for name, weight in self._weights.items()}
            if resumed and not in_shards(self._model) and not any(one is not None for one in stored.values()):
                raise ValueError(
                    "The checkpoint does not hold what score='movement' has learned, which is kept with the optimizer, "
                    "so no run can resume from it. Save without save_only_model=True; to prune the model that is "
                    "there, load it and train without resume_from_checkpoint."
                )
            learned = {
                name: _learned_so_far(weight, stored[name], resumed=resumed) for name, weight in self._weights.items()
            }
            return Evidence(learned=learned)
        if not self.method.calibrated:
            return Evidence()
        batches = self._batches_for(self._model, train_dataloader, labeled=self.method.differentiates)
        return Evidence(batches)

    def _apply(self) -> None:
        with torch.no_grad():
            for name, mask in self._masks.items():
                self._weights[name].mul_(mask)
        # One process alone asks for the state when a checkpoint is written, and could not gather shards then.
        sharded = any(is_sharded(weight) for weight in self._weights.values())
        self._gathered_zeros = self._unpruned_zeros() if sharded else None

    def _unpruned_zeros(self) -> dict[str, str]:
        """The places where a weight is 0 but not pruned: packed, by name, for the weights that have any."""

        def zeros(name: str) -> Tensor:
            return (self._weights[name] == 0) & self._masks[name]

        found = anywhere(zeros(name) for name in self._masks)
        return {name: packed(whole(zeros(name))) for name, has in zip(self._masks, found, strict=True) if has}

    def _achieved(self) -> dict[str, float]:
        if not self._weights:
            return {}
        self._find_survivors()
        return {"sparsity": self._sparsity()}

    def _sparsity(self) -> float:
        """The share of zeros among the weights that will not be cut, over all processes' shards."""
        if self._survivors is not None:
            return self._survivors.sparsity_of(self._weights)
        zeros = sum(int(whole((weight == 0).sum())) for weight in self._weights.values())
        return zeros / sum(weight.numel() for weight in self._weights.values())

    # ---- resuming ----

    def _recipe(self) -> dict[str, Any]:
        return {
            "sparsity": self.sparsity,
            "pattern": self.method.pattern,
            "score": self.method.score,
            "include": self.include and list(self.include),
            "exclude": self.exclude and list(self.exclude),
        } | self.timing.recipe()

    def _progress(self) -> dict[str, Any]:
        """What the zeros of a checkpoint do not say about the masks.

        A pruned weight is 0 there. So the mask is where the weight is not 0, plus the weights that are 0 by chance:
        almost always none.
        """
        zeros = self._unpruned_zeros() if self._gathered_zeros is None else self._gathered_zeros
        return {"masked": bool(self._masks), "unpruned_zeros": zeros}

    def _restore(self, saved: PruningProgress) -> None:
        if saved.masked:
            for name, weight in self._weights.items():
                self._masks[name] = weight.detach() != 0
                if name in saved.unpruned_zeros:
                    zeros = self._restored(partial(unpacked, like=weight), saved.unpruned_zeros[name])
                    self._masks[name] |= laid_out_like(zeros, weight)


def _learned_so_far(weight: nn.Parameter, stored: Tensor | None, *, resumed: bool) -> Tensor:
    """The scores that the optimizer's state holds for a weight; 0 at the beginning."""
    if not resumed or not is_sharded(weight):
        return torch.zeros_like(weight) if stored is None else stored
    # FSDP gives each process its part of the state that it knows the optimizer to keep. From a full checkpoint, the
    # first process alone gets everything else, whole; from one in shards, nobody does.
    values = torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device) if stored is None else whole(stored)
    found = torch.tensor(float(stored is not None), device=weight.device)
    same_everywhere_([found, values])
    if not found:
        raise ValueError(
            "A checkpoint in shards does not hold what score='movement' has learned, so no run can resume from it. "
            "Save whole ones: fsdp_config={'version': 2, 'state_dict_type': 'FULL_STATE_DICT', ...}."
        )
    return laid_out_like(values, weight)


def _check_trained(weights: dict[str, nn.Parameter]) -> None:
    for name, weight in weights.items():
        if not weight.requires_grad:
            raise ValueError(
                f"score='movement' learns from gradients, and {name} does not train. Leave frozen layers out with "
                f"exclude={[name.removesuffix('.weight')]}, or use the score magnitude."
            )


def _check_evidence(method: Method, calibration: Any, *, begins_at_once: bool) -> None:
    if calibration is not None and not method.calibrated:
        raise ValueError(
            f"calibration= would be ignored: score={method.score!r} needs no calibration data. Leave it out."
        )
    if method.score == "movement" and begins_at_once:
        raise ValueError(
            "score='movement' is learned while the model trains, and nothing is learned yet at the beginning. Use the "
            "schedule 'cubic' or 'linear', or a later begin="
        )
