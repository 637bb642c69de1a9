"""Open a compressed model again: from a folder or the Hub, without pickle and without code from there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from hf_compalign._compat import become, built_with
from hf_compalign._files import AUDIT_NAME
from hf_compalign.compress.adapters import refuse_adapters_in
from hf_compalign.compress.fingerprint import model_fingerprint
from hf_compalign.compress.quantize import Quantization, convert_, load_quantized, requantize_
from hf_compalign.compress.record import QUANTIZATION, check_record, entry_of, malformed, shrink_of
from hf_compalign.compress.shrink import LayerPlan, ShrinkPlan, cut_, cut_units, layers_of, zero_units_plan
from hf_compalign.models import check_audited, follow_config, shards_of

# Where a model is and how to get it: for its config and for its weights.
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# Weights in one file, or an index of several, and the ends of these names, which follow that of a variant.
_SAFE, _INDEX = ".safetensors", ".safetensors.index.json"
_FILES = ((f"model{_SAFE}", "safetensors"), (f"model{_INDEX}", "json"))
# Arguments of from_pretrained that load_compressed decides itself.
_DECIDED = (
    "config",
    "device_map",
    "ignore_mismatched_sizes",
    "output_loading_info",
    "quantization_config",
    "state_dict",
    "trust_remote_code",
    "use_safetensors",
)


def load_compressed(path_or_id: str | Path, **kwargs: Any) -> PreTrainedModel:
    """A model saved by `save_pretrained`, compressed or not, with the class and the widths its config names.

    It reads only safetensors, and runs no code that comes with the model.

    The config decides. A model that was saved with rounded float layers is rounded again here. A plain from_pretrained
    opens it as a float model whose config still says that it is rounded. `prune_`, `shrink_`, `quantize_` and the
    callbacks correct that; before a training with none of them, `del model.config.compression["quantization"]`.

    Args:
        path_or_id: a folder or a model id on the Hub.
        **kwargs: for from_pretrained: `dtype`, `attn_implementation`, `revision`, `token`, ...

    Returns:
        The model in evaluation mode, of the stock class of transformers, every weight from the files.

    Raises:
        ValueError: there is no such model, its files are damaged or do not fit its config, a newer version made it,
            `save_artifact` put an audit of other weights beside it, or load_compressed decides an argument itself.
        ImportError: a library for its quantized weights is not installed; the message has the pip command.
    """
    where = str(path_or_id)
    decided = sorted(set(kwargs) & set(_DECIDED))
    if decided:
        raise ValueError(
            f"load_compressed decides {', '.join(decided)} itself. Leave it out; to move the loaded model, use "
            ".to(device)."
        )
    located = {name: value for name, value in kwargs.items() if name in _WHERE}
    config = _config(where, located)
    stock = _class(where, config)
    _check_weights(where, config, located, kwargs.get("variant"))
    compressed = check_record(where, config)
    shrink, quantization = shrink_of(where, config), _quantization(where, config)
    cls = built_with(stock, partial(_cut_to, shrink=shrink)) if shrink is not None and shrink["cut"] else stock
    if quantization is not None and quantization.converted:
        _check_unchanged(where, quantization, kwargs)
        other = {name: value for name, value in kwargs.items() if name not in _WHERE}
        read = partial(_read, cls, config=config, whole=True, **other)
        with _as_files_say(where, cls):
            model = load_quantized(cls, where, config, quantization, read=read, options=located)
        quantization = None  # there is nothing left to do for it
    else:
        with _as_files_say(where, cls):
            model = _read(cls, where, config=config, whole=compressed, **kwargs)
    become(model, stock)
    _compress_(where, model, shrink, quantization)
    if not _changing(kwargs):
        folder = Path(where, kwargs.get("subfolder") or "")
        check_audited(folder / AUDIT_NAME, (_SAFE, _INDEX), folder, partial(model_fingerprint, model))
    opened: PreTrainedModel = follow_config(model)
    return opened


def _compress_(
    where: str, model: PreTrainedModel, shrink: Mapping[str, Any] | None, quantization: Quantization | None
) -> None:
    """Do what the files of a masked or rounded model leave to do."""
    if quantization is not None:
        with _as_config_says(where, "quantized"):
            requantize_(model, quantization)
    if shrink is not None and not shrink["cut"]:
        with _as_config_says(where, "cut"):
            cut_(model, zero_units_plan(model, shrink["dropped_layers"]))
    if quantization is not None:
        with _as_config_says(where, "quantized"):
            convert_(model)


@contextmanager
def _as_config_says(where: str, what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"The model in {where!r} cannot be {what} as its config says. {error}") from error


@contextmanager
def _as_files_say(where: str, cls: Any) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # whatever damaged files make transformers, torch and safetensors raise
        raise ValueError(
            f"The weights of {where!r} could not be read into {cls.__name__}: the files are missing, damaged, or not "
            "those of its config. Copy or download the whole folder again. A pytorch_model.bin is a pickle: if you "
            f"trust it, make safetensors of it first, with from_pretrained and save_pretrained. ({error})"
        ) from error


def _check_weights(where: str, config: Any, located: Mapping[str, Any], variant: str | None) -> None:
    """Refuse a folder that would have transformers read a pickle, or a file from elsewhere."""
    named = getattr(config, "transformers_weights", None)
    if named is not None and not str(named).endswith((_SAFE, _INDEX)):
        raise ValueError(
            f"The config of {where!r} names {named!r} as its weights, and only safetensors are read. Take "
            "transformers_weights out of its config.json, or save the model again with save_pretrained."
        )
    whole, index = (name if variant is None else f"{name.removesuffix(end)}{variant}.{end}" for name, end in _FILES)
    if named is None and _file(where, whole, located) is not None:
        return
    found = _file(where, index if named is None else str(named), located)
    if found is not None and found.name.endswith(".json"):
        shards_of(found)


def _file(where: str, name: str, located: Mapping[str, Any]) -> Path | None:
    try:
        return Path(cached_file(where, name, **located))
    except OSError:  # not there; from_pretrained says more
        return None


def _changing(kwargs: Mapping[str, Any]) -> list[str]:
    """The arguments that would open other weights than the saved ones."""
    return sorted(set(kwargs) - {*_WHERE, "attn_implementation"})


def _check_unchanged(where: str, quantization: Quantization, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that would change small weights."""
    if other := _changing(kwargs):
        raise ValueError(
            f"The model in {where!r} has the weights of {quantization.scheme}, which {', '.join(other)} cannot change. "
            "Leave it out, or load the float model."
        )


