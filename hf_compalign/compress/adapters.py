"""Adapters of PEFT, such as LoRA: they are to be merged into the model before it is compressed."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.utils import find_adapter_config_file

from hf_compalign._files import read_json


def refuse_adapters(model: nn.Module) -> None:
    """Refuse a model with adapters: a save would hold them alone, and not what was done to the weights below."""
    # The layers that PEFT replaces, and its models around those that it does not change.
    if any(hasattr(module, "base_layer") or hasattr(module, "get_base_model") for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has adapters of PEFT, and only they would be saved, not what is removed from or "
            "rounded in the model below. Merge them first: model = model.merge_and_unload(), or load them into a "
            "peft.PeftModel to do so."
        )


def refuse_adapters_in(where: str, options: Mapping[str, Any]) -> None:
    """Refuse a folder or Hub id with adapters. From one that has a model too, transformers loads both, but only where
    PEFT is installed."""
    try:
        path = find_adapter_config_file(where, **options)
    except OSError:
        return
    if path is None:
        return
    try:
        base = read_json(path)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    of = f" for {base!r:.200}" if base else ""
    raise ValueError(
        f"{where!r} holds adapters of PEFT{of}, and models are opened without. Merge them first: "
        f"peft.PeftModel.from_pretrained(model, {where!r}).merge_and_unload().save_pretrained(folder), where model is "
        "the one that they were trained on, and give that folder."
    )
