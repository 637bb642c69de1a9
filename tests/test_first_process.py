"""What the first process does for all, and the random numbers that others find as they were."""

import random

import numpy as np
import pytest
import torch
import torch.distributed as dist

from hf_compalign._trainer import of_first_process
from hf_compalign.models import random_state_kept


def test_the_work_is_done_where_there_is_one_process():
    assert of_first_process(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        of_first_process(lambda: 1 // 0)


def _told(monkeypatch, rank, told):
    """A process of two, and what the first one broadcasts."""

    def broadcast(values, src):
        assert src == 0
        if rank:
            values[:] = told

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)


def test_the_first_process_alone_works(monkeypatch):
    _told(monkeypatch, 0, None)
    assert of_first_process(lambda: 3) == 3
    _told(monkeypatch, 1, [4, None])
    assert of_first_process(lambda: pytest.fail("the other one works")) == 4


def test_its_error_reaches_all(monkeypatch):
    _told(monkeypatch, 0, None)
    with pytest.raises(ZeroDivisionError):  # as it is, with its traceback
        of_first_process(lambda: 1 // 0)
    _told(monkeypatch, 1, [None, "ZeroDivisionError: division by zero"])
    with pytest.raises(RuntimeError, match="The first process failed. ZeroDivisionError: division by zero"):
        of_first_process(lambda: 3)


def _draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_random_numbers_go_on_as_if_none_had_been_drawn():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first, second = _draw(), _draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with random_state_kept():
        assert _draw() == first  # they are not seeded
    with random_state_kept(seed=7):
        seeded = _draw()
    assert seeded not in (first, second)
    assert _draw() == first
    with random_state_kept(seed=7):
        assert _draw() == seeded
    assert _draw() == second
