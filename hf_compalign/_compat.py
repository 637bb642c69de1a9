"""All uses of what dependencies do not promise: why, where upstream, and when each can go.

tests/test_compat.py checks every entry against the installed versions.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds a tokenizer.

    Why: for a folder without one, AutoTokenizer makes up an empty one that knows no word.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/auto/tokenization_auto.py
    Ends: when it refuses such a folder, as transformers 4 did.
    """
    return any(any(folder.glob(pattern)) for pattern in ("*token*", "vocab*", "*.model"))


def image_processor_class() -> Any:
    """AutoImageProcessor, which reads images with Pillow where there is no torchvision.

    Why: transformers 5.17 exports a placeholder that asks for torchvision. The class in the file works without.
    Upstream: https://github.com/huggingface/transformers/pull/48616
    Ends: for `transformers.AutoImageProcessor`, when 5.17 is no longer supported.
    """
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return AutoImageProcessor


def exported_graph(exported: Any) -> Any:
    """The onnx_ir graph in the result of transformers' OnnxExporter.

    Why: up to 5.22 the result is torch's ONNXProgram with the graph as `model`; from 5.23 on, an ExportedModel with it
    as `program`.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/exporters
    Ends: for `exported.program`, when 5.22 is no longer supported.
    """
    return exported.program if hasattr(exported, "program") else exported.model


# ---- the Trainer ----


# Private methods of Trainer that AlignedDistillationTrainer overrides, with their parameters.
OVERRIDDEN: Mapping[str, tuple[str, ...]] = {
    # Why: a checkpoint must hold the alignment before trainer_state.json says that it is complete, and a learned
    #   weighting must be back before the first step. Events come later, and do not name the folder.
    # Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    # Ends: when Trainer has a public method or event to save more in a checkpoint.
    "_save_optimizer_and_scheduler": ("output_dir",),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    # Why: the Trainer loads a checkpoint's weights by the names in its file, though `save_pretrained` writes those of
    #   some models, such as Segformer, under other names; it warns, and goes on with the weights that it had.
    # Upstream: https://github.com/huggingface/transformers/issues/43701
    # Ends: when the Trainer turns such names back.
    "_issue_warnings_after_load": ("load_result",),
    # Why: the Trainer drops columns that the student does not take, such as the teacher's logits. This method fills
    #   `_signature_columns`, the columns to keep.
    # Upstream: https://github.com/huggingface/transformers/issues/43598
    # Ends: when a Trainer can be told which columns to keep.
    "_set_signature_columns_if_needed": (),
}


def loss_is_scaled(trainer: "Trainer") -> None:
    """Tell a Trainer that its loss is already divided by the count of a whole optimizer step.

    Why: otherwise it divides by the accumulation steps again. From 5.23 on `loss_is_scaled_for_ga` prevents that;
    before, a model that accepts loss arguments, together with a count.
    Upstream: https://github.com/huggingface/transformers/issues/47688
    Ends: `model_accepts_loss_kwargs`, and the count where there are no labels, with support of versions before 5.23.
    """
    trainer.loss_is_scaled_for_ga = True
    trainer.model_accepts_loss_kwargs = True


def prepared(trainer: "Trainer", batch: dict[str, Any]) -> dict[str, Any]:
    """A batch on the Trainer's device, in the type that DeepSpeed computes in.

    Why: the teacher runs before the Trainer prepares the batch for the student.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    Ends: when Trainer has a public method for it.
    """
    inputs: dict[str, Any] = trainer._prepare_inputs(batch)
    return inputs


