"""Frozen dataclasses from the plain dicts and lists that JSON keeps of them."""

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

_Kind = TypeVar("_Kind")


def built(kind: type[_Kind], stored: Mapping[str, Any]) -> _Kind:
    """A dataclass from its ``asdict`` as JSON gives it back: with lists for tuples, and None for nan in floats.

    What it has no field for is left aside.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Row:
    ...     name: str
    ...     ends: tuple[float, float]
    >>> built(Row, {"name": "a", "ends": [0.5, None]})
    Row(name='a', ends=(0.5, nan))

    Raises:
        KeyError: a field is missing.
    """
    hints = get_type_hints(kind)
    return kind(**{field.name: _value(hints[field.name], stored[field.name]) for field in fields(kind)})  # type: ignore[arg-type]


def _value(hint: Any, stored: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if stored is None:
            return None
        return _value(next(one for one in inner if one is not type(None)), stored)
    if hint is float:
        return math.nan if stored is None else float(stored)
    if origin is tuple:
        hints = [inner[0]] * len(stored) if inner[-1] is Ellipsis else inner
        return tuple(_value(one, item) for one, item in zip(hints, stored, strict=True))
    if is_dataclass(hint) and isinstance(hint, type):
        return built(hint, stored)
    return stored
