"""Groups from columns, functions, bins and lists, against hand-written groups and pandas."""

import itertools

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_compalign.measure.groups import group_membership, normalized_groups, number_bins, text_length

COLUMNS = {
    "gender": (Value("string"), ["f", None, "m"]),
    "age": (Value("int32"), [30, 41, None]),
    "native": (Value("bool"), [True, False, None]),
    "label": (ClassLabel(names=["no", "yes"]), [0, 1, -1]),
    "targets": (List(Value("string")), [["Women", "Men", "Women"], [], None]),
    "kinds": (List(ClassLabel(names=["x", "y"])), [[1, 0], [0], [-1]]),
    "score": (Value("float32"), [0.5, 1.0, 2.0]),
    "text": (Value("string"), ["a fine  film\n", "", None]),
    "words": ({"n": Value("int64")}, [{"n": 1}, {"n": 2}, {"n": 3}]),
}
numbers = st.lists(st.one_of(st.none(), st.integers(-5, 5), st.floats(-1e6, 1e6)), max_size=40)


@pytest.fixture(scope="module")
def dataset():
    features = Features({name: kind for name, (kind, _) in COLUMNS.items()})
    return Dataset.from_dict({name: rows for name, (_, rows) in COLUMNS.items()}, features=features)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("gender", [("f",), (), ("m",)]),
        ("age", [("30",), ("41",), ()]),
        ("native", [("True",), ("False",), ()]),
        ("label", [("no",), ("yes",), ()]),
        ("targets", [("Women", "Men"), (), ()]),
        ("kinds", [("y", "x"), ("x",), ()]),
        (("gender", "label"), [("f, no",), (), ()]),
        (("label", "targets"), [("no, Women", "no, Men"), (), ()]),
        (("kinds", "targets"), [("y, Women", "y, Men", "x, Women", "x, Men"), (), ()]),
        (lambda row: "old" if (row["age"] or 0) > 40 else None, [(), ("old",), ()]),
        (lambda row: row["targets"], [("Women", "Men"), (), ()]),
    ],
)
def test_groups_by_hand(dataset, by, expected):
    assert group_membership(dataset, by) == expected


def test_groups_do_not_depend_on_the_format_of_the_dataset(dataset):
    for kind in ("numpy", "torch", "pandas"):
        assert group_membership(dataset.select_columns(["label"]).with_format(kind), "label") == [("no",), ("yes",), ()]
    assert group_membership(dataset.select([2, 0]), "gender") == [("m",), ("f",)]


NO_WAY = "by must be a column, a tuple of columns or a function of the row. Got"


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("gendre", r"There is no column 'gendre'. The columns are .* Did you mean 'gender'\?"),
        (("gender", "race"), "There is no column 'race'"),
        ("score", r"'score' holds float32. Bin the numbers: number_bins\(dataset\['score'\]\)."),
        ("scores", "'scores' holds lists of float64"),
        ("words", r"A column of groups holds texts, .*'words' holds dict"),
        ((), NO_WAY),
        (3, NO_WAY),
        (("gender", 3), NO_WAY),
        (None, NO_WAY),
        (lambda row: row["age"], r"The function's groups must be a text, .* Got 30 \(int\) for item 0"),
    ],
)
def test_what_says_no_groups_is_refused(dataset, by, message):
    with pytest.raises(ValueError, match=message):
        group_membership(dataset.add_column("scores", [[0.5]] * 3), by)


@settings(deadline=None)
@given(numbers, st.integers(1, 6))
def test_quantile_bins_part_the_numbers_in_their_order(values, n_bins):
    groups = number_bins(values, n_bins=n_bins)
    assert [group == () for group in groups] == [value is None for value in values]
    inside = {}
    for value, group in zip(values, groups, strict=True):
        if group:
            inside.setdefault(group[0], []).append(value)
    assert len(inside) <= n_bins
    ranges = sorted((min(members), max(members)) for members in inside.values())
    assert all(low > before for (_, before), (low, _) in itertools.pairwise(ranges))  # equal ones together
    n, counted = sum(map(len, inside.values())), 0
    for low, _ in ranges:
        # the i-th bin begins when at least i / n_bins of the numbers are below it
        assert sum(value < low for members in inside.values() for value in members) == counted
        counted += sum(len(members) for members in inside.values() if min(members) == low)
    if n and len({v for v in values if v is not None}) == n:
        assert max(map(len, inside.values())) <= -(-n // n_bins)  # all different: no bin is larger than its share


def test_quantile_bins_are_those_of_pandas_where_shares_are_even():
    values = np.random.default_rng(0).permutation(400) / 7
    ours = number_bins(values, n_bins=8)
    pairs = {(group[0], str(interval)) for group, interval in zip(ours, pd.qcut(values, 8), strict=True)}
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs}) == 8