def save_in_checkpoints(trainer: "Trainer", save: Callable[[Path], None], load: Callable[[Path], None]) -> None:
    """Let a callback of any Trainer save more in each checkpoint, and load it before the first step of a resumed run.

    Why: a checkpoint must hold all before trainer_state.json says that it is complete. Events come later, and do not
    name the folder.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    Ends: with `OVERRIDDEN`, for the same methods.
    """
    own_save, own_load = trainer._save_optimizer_and_scheduler, trainer._load_optimizer_and_scheduler

    def saving(output_dir: str) -> None:
        own_save(output_dir)
        save(Path(output_dir))

    def loading(checkpoint: str | None) -> None:
        own_load(checkpoint)
        if checkpoint is not None:
            load(Path(checkpoint))

    vars(trainer).update(_save_optimizer_and_scheduler=saving, _load_optimizer_and_scheduler=loading)


def add_to_log(state: "TrainerState", numbers: Mapping[str, float]) -> None:
    """Put numbers into the line of ``log_history`` of the current event.

    Why: the Trainer appends a copy before it calls `on_log` and `on_evaluate`, so that it misses what callbacks add.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    Ends: when it appends the line after the callbacks.
    """
    if state.log_history and state.log_history[-1].get("step") == state.global_step:
        state.log_history[-1].update(numbers)


def forget_best(state: "TrainerState") -> None:
    """Start the search for the best model again: the models so far were not fully compressed, or there is a better one.

    EarlyStoppingCallback starts again too: it counts from the best model on.

    Why: `load_best_model_at_end` takes any checkpoint. The Trainer starts with None here.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    Ends: when it can be told which checkpoints count.
    """
    state.best_metric = state.best_global_step = state.best_model_checkpoint = None


def save_as_best(trainer: "Trainer", metrics: Mapping[str, float]) -> None:
    """Compare the model before the first step with the best one so far, and save it if it is better.

    Why: with `eval_on_start` the Trainer evaluates that model, but neither compares nor saves it; and it takes the best
    step 0 for none when it notes the folder.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    Ends: when `eval_on_start` makes the start a candidate.
    """
    if not trainer._determine_best_metric(metrics=dict(metrics), trial=None):
        return
    state, args = trainer.state, trainer.args
    state.best_model_checkpoint = str(Path(args.output_dir, f"checkpoint-{state.global_step}"))
    trainer._save_checkpoint(trainer.model, trial=None)
    trainer.control = trainer.callback_handler.on_save(args, state, trainer.control)


def twin(trainer: "Trainer", args: "TrainingArguments", callbacks: "Sequence[TrainerCallback]") -> Any:
    """A copy of a Trainer that has not trained, with a copy of its model, and arguments and callbacks of its own.

    Why: a Trainer cannot be built from another one, since its class may take arguments of its own. A training sets
    attributes of the Trainer and writes into its model, its control and its handler of callbacks.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    Ends: when a Trainer can be copied.
    """
    from transformers.trainer_callback import CallbackHandler, TrainerControl

    other: Any = copy.copy(trainer)
    other.args, other.control = args, TrainerControl()
    other.model = other.model_wrapped = copy.deepcopy(trainer.model)
    other.callback_handler = CallbackHandler([*callbacks], other.model, trainer.processing_class, None, None)
    return other


def stored_states(state: "TrainerState", name: str) -> list[dict[str, Any]]:
    """The states of a class of callbacks in the checkpoint that is resumed, the latest last.

    Why: at every save, the Trainer appends the states of several callbacks of one class to one list.
    Upstream: https://github.com/huggingface/transformers/pull/33875
    Ends: when each save has a list of its own. A callback still finds its state by its arguments.
    """
    stored: Any = (state.stateful_callbacks or {}).get(name) or []
    return stored if isinstance(stored, list) else [stored]


# ---- models and datasets ----


def attention_of(model: "nn.Module") -> str | None:
    """Which attention a model of transformers computes with; None where it has no choice.

    Why: only the private attribute that `from_pretrained(attn_implementation=)` sets says so.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/configuration_utils.py
    Ends: when a config or model has a public name for it.
    """
    found: str | None = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return found


