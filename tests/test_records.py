"""Dataclasses from what JSON keeps of them."""

import json
import math
from dataclasses import asdict, dataclass, field

import pytest

from hf_compalign._records import built, plain


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
    scores: tuple[float, ...] = ()
    names: tuple[str, ...] = field(default=())


FULL = Outer(
    3,
    (1, "a"),
    (Inner(0.5, "x"), Inner(1.0, "y")),
    Inner(2.0, "z"),
    None,
    (0.0, 1.0),
    {"python": "3"},
    (0.1, -2.0),
    ("x", ""),
)
EMPTY = Outer(0, (0, ""), (), None, 4, None, {})


@pytest.mark.parametrize("record", [FULL, EMPTY])
def test_the_plain_form_is_that_of_json_and_is_built_again(record):
    assert plain(record) == json.loads(json.dumps(asdict(record)))
    assert built(Outer, plain(record)) == record


def test_null_is_nan_in_a_float_and_none_elsewhere():
    again = built(Inner, {"value": None, "name": "x"})
    assert math.isnan(again.value)
    found = built(Outer, asdict(FULL) | {"ends": [None, 1], "label": None})
    assert math.isnan(found.ends[0])
    assert found.ends[1] == 1.0
    assert isinstance(found.ends[1], float)
    assert found.label is None


def test_more_than_the_fields_is_left_aside_and_less_is_an_error():
    assert built(Inner, {"value": 1.0, "name": "x", "words": "y"}) == Inner(1.0, "x")
    with pytest.raises(KeyError, match="name"):
        built(Inner, {"value": 1.0})


def test_scores_are_floats_and_null_is_nan_among_them():
    found = built(Outer, plain(FULL) | {"scores": [1, None, 0.25]})
    assert [type(score) for score in found.scores] == [float] * 3
    assert found.scores[0] == 1.0
    assert math.isnan(found.scores[1])


def test_what_is_not_stored_has_its_default():
    stored = plain(FULL)
    del stored["scores"], stored["names"]
    assert built(Outer, stored).names == ()


def test_the_plain_form_shares_nothing_that_can_change():
    about = {"python": "3"}
    plain(Outer(0, (0, ""), (), None, None, None, about))["about"]["python"] = "4"
    assert about == {"python": "3"}
