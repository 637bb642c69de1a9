"""Labels are matched by name."""

import numpy as np
import pytest

from hf_compalign.labels import are_placeholders, label_order, names_of, places


def test_the_order_puts_their_logits_into_ours():
    their_logits = np.array([30.0, 10.0, 20.0])
    assert their_logits[list(label_order(["a", "b", "c"], ["C", "A", "B"]))].tolist() == [10.0, 20.0, 30.0]
    assert names_of({2: "c", 0: "a", 1: "b"}) == ("a", "b", "c")


def test_placeholders_are_trusted_by_position():
    assert are_placeholders(["LABEL_0", "LABEL_1"])
    assert not are_placeholders(["LABEL_0", "positive"])
    assert label_order(["LABEL_0", "LABEL_1"], ["b", "a"]) is None
    # Two sides that number their labels in another order have names after all.
    assert label_order(["LABEL_0", "LABEL_1"], ["LABEL_1", "LABEL_0"]) == (1, 0)


def test_names_that_are_equal_match_before_those_that_differ_in_case():
    assert label_order(["A", "a", "b"], ["a", "A", "B"]) == (1, 0, 2)
    assert label_order(["A", "a"], ["A", "a"]) is None
    names = ["May", "may", "june", "two", "two"]
    assert places(["may", "MAY", "June", "two", "two "], names) == [1, None, 2, None, None]
    assert places(["June", "JUNE"], names) == [None, None]


class Counted(str):
    """A name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__

    def casefold(self):
        return self


def test_the_work_grows_with_the_number_of_labels_not_with_its_square():
    names = [Counted(f"class {index}") for index in range(1000)]
    assert label_order(names, [Counted(name) for name in reversed(names)]) == tuple(range(999, -1, -1))
    assert Counted.compared < 20 * len(names)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (["a", "b"], ["a", "b", "c"], r"Got 2 labels \(a, b\) against 3 \(a, b, c\)"),
        (["a", "b"], ["a", "c"], "Got a, b against a, c"),
        (["a", "b"], ["a", "A"], "Got a, b against a, A"),
        ([f"x{i}" for i in range(12)], ["x"], r"x7, \.\.\. \(4 more\)"),
    ],
)
def test_other_labels_are_refused(ours, theirs, message):
    with pytest.raises(ValueError, match=message):
        label_order(ours, theirs)
