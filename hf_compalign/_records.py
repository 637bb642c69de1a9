"""Convert frozen dataclasses to plain dicts and lists for JSON, and back."""

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

_Kind = TypeVar("_Kind")
_Reader = Callable[[Any], Any]
_LEAVES = frozenset({float, int, str, bool, type(None)})


def plain(value: Any) -> Any:
    """Dicts for dataclasses and lists for tuples, all the way down; other values stay.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Row:
    ...     name: str
    ...     ends: tuple[float, float]
    >>> plain(Row("a", (0.5, 1.0)))
    {'name': 'a', 'ends': [0.5, 1.0]}
    """
    if isinstance(value, (list, tuple)):
        # Most of an audit are thousands of scores: a fast way for those.
        return [*value] if _LEAVES.issuperset(map(type, value)) else [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in _names(type(value))}
    return value


def built(kind: type[_Kind], stored: Mapping[str, Any]) -> _Kind:
    """A dataclass from its `plain` form in JSON, which has None for nan.

    Unknown keys do not count, and missing ones take the field's default.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Row:
    ...     name: str
    ...     ends: tuple[float, float]
    >>> built(Row, {"name": "a", "ends": [0.5, None]})
    Row(name='a', ends=(0.5, nan))

    Raises:
        KeyError: a field without a default is missing.
    """
    readers = _readers(kind)  # type: ignore[arg-type]  # a class is hashable
    return kind(**{name: read(stored[name]) for name, (read, needed) in readers.items() if needed or name in stored})


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _readers(kind: Any) -> dict[str, tuple[_Reader, bool]]:
    """Each field's reader, and whether the field is required."""
    hints = get_type_hints(kind)
    return {
        field.name: (_reader(hints[field.name]), field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    }


@cache
def _reader(hint: Any) -> _Reader:
    """What turns stored values into the type of a hint."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        some = _reader(next(one for one in inner if one is not type(None)))
        return lambda stored: None if stored is None else some(stored)
    if hint is float:
        return _number
    if origin is tuple and inner[-1] is Ellipsis:
        read = _reader(inner[0])
        return tuple if read is _same else lambda stored: tuple([read(item) for item in stored])
    if origin is tuple:
        each = [_reader(one) for one in inner]
        return lambda stored: tuple([read(item) for read, item in zip(each, stored, strict=True)])
    if is_dataclass(hint) and isinstance(hint, type):
        return partial(built, hint)
    return _same


def _number(stored: Any) -> float:
    return math.nan if stored is None else float(stored)


def _same(stored: Any) -> Any:
    return stored
