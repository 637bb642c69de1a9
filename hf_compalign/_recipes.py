"""Recipes as files: keys and values in YAML."""

import difflib
import re
from collections.abc import Collection
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Also takes 1e-6 for a number, which YAML 1.1 takes for text."""


_SCIENTIFIC = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, [*"-+0123456789"])


def recipe_keys(text: str, source: object, known: Collection[str]) -> dict[str, Any]:
    """The keys and values in a text, which came from the source.

    Raises:
        ValueError: it is no YAML, or no mapping, or has a key that is not known, or one twice.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        found = yaml.load(text, Loader=_Loader)  # a safe one
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{source} must hold keys and values, such as 'seed: 1'. Got {type(found).__name__}.")
    keys = [str(key.value) for key, _ in node.value]
    for place, key in enumerate(keys):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{source} has an unknown key {key!r}.{hint} Known are {', '.join(known)}.")
        if key in keys[:place]:
            raise ValueError(f"{source} has the key {key!r} twice. Leave one out.")
    return dict(found)


def recipe_as_text(keys: dict[str, Any]) -> str:
    """The keys and values in YAML, in their order."""
    return str(yaml.safe_dump(keys, sort_keys=False, allow_unicode=True))
