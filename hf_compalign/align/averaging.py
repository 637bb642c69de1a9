"""The weights of the last part of a training, averaged."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from hf_compalign._checks import check_whole
from hf_compalign._compat import forget_best, save_in_checkpoints
from hf_compalign._files import atomic_path, built_from, parsed
from hf_compalign._records import built
from hf_compalign._trainer import changes
from hf_compalign.align.interpolation import floating, widened, write_
from hf_compalign.align.scoring import eval_score

AVERAGE_FILE = "weight_average.safetensors"
KINDS = ("lawa", "ema")
DECAY = 0.99
# "lawa" averages about so many weights, unless `every` says otherwise.
SNAPSHOTS = 20

_RECORD = "averaging"  # in the file's metadata
_AFRESH = "To average, load the model from it and train without resume_from_checkpoint."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Stored:
    """What a checkpoint says of its average."""

    recipe: Mapping[str, Any]
    n_averaged: int


class WeightAveragingCallback(TrainerCallback):
    """Averages the weights of the last part of a training, and ends it with the average if that is no worse.

    While the model trains, evaluations and checkpoints have its own weights, which are those of a training without the
    callback. When the training ends, the average takes the place of the weights that the Trainer would have kept: the
    last, or those of the best checkpoint. Both are evaluated, and the average stays if its mismatch rate is no higher,
    or its loss where the Trainer compares with no teacher; without an eval dataset it stays. A last line of the log has
    both numbers, how many weights were averaged, and ``average_kept``, 1 or 0. If it is 1, the model is that of no
    checkpoint, and the state names none as the best.

    Trained weights and the statistics of batch norm are averaged, in float32 or their own type if that is wider: one
    more copy of them in memory, where they are, and two while the training ends. Averaging begins when the compressing
    callbacks of the training are done, and the average is put in before they cut or convert the model. What is 0 in
    the weights that it replaces stays 0. Each checkpoint holds it as ``weight_average.safetensors``, so that runs
    resume exactly. Several processes with DDP average alike; FSDP and DeepSpeed are refused.

    An `AlignedDistillationTrainer` takes it among its ``callbacks``. To another Trainer it is attached once that is
    made: ``WeightAveragingCallback().attach(trainer)``.

    Args:
        kind: "lawa", the mean over the weights after several steps (https://huggingface.co/papers/2209.14981); or
            "ema", average <- decay * average + (1 - decay) * weights, which begins with the first of them.
        begin: share of all optimizer steps after which averaging begins, in [0, 1).
        every: optimizer steps between two weights that are averaged, counted back from the last step. By default 1
            for "ema", and for "lawa" what makes about 20 of them.
        decay: of "ema", in (0, 1); by default 0.99.

    Raises:
        ValueError: an argument out of range, or one that would be ignored; before any training: the callback is not
            attached, or another one compresses up to the last step.
    """

    def __init__(
        self, kind: str = "lawa", *, begin: float = 0.5, every: int | None = None, decay: float | None = None
    ) -> None:
        _check_options(kind, begin, every, decay)
        self.kind = kind
        self.begin = begin
        self.every = every
        self.decay = DECAY if decay is None and kind == "ema" else decay
        self._trainer: Any = None  # until it is attached
        self._average: AveragedModel | None = None

    def attach(self, trainer: Trainer) -> "WeightAveragingCallback":
        """Let it evaluate with a Trainer and save in its checkpoints; it becomes the first of the Trainer's callbacks.

        An `AlignedDistillationTrainer` attaches its callbacks itself.

        Raises:
            ValueError: there is another one, or the Trainer splits the weights over its processes.
        """
        if self._trainer is trainer:
            return self
        handler = trainer.callback_handler
        others = [callback for callback in handler.callbacks if callback is not self]
        if any(isinstance(callback, WeightAveragingCallback) for callback in others):
            raise ValueError(
                "Two WeightAveragingCallbacks in one training would each replace what the other put in. Give one."
            )
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError(
                "WeightAveragingCallback evaluates and saves whole weights, and FSDP and DeepSpeed split them over the "
                "processes. Train with DDP, or leave the callback out."
            )
        # The average must be there before another callback cuts or converts the model.
        handler.callbacks = [self, *others]
        save_in_checkpoints(trainer, self._save, self._load)
        self._trainer = trainer
        return self

    # ---- the Trainer's events ----

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Begin without an average, unless the run is resumed with one."""
        if self._trainer is None or self._trainer.model is not kwargs["model"]:
            raise ValueError(
                "WeightAveragingCallback is not attached to the Trainer whose model it is to average. Once the Trainer "
                "is made, say WeightAveragingCallback(...).attach(trainer)."
            )
        if state.global_step == 0:
            self._average = None

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Refuse a training without weights to average; by now the other callbacks know when they are done."""
        done, callback = self._compressed()
        if done >= state.max_steps:
            raise ValueError(
                f"The {callback} compresses up to optimizer step {done} of {state.max_steps}, so there are no weights "
                "after it to average. Let it end earlier, with end=0.5 say, or leave the WeightAveragingCallback out."
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Take the weights into the average when it is time."""
        first = self._first_step(state)
        every = self.every or (1 if self.kind == "ema" else max(1, (state.max_steps - first + 1) // SNAPSHOTS))
        if state.global_step < first or (state.max_steps - state.global_step) % every:
            return
        weights = nn.ParameterList(widened(weight) for weight in self._weights(kwargs["model"]).values())
        if self._average is None:
            self._average = self._averaged(weights)
        self._average.update_parameters(weights)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Put the average in, and take it out again if it is worse."""
        average, self._average = self._average, None
        if average is None:
            logger.warning(
                "Training ended at step %d, before the first weights to average, those of step %d: it keeps its own.",
                state.global_step,
                self._first_step(state),
            )
            return
        weights = self._weights(kwargs["model"])
        own = {name: weight.detach().clone() for name, weight in weights.items()}
        numbers = {"averaged_weights": float(average.n_averaged), "average_kept": 1.0}
        before = eval_score(self._trainer)
        values = dict(zip(weights, average.module.parameters(), strict=True))
        write_(weights, {name: values[name].masked_fill(weight == 0, 0) for name, weight in own.items()})
        after = eval_score(self._trainer)
        if before is not None and after is not None:
            numbers |= {f"own_{before.metric}": before.value, f"average_{after.metric}": after.value}
            if not after.value <= before.value:
                numbers["average_kept"] = 0.0
                write_(weights, own)
        if numbers["average_kept"]:
            forget_best(state)  # the model is none of the checkpoints
        self._trainer.log(numbers)

    # ---- what is averaged, and when ----

    def _weights(self, model: nn.Module) -> dict[str, Tensor]:
        """What training changes, by name."""
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        return {name: weight for name, weight in floating(model).items() if name not in frozen}

    def _averaged(self, weights: nn.ParameterList) -> AveragedModel:
        """An average of weights such as these; of none of them yet."""
        update = get_swa_multi_avg_fn() if self.decay is None else get_ema_multi_avg_fn(self.decay)
        return AveragedModel(weights, multi_avg_fn=update)

    def _first_step(self, state: TrainerState) -> int:
        return max(1, math.ceil(self.begin * state.max_steps), self._compressed()[0] + 1)

    def _compressed(self) -> tuple[int, str]:
        """The step after which no callback compresses any more, and the class of the last that does; 0 without any."""
        others = [one for one in self._trainer.callback_handler.callbacks if hasattr(one, "final_step")]
        ends = [(one.final_step, type(one).__name__) for one in others]
        return max(ends, default=(0, ""))

    # ---- resuming ----

    def _recipe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "begin": float(self.begin),
            "every": self.every,
            "decay": self.decay,
            "n_steps": self._trainer.state.max_steps,
        }

    def _save(self, folder: Path) -> None:
        if not self._trainer.args.should_save:
            return
        tensors, n_averaged = {}, 0
        if self._average is not None:
            names, n_averaged = self._weights(self._trainer.model), int(self._average.n_averaged)
            values = zip(names, self._average.module.parameters(), strict=True)
            tensors = {name: value.detach().contiguous() for name, value in values}
        stored = json.dumps({"recipe": self._recipe(), "n_averaged": n_averaged})
        with atomic_path(folder / AVERAGE_FILE) as path:
            save_file(tensors, path, metadata={_RECORD: stored})

    def _load(self, folder: Path) -> None:
        path = folder / AVERAGE_FILE
        if not path.is_file():
            raise ValueError(
                f"The checkpoint {folder} was made without a WeightAveragingCallback: it has no {AVERAGE_FILE}, so no "
                f"run with one can resume from it. {_AFRESH}"
            )
        again = "Resume from another checkpoint, or copy this one again."
        stored, tensors = built_from(path, self._read, path, again=again)
        if changed := changes(stored.recipe, self._recipe()):
            raise ValueError(
                f"The checkpoint {folder} was made with another WeightAveragingCallback: {changed}. Resume with the "
                f"same. {_AFRESH}"
            )
        self._average = None
        if stored.n_averaged:
            self._average = self._averaged(nn.ParameterList(tensors))
            self._average.n_averaged.fill_(stored.n_averaged)

    def _read(self, path: Path) -> tuple[_Stored, list[Tensor]]:
        """The record and the average in a file, in the order of the model's weights; a ValueError if it is damaged."""
        weights = self._weights(self._trainer.model)
        try:
            with safe_open(path, "pt") as file:
                stored = built(_Stored, parsed((file.metadata() or {}).get(_RECORD, "")))
                if not stored.n_averaged:
                    return stored, []
                found = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except SafetensorError as error:
            raise ValueError(f"{error}.") from error
        wanted = {name: (widened(weight).dtype, weight.shape) for name, weight in weights.items()}
        if wanted != {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()}:
            raise ValueError("It is not the average of this model's weights.")
        return stored, [found[name].to(weight.device) for name, weight in weights.items()]


def _check_options(kind: str, begin: float, every: int | None, decay: float | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}. Got {kind!r}.")
    if not 0 <= begin < 1:
        hint = f" Did you mean {begin / 100:g}?" if 1 < begin < 100 else ""
        raise ValueError(f"begin must be a share of the training in [0, 1). Got {begin:g}.{hint}")
    if every is not None:
        check_whole("every", every, least=1)
    if decay is not None and kind != "ema":
        raise ValueError(f"decay={decay:g} would be ignored: it is of kind='ema'. Set that, or leave decay out.")
    if decay is not None and not 0 < decay < 1:
        raise ValueError(f"decay must be above 0 and below 1. Got {decay:g}. 0.99 averages about the last 100 weights.")
