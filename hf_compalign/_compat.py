"""What leans on more than dependencies promise, one by one: why, where upstream, and when it goes.

tests/test_compat.py holds every line of this list against the installed versions.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import Trainer, TrainerState


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds a tokenizer.

    Why: AutoTokenizer makes up an empty one for a folder that has none, to which every word is unknown.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/auto/tokenization_auto.py
    Ends: when it refuses such a folder, as transformers 4 did.
    """
    return any(any(folder.glob(pattern)) for pattern in ("*token*", "vocab*", "*.model"))


def image_processor_class() -> Any:
    """AutoImageProcessor, which reads images with Pillow where there is no torchvision.

    Why: transformers 5.17 exports a placeholder that asks for torchvision, because the file of the class names a class
    of that backend. The class in the file works.
    Upstream: https://github.com/huggingface/transformers/pull/48616
    Ends: for `transformers.AutoImageProcessor`, when 5.17 is no longer supported.
    """
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return AutoImageProcessor


def exported_graph(exported: Any) -> Any:
    """The graph, of onnx_ir, in what the OnnxExporter of transformers returns.

    Why: up to 5.22 this is the ONNXProgram of torch, whose graph is its `model`; 5.23 wraps it in an ExportedModel,
    whose graph is its `program`.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/exporters
    Ends: for `exported.program`, when 5.22 is no longer supported.
    """
    return exported.program if hasattr(exported, "program") else exported.model


# ---- the Trainer ----


# Private methods of Trainer that AlignedDistillationTrainer overrides, with their parameters.
OVERRIDDEN: Mapping[str, tuple[str, ...]] = {
    # Why: a checkpoint must hold the alignment before trainer_state.json says that it is complete, and a learned
    #   weighting must be back before the first step. Events come after, and do not name the folder.
    # Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    # Ends: when Trainer has a public method or event for what else a checkpoint holds.
    "_save_optimizer_and_scheduler": ("output_dir",),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    # Why: the Trainer drops columns that the student does not take, such as the teacher's logits. It keeps those in
    #   `_signature_columns`, which this method fills.
    # Upstream: https://github.com/huggingface/transformers/issues/43598
    # Ends: when a Trainer can be told which columns to keep.
    "_set_signature_columns_if_needed": (),
}


def loss_is_scaled(trainer: "Trainer") -> None:
    """Tell a Trainer that its loss is divided by the count of a whole optimizer step already.

    Why: otherwise it divides by the accumulation steps once more. From 5.23 on `loss_is_scaled_for_ga` says so; before,
    it took a model that accepts loss arguments, and a count, for a sign of it.
    Upstream: https://github.com/huggingface/transformers/issues/47688
    Ends: `model_accepts_loss_kwargs`, and the count where there are no labels, with support of versions before 5.23.
    """
    trainer.loss_is_scaled_for_ga = True
    trainer.model_accepts_loss_kwargs = True


def prepared(trainer: "Trainer", batch: dict[str, Any]) -> dict[str, Any]:
    """A batch on the Trainer's device, and in the type that DeepSpeed computes in.

    Why: the teacher runs before the Trainer prepares the batch for the student.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    Ends: when Trainer has a public method for it.
    """
    inputs: dict[str, Any] = trainer._prepare_inputs(batch)
    return inputs


def add_to_log(state: "TrainerState", numbers: Mapping[str, float]) -> None:
    """Put numbers into the line of ``log_history`` that belongs to the event that is under way.

    Why: the Trainer appends a copy of what it logs before it calls `on_log` and `on_evaluate`, so what a callback adds
    to the logs or metrics of the event is not there.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    Ends: when it is.
    """
    if state.log_history and state.log_history[-1].get("step") == state.global_step:
        state.log_history[-1].update(numbers)


def forget_best(state: "TrainerState") -> None:
    """Let the search for the best model begin anew: those measured so far are not yet what was asked for.

    Why: `load_best_model_at_end` cannot be told which checkpoints count. The Trainer begins with None here.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py
    Ends: when it can.
    """
    state.best_metric = state.best_global_step = state.best_model_checkpoint = None


def stored_states(state: "TrainerState", name: str) -> list[dict[str, Any]]:
    """What the callbacks of a class wrote into the checkpoint that is resumed, the latest last.

    Why: of several callbacks of one class, the Trainer appends the states to one list at every save.
    Upstream: https://github.com/huggingface/transformers/pull/33875
    Ends: when each save has a list of its own; whose state is whose must still be found by its arguments.
    """
    stored: Any = (state.stateful_callbacks or {}).get(name) or []
    return stored if isinstance(stored, list) else [stored]


# ---- models and datasets ----


def attention_of(model: "nn.Module") -> str | None:
    """Which attention a model of transformers computes with; None where it has no choice.

    Why: only the attribute that `from_pretrained(attn_implementation=)` sets says so.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/configuration_utils.py
    Ends: when a config or model has a public name for it.
    """
    found: str | None = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return found


def dataset_fingerprint(dataset: "Dataset") -> str:
    """What `datasets` knows a dataset by in its cache.

    Why: `map` takes `new_fingerprint=`, but nothing public says which one it starts from.
    Upstream: https://github.com/huggingface/datasets/pull/1703
    Ends: when a Dataset has a public name for it.
    """
    fingerprint: str = dataset._fingerprint
    return fingerprint


# ---- weights ----


def built_with(stock: Any, change: "Callable[[nn.Module], object]") -> Any:
    """A class of transformers whose models are changed when they are built, before their weights are read.

    Why: from_pretrained builds a model by its config alone, calls nothing in between, and refuses weights of other
    widths. So it is given a class of the same name, by which it finds how to convert the names of weights.
    Upstream: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/modeling_utils.py
    Ends: when from_pretrained can fill a model that it is given, or configs hold the widths of each layer.
    """

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        change(self)

    namespace = {"__init__": build, "__module__": stock.__module__, "__qualname__": stock.__qualname__}
    return type(stock.__name__, (stock,), namespace)


def become(module: "nn.Module", cls: type) -> None:
    """Give a module another class that holds the same; its parameters, hooks and places stay as they are.

    Why: torch replaces a module only without its hooks. All that a module holds is in its `__dict__`, so that its class
    is only what it computes.
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/modules/module.py
    Ends: with `built_with`, and when torch can replace a module along with its hooks.
    """
    module.__class__ = cls


def forget_reading(model: Any) -> None:
    """Let a model with torchao's weights that from_pretrained has read be saved again.

    Why: save_pretrained reverses what from_pretrained did to the weights by a note on the model, and ends in
    NotImplementedError at torchao's. Without the note it saves the model like one that was never read.
    Upstream: https://github.com/huggingface/transformers/pull/43096
    Ends: when that is merged.
    """
    vars(model).pop("_weight_conversions", None)


def make_gradients_contiguous(layer: "nn.Module") -> None:
    """Give the backward pass of an optimum-quanto layer a contiguous gradient.

    Why: that of 0.2.7 takes a view of the gradient, which fails on one that attention has transposed.
    Upstream: https://github.com/huggingface/optimum-quanto/issues/327
    Ends: when it uses `reshape`.
    """

    def hook(layer: "nn.Module", args: Any, output: "Tensor") -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient.contiguous())

    layer.register_forward_hook(hook)
