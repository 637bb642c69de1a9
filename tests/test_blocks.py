"""Blocks of rows: they cover every row once, and what is made of them stays in order."""

import threading

import numpy as np
import pytest

from hf_compalign.measure.statistics import each_block, row_blocks


@pytest.mark.parametrize(("n_rows", "row_size"), [(0, 3), (1, 3), (10, 1), (1000, 7), (5, 10**6), (3, 0)])
def test_the_blocks_cover_each_row_once(n_rows, row_size):
    blocks = row_blocks(n_rows, row_size, block_size=100)
    rows = [row for block in blocks for row in range(n_rows)[block]]
    assert rows == list(range(n_rows))
    assert all((block.stop - block.start) * row_size <= max(100, row_size) for block in blocks)


def test_results_are_in_the_order_of_the_blocks():
    first_may_go_on = threading.Event()

    def square(number):
        if number == 0:
            assert first_may_go_on.wait(timeout=60)  # the second thread gets there first
        first_may_go_on.set()
        return number**2

    # Number 0 waits for another to be computed beside it.
    assert each_block(square, range(20)) == [number**2 for number in range(20)]


def test_no_blocks_and_what_a_block_raises():
    assert each_block(np.sum, []) == []
    with pytest.raises(ZeroDivisionError):
        each_block(lambda number: 1 / number, [1, 0])
