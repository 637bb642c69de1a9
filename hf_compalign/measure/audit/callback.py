"""Mismatches over training: an audit at every evaluation, logged beside the Trainer's own metrics."""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_compalign._compat import add_to_log
from hf_compalign._trainer import of_first_process
from hf_compalign.data import check_rows
from hf_compalign.measure.audit.auditing import audit
from hf_compalign.measure.audit.card import findings
from hf_compalign.measure.audit.comparing import checked_limits
from hf_compalign.measure.audit.opened import answers_of, groups_of_items
from hf_compalign.measure.audit.options import AuditOptions
from hf_compalign.measure.audit.record import Audit
from hf_compalign.measure.groups import Membership, attributes_of
from hf_compalign.measure.predictions import Asked, Columns, Predictions, ask, ids_of, reader_of
from hf_compalign.models import evaluating, random_state_kept
from hf_compalign.opening import model_fingerprint

if TYPE_CHECKING:
    from transformers import Trainer
    from transformers.trainer_callback import CallbackHandler

logger = logging.getLogger(__name__)

_LOGGED = ("mismatch_rate", "mismatch_rate_upper_bound", "agreement", "cie", "cie_u", "nfr", "accuracy_change", "kl")


class AuditCallback(TrainerCallback):
    """Audits the model at every evaluation of any `Trainer`, against a reference.

    ``log_history`` and the metrics that `evaluate` returns get the numbers as ``eval_audit_mismatch_rate``,
    ``_mismatch_rate_upper_bound``, ``_agreement``, ``_cie``, ``_nfr``, ``_cie_u``, ``_accuracy_change`` (with labels),
    ``_kl``, ``_group_mismatch_gap`` (with groups; of the attribute with the largest gap) and ``_passed`` (with limits;
    1 or 0). So ``metric_for_best_model="audit_mismatch_rate"`` with ``greater_is_better=False`` keeps the model that
    changed least. An `EarlyStoppingCallback` that reads them comes after this one in ``callbacks=``. The trackers in
    ``report_to`` get them after ``AuditCallback(...).attach(trainer)``. An `AlignedDistillationTrainer` attaches all
    of its callbacks.

    The callback audits once before training, to refuse then what cannot work, and to prepare the rows. An evaluation
    only runs the model on them, ``per_device_eval_batch_size`` at a time. Where the Trainer evaluates on several
    datasets, the model is audited once, and the numbers stand beside the metrics of each. The trained weights are to
    the bit those of a training without the callback.

    With several processes the first one audits and the others wait. They wait longest before training, when the
    reference predicts too: ``ddp_timeout`` must be longer than that. The callback refuses FSDP and DeepSpeed.

    Args:
        reference: the model to preserve: its `Predictions` on the dataset or an .npz file of them; or a model, a path
            or a Hub id, which predicts once, before training.
        dataset: what both are asked: raw texts or images, or prepared rows.
        groups: as for `hf_compalign.audit`, like ``limits``.
        options: as for `hf_compalign.audit`, by default with ``max_items=100``. Without a ``processing_class`` there
            the model has the Trainer's, and the reference the one beside its path, or the Trainer's.
        prefix: the beginning of the names, after ``eval_``; another one for each callback of a Trainer.

    Raises:
        ValueError: a limit, dataset or prefix that cannot be; before training: whatever `predict` and
            `hf_compalign.audit` refuse, or a model in shards.

    Attributes:
        latest: the whole `Audit` of the last evaluation, on the first process alone.
    """

    def __init__(
        self,
        reference: Predictions | PreTrainedModel | str | Path,
        dataset: Dataset,
        *,
        groups: Membership | Mapping[str, Membership] | None = None,
        limits: Mapping[str, float] | None = None,
        options: AuditOptions | None = None,
        prefix: str = "audit",
    ) -> None:
        if not prefix:
            raise ValueError("prefix must be the beginning of a name, such as 'audit'. Got ''.")
        check_rows(dataset)
        self.options = options or AuditOptions(max_items=100)
        self.limits = checked_limits(limits or {}, grouped=groups is not None or bool(self.options.bins))
        self.latest: Audit | None = None
        self._reference = reference
        self._dataset = dataset
        self._groups = groups
        # The Trainer looks for its metric_for_best_model under "eval_", and trackers make a section of it.
        self._names = f"eval_{prefix}_"
        self._handler: CallbackHandler | None = None
        self._asked: Asked | None = None
        self._attributes: dict[str, Membership] = {}
        self._step = -1  # of the latest audit

    def attach(self, trainer: "Trainer") -> "AuditCallback":
        """Let the trackers of a Trainer see the numbers; the callback becomes one of its callbacks if it is not yet.

        An `AlignedDistillationTrainer` attaches its callbacks itself.
        """
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        self._handler = trainer.callback_handler
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the reference predict, prepare the rows, and refuse what an audit would refuse later."""
        self.latest = self._asked = None
        self._numbers(args, state, **kwargs)
        self.latest = None
        if self._handler is None and args.report_to and state.is_world_process_zero:
            logger.warning(
                "AuditCallback is not attached to its Trainer, so only log_history and the metrics get its numbers. "
                "For %s to get them too, say AuditCallback(...).attach(trainer).",
                ", ".join(args.report_to),
            )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Audit, and put the numbers where the metrics of the evaluation are."""
        numbers = self._numbers(args, state, **kwargs)
        kwargs["metrics"].update(numbers)
        add_to_log(state, numbers)
        if self._handler is not None:
            # The metrics were logged before this event: only a line of its own reaches the trackers.
            self._handler.on_log(args, state, control, logs=numbers | {"epoch": state.epoch})

    def card_section(self) -> str:
        """What the model card of an `AlignedDistillationTrainer` says of the last audit; empty without one."""
        if self.latest is None:
            return ""
        n, changed = self.latest.n, self.latest.metrics["cie"]
        return (
            "## Is it still the same model?\n\n"
            f"At the last evaluation, after {self._step} steps, it answered {n - changed} of {n} items like the "
            f"reference and {changed} differently.\n\n{findings(self.latest)}"
        )

    def _numbers(
        self,
        args: TrainingArguments,
        state: TrainerState,
        *,
        model: PreTrainedModel,
        processing_class: Any = None,
        **_: Any,
    ) -> dict[str, float]:
        """Whole name -> number, the same on every process."""
        _refuse_shards(args, model)

        def measured() -> dict[str, float]:
            found, is_new = self.latest, self._step != state.global_step
            # After training, the best model may have taken the place of the last one, at the same step.
            if found is None or is_new or found.candidate.model_fingerprint != model_fingerprint(model):
                with random_state_kept(), evaluating(model):
                    found = self._audit(args, model, processing_class)
            self.latest, self._step = found, state.global_step
            return _logged(found)

        return {f"{self._names}{name}": value for name, value in of_first_process(measured).items()}

    def _audit(self, args: TrainingArguments, model: PreTrainedModel, processing_class: Any) -> Audit:
        options = self.options
        batch_size = options.batch_size or args.per_device_eval_batch_size
        own = options.processing_class or processing_class
        if not isinstance(self._reference, Predictions):
            its = options.processing_class if isinstance(self._reference, str | Path) else own
            asking = replace(options, batch_size=batch_size, processing_class=its)
            self._reference = answers_of(self._reference, self._dataset, asking)
        if self._asked is None:
            reader = reader_of(model, self._dataset, processing_class=own)
            self._asked = ask(reader, self._dataset, columns=options.columns, batch_size=batch_size)
            found = self._asked.answers
            # Columns are read once, not at every evaluation.
            columns = Columns.of(options.columns)
            attributes = attributes_of(self._groups, options.bins, self._dataset, text=columns.text)
            names = None
            if any(one.of_rows for one in attributes.values()):
                of_items = found.examples is None
                names = (found.ids if of_items else ids_of(self._dataset, reader.task, columns)).tolist()
            self._attributes = groups_of_items(attributes, names, self._reference)
        else:
            found = self._asked.again(model)
        return audit(
            self._reference,
            found,
            self._dataset if options.contents else None,
            groups=self._attributes or None,
            limits=self.limits,
            options=replace(options, bins=()),
        )


def _logged(found: Audit) -> dict[str, float]:
    """The numbers for the log, without those that need missing labels or groups."""
    gaps = [gap.mismatch_gap for gap in found.gaps if not math.isnan(gap.mismatch_gap)]
    numbers = {name: float(found.metrics[name]) for name in _LOGGED}
    numbers["group_mismatch_gap"] = max(gaps, default=math.nan)
    if found.limits:
        numbers["passed"] = float(found.passed)
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def _refuse_shards(args: TrainingArguments, model: PreTrainedModel) -> None:
    if (
        args.deepspeed_plugin is not None
        or any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
        or any(isinstance(parameter, DTensor) for parameter in model.parameters())
    ):
        raise ValueError(
            "AuditCallback runs the whole model on one process, and FSDP and DeepSpeed split it over several. "
            "Train with DDP, or audit the checkpoints: hf-compalign audit REFERENCE CHECKPOINT --dataset DATASET."
        )
