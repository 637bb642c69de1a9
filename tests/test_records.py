"""Dataclasses from what JSON keeps of them."""

import json
import math
from dataclasses import asdict, dataclass

import pytest

from hf_compalign._records import built


@dataclass(frozen=True)
class Inner:
    value: float
    name: str


@dataclass(frozen=True)
class Outer:
    n: int
    pair: tuple[int, str]
    rows: tuple[Inner, ...]
    one: Inner | None
    label: int | None
    ends: tuple[float, float] | None
    about: dict[str, str]


FULL = Outer(3, (1, "a"), (Inner(0.5, "x"), Inner(1.0, "y")), Inner(2.0, "z"), None, (0.0, 1.0), {"python": "3"})
EMPTY = Outer(0, (0, ""), (), None, 4, None, {})


@pytest.mark.parametrize("record", [FULL, EMPTY])
def test_what_json_keeps_is_built_again(record):
    assert built(Outer, json.loads(json.dumps(asdict(record)))) == record


def test_null_is_nan_in_a_float_and_none_elsewhere():
    again = built(Inner, {"value": None, "name": "x"})
    assert math.isnan(again.value)
    stored = asdict(FULL) | {"ends": [None, 1], "label": None}
    found = built(Outer, stored)
    assert math.isnan(found.ends[0])
    assert found.ends[1] == 1.0
    assert isinstance(found.ends[1], float)
    assert found.label is None


def test_more_than_the_fields_is_left_aside_and_less_is_an_error():
    assert built(Inner, {"value": 1.0, "name": "x", "words": "y"}) == Inner(1.0, "x")
    with pytest.raises(KeyError, match="name"):
        built(Inner, {"value": 1.0})
