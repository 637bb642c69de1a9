"""Quantization-aware training: a model that learns with the rounding that it will have."""

import copy
import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import TrainerState, TrainingArguments

from hf_compalign._trainer import of_first_process
from hf_compalign.compress.calibration import Batch
from hf_compalign.compress.callbacks.base import CompressionCallback
from hf_compalign.compress.callbacks.order import join_quantizing, leave, shrinking_of
from hf_compalign.compress.callbacks.timing import Timing
from hf_compalign.compress.quantize import (
    calibrate_,
    check_calibration,
    convert_,
    correct_,
    prepare_,
    quantizable_layers,
    ranges_of,
    scheme_of,
    set_ranges_,
    unprepare_,
)
from hf_compalign.compress.sharding import in_shards

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizationProgress:
    """How far a quantization is, as a checkpoint holds it."""

    span: tuple[int, int]
    ranges: Mapping[str, float] | None = None


class QuantizationCallback(CompressionCallback):
    """Trains a model with the rounding that it will have when it is quantized, with any `Trainer`.

    At a step of the training the model is prepared: from then on its layers compute with rounded weights and, by the
    scheme, rounded activations, while the optimizer goes on with the weights in float. Every checkpoint is thus an
    ordinary one that resumes exactly, and that `load_compressed` opens as the quantized model it stands for. When
    training ends the model is converted: what the Trainer evaluates and saves from then on is quantized.
    `load_best_model_at_end` only considers checkpoints of the prepared model.

    Pruning and shrinking can come first, or be under way: a pruned weight stays 0 when it is rounded, and a model is
    cut before it is converted, in any order of the callbacks. With int4 weights units cannot be cut. Several processes
    with DDP train the model that one process would train, except that each process has its own range of activations in
    a scheme that computes one per batch. FSDP and DeepSpeed are refused. https://huggingface.co/papers/1712.05877

    Args:
        scheme: how, as for `quantize_`: "onnxruntime-w8a8" is what ONNX Runtime's dynamic INT8 will compute.
        begin: share of all optimizer steps after which the model is prepared; 0 is before the first.
        calibration: for schemes that fix the ranges of the activations (quanto-...a8) and for reconstruct: batches as
            the model takes them, a DataLoader or a `datasets.Dataset`; by default 512 rows of the training data.
        reconstruct: whether the linear layers are corrected by least squares when the model is prepared, as by
            `quantize_`; the training then starts from there.
        include: patterns of names of layers to quantize; by default all but the classification head.
        exclude: patterns of names of layers to leave out.

    Raises:
        ValueError: an argument out of range, or one that would be ignored.
    """

    progress = QuantizationProgress

    def __init__(
        self,
        scheme: str,
        *,
        begin: float = 0.0,
        calibration: Iterable[Any] | None = None,
        reconstruct: bool = False,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
    ) -> None:
        self.scheme = scheme_of(scheme)
        if not 0 <= begin < 1:
            hint = f" Did you mean {begin / 100:g}?" if 1 < begin < 100 else ""
            raise ValueError(
                f"begin must be a share of the training in [0, 1). Got {begin:g}.{hint} To quantize a model when it is "
                "trained, use quantize_."
            )
        check_calibration(self.scheme, has_data=calibration is not None, reconstruct=reconstruct)
        self.reconstruct = reconstruct
        self.include = include
        self.exclude = exclude
        super().__init__(Timing("constant", begin, begin), calibration)
        self._batches: Sequence[Batch] = ()
        self._names: Sequence[str] = ()
        self._corrects = reconstruct  # when the model is prepared
        self._ranges: dict[str, float] | None = None
        # Of which model, so that none lives on for it.
        self._prepared: weakref.ref[nn.Module] | None = None
        self._ended: weakref.ref[nn.Module] | None = None
        self._finished: weakref.ref[nn.Module] | None = None

    # ---- the Trainer's events ----

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Check that the model can be quantized before anything is trained; restore the ranges of a resumed run."""
        model = kwargs["model"]
        self._check_training(args, model)
        saved = self._begin(args, state)
        self._names, self._ranges = self._find_layers(model), None
        # A run that is resumed before its preparation has none yet.
        was_prepared = saved is not None and (saved.ranges is not None or state.global_step >= self.timing.final_step)
        if was_prepared:
            self._ranges = self._restored(self._checked_ranges, saved.ranges)
        self._corrects = self.reconstruct and not was_prepared
        join_quantizing(model, state, self)
        if self._corrects or (self.scheme.calibrated and self._ranges is None):
            self._batches = self._batches_for(model, kwargs["train_dataloader"])

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Prepare the model where that comes first; the other callbacks have begun by now."""
        self.prepare_if_due(kwargs["model"], state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Prepare the model when it is time; the other callbacks have changed its weights by now."""
        super().on_step_end(args, state, control, **kwargs)
        if self._prepared is not None:
            self._silence(kwargs["model"])
        self.prepare_if_due(kwargs["model"], state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Convert the model, when it has been cut; say so when training ended before it was prepared."""
        model = kwargs["model"]
        self.prepare_if_due(model, state)
        if self._prepared is None:
            leave(model, self)
            logger.warning(
                "Training ended at step %d, before the model was to be prepared at step %d: it is not quantized. "
                "quantize_ does it without training.",
                state.global_step,
                self.timing.final_step,
            )
            return
        self._ended = weakref.ref(model)
        if shrinking_of(model) is None:
            self.after_cut()

    def prepare_if_due(self, model: nn.Module, state: TrainerState) -> None:
        """Prepare the model, unless it is or that comes later.

        A run that is resumed where its training had ended has no step to do it at.
        """
        if self._prepared is None and state.global_step >= self.timing.final_step:
            self._prepare(model)

    def after_cut(self) -> None:
        """Convert the model, if its training has ended: it has the sizes that it keeps."""
        model = None if self._ended is None else self._ended()
        if model is None:
            return
        convert_(model)
        leave(model, self)
        self._prepared, self._ended, self._finished = None, None, weakref.ref(model)

    # ---- the model ----

    def _find_layers(self, model: nn.Module) -> list[str]:
        """The names of the layers; all of them can be prepared."""
        if self._prepared is not None and self._prepared() is model:
            unprepare_(model)  # after a training that broke off
        self._prepared = self._ended = None
        names = list(quantizable_layers(model, self.scheme, include=self.include, exclude=self.exclude))
        # A missing package must fail now, and not in the middle of the training.
        prepare_(model, self.scheme, names)
        unprepare_(model)
        return names

    def _checked_ranges(self, ranges: Mapping[str, float] | None) -> dict[str, float] | None:
        """The ranges of a checkpoint; a ValueError if they are damaged, or of another model."""
        if not self.scheme.calibrated and ranges is None:
            return None
        wrong = {name: scale for name, scale in (ranges or {}).items() if name not in self._names or not scale > 0}
        if not ranges or wrong:
            raise ValueError(f"These are no ranges of the {len(self._names)} layers: {wrong or ranges!r:.200}.")
        return dict(ranges)

    def _prepare(self, model: nn.Module) -> None:
        self._silence(model)
        original = copy.deepcopy(model) if self._corrects else None
        prepare_(model, self.scheme, self._names)
        if self.scheme.calibrated:
            if self._ranges is None:
                calibrate_(model, self._batches)
                # What processes compute from the same values may differ in the last bits.
                self._ranges = of_first_process(lambda: ranges_of(model))
            set_ranges_(model, self._ranges)
        if original is not None:
            correct_(model, original, self._batches)
        self._batches = ()
        self._prepared = weakref.ref(model)

    def _silence(self, model: nn.Module) -> None:
        shrinking = shrinking_of(model)
        if shrinking is not None:
            shrinking.silence()

    def _check_training(self, args: TrainingArguments, model: nn.Module) -> None:
        """Refuse a training that would not end with a quantized model."""
        sharded = in_shards(model) or any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
        if sharded or args.deepspeed_plugin is not None:
            raise ValueError(
                f"Quantization-aware training does not work under {'FSDP' if sharded else 'DeepSpeed'}, where no "
                "process has whole weights to round. Use DDP or one process."
            )
        if self._finished is not None and self._finished() is model:
            raise ValueError(
                "This QuantizationCallback has quantized the model, and quantized weights cannot be trained like "
                "float ones. To train on, open a checkpoint of this training with from_pretrained of the model's "
                "class, and make a new Trainer."
            )
        if self.scheme.backend != "quanto":
            return
        if self.scheme.activations is None and (args.bf16 or args.fp16):
            raise ValueError(
                f"{self.scheme.name} cannot be trained in mixed precision: optimum-quanto multiplies gradients of one "
                "type by weights of another. Leave bf16 and fp16 out, or use a scheme of torchao."
            )
        if self.scheme.weights == "int4" and args.torch_compile:
            raise ValueError(
                f"{self.scheme.name} cannot be trained with torch_compile, which does not know optimum-quanto's packed "
                "weights. Leave torch_compile out, or use a scheme of torchao."
            )

    # ---- what is logged and saved ----

    def _achieved(self) -> dict[str, float]:
        return {"quantized_layers": 0 if self._prepared is None else len(self._names)}

    def _recipe(self) -> dict[str, Any]:
        return {
            "scheme": self.scheme.name,
            "begin": float(self.timing.begin),
            "reconstruct": self.reconstruct,
            "include": self.include and list(self.include),
            "exclude": self.exclude and list(self.exclude),
        }

    def _progress(self) -> dict[str, Any]:
        return {"ranges": self._ranges}
