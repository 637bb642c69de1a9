"""Schedules rise to 1, by the published formula, and what is none is refused."""

import numpy as np
import pytest

from hf_compalign.compress.callbacks import SCHEDULES, Timing, resolve_schedule


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_rise_to_1(name):
    values = [SCHEDULES[name](t) for t in np.linspace(0, 1, 50)]
    assert values == sorted(values)
    assert values[-1] == 1
    assert resolve_schedule(name) is SCHEDULES[name]


def test_cubic_is_the_published_formula():
    # s_t = s_f + (s_i - s_f) (1 - t)^3 with s_i = 0, s_f = 1
    assert [round(SCHEDULES["cubic"](t), 6) for t in (0, 0.25, 0.5, 1)] == [0, 0.578125, 0.875, 1]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("fast", "schedule must be one of constant, linear, cubic.* Got 'fast'"),
        (lambda t: 1 - t, "without falling. Got 1 at 0, 0.5 at 0.5 and 0 at 1"),
        (lambda t: t / 2, "exactly 1 .* and 0.5 at 1"),
        (lambda t: t - 0.1, "rise from 0 or more"),
    ],
)
def test_bad_schedules_are_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        resolve_schedule(schedule)


def test_a_function_is_taken_as_it_is():
    def late(progress):
        return float(progress == 1)

    assert resolve_schedule(late) is late


def test_stages_are_at_most_so_many():
    timing = Timing("linear", 0.0, 0.5, stages=7).over(300)
    assert [step for step in range(1, 301) if timing.updates_at(step)] == [22, 44, 66, 88, 110, 132, 150]
    assert timing.recipe() == Timing("linear", 0.0, 0.5).recipe()
