"""config.compression: what a config says was done to its model. Nothing else reads or writes it."""

import copy
from typing import Any

from torch import nn

# The version that is written, and the newest that is read.
VERSION = 1
# The entries: which layers are quantized and how; and which units were removed.
QUANTIZATION = "quantization"
SHRINK = "shrink"


def entry_of(config: Any, name: str) -> Any:
    """An entry as it stands there; None where the config says nothing of it.

    Raises:
        ValueError: config.compression is no dict.
    """
    compression = getattr(config, "compression", None) or {}
    if not isinstance(compression, dict):
        where = str(getattr(config, "name_or_path", ""))
        raise malformed(where, f"it must be a dict with a version, and is {compression!r:.200}")
    return compression.get(name)


def write_entry(config: Any, name: str, entry: dict[str, Any] | None) -> None:
    """Put an entry there, or take it out.

    >>> config = type("Config", (), {})()
    >>> write_entry(config, SHRINK, {"cut": False})
    >>> config.compression
    {'version': 1, 'shrink': {'cut': False}}
    >>> write_entry(config, SHRINK, None)
    >>> hasattr(config, "compression")
    False
    """
    compression = dict(getattr(config, "compression", None) or {"version": VERSION})
    compression.pop(name, None)
    if entry is not None:
        compression[name] = entry
    if set(compression) > {"version"}:
        config.compression = compression
    elif hasattr(config, "compression"):
        del config.compression


def take_own_config(model: nn.Module) -> None:
    """Give the model a copy of its config: the teacher may have been built from the same object."""
    shared: Any = model.config
    own = copy.deepcopy(shared)
    for module in model.modules():
        if getattr(module, "config", None) is shared:
            module.config = own


def was_cut(model: nn.Module) -> bool:
    """Whether the model has widths of its own from an earlier shrinking, which only load_compressed opens."""
    return bool((entry_of(model.config, SHRINK) or {}).get("cut"))


# ---- what load_compressed reads, from files that may be damaged ----


def check_record(where: str, config: Any) -> bool:
    """Whether the config says anything of a compression; refuse what `write_entry` did not write.

    `where` is the folder or the Hub id, for the message.
    """
    compression = getattr(config, "compression", None)
    if compression is None:
        return False
    if not isinstance(compression, dict) or not _is_count(compression.get("version")):
        raise malformed(where, f"it must be a dict with a version, and is {compression!r:.200}")
    if compression["version"] > VERSION:
        raise ValueError(
            f"The model in {where!r} was made by a newer hf_compalign (compression version {compression['version']}; "
            f"this one reads {VERSION}): upgrade with pip install -U hf-compalign"
        )
    empty = [name for name, entry in compression.items() if entry is None]
    if empty:
        raise malformed(where, f"{empty[0]!r} is null")
    return True


def shrink_of(where: str, config: Any) -> dict[str, Any] | None:
    """What the config says of removed units, checked; None where it says nothing."""
    shrink = entry_of(config, SHRINK)
    if shrink is None:
        return None
    if not isinstance(shrink, dict):
        raise malformed(where, f"'shrink' must be a dict, and is {shrink!r:.200}")
    checked: dict[str, Any] = {"cut": True, "layers": None, "dropped_layers": []} | shrink
    if checked["cut"] is True:
        valid = isinstance(checked["layers"], list) and all(map(_is_layer, checked["layers"]))
    else:
        valid = checked["cut"] is False and _are_indices(checked["dropped_layers"])
    if not valid:
        raise malformed(
            where,
            "'shrink' must hold 'layers', each with its number of 'heads' and 'neurons', or 'cut': false with "
            f"'dropped_layers', and is {shrink!r:.200}",
        )
    return checked


def malformed(where: str, what: str) -> ValueError:
    """The error that says what is wrong with the record."""
    return ValueError(
        f"config.compression of {where!r} is malformed: {what}. Copy or download the folder again, or save the model "
        "again with save_pretrained."
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_indices(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(one, int) and one >= 0 for one in values)


def _is_layer(one: Any) -> bool:
    if not (isinstance(one, dict) and _is_count(one.get("heads")) and _is_count(one.get("neurons"))):
        return False
    return "bias_heads" not in one or (_are_indices(one["bias_heads"]) and len(one["bias_heads"]) == one["heads"])
