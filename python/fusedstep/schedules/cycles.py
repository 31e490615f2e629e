"""Schedules that go up and down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .decay import along_cosine, passed
from .schedule import Count, ProperFraction, Schedule, Value

DERIVED: Any = None
"""The default of a field that is computed from other fields."""


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Repeated half waves of the cosine, each from `start` to `end`, default 0 (SGDR).

    The first takes `steps` steps, each later one `growth` times as many as the one before, default 1.
    Loshchilov & Hutter, arXiv:1608.03983. Like torch's CosineAnnealingWarmRestarts, and optax's
    sgdr_schedule.
    """

    start: Value
    steps: Count
    growth: Count = 1
    end: Value = 0.0

    def __call__(self, t: int) -> float:
        begin, length = 1, self.steps
        if self.growth == 1:
            begin += (t - 1) // length * length
        else:
            while t >= begin + length:
                begin, length = begin + length, length * self.growth
        return along_cosine(self.start, self.end, passed(t, begin, begin + length))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """A cosine from `start` up to `peak`, at step ``rise·steps``, and down to `end`, at step `steps`.

    rise: in (0, 1), default 0.3. start: default ``peak / 25``. end: default ``start / 1e4``. Smith & Topin,
    arXiv:1708.07120. Like torch's OneCycleLR with two phases. For momentum, which goes the other way there,
    use ``OneCycle(peak=0.85, start=0.95, end=0.95, steps=steps)``.
    """

    peak: Value
    steps: Count
    rise: ProperFraction = 0.3
    start: Value = DERIVED
    end: Value = DERIVED

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is DERIVED:
            object.__setattr__(self, "start", self.peak / 25)
        if self.end is DERIVED:
            object.__setattr__(self, "end", self.start / 1e4)

    def __call__(self, t: int) -> float:
        top = self.rise * self.steps
        if t <= top:
            return along_cosine(self.start, self.peak, passed(t, 1, top))
        return along_cosine(self.peak, self.end, passed(t, top, self.steps))
