"""How far a compression has come: progress in [0, 1] -> the share of the final value in [0, 1]."""

from collections.abc import Callable

Schedule = Callable[[float], float]
"""Progress -> share of the final value, both in [0, 1]; it rises to exactly 1."""


def constant(progress: float) -> float:
    """All at once, at the beginning.

    >>> constant(0.0)
    1.0
    """
    return 1.0


def linear(progress: float) -> float:
    """In equal steps.

    >>> linear(0.25)
    0.25
    """
    return progress


def cubic(progress: float) -> float:
    """1 - (1 - t)^3: fast while there is much to spare, slowly toward the end.

    https://huggingface.co/papers/1710.01878

    >>> cubic(0.5)
    0.875
    """
    return 1.0 - (1.0 - progress) ** 3


SCHEDULES: dict[str, Schedule] = {"constant": constant, "linear": linear, "cubic": cubic}


def resolve_schedule(schedule: str | Schedule) -> Schedule:
    """A schedule by its name, or the function that is given."""
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise ValueError(
                f"schedule must be one of {', '.join(SCHEDULES)}, or a function from progress in [0, 1] to [0, 1]. "
                f"Got {schedule!r}."
            )
        return SCHEDULES[schedule]
    values = [0.0, *(schedule(step / 100) for step in range(101))]
    if sorted(values) != values or values[-1] != 1.0:
        raise ValueError(
            f"A schedule must rise from 0 or more to exactly 1 as progress goes from 0 to 1, without falling. Got "
            f"{values[1]:g} at 0, {values[51]:g} at 0.5 and {values[-1]:g} at 1."
        )
    return schedule