def _config(where: str, options: Mapping[str, Any]) -> Any:
    refuse_adapters_in(where, options)
    try:
        return transformers.AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
    except Exception as error:  # whatever a damaged config makes transformers raise
        raise ValueError(
            f"No model could be loaded from {where!r}: it must be a folder written by save_pretrained or a model id "
            f"on the Hub, of an architecture that transformers knows; code from the Hub is not run. ({error})"
        ) from error


def _class(where: str, config: Any) -> Any:
    """The class that the config names, if it is one of transformers'."""
    if not (isinstance(config.architectures, list) and config.architectures):
        raise ValueError(
            f"The config of {where!r} does not say which class of model it is (its 'architectures' is empty or no "
            "list). Save the fine-tuned model with save_pretrained and use that folder."
        )
    name = config.architectures[0]
    found = getattr(transformers, str(name), None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise ValueError(
            f"The config of {where!r} names the class {name!r}, which transformers {transformers.__version__} does not "
            "have. Code that comes with a model is not run here: load it with from_pretrained of its own class."
        )
    return found


def _read(cls: Any, where: str | None, *, config: Any, whole: bool, **kwargs: Any) -> PreTrainedModel:
    """The model with every weight from the files or tensors; where ``whole``, they may hold no others."""
    model, info = cls.from_pretrained(
        where, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **kwargs
    )
    # Ordinary checkpoints may hold more than the class uses, such as a head for pre-training.
    extra = info["unexpected_keys"] if whole else ()
    for kind, names in (("lack", info["missing_keys"]), ("also hold", extra)):
        if names:
            raise ValueError(f"they {kind} {', '.join(sorted(names)[:5])} ({len(names)} in all)")
    return model


def _cut_to(model: nn.Module, shrink: Mapping[str, Any]) -> None:
    """Cut a freshly built model to the widths; which units stay does not matter yet."""
    layers, widths = layers_of(model), shrink["layers"]
    if len(widths) != len(layers) or any(
        one["heads"] > layer.n_heads or one["neurons"] > layer.n_neurons
        for one, layer in zip(widths, layers, strict=False)
    ):
        raise ValueError(f"config.compression has other or wider layers than the config: {widths!r:.200}.")
    # bias_heads are the columns that a layer's heads read of an attention bias that all layers share.
    plan = ShrinkPlan(
        tuple(
            LayerPlan(index, tuple(one.get("bias_heads", range(one["heads"]))), tuple(range(one["neurons"])))
            for index, one in enumerate(widths)
        )
    )
    plan.check(model)
    cut_units(model, plan)


def _quantization(where: str, config: Any) -> Quantization | None:
    """The config's record of quantized layers, checked; None where it has none."""
    entry = entry_of(config, QUANTIZATION)
    try:
        return None if entry is None else Quantization.from_dict(entry)
    except ValueError as error:
        raise malformed(where, str(error)) from error
