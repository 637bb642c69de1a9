"""Convert frozen dataclasses to plain dicts and lists for JSON, and back."""

import math
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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


def without_nan(value: Any) -> Any:
    """The same dicts and lists with None for nan, which JSON does not have."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def built(kind: type[_Kind], stored: Any) -> _Kind:
    """A dataclass from its `plain` form in JSON, which has None for nan.

    Unknown keys do not count, and missing ones take the field's default.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Row:
    ...     name: str
    ...     ends: tuple[float, float]
    >>> built(Row, {"name": "a", "ends": [0.5, None]})
    Row(name='a', ends=(0.5, nan))
    >>> built(Row, {"name": "a", "ends": [0.5, "x"]})
    Traceback (most recent call last):
    ValueError: ends.1 must be a number. Got 'x'.

    Raises:
        ValueError: a field without a default is missing, or one is of another type; says which.
    """
    try:
        found: _Kind = _reader(kind)(stored)  # type: ignore[arg-type]  # a class is hashable
    except _WrongError as wrong:
        raise ValueError(f"{'.'.join(wrong.place) or 'It'} {wrong}") from None
    return found


class _WrongError(Exception):
    """What is wrong with a stored value, and where in the record it is."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.place: list[str] = []


def _must_be(wanted: str, stored: Any) -> _WrongError:
    shown = f"{stored!r:.80}" if type(stored) is not int or _is_count(stored) else "one too long"
    return _WrongError(f"must be {wanted}. Got {shown}.")


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _reader(hint: Any) -> _Reader:
    """What turns stored values into the type of a hint, or raises `_WrongError`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        some = _reader(next(one for one in inner if one is not type(None)))
        return lambda stored: None if stored is None else some(stored)
    if origin is tuple:
        readers = [_reader(one) for one in inner if one is not Ellipsis]
        return partial(_row, readers[0]) if inner[-1] is Ellipsis else partial(_columns, readers)
    if origin is Sequence:
        return partial(_row, _reader(inner[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return partial(_table, *map(_reader, inner))
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        needed = {one.name for one in fields(hint) if one.default is MISSING and one.default_factory is MISSING}
        return partial(_record, hint, {name: _reader(hints[name]) for name in _names(hint)}, needed)
    return _LEAF_READERS.get(hint, _same)


def _each(parts: Iterable[tuple[object, _Reader, Any]]) -> list[Any]:
    """Every part read: its place, what reads it, and what is stored there."""
    found: list[Any] = []
    place: object = None
    try:
        for where, read, stored in parts:
            place = where
            found.append(read(stored))
    except _WrongError as wrong:
        wrong.place.insert(0, str(place))
        raise
    return found


def _record(kind: Any, readers: Mapping[str, _Reader], needed: Collection[str], stored: Any) -> Any:
    _check("an object", isinstance(stored, Mapping), stored)
    if missing := [name for name in readers if name in needed and name not in stored]:
        raise _WrongError(f"lacks {', '.join(missing)}.")
    names = [name for name in readers if name in stored]
    return kind(**dict(zip(names, _each((name, readers[name], stored[name]) for name in names), strict=True)))


def _table(key: _Reader, value: _Reader, stored: Any) -> Any:
    _check("an object", isinstance(stored, Mapping), stored)
    names = [_digits(name) if key is _count else name for name in stored]  # in JSON all names are texts
    keys = _each((name, key, name) for name in names)
    return dict(zip(keys, _each((name, value, item) for name, item in stored.items()), strict=True))


def _row(read: _Reader, stored: Any) -> Any:
    kind = _SEVERAL.get(read)
    _check(f"a list of {kind}" if kind else "a list", isinstance(stored, (list, tuple)), stored)
    return tuple(_each((place, read, item) for place, item in enumerate(stored)))


def _columns(readers: Sequence[_Reader], stored: Any) -> Any:
    _check(f"a list of {len(readers)}", isinstance(stored, (list, tuple)) and len(stored) == len(readers), stored)
    return tuple(_each((place, read, stored[place]) for place, read in enumerate(readers)))


def _digits(name: Any) -> Any:
    return int(name) if isinstance(name, str) and name.isdecimal() and len(name) < _MOST_DIGITS else name


def _check(wanted: str, holds: bool, stored: Any) -> None:
    if not holds:
        raise _must_be(wanted, stored)


def _is_count(stored: Any) -> bool:
    """Whether it is a whole number of usual length: a longer one is damage, and no float holds it."""
    return type(stored) is int and abs(stored) < 10**_MOST_DIGITS


def _number(stored: Any) -> float:
    if stored is None:
        return math.nan
    _check("a number", (isinstance(stored, float) and not math.isinf(stored)) or _is_count(stored), stored)
    return float(stored)


def _count(stored: Any) -> Any:
    _check("a whole number", _is_count(stored), stored)
    return stored


def _text(stored: Any) -> Any:
    _check("a text", isinstance(stored, str), stored)
    return stored


def _answer(stored: Any) -> Any:
    _check("true or false", isinstance(stored, bool), stored)
    return stored


def _same(stored: Any) -> Any:
    return stored


_MOST_DIGITS = 18
_SEVERAL: Mapping[_Reader, str] = {_number: "numbers", _count: "whole numbers", _text: "texts"}
_LEAF_READERS: Mapping[Any, _Reader] = {float: _number, int: _count, str: _text, bool: _answer}
