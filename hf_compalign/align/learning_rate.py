"""Which learning rate to train with: a few short trainings from the compressed start, judged by mismatches."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import DefaultFlowCallback, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import IntervalStrategy

from hf_compalign._checks import check_whole
from hf_compalign._compat import twin
from hf_compalign._formats import count, number
from hf_compalign._tables import Table, as_text
from hf_compalign.align.agreement import Agreement, Gather, gathered_sums
from hf_compalign.align.losses import logits_loss
from hf_compalign.align.parts import values_of
from hf_compalign.align.start import answered_by_teacher
from hf_compalign.align.trainer import AlignedDistillationTrainer
from hf_compalign.models import random_state_kept
from hf_compalign.tasks import Items

RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)


@dataclass(frozen=True)
class RateTrial:
    """The student after some steps at one learning rate, compared with its teacher."""

    learning_rate: float  # 0: the start itself
    mismatches: int
    n: int  # items compared
    logit_error: float  # mean over items and classes of (z_t - z_s)^2


@dataclass(frozen=True)
class LearningRateSuggestion:
    """The learning rate to take, and what it was chosen by.

    >>> start, low, high = (RateTrial(rate, m, 900, e) for rate, m, e in [(0, 23, 0.2), (1e-5, 21, 0.1), (1e-3, 99, 4)])
    >>> print(LearningRateSuggestion(1e-5, start, (low, high)))
    learning rate  mismatches of 900  logit error
    start                         23          0.2
    1e-05                         21          0.1
    0.001                         99            4
    Suggested: 1e-05.
    """

    value: float
    start: RateTrial
    trials: tuple[RateTrial, ...]

    @classmethod
    def of(cls, start: RateTrial, trials: Sequence[RateTrial]) -> "LearningRateSuggestion":
        """The suggestion that follows from the trials, by the rule of `suggest_learning_rate`."""
        best = _best([start, *trials])
        lowest = min(trial.learning_rate for trial in trials)
        return cls(lowest if best is start else best.learning_rate, start, tuple(trials))

    @property
    def helps(self) -> bool:
        """Whether training at this rate is better than the start."""
        return _best([self.start, *self.trials]) is not self.start

    def __str__(self) -> str:
        table = Table.of(
            "",
            [vars(trial) for trial in (self.start, *self.trials)],
            [
                ("learning rate", "learning_rate", lambda rate: f"{rate:g}" if rate else "start"),
                (f"mismatches of {count(self.start.n)}", "mismatches", count),
                ("logit error", "logit_error", number),
            ],
        )
        verdict = f"Suggested: {self.value:g}."
        if not self.helps:
            verdict = (
                "Training would undo the start: no rate makes the student more like its teacher. "
                f"The lowest, {self.value:g}, is the least harm; lower rates= and more steps= may find a better one."
            )
        return f"{as_text(table)}\n{verdict}"


def suggest_learning_rate(
    trainer: AlignedDistillationTrainer, *, rates: Sequence[float] = RATES, steps: int = 30, rows: int = 1000
) -> LearningRateSuggestion:
    """Try learning rates on copies of the student, and say which one keeps most of its teacher's answers.

    Each rate trains the same start, which the trainer's callbacks have compressed once, for some steps at that constant
    rate, on the trainer's first batches, with its loss and optimizer. The trainer stays as it is, to the bit, so that

        trainer.args.learning_rate = suggest_learning_rate(trainer).value
        trainer.train()

    trains like one that had this rate from the start. Callbacks other than the compressing ones do not run.

    The rule: few items tell few rates apart by their mismatches. So of the start and the trials whose mismatches are
    within one standard error of the fewest, m + sqrt(m (1 - m / n)) with m at least 1 in the root, the one with the
    lowest logit error is best. Where that is the start, training would undo it, and the lowest rate is suggested.

    Args:
        trainer: built, and not trained yet; with a teacher or its cached logits in the evaluation data.
        rates: the learning rates to try.
        steps: optimizer steps at each.
        rows: at most so many rows of each evaluation dataset are compared, evenly spaced; a dataset that is no
            `datasets.Dataset` is compared as a whole.

    Raises:
        ValueError: the trainer cannot be used for it, or an argument is out of range.
    """
    _check(trainer, rates)
    check_whole("steps", steps, least=1)
    check_whole("rows", rows, least=1)
    given: Any = trainer.eval_dataset
    datasets = [_spaced(one, rows) for one in (given.values() if isinstance(given, dict) else [given])]
    rates = sorted({*rates})
    callbacks = [copy.copy(one) for one in trainer.callback_handler.callbacks if hasattr(one, "final_step")]
    copied = twin(trainer, _arguments(trainer.args, epochs=len(rates)), [DefaultFlowCallback(), *callbacks])
    copied.compute_metrics = None
    loader: Callable[[], DataLoader[Any]] = copied.get_train_dataloader
    n_batches = steps * trainer.args.gradient_accumulation_steps
    vars(copied)["get_train_dataloader"] = lambda: _FirstBatches(loader(), n_batches)
    test = _RangeTest(copied, rates, datasets)
    copied.add_callback(test)
    accelerator = trainer.accelerator
    scaler = accelerator.scaler and copy.deepcopy(accelerator.scaler.state_dict())
    try:
        # At the end the trainer would stop a training whose loss became infinite, as it may at too high a rate.
        with random_state_kept(), suppress(FloatingPointError):
            copied.train()
    finally:
        accelerator.free_memory()
        if scaler:
            accelerator.scaler.load_state_dict(scaler)
    start, *trials = test.trials
    return LearningRateSuggestion.of(start, trials)


def _best(trials: Sequence[RateTrial]) -> RateTrial:
    finite = [trial for trial in trials if math.isfinite(trial.logit_error)]
    if not finite:
        raise ValueError("The start's logits or its teacher's are not finite. Look at both models' outputs first.")
    n, fewest = finite[0].n, min(trial.mismatches for trial in finite)
    most = fewest + math.sqrt(max(fewest, 1) * (1 - fewest / n))
    return min((one for one in finite if one.mismatches <= most), key=lambda trial: trial.logit_error)


class _RangeTest(TrainerCallback):
    """Makes every epoch of a training begin at the first one's start, with a learning rate of its own."""

    def __init__(self, trainer: Any, rates: Sequence[float], datasets: Sequence[Any]) -> None:
        self.trials: list[RateTrial] = []
        self._trainer, self._rates, self._datasets = trainer, rates, datasets
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._optimizer: Any = None

    @property
    def _rate(self) -> float:
        return self._rates[len(self.trials) - 1]

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Keep the start and measure it; then go back to it."""
        if not self.trials:
            self._check_compressed()
            self._keep(kwargs["model"], kwargs["optimizer"])
            self._measure(0.0)
        with torch.no_grad():
            for tensor, value in self._tensors:
                tensor.copy_(value)
        kwargs["optimizer"].load_state_dict(copy.deepcopy(self._optimizer))
        state.global_step = 0
        set_seed(args.seed)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Set the rate, whatever the schedule says."""
        for group in kwargs["optimizer"].param_groups:
            group["lr"] = self._rate

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Measure what the rate has made of the start."""
        self._measure(self._rate)

    def _keep(self, model: nn.Module, optimizer: Any) -> None:
        for module in (model, self._trainer.weighting):
            tensors = chain(module.parameters(), module.buffers())
            self._tensors += [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._optimizer = copy.deepcopy(optimizer.state_dict())

    def _measure(self, rate: float) -> None:
        tally = self._trainer._agreement = _Tally()
        for dataset in self._datasets:
            self._trainer.evaluate(dataset)
        mismatches, error, n = tally.sums.tolist()
        self.trials.append(RateTrial(rate, int(mismatches), int(n), error / n))

    def _check_compressed(self) -> None:
        for callback in self._trainer.callback_handler.callbacks:
            if getattr(callback, "final_step", 0) > 0:
                raise ValueError(
                    f"The {type(callback).__name__} compresses while the model trains, so there is no compressed start "
                    "to try learning rates from. Let it compress at once, by schedule='constant' and begin=0."
                )


class _Tally(Agreement):
    """The mismatches, the squared error of the logits and the items, summed over evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = torch.zeros(3, dtype=torch.float64)

    def add(self, items: Items, teacher: Tensor, gather: Gather) -> None:
        """Sum up a batch, of all processes' examples."""
        differ = items.logits.argmax(-1) != teacher.argmax(-1)
        (errors,) = values_of([logits_loss], items.logits, teacher, items.labels)
        self.sums += gathered_sums([differ, errors, items.mask], items.mask, gather)


