"""Recipes as files: keys and values in YAML."""

import difflib
from collections.abc import Collection
from typing import Any

import yaml


def recipe_keys(text: str, source: object, known: Collection[str]) -> dict[str, Any]:
    """The keys and values in a text, which came from the source.

    Raises:
        ValueError: it is no YAML, or no mapping, or has a key that is not known.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{source} must hold keys and values, such as 'seed: 1'. Got {type(found).__name__}.")
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{source} has an unknown key {key!r}.{hint} Known are {', '.join(known)}.")
    return found


def recipe_as_text(keys: dict[str, Any]) -> str:
    """The keys and values in YAML, in their order."""
    return str(yaml.safe_dump(keys, sort_keys=False, allow_unicode=True))
