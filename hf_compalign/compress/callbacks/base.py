"""What the callbacks share: their calibration data, their numbers in the log, and how they resume."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_compalign._compat import add_to_log, forget_best, stored_states
from hf_compalign._files import built_from
from hf_compalign._records import built
from hf_compalign._trainer import changes
from hf_compalign.compress.calibration import Batch, calibration_batches, training_batches
from hf_compalign.compress.callbacks.timing import Timing

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class _Stored:
    """The state of a callback in trainer_state.json."""

    args: Mapping[str, Any]
    progress: Mapping[str, Any] | None = None


class CompressionCallback(TrainerCallback, ExportableState, ABC):
    """A callback that compresses on a schedule; calibration data that are None are rows of the training data."""

    # A dataclass of what `state` calls the progress.
    progress: ClassVar[type]

    def __init__(self, timing: Timing, calibration: Iterable[Any] | None) -> None:
        self.timing = timing
        self._calibration = calibration
        self._checkpoint = "checkpoint"  # and its folder, of a resumed run

    @abstractmethod
    def _recipe(self) -> dict[str, Any]:
        """The arguments, as plain JSON values; a run resumes with the same."""

    @abstractmethod
    def _progress(self) -> dict[str, Any]:
        """What a resumed run needs besides, as plain JSON values."""

    @abstractmethod
    def _achieved(self) -> dict[str, float]:
        """The numbers that stand beside the training loss."""

    @property
    def final_step(self) -> int:
        """The first optimizer step after which all is done: from there on a model can be the best one."""
        return self.timing.final_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Let the evaluation that follows be the first that counts, up to the step after which all is done.

        Without a best model, the patience of an EarlyStoppingCallback starts again.
        """
        if state.global_step <= self.timing.final_step:
            forget_best(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Let no checkpoint be the best model before all is done, also where the training is stopped there."""
        if state.global_step < self.timing.final_step:
            forget_best(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Put what is achieved beside the training loss."""
        logs = kwargs["logs"]
        if "loss" in logs:
            achieved = self._achieved()
            logs.update(achieved)
            add_to_log(state, achieved)

    def card_section(self) -> str:
        """What the model card of an `AlignedDistillationTrainer` says of it."""
        given = {name: value for name, value in self._recipe().items() if value not in (None, False, 0)}
        return (
            f"## {type(self).__name__}\n\n{', '.join(f'`{name}` {value}' for name, value in given.items())}. "
            "`hf_compalign.load_compressed` opens the model."
        )

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into trainer_state.json."""
        progress = {"span": list(self.timing.span)} | self._progress()
        return {"args": self._recipe(), "attributes": {}, "progress": progress}

    def _begin(self, args: TrainingArguments, state: TrainerState) -> Any:
        """Lay the schedule over the training that begins; the progress of a resumed run, else None."""
        # The Trainer does not tell the folder, but this is its name unless the checkpoint was moved.
        folder = Path(args.output_dir or "", f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        self._checkpoint = f"checkpoint {folder}" if (folder / TRAINER_STATE_NAME).is_file() else "checkpoint"
        # A checkpoint from before the first step is there because it was the best one.
        resumed = state.global_step > 0 or state.best_global_step is not None
        saved = self._saved(state) if resumed else None
        self.timing = self.timing.over(state.max_steps)
        if saved is not None:
            self.timing.check_resumed(saved.span, self._checkpoint)
            if state.global_step < self.timing.final_step:
                forget_best(state)
        return saved

    def _saved(self, state: TrainerState) -> Any:
        """The progress that a checkpoint holds."""
        name, recipe = type(self).__name__, self._recipe()
        stored = [self._restored(partial(built, _Stored), one) for one in stored_states(state, name)]
        # Of the states with the same arguments, the last is that of the checkpoint.
        own = [one.progress for one in stored if one.args == recipe and one.progress is not None]
        if own:
            return self._restored(partial(built, self.progress), own[-1])
        if not stored:
            raise ValueError(
                f"The {self._checkpoint} was made without a {name}, so this run cannot resume from it. To compress it, "
                "load the model from it and train without resume_from_checkpoint."
            )
        raise ValueError(
            f"The {self._checkpoint} was made with another {name}: {changes(stored[-1].args, recipe)}. Resume with the "
            "same, or load the model from the checkpoint and train without resume_from_checkpoint."
        )

    def _restored(self, build: Callable[[Any], _Made], stored: Any) -> _Made:
        """What ``build`` makes of something in the checkpoint's trainer_state.json; a ValueError if it is damaged."""
        where = f"{TRAINER_STATE_NAME} of the {self._checkpoint}"
        return built_from(where, build, stored, again="Resume from another checkpoint, or copy it again.")

    def _batches_for(self, model: nn.Module, loader: DataLoader[Any], *, labeled: bool = False) -> list[Batch]:
        """The calibration data: what the user gave, its labels read by name if needed; or some of the training data."""
        if self._calibration is None:
            return [*training_batches(loader, model)]
        return [*calibration_batches(self._calibration, model, labeled=labeled)]
