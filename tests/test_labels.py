"""Labels are matched by name."""

import numpy as np
import pytest

from hf_compalign.labels import are_placeholders, label_order, names_of


def test_the_order_puts_their_logits_into_ours():
    their_logits = np.array([30.0, 10.0, 20.0])
    assert their_logits[list(label_order(["a", "b", "c"], ["C", "A", "B"]))].tolist() == [10.0, 20.0, 30.0]
    assert names_of({2: "c", 0: "a", 1: "b"}) == ("a", "b", "c")


def test_placeholders_are_trusted_by_position():
    assert are_placeholders(["LABEL_0", "LABEL_1"])
    assert not are_placeholders(["LABEL_0", "positive"])
    assert label_order(["LABEL_0", "LABEL_1"], ["b", "a"]) is None


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