@settings(deadline=None)
@given(numbers, st.lists(st.integers(-6, 6), min_size=1, max_size=4, unique=True))
def test_bins_between_edges_are_those_of_pandas(values, edges):
    edges = sorted(edges)
    names = [f"below {edges[0]}"]
    names += [f"{low} to below {high}" for low, high in itertools.pairwise(edges)]
    names.append(f"{edges[-1]} or more")
    cut = pd.cut(pd.Series(values, dtype=float), [-np.inf, *edges, np.inf], right=False, labels=names)
    assert number_bins(values, edges=edges) == [() if pd.isna(name) else (name,) for name in cut]


def test_bins_are_named_by_numbers_that_tell_them_apart():
    assert number_bins([1, 2, 3, 3], n_bins=2) == [("1 to 2",), ("1 to 2",), ("3",), ("3",)]
    assert number_bins([7, 7, 7]) == [("7",)] * 3
    assert number_bins([1234567, 1234568], n_bins=2) == [("1234567",), ("1234568",)]
    assert number_bins([0.123456789, 0.123456788], n_bins=2) == [("0.123456789",), ("0.123456788",)]
    assert number_bins([0.5, float("nan"), float("inf")], n_bins=2) == [("0.5",), (), ("inf",)]
    assert number_bins([0.1, 0.9], edges=[0.5]) == [("below 0.5",), ("0.5 or more",)]
    assert number_bins([]) == []
    assert number_bins([None, None]) == [(), ()]


def test_bad_bins_are_refused():
    for edges in ([], [2, 1], [1, 1], [1, float("nan")]):
        with pytest.raises(ValueError, match=r"edges must be numbers that ascend, at least one. Got \["):
            number_bins([1, 2], edges=edges)
    with pytest.raises(ValueError, match="n_bins must be at least 1. Got 0"):
        number_bins([1, 2], n_bins=0)
    with pytest.raises(ValueError, match=r"Bins are made of numbers, .*Got shape \[1, 2\]"):
        number_bins([[1, 2]])
    with pytest.raises(ValueError, match="Bins are made of numbers, one per item. Got something else: could not"):
        number_bins(["long", "short"])


def test_words_are_counted(dataset):
    assert text_length(dataset, "text").tolist() == [3, 0, 0]
    assert text_length(dataset, ["text", "gender"]).tolist() == [4, 0, 1]
    with pytest.raises(ValueError, match=r"The column 'age' holds 30 \(int\)"):
        text_length(dataset, ["text", "age"])
    with pytest.raises(ValueError, match="There is no column 'txt'.*Did you mean 'text'"):
        text_length(dataset, "txt")


@pytest.mark.parametrize(
    "given_groups",
    [
        ["a", None, ["a", "b", "a"], ()],
        [("a",), (), ("a", "b"), ()],
        np.array(["a", None, ["a", "b"], []], dtype=object),
        [np.str_("a"), None, np.array(["a", "b"]), np.array([], dtype=object)],
        pd.Series(["a", None, ["a", "b"], []], dtype=object),
    ],
)
def test_groups_in_every_form_are_the_same(given_groups):
    expected = [("a",), (), ("a", "b"), ()]
    assert normalized_groups(given_groups, 4) == {"group": expected}
    assert normalized_groups({"who": given_groups, "else": [None] * 4}, 4) == {"who": expected, "else": [()] * 4}
    again = normalized_groups(given_groups, 4)
    assert normalized_groups(again, 4) == again
    assert {type(name) for names in again["group"] for name in names} == {str}


def test_no_attributes_are_no_groups():
    assert normalized_groups({}, 3) == {}
    assert normalized_groups([], 0) == {"group": []}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", "b"], "^groups must have one entry per item: 3 of them. Got 2.$"),
        ({"who": ["a"]}, r"^groups\['who'\] must have one entry per item: 3 of them. Got 1.$"),
        ("gender", r"Got 'gender' \(str\). .* group_membership\(dataset, column\)"),
        ({"who": 3}, r"groups\['who'\] must have one entry per item. Got 3 \(int\)"),
    ],
)
def test_groups_that_are_not_one_for_each_item_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        normalized_groups(groups, 3)


@pytest.mark.parametrize(
    "entry", [3, 3.5, float("nan"), True, {"a": 1}, ["a", None], ["a", 3], [["a"]], b"a", np.array("a"), {"a"}]
)
def test_a_group_that_is_neither_text_nor_list_is_refused(entry):
    with pytest.raises(ValueError, match=r"groups must be a text, a list of texts, or None .* Got .* for item 1\.$"):
        normalized_groups(["a", entry], 2)
