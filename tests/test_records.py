"""Dataclasses from what JSON keeps of them."""

import json
import math
from collections.abc import Mapping, Sequence
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
    sizes: Mapping[int, float] = field(default_factory=dict)
    good: bool = True
    kinds: Sequence[str] | None = None


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
    with pytest.raises(ValueError, match="^It lacks name"):
        built(Inner, {"value": 1.0})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"n": 1.5}, "^n must be a whole number. Got 1.5."),
        ({"n": True}, "^n must be a whole number. Got True."),
        ({"n": 10**30}, "^n must be a whole number. Got one too long."),
        ({"pair": [1]}, "^pair must be a list of 2. Got "),
        ({"pair": [1, None]}, "^pair.1 must be a text. Got None."),
        ({"rows": "none"}, "^rows must be a list. Got 'none'."),
        ({"rows": [plain(FULL.one), 3]}, "^rows.1 must be an object. Got 3."),
        ({"one": {"name": "z", "value": True}}, "^one.value must be a number. Got True."),
        ({"ends": [0.0, math.inf]}, "^ends.1 must be a number. Got inf."),
        ({"ends": [0.0, 10**400]}, "^ends.1 must be a number. Got one too long."),
        ({"about": {"python": 3}}, "^about.python must be a text. Got 3."),
        ({"sizes": {"x": 1.0}}, "^sizes.x must be a whole number. Got 'x'."),
        ({"sizes": {"8": "x"}}, "^sizes.8 must be a number. Got 'x'."),
        ({"scores": 0.5}, "^scores must be a list of numbers. Got 0.5."),
        ({"kinds": "one"}, "^kinds must be a list of texts. Got 'one'."),
        ({"kinds": ["one", 2]}, "^kinds.1 must be a text. Got 2."),
        ({"good": 1}, "^good must be true or false. Got 1."),
    ],
)
def test_what_is_of_another_type_is_an_error_that_says_where(damage, message):
    with pytest.raises(ValueError, match=message):
        built(Outer, plain(FULL) | damage)


def test_any_sequence_is_a_tuple_again():
    assert built(Outer, plain(FULL) | {"kinds": ["one", "other"]}).kinds == ("one", "other")
    assert built(Outer, plain(FULL) | {"kinds": None}).kinds is None


def test_whole_numbers_are_names_again():
    assert built(Outer, json.loads(json.dumps(plain(FULL) | {"sizes": {8: 1.5}}))).sizes == {8: 1.5}


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
