"""Removing heads, neurons and layers while a model trains."""

import logging
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from transformers import TrainerState, TrainingArguments

from hf_compalign._trainer import of_first_process
from hf_compalign.compress.calibration import Batch
from hf_compalign.compress.callbacks.base import CompressionCallback
from hf_compalign.compress.callbacks.order import before_cut, join_shrinking, leave
from hf_compalign.compress.callbacks.removal import Goal, PackedLayer, Removal, narrowed
from hf_compalign.compress.callbacks.schedules import Schedule
from hf_compalign.compress.callbacks.timing import Timing
from hf_compalign.compress.quantize import check_not_converted, drop_stale_record_
from hf_compalign.compress.reconstruction import reconstruct_
from hf_compalign.compress.record import was_cut
from hf_compalign.compress.sharding import in_shards, refuse_unsupported
from hf_compalign.compress.shrink import UNIT_SCORES, Budget, LayerScores, ShrinkPlan, unit_scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShrinkProgress:
    """How far a shrinking is, as a checkpoint holds it: where it goes, and what is left."""

    span: tuple[int, int]
    goal: Goal | None
    plan: tuple[PackedLayer, ...]


class ShrinkCallback(CompressionCallback):
    """Removes attention heads, neurons and layers while the model trains, with any `Trainer`.

    The first update decides how many units of each layer go in the end, by the budget. Each update decides which go
    next: those that matter least then. They are masked, so that every checkpoint is an ordinary one that resumes
    exactly; `load_compressed` opens it as the small model. When training ends the model is cut: what the Trainer
    evaluates and saves from then on is small. To train it on, make a new Trainer.

    `load_best_model_at_end` only considers checkpoints from which all is removed. Several processes with DDP remove the
    same units as one; with FSDP version 2 too, but there the model stays masked, and `load_compressed` cuts what is
    saved. With a `PruningCallback` in the same run, shrinking must be complete before pruning begins.

    Args:
        heads: share of the attention heads that go, in [0, 1), of the layers that stay.
        ffn: share of the neurons of the feed-forward parts that go, likewise.
        n_layers: how many whole layers go.
        target_flops: share of the dense model's FLOPs that may remain, in (0, 1], for the first calibration batch.
        target_latency: share of the dense model's latency that may remain, likewise, measured where the model is.
        uniform: whether all layers stay equally wide, as stock configs have it. Otherwise units are ranked across
            the layers.
        score: how units are ranked: "taylor", from calibration data, or "magnitude"; see `unit_scores`.
        schedule: "cubic", "linear" or "constant" (all at once), or a function from progress to share, both in [0, 1].
        begin: share of all optimizer steps at which the schedule begins.
        end: share of them at which it ends, and all is removed.
        every: optimizer steps between two updates; None makes about 20 updates.
        calibration: batches as the model takes them, a DataLoader or a `datasets.Dataset`; by default 512 rows of the
            training data.
        reconstruct: whether the layers that read the removed units are corrected by least squares at every update. Each
            update then takes as long as `shrink_`.

    Raises:
        ValueError: an argument out of range, with what is allowed.
    """

    progress = ShrinkProgress

    def __init__(  # noqa: PLR0913 - each option of the budget is one of the public verb
        self,
        *,
        heads: float = 0.0,
        ffn: float = 0.0,
        n_layers: int = 0,
        target_flops: float | None = None,
        target_latency: float | None = None,
        uniform: bool = False,
        score: str = "taylor",
        schedule: str | Schedule = "cubic",
        begin: float = 0.0,
        end: float = 0.5,
        every: int | None = None,
        calibration: Iterable[Any] | None = None,
        reconstruct: bool = False,
    ) -> None:
        self.budget = Budget(heads, ffn, n_layers, target_flops, target_latency, uniform)
        super().__init__(Timing(schedule, begin, end, every), calibration)
        self.score = score
        self.reconstruct = reconstruct
        if score not in UNIT_SCORES:
            raise ValueError(f"score must be one of {', '.join(UNIT_SCORES)}. Got {score!r}.")
        if calibration is not None and not self._needs_data:
            raise ValueError(
                "calibration= would be ignored: score='magnitude' and reconstruct=False need no data. Leave it out."
            )
        self._batches: Sequence[Batch] = ()
        self._removal: Removal | None = None
        self._goal: Goal | None = None
        self._finished: weakref.ref[nn.Module] | None = None

    @property
    def plan(self) -> ShrinkPlan | None:
        """What is left of the model in training; None while it is whole."""
        return self._removal.plan if self._removal is not None and self._removal.started else None

    @property
    def _needs_data(self) -> bool:
        return self.score == "taylor" or self.reconstruct or self.budget.target is not None

    # ---- the Trainer's events ----

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Check that the budget can be met; remove units if the schedule begins now; restore a resumed run."""
        model = kwargs["model"]
        refuse_unsupported(args, model)
        check_not_converted(model, "shrunk")
        self._check_training(args, model)
        saved = self._begin(args, state)
        join_shrinking(model, state, self)
        loader, labeled = kwargs["train_dataloader"], self.score == "taylor"
        self._batches = self._batches_for(model, loader, labeled=labeled) if self._needs_data else ()
        drop_stale_record_(model)
        removal = self._removal = Removal(model)
        if saved is not None:
            self._goal = saved.goal and self._restored(removal.checked_goal, saved.goal)
            removal.take(self._restored(removal.plan_of, saved.plan))
            removal.apply()
            return
        self._goal = None
        # Which units go depends on the scores; whether the budget can be met hardly does.
        self._goal_by(unit_scores(model, score="magnitude"), model)
        removal.take(removal.whole)
        if self.timing.updates_at(0):
            self._update(0)

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Under FSDP, give the optimizer a state for dropped layers too: it cannot load a checkpoint that lacks any."""
        if in_shards(kwargs["model"]):
            self._present.fill_gradients()

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Remove more where the schedule says so, and write the zeros into the weights just trained."""
        step = state.global_step + 1
        # The step has moved what is removed, and others would be judged as if it had come back.
        self._present.apply()
        if self.timing.updates_at(step):
            self._update(step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Cut the model, unless it is in shards; say so when training ended before all was removed."""
        model = kwargs["model"]
        self._end(state, model)
        leave(model, self)

    def silence(self) -> None:
        """Make removed units compute zeros, so that they do not widen the ranges of quantized values."""
        self._present.silence()

    # ---- what goes ----

    @property
    def _present(self) -> Removal:
        if self._removal is None:
            raise RuntimeError("The Trainer did not call on_train_begin.")
        return self._removal

    def _end(self, state: TrainerState, model: nn.Module) -> None:
        removal = self._present
        if state.global_step < self.timing.final_step:
            logger.warning(
                "Training ended at step %d, before the last removal at step %d: only %s.",
                state.global_step,
                self.timing.final_step,
                ", ".join(f"{name} = {value:.3g}" for name, value in self._achieved().items()),
            )
        if not removal.started:
            return
        if in_shards(model):
            logger.warning(
                "The model is in shards and stays masked. Its answers are those of the small one, and what the Trainer "
                "saves is cut by hf_compalign.load_compressed(folder)."
            )
            return
        before_cut(model, state)
        removal.cut()
        self._finished = weakref.ref(model)

    def _update(self, step: int) -> None:
        share = self.timing.share_at(step)
        if not share:
            return
        removal = self._present
        model = removal.model
        scores = unit_scores(model, self._batches, score=self.score)
        goal = self._goal or self._goal_by(scores, model)
        plan = narrowed(removal.plan, goal, scores, whole=removal.whole, share=share)
        # What processes compute from the same values may differ in the last bits, and so in the order of ties.
        self._goal, plan = of_first_process(lambda: (goal, plan))
        removal.take(plan)
        masks = removal.masks() if self.reconstruct else {}
        if masks:
            reconstruct_(model, masks, self._batches)
        removal.apply()

    def _goal_by(self, scores: Sequence[LayerScores], model: nn.Module) -> Goal:
        return Goal.of(model, scores, self.budget, inputs=self._batches[0] if self._batches else None)

    def _check_training(self, args: TrainingArguments, model: nn.Module) -> None:
        """Refuse a training that would not end with a small model."""
        if self._finished is not None and self._finished() is model:
            raise ValueError(
                "This ShrinkCallback has cut the model, and the Trainer's optimizer still holds the weights of before. "
                "To train the small model, make a new Trainer, without the callback or with another."
            )
        sharded = in_shards(model)
        if sharded and self.budget.target is not None:
            raise ValueError(
                f"{self.budget.target[0]} needs a model that is whole in each process, and under FSDP it is not. Give "
                "shares instead (heads=, ffn=, n_layers=), or use DDP."
            )
        if was_cut(model) and (sharded or self.budget.n_layers):
            raise ValueError(
                "The model was shrunk before, to widths of its own. More heads and neurons can be removed with this "
                "callback, but no layers, and not under FSDP. Remove them with shrink_ before the training."
            )
        # Without this DDP waits for the gradients of layers that no longer take part.
        asked = args.ddp_find_unused_parameters
        checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        finds = not checkpointing if asked is None else asked
        if self.budget.n_layers and not sharded and args.world_size > 1 and not finds:
            raise ValueError(
                "Layers can be dropped under DDP only with TrainingArguments(ddp_find_unused_parameters=True), which "
                f"is {asked} here, and off by default with gradient checkpointing. Set it."
            )

    def _achieved(self) -> dict[str, float]:
        return {} if self._removal is None else self._removal.shares()

    # ---- resuming ----

    def _recipe(self) -> dict[str, Any]:
        return asdict(self.budget) | {"score": self.score, "reconstruct": self.reconstruct} | self.timing.recipe()

    def _progress(self) -> dict[str, Any]:
        """What is left, and where it goes."""
        return {"goal": self._goal and self._goal.to_dict(), "plan": self._removal and self._removal.to_list()}
