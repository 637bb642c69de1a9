"""When a callback compresses: at which steps it does more, and how much of the whole is done by then."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hf_compalign.compress.callbacks.schedules import Schedule, resolve_schedule

# There are about this many updates on the way to the end, unless `every` says otherwise.
UPDATES = 20


@dataclass(frozen=True)
class Timing:
    """The optimizer steps of a schedule.

    >>> timing = Timing("linear", begin=0.0, end=0.5, every=2).over(16)
    >>> timing.span, timing.share_at(2), timing.updates_at(3), timing.final_step
    ((0, 8), 0.25, False, 8)
    """

    schedule: str | Schedule  # "cubic", "linear" or "constant", or a function from progress to share, both in [0, 1]
    begin: float  # share of all optimizer steps at which the schedule begins
    end: float  # share of them at which it ends
    every: int | None = None  # optimizer steps between two updates; None makes about 20 updates
    stages: int | None = None  # or at most so many
    span: tuple[int, int] = (0, 0)  # the same two as steps, once the training's length is known

    def __post_init__(self) -> None:
        resolve_schedule(self.schedule)
        if not 0 <= self.begin <= self.end <= 1:
            most = max(self.begin, self.end)
            hint = f" Did you mean begin={self.begin / 100:g}, end={self.end / 100:g}?" if 1 < most <= 100 else ""
            raise ValueError(
                "begin and end must be shares of the training, 0 <= begin <= end <= 1. "
                f"Got begin={self.begin:g}, end={self.end:g}.{hint}"
            )
        if self.every is not None and self.every < 1:
            raise ValueError(f"every must be 1 optimizer step or more, or None. Got {self.every}.")

    @property
    def begins_at_once(self) -> bool:
        """Whether something is done before the first step of the training."""
        return self.end == 0 or (self.begin == 0 and resolve_schedule(self.schedule)(0.0) > 0)

    def over(self, n_steps: int) -> "Timing":
        """The same for a training of so many optimizer steps."""
        begin, end = (math.ceil(share * n_steps) for share in (self.begin, self.end))
        return replace(self, span=(begin, end))

    def share_at(self, step: int) -> float:
        """How much of the whole is done after an optimizer step, in [0, 1]."""
        begin, end = self.span
        if step < begin:
            return 0.0
        return resolve_schedule(self.schedule)(1.0 if step >= end else (step - begin) / (end - begin))

    def updates_at(self, step: int) -> bool:
        """Whether more is done after that step."""
        begin, end = self.span
        most = (end - begin) // UPDATES if self.stages is None else math.ceil((end - begin) / max(1, self.stages))
        every = self.every or max(1, most)
        if not begin <= step <= end or ((step - begin) % every and step != end):
            return False
        before = begin + (step - begin - 1) // every * every
        # The same share again would change nothing.
        return step == begin or self.share_at(step) != self.share_at(before)

    @cached_property
    def final_step(self) -> int:
        """The first step after which all is done."""
        begin, end = self.span
        return next(s for s in range(begin, end + 1) if self.updates_at(s) and self.share_at(s) == 1)

    def recipe(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues, as plain JSON values."""
        named = self.schedule if isinstance(self.schedule, str) else None
        schedule = named or getattr(self.schedule, "__qualname__", repr(self.schedule))
        return {"schedule": schedule, "begin": float(self.begin), "end": float(self.end), "every": self.every}

    def check_resumed(self, span: tuple[int, int], checkpoint: str) -> None:
        """Refuse to go on with a checkpoint that was made on a schedule over other steps."""
        if span != self.span:
            raise ValueError(
                f"The {checkpoint} was made on a schedule over the optimizer steps {list(span)}, and this run's is "
                f"{list(self.span)}. Resume with the same number of epochs, batch size and data."
            )