class _FirstBatches:
    """The first batches of a loader, the same in every epoch; those of its next epochs follow where it has too few."""

    def __init__(self, loader: Any, n_batches: int) -> None:
        self.dataset, self.collate_fn = loader.dataset, loader.collate_fn  # what calibration data are taken from
        self._loader, self._n_batches = loader, n_batches

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[Any]:
        return islice(chain.from_iterable(map(self._epoch, range(self._n_batches))), self._n_batches)

    def _epoch(self, epoch: int) -> Any:
        if hasattr(self._loader, "set_epoch"):
            self._loader.set_epoch(epoch)
        return self._loader


def _spaced(dataset: Any, most: int) -> Any:
    if not hasattr(dataset, "select"):
        return dataset
    n = min(most, len(dataset))
    return dataset.select([index * len(dataset) // n for index in range(n)])


def _arguments(args: TrainingArguments, *, epochs: int) -> TrainingArguments:
    """Those of a training that is nothing but steps."""
    args = copy.copy(args)
    args.num_train_epochs, args.max_steps = epochs, -1
    args.eval_strategy = args.save_strategy = args.logging_strategy = IntervalStrategy.NO
    args.eval_on_start = args.load_best_model_at_end = args.push_to_hub = False
    return args


def _check(trainer: Any, rates: Sequence[float]) -> None:
    if not isinstance(trainer, AlignedDistillationTrainer):
        raise ValueError(
            f"A suggestion is about an AlignedDistillationTrainer, which knows a teacher. Got {type(trainer).__name__}."
        )
    if not trainer.task.categorical:
        raise ValueError(
            "A suggestion counts mismatches of classes, and a regression answers with numbers. Try a few rates, and "
            "compare eval_rms_shift."
        )
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise ValueError(f"rates must be finite numbers > 0. Got {list(rates)}. The default is {list(RATES)}.")
    if trainer.eval_dataset is None:
        raise ValueError(
            "A suggestion needs an evaluation set to count mismatches on. Give the trainer an eval_dataset=, other "
            "rows than the training's and than those of the final audit."
        )
    if not answered_by_teacher(trainer):
        raise ValueError(
            "A suggestion needs the teacher's answers to the evaluation set. Pass teacher= to the trainer, or fill the "
            "column of the dataset with cache_teacher_logits."
        )
    if trainer.state.global_step > 0:
        raise ValueError(
            f"The trainer has trained for {trainer.state.global_step} steps, so its model is no start. Ask for a "
            "suggestion before train(); with resume_from_checkpoint, take the learning rate of the checkpoint's run."
        )
    if trainer.optimizer is not None or trainer.lr_scheduler is not None:
        raise ValueError(
            "An optimizer given with optimizers= belongs to the trainer's own model, and a suggestion trains copies. "
            "Leave it out and choose with TrainingArguments(optim=...)."
        )
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "A suggestion copies the model, which FSDP and DeepSpeed keep in parts. Ask for one in one process or with "
            "DDP, and train with that rate."
        )