@contextmanager
def checkpointed_in_evaluation(layer: "nn.Module") -> "Iterator[None]":
    """Let a checkpointed layer compute in evaluation mode, in the block and when the backward pass does it again.

    Why: a GradientCheckpointingLayer is checkpointed in training mode only, and many, such as those of BART, then drop
    out by a function that asks for the mode of the layer itself.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/modeling_layers.py
    Ends: when a layer is checkpointed in both modes, as its `gradient_checkpointing` says.
    """
    own: Any = layer._gradient_checkpointing_func

    def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
        return own(partial(_in_evaluation, layer, function), *args)

    vars(layer)["_gradient_checkpointing_func"] = checkpoint
    try:
        yield
    finally:
        vars(layer)["_gradient_checkpointing_func"] = own


def _in_evaluation(layer: "nn.Module", function: Callable[..., Any], *args: Any) -> Any:
    mode, layer.training = layer.training, False
    try:
        return function(*args)
    finally:
        layer.training = mode


def needs_training_mode(module: "nn.Module") -> bool:
    """Whether a module with `gradient_checkpointing`, but no GradientCheckpointingLayer, needs it for that.

    Why: code on the Hub checkpoints the layers of a stack from the stack, in training mode. So do the stacks of
    convolutions of wav2vec 2.0 and its like let their inputs have gradients, which a reentrant checkpoint asks for.
    Others have the flag to switch their cache off.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/wav2vec2
    Ends: when all such code uses GradientCheckpointingLayer, and not reentrantly.
    """
    code: Any = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return not {"_gradient_checkpointing_func", "_requires_grad", "checkpoint"}.isdisjoint(
        getattr(code, "co_names", ())
    )


def dataset_fingerprint(dataset: "Dataset") -> str:
    """The name of a dataset in the cache of `datasets`.

    Why: `map` takes `new_fingerprint=`, but nothing public tells the current one.
    Upstream: https://github.com/huggingface/datasets/pull/1703
    Ends: when a Dataset has a public name for it.
    """
    fingerprint: str = dataset._fingerprint
    return fingerprint


# ---- weights ----


def built_with(stock: Any, change: "Callable[[nn.Module], object]") -> Any:
    """A class of transformers that changes its models after it builds them, and before from_pretrained reads weights.

    Why: from_pretrained builds a model from its config alone and refuses weights of other widths. The class needs the
    same name: by it, from_pretrained converts the names of weights.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/modeling_utils.py
    Ends: when from_pretrained can fill a given model, or configs hold the widths of each layer.
    """

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        change(self)

    namespace = {"__init__": build, "__module__": stock.__module__, "__qualname__": stock.__qualname__}
    return type(stock.__name__, (stock,), namespace)


def become(module: "nn.Module", cls: type) -> None:
    """Give a module another class that holds the same; its parameters, hooks and places stay.

    Why: torch replaces a module only without its hooks. A module's `__dict__` holds everything but what it computes.
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/modules/module.py
    Ends: with `built_with`, and when torch can replace a module along with its hooks.
    """
    module.__class__ = cls


def forget_reading(model: Any) -> None:
    """Make it possible to save a model with torchao's weights that from_pretrained has read.

    Why: from_pretrained leaves a note of its conversions, and save_pretrained cannot reverse torchao's
    (NotImplementedError). Without the note it saves the model like one that was never read.
    Upstream: https://github.com/huggingface/transformers/pull/43096
    Ends: when that is merged.
    """
    vars(model).pop("_weight_conversions", None)


def make_gradients_contiguous(layer: "nn.Module") -> None:
    """Give the backward pass of an optimum-quanto layer a contiguous gradient.

    Why: 0.2.7 takes a view of the gradient, which fails where attention has transposed it.
    Upstream: https://github.com/huggingface/optimum-quanto/issues/327
    Ends: when it uses `reshape`.
    """

    def hook(layer: "nn.Module", args: Any, output: "Tensor") -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient.contiguous())

    layer.register_forward_hook(hook)
