"""Large arrays block by block, so that intermediate results stay small. Two threads share the blocks."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_THREADS = 2
_Block = TypeVar("_Block")
_Result = TypeVar("_Result")


def row_blocks(n_rows: int, row_size: int, *, block_size: int = 1 << 15) -> list[slice]:
    """Slices that cover ``n_rows`` rows of ``row_size`` numbers, about ``block_size`` numbers (at least a row) each.

    >>> row_blocks(5, 10, block_size=20)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, block_size // max(1, row_size))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def each_block(function: Callable[[_Block], _Result], blocks: Iterable[_Block]) -> list[_Result]:
    """The function's result for each block, in order. numpy releases the GIL, so two threads help."""
    blocks = list(blocks)
    if len(blocks) < 2:
        return [function(block) for block in blocks]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, blocks))
